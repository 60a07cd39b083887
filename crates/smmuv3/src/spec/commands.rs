//! Commands (4): two words each.

use super::Field;

/// Bytes of a command.
pub const BYTES: u64 = 16;
const _: () = assert!(size_of::<Command>() as u64 == BYTES);

/// A command as it lies in the queue.
pub type Command = [u64; 2];

/// Word 0: which command it is.
pub const OPCODE: Field = Field::new(7, 0);

/// CMD_CFGI_STE (4.3.1).
pub const CFGI_STE: u64 = 0x03;
/// CMD_CFGI_STE_RANGE and, with the whole range, CMD_CFGI_ALL (4.3.2).
pub const CFGI_STE_RANGE: u64 = 0x04;
/// CMD_TLBI_EL2_ALL (4.4.2).
pub const TLBI_EL2_ALL: u64 = 0x20;
/// CMD_TLBI_S12_VMALL (4.4.3.2).
pub const TLBI_S12_VMALL: u64 = 0x28;
/// CMD_TLBI_S2_IPA (4.4.3.1).
pub const TLBI_S2_IPA: u64 = 0x2a;
/// CMD_TLBI_NSNH_ALL (4.4.4.1).
pub const TLBI_NSNH_ALL: u64 = 0x30;
/// CMD_SYNC (4.7.3).
pub const SYNC: u64 = 0x46;

/// Word 0 of CFGI_STE: the stream.
pub const STREAM: Field = Field::new(63, 32);
/// Word 0 of TLBI commands: the VMID.
pub const VMID: Field = Field::new(47, 32);
/// Word 1 of CFGI_STE and TLBI_S2_IPA: only the last level is affected.
pub const LEAF: Field = Field::bit(0);
/// Word 1 of CFGI_STE_RANGE: 2^(n+1) streams; 31: all.
pub const RANGE: Field = Field::new(4, 0);
/// Word 1 of TLBI_S2_IPA: bits 51:12 of the address, in place.
pub const ADDRESS: Field = Field::new(51, 12);

/// Forget what is held of a stream's entry and of the first-level descriptor on the way to it.
pub const fn cfgi_ste(stream: u32) -> Command {
    [CFGI_STE | STREAM.put(stream as u64), 0]
}

/// Forget what is held of any stream.
pub const fn cfgi_all() -> Command {
    [CFGI_STE_RANGE, RANGE.put(31)]
}

/// Forget all translations tagged with a VMID.
pub const fn tlbi_s12_vmall(vmid: u16) -> Command {
    [TLBI_S12_VMALL | VMID.put(vmid as u64), 0]
}

/// Forget the stage-2 translation of the page at an address, of all levels.
pub const fn tlbi_s2_ipa(vmid: u16, address: u64) -> Command {
    [TLBI_S2_IPA | VMID.put(vmid as u64), address & ADDRESS.mask()]
}

/// Forget all translations of the non-secure EL1 and stage-2 worlds.
pub const fn tlbi_nsnh_all() -> Command {
    [TLBI_NSNH_ALL, 0]
}

/// Forget all translations of the EL2 world.
pub const fn tlbi_el2_all() -> Command {
    [TLBI_EL2_ALL, 0]
}

/// Complete all commands before it; no signal on completion (CS = 0).
pub const fn sync() -> Command {
    [SYNC, 0]
}

/// Why the command queue stopped: SMMU_CMDQ_CONS.ERR (7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// CERROR_ILL: the command is not known or malformed.
    Illegal,
    /// CERROR_ABT: the command could not be read from memory.
    Abort,
    /// CERROR_ATC_INV_SYNC: an ATS invalidation did not complete.
    AtcInvalidation,
    /// Another encoding.
    Other(u8),
}

impl Reason {
    /// The reason that an encoding stands for.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Illegal,
            2 => Self::Abort,
            3 => Self::AtcInvalidation,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_each_bit_in_its_place() {
        assert_eq!(cfgi_ste(0x1_0010), [0x0001_0010_0000_0003, 0], "4.3.1");
        assert_eq!(cfgi_all(), [0x04, 0x1f], "4.3.2");
        assert_eq!(tlbi_s12_vmall(0x1234), [0x0000_1234_0000_0028, 0], "4.4.3.2");
        assert_eq!(tlbi_s2_ipa(5, 0x8_0000_1fff), [0x0000_0005_0000_002a, 0x8_0000_1000], "4.4.3.1");
        assert_eq!(tlbi_nsnh_all(), [0x30, 0], "4.4.4.1");
        assert_eq!(tlbi_el2_all(), [0x20, 0], "4.4.2");
        assert_eq!(sync(), [0x46, 0], "4.7.3");
    }
}
