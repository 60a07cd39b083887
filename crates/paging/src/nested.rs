//! The nested tables of AMD's SVM (AMD64 Architecture Programmer's Manual 2, 15.25): the long-mode format with four levels (5.3), walked
//! as accesses of user code.
//!
//! Memory types are those of a PAT as it is after reset (7.8.2), in the host's IA32_PAT.

use axvm_addr::Hpa;

use crate::format::{Attributes, Entry, Format, LAST_LEVEL, Level, MemoryType, level_shift};

/// P (5.4.1).
const PRESENT: u64 = 1;
/// R/W.
const WRITE: u64 = 1 << 1;
/// U/S: without it every nested walk faults (15.25.5).
const USER: u64 = 1 << 2;
/// PWT and PCD: with PAT clear, which entry of the PAT counts (7.8.1). 0 is write-back, 2 uncached unless the guest says
/// write-combining, 3 uncached.
const PAT_SHIFT: u32 = 3;
const PAT_MASK: u64 = 3 << PAT_SHIFT;
const PAT_WRITE_BACK: u64 = 0 << PAT_SHIFT;
const PAT_WEAKLY_UNCACHED: u64 = 2 << PAT_SHIFT;
const PAT_UNCACHED: u64 = 3 << PAT_SHIFT;
/// A and D, set beforehand: then no walk has to write to the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// PS: a block.
const LARGE: u64 = 1 << 7;
/// NX: takes EFER.NXE of the host.
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Nested tables of four levels: guest-physical addresses of 48 bits. The host's CR4.LA57 is 0, as nested tables have the host's paging
/// mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFormat {
    output_bits: u32,
    huge: bool,
}

impl NestedFormat {
    /// For physical addresses of so many bits (CPUID 0x8000_0008, EAX bits 7:0), at most 52. `huge`: whether there are blocks of 1 GiB
    /// (CPUID 0x8000_0001, EDX bit 26).
    pub const fn new(output_bits: u32, huge: bool) -> Self {
        Self { output_bits: if output_bits > 52 { 52 } else { output_bits }, huge }
    }
}

impl Format for NestedFormat {
    fn input_bits(&self) -> u32 {
        48
    }

    fn output_bits(&self) -> u32 {
        self.output_bits
    }

    fn start_level(&self) -> Level {
        0
    }

    fn root_pages(&self) -> usize {
        1
    }

    fn allows_leaf(&self, level: Level) -> bool {
        level >= 2 || level == 1 && self.huge
    }

    fn serves(&self, attributes: Attributes) -> bool {
        // What is present can be read.
        attributes.read
    }

    fn decode(&self, entry: u64, level: Level) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        if level < LAST_LEVEL && entry & LARGE == 0 {
            return Entry::Table(Hpa(address));
        }
        let memory = match entry & PAT_MASK {
            PAT_WRITE_BACK => MemoryType::Normal,
            PAT_WEAKLY_UNCACHED => MemoryType::NormalNonCacheable,
            _ => MemoryType::Device,
        };
        let attributes =
            Attributes { memory, read: true, write: entry & WRITE != 0, execute: entry & NO_EXECUTE == 0 };
        Entry::Leaf(Hpa(address & !((1 << level_shift(level)) - 1)), attributes)
    }

    fn encode_table(&self, table: Hpa, _: Level) -> u64 {
        table.0 & ADDRESS | ACCESSED | USER | WRITE | PRESENT
    }

    fn encode_leaf(&self, start: Hpa, attributes: Attributes, level: Level) -> u64 {
        let memory = match attributes.memory {
            MemoryType::Normal => PAT_WRITE_BACK,
            MemoryType::NormalNonCacheable => PAT_WEAKLY_UNCACHED,
            MemoryType::Device => PAT_UNCACHED,
        };
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        start.0 & ADDRESS
            | flag(attributes.read, PRESENT)
            | flag(attributes.write, WRITE)
            | USER
            | memory
            | ACCESSED
            | DIRTY
            | flag(level < LAST_LEVEL, LARGE)
            | flag(!attributes.execute, NO_EXECUTE)
    }

    fn disabled(&self, entry: u64) -> u64 {
        // With P clear the rest is software's (5.4.1).
        entry & !PRESENT
    }

    fn enabled(&self, entry: u64) -> u64 {
        if entry == 0 { 0 } else { entry | PRESENT }
    }
}

