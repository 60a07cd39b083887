//! Commands (2.4): two words each.

use axvm_addr::{Hpa, Iova};

/// Bytes of a command.
pub const BYTES: u64 = 16;
const _: () = assert!(size_of::<Command>() as u64 == BYTES);

/// A command as it lies in the buffer.
pub type Command = [u64; 2];

/// COMPLETION_WAIT (2.4.1).
pub const COMPLETION_WAIT: u8 = 1;
/// INVALIDATE_DEVTAB_ENTRY (2.4.2).
pub const INVALIDATE_DEVTAB_ENTRY: u8 = 2;
/// INVALIDATE_IOMMU_PAGES (2.4.3).
pub const INVALIDATE_IOMMU_PAGES: u8 = 3;
/// INVALIDATE_INTERRUPT_TABLE (2.4.5).
pub const INVALIDATE_INTERRUPT_TABLE: u8 = 5;
/// INVALIDATE_IOMMU_ALL (2.4.8).
pub const INVALIDATE_IOMMU_ALL: u8 = 8;

/// Where a command's number is: bits 63:60 of word 0.
const OPCODE_SHIFT: u32 = 60;

/// S of COMPLETION_WAIT: store when it completes.
pub const STORE: u64 = 1;
/// Where COMPLETION_WAIT stores: bits 51:3 of word 0.
pub const STORE_ADDRESS: u64 = 0xf_ffff_ffff_fff8;
/// S of INVALIDATE_IOMMU_PAGES, in word 1: the address says how large the span is.
pub const SIZED: u64 = 1;
/// PDE of INVALIDATE_IOMMU_PAGES, in word 1: what leads to the pages is forgotten too.
pub const DIRECTORY: u64 = 2;
/// The address with which everything of a domain is forgotten, with `SIZED`: a zero in bit 63, ones below.
pub const EVERYTHING: u64 = 0x7fff_ffff_ffff_f000;

const fn word(opcode: u8, operand: u64) -> u64 {
    (opcode as u64) << OPCODE_SHIFT | operand
}

/// Which command it is.
pub const fn opcode(command: &Command) -> u8 {
    (command[0] >> OPCODE_SHIFT) as u8
}

/// When all commands before it are complete, stores `value` at `at`, which is aligned to 8.
pub const fn completion_wait(at: Hpa, value: u64) -> Command {
    [word(COMPLETION_WAIT, at.0 & STORE_ADDRESS | STORE), value]
}

/// Forget what is held of a device's entry.
pub const fn invalidate_device(device: u16) -> Command {
    [word(INVALIDATE_DEVTAB_ENTRY, device as u64), 0]
}

/// Forget a domain's translation of the page at an address, and what leads to it.
pub const fn invalidate_page(domain: u16, address: Iova) -> Command {
    [word(INVALIDATE_IOMMU_PAGES, (domain as u64) << 32), address.0 & !0xfff | DIRECTORY]
}

/// Forget all translations of a domain.
pub const fn invalidate_domain(domain: u16) -> Command {
    [word(INVALIDATE_IOMMU_PAGES, (domain as u64) << 32), EVERYTHING | DIRECTORY | SIZED]
}

/// Forget what is held of a device's interrupt table.
pub const fn invalidate_interrupts(device: u16) -> Command {
    [word(INVALIDATE_INTERRUPT_TABLE, device as u64), 0]
}

/// Forget everything.
pub const fn invalidate_all() -> Command {
    [word(INVALIDATE_IOMMU_ALL, 0), 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_each_bit_in_its_place() {
        assert_eq!(completion_wait(Hpa(0x1_2345_6788), 7), [0x1000_0001_2345_6789, 7], "2.4.1");
        assert_eq!(invalidate_device(0x10), [0x2000_0000_0000_0010, 0], "2.4.2");
        assert_eq!(invalidate_page(5, Iova(0x8_0000_1234)), [0x3000_0005_0000_0000, 0x8_0000_1002], "2.4.3");
        assert_eq!(invalidate_domain(0xffff), [0x3000_ffff_0000_0000, 0x7fff_ffff_ffff_f003], "2.4.3");
        assert_eq!(invalidate_interrupts(0xa0), [0x5000_0000_0000_00a0, 0], "2.4.5");
        assert_eq!(invalidate_all(), [0x8000_0000_0000_0000, 0], "2.4.8");
        assert_eq!(opcode(&invalidate_interrupts(1)), INVALIDATE_INTERRUPT_TABLE);
    }
}
