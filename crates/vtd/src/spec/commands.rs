//! Descriptors of the invalidation queue (6.5.2), of 128 bits.

use axvm_addr::{Hpa, Iova};

/// Bytes of a descriptor.
pub const BYTES: u64 = 16;

/// A descriptor as it lies in the queue.
pub type Command = [u64; 2];

/// Context-cache invalidation (6.5.2.1).
pub const CONTEXT: u8 = 1;
/// IOTLB invalidation (6.5.2.3).
pub const IOTLB: u8 = 2;
/// Interrupt entry cache invalidation (6.5.2.7).
pub const INTERRUPTS: u8 = 4;
/// Invalidation wait (6.5.2.8).
pub const WAIT: u8 = 5;

/// Where the granularity is; of the interrupt entries it is one bit.
pub const GRANULARITY_SHIFT: u32 = 4;
/// All.
pub const GLOBAL: u64 = 1;
/// Those of a domain.
pub const DOMAIN: u64 = 2;
/// Those of a device, or of pages.
pub const SELECTIVE: u64 = 3;

/// DW and DR of an IOTLB invalidation: reads and writes under way are drained first.
pub const DRAIN: u64 = 3 << 6;
/// SW of a wait: it stores.
pub const STORE: u64 = 1 << 5;
/// FN of a wait: nothing after it is done before it.
pub const FENCE: u64 = 1 << 6;

/// Which it is.
pub const fn kind(command: &Command) -> u8 {
    (command[0] & 0xf) as u8
}

/// Forget all context entries.
pub const fn all_contexts() -> Command {
    [CONTEXT as u64 | GLOBAL << GRANULARITY_SHIFT, 0]
}

/// Forget the context entry of a device, which was tagged with this domain.
pub const fn context(device: u16, domain: u16) -> Command {
    [CONTEXT as u64 | SELECTIVE << GRANULARITY_SHIFT | (domain as u64) << 16 | (device as u64) << 32, 0]
}

/// Forget all translations.
pub const fn all_translations() -> Command {
    [IOTLB as u64 | GLOBAL << GRANULARITY_SHIFT | DRAIN, 0]
}

/// Forget all translations of a domain.
pub const fn domain(domain: u16) -> Command {
    [IOTLB as u64 | DOMAIN << GRANULARITY_SHIFT | DRAIN | (domain as u64) << 16, 0]
}

/// Forget a domain's translation of the page at an address, and what leads to it.
pub const fn page(domain: u16, address: Iova) -> Command {
    [IOTLB as u64 | SELECTIVE << GRANULARITY_SHIFT | DRAIN | (domain as u64) << 16, address.0 & !0xfff]
}

/// Forget all interrupt entries.
pub const fn all_interrupts() -> Command {
    [INTERRUPTS as u64, 0]
}

/// Forget one interrupt entry.
pub const fn interrupt(index: u16) -> Command {
    [INTERRUPTS as u64 | 1 << GRANULARITY_SHIFT | (index as u64) << 32, 0]
}

/// When all before it are complete, stores `value` at `at`, which is aligned to 4.
pub const fn wait(at: Hpa, value: u32) -> Command {
    [WAIT as u64 | STORE | FENCE | (value as u64) << 32, at.0 & !3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_each_bit_in_its_place() {
        assert_eq!(all_contexts(), [0x11, 0], "6.5.2.1");
        assert_eq!(context(0x1234, 7), [0x1234_0007_0031, 0]);
        assert_eq!(all_translations(), [0xd2, 0], "6.5.2.3");
        assert_eq!(domain(7), [0x7_00e2, 0]);
        assert_eq!(page(7, Iova(0x8_0000_1234)), [0x7_00f2, 0x8_0000_1000]);
        assert_eq!(all_interrupts(), [4, 0], "6.5.2.7");
        assert_eq!(interrupt(0x1234), [0x1234_0000_0014, 0]);
        assert_eq!(wait(Hpa(0x1_2345_6788), 5), [0x5_0000_0065, 0x1_2345_6788], "6.5.2.8");
        assert_eq!(kind(&wait(Hpa(0), 0)), WAIT);
    }
}