/// The tables by which an x86 CPU finds its own memory while it runs a hypervisor: the same format, walked as accesses of a supervisor,
/// with nothing open to user code. Memory types are as in [`NestedFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFormat(NestedFormat);

impl HostFormat {
    /// As [`NestedFormat::new`].
    pub const fn new(output_bits: u32, huge: bool) -> Self {
        Self(NestedFormat::new(output_bits, huge))
    }
}

impl Format for HostFormat {
    fn input_bits(&self) -> u32 {
        // The lower half of the canonical addresses.
        47
    }

    fn output_bits(&self) -> u32 {
        self.0.output_bits()
    }

    fn start_level(&self) -> Level {
        self.0.start_level()
    }

    fn root_pages(&self) -> usize {
        self.0.root_pages()
    }

    fn allows_leaf(&self, level: Level) -> bool {
        self.0.allows_leaf(level)
    }

    fn serves(&self, attributes: Attributes) -> bool {
        // What can be written isn't executed.
        self.0.serves(attributes) && !(attributes.write && attributes.execute)
    }

    fn decode(&self, entry: u64, level: Level) -> Entry {
        self.0.decode(entry, level)
    }

    fn encode_table(&self, table: Hpa, level: Level) -> u64 {
        self.0.encode_table(table, level) & !USER
    }

    fn encode_leaf(&self, start: Hpa, attributes: Attributes, level: Level) -> u64 {
        self.0.encode_leaf(start, attributes, level) & !USER
    }

    fn disabled(&self, entry: u64) -> u64 {
        self.0.disabled(entry)
    }

    fn enabled(&self, entry: u64) -> u64 {
        self.0.enabled(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: NestedFormat = NestedFormat::new(48, true);

    #[test]
    fn entries_have_each_bit_in_its_place() {
        assert_eq!(FORMAT.encode_table(Hpa(0x4_0000_1000), 0), 0x4_0000_1027);
        // A page: present, written, user, accessed, dirty.
        assert_eq!(FORMAT.encode_leaf(Hpa(0x4000_1000), Attributes::RAM, 3), 0x4000_1067);
        // A block of 2 MiB: PS.
        assert_eq!(FORMAT.encode_leaf(Hpa(0x4020_0000), Attributes::RAM, 2), 0x4020_00e7);
        // Registers: PCD and PWT, NX.
        assert_eq!(FORMAT.encode_leaf(Hpa(0xfeb0_0000), Attributes::REGISTERS, 3), 0x8000_0000_feb0_007f);
        let combining = Attributes { memory: MemoryType::NormalNonCacheable, ..Attributes::DMA };
        assert_eq!(FORMAT.encode_leaf(Hpa(0x40_0000_0000), combining, 1), 0x8000_0040_0000_00f7);
    }

    #[test]
    fn what_cannot_be_said_is_not_served() {
        assert!(!FORMAT.serves(Attributes::DOORBELL), "there is no entry that can be written only");
        assert!(FORMAT.serves(Attributes::REGISTERS));
        assert!(FORMAT.allows_leaf(1) && !FORMAT.allows_leaf(0));
        assert!(!NestedFormat::new(48, false).allows_leaf(1));
        assert_eq!(NestedFormat::new(64, true).output_bits(), 52);
    }

    #[test]
    fn a_hosts_own_tables_are_a_supervisors_and_never_writable_code() {
        const HOST: HostFormat = HostFormat::new(48, false);
        let code = Attributes { write: false, ..Attributes::RAM };
        assert_eq!(HOST.encode_table(Hpa(0x4_0000_1000), 0), 0x4_0000_1023);
        assert_eq!(HOST.encode_leaf(Hpa(0x4020_0000), code, 2), 0x4020_00e1);
        assert!(HOST.serves(code) && HOST.serves(Attributes::DMA) && !HOST.serves(Attributes::RAM));
    }
}
