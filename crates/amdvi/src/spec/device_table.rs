//! Device table entries (2.2.2.1): what becomes of a device's requests and interrupts.

use bitfield_struct::bitfield;

/// Bytes of an entry.
pub const ENTRY_BYTES: u64 = 32;

/// Words of an entry.
pub type Entry = [u64; 4];

/// Word 0: translation.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Translation {
    /// V: the entry is used. Without it requests pass untranslated.
    pub valid: bool,
    /// TV: the rest of words 0 and 1 is used. With V alone every request is aborted.
    pub translation_valid: bool,
    #[bits(5)]
    __: u8,
    /// HAD: whether the IOMMU notes accesses in the page tables.
    #[bits(2)]
    pub access_notes: u8,
    /// Mode: levels of the page tables; 0: there are none, and addresses pass as they are.
    #[bits(3)]
    pub levels: u8,
    /// Bits 51:12 of the root table's address.
    #[bits(40)]
    pub root: u64,
    #[bits(9)]
    __: u16,
    /// IR: reads are allowed.
    pub read: bool,
    /// IW: writes are allowed.
    pub write: bool,
    __: bool,
}

/// Word 1: the domain.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DomainWord {
    /// DomainID: what the IOMMU tags translations with.
    #[bits(16)]
    pub domain: u16,
    #[bits(16)]
    __: u16,
    /// I: the device may have translations of its own (ATS).
    pub device_cache: bool,
    /// SE: after one page fault the device's others aren't recorded until its entry is invalidated.
    pub suppress_further: bool,
    /// SA: none of its page faults is recorded.
    pub suppress_all: bool,
    #[bits(29)]
    __: u32,
}

/// What becomes of fixed and arbitrated interrupts (IntCtl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InterruptControl {
    /// They are aborted.
    Abort = 0,
    /// They pass as they are.
    Pass = 1,
    /// They are looked up in the device's interrupt table.
    Remap = 2,
    /// No encoding.
    Reserved = 3,
}

impl InterruptControl {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(value: u8) -> Self {
        match value {
            0 => Self::Abort,
            1 => Self::Pass,
            2 => Self::Remap,
            _ => Self::Reserved,
        }
    }
}

/// Word 2: interrupts.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptWord {
    /// IV: the word is used. Without it interrupts pass.
    pub valid: bool,
    /// IntTabLen: log2 of the interrupt table's entries.
    #[bits(4)]
    pub length: u8,
    /// IG: interrupts that find no valid entry aren't recorded.
    pub ignore: bool,
    /// Bits 51:6 of the interrupt table's address.
    #[bits(46)]
    pub table: u64,
    #[bits(4)]
    __: u8,
    /// InitPass.
    pub init_passes: bool,
    /// EIntPass.
    pub external_passes: bool,
    /// NMIPass.
    pub nmi_passes: bool,
    __: bool,
    /// IntCtl.
    #[bits(2)]
    pub control: InterruptControl,
    /// Lint0Pass.
    pub lint0_passes: bool,
    /// Lint1Pass.
    pub lint1_passes: bool,
}

/// What a device is given that nobody has: its requests and its interrupts are aborted. `silent`: without records.
pub const fn blocked(silent: bool) -> Entry {
    [
        Translation::new().with_valid(true).into_bits(),
        DomainWord::new().with_suppress_all(silent).into_bits(),
        InterruptWord::new()
            .with_valid(true)
            .with_ignore(silent)
            .with_control(InterruptControl::Abort)
            .into_bits(),
        0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        let word = Translation::new().with_valid(true).with_translation_valid(true).with_levels(4);
        let word = word.with_root(0x8_7654_3000 >> 12).with_read(true).with_write(true);
        assert_eq!(u64::from(word), 0x6000_0008_7654_3803, "2.2.2.1, bits 62, 61, 51:12, 11:9, 1, 0");
        let word = DomainWord::new().with_domain(0x1234).with_suppress_all(true);
        assert_eq!(u64::from(word), 0x4_0000_1234, "bits 98 and 79:64");
        assert_eq!(u64::from(DomainWord::new().with_device_cache(true)), 1 << 32, "bit 96");
        assert_eq!(u64::from(DomainWord::new().with_suppress_further(true)), 1 << 33, "bit 97");
        let word = InterruptWord::new().with_valid(true).with_length(9).with_table(0x1_0080 >> 6);
        let word = word.with_control(InterruptControl::Remap);
        assert_eq!(u64::from(word), 0x2000_0000_0001_0093, "bits 189:188, 179:134, 132:129, 128");
        assert_eq!(u64::from(InterruptWord::new().with_init_passes(true)), 1 << 56, "bit 184");
        assert_eq!(u64::from(InterruptWord::new().with_external_passes(true)), 1 << 57, "bit 185");
        assert_eq!(u64::from(InterruptWord::new().with_nmi_passes(true)), 1 << 58, "bit 186");
        assert_eq!(u64::from(InterruptWord::new().with_lint0_passes(true)), 1 << 62, "bit 190");
        assert_eq!(u64::from(InterruptWord::new().with_lint1_passes(true)), 1 << 63, "bit 191");
        assert_eq!(u64::from(InterruptWord::new().with_ignore(true)), 1 << 5, "bit 133");
    }

    #[test]
    fn what_nobody_has_is_aborted() {
        assert_eq!(blocked(false), [1, 0, 1, 0]);
        assert_eq!(blocked(true), [1, 1 << 34, 1 | 1 << 5, 0]);
    }
}
