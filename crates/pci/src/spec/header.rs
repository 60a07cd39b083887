//! The header: the first 64 bytes (PCI 6.1 to 6.2; bridges: Bridge 3.2).

use bitflags::bitflags;

/// Vendor id, 16 bits. All ones: nobody there (PCI 6.2.1).
pub const VENDOR: u16 = 0x00;
/// In [`VENDOR`]: the function asks to be tried again, where its root port makes that visible (PCIe 2.3.2).
pub const RETRY: u16 = 0x0001;
/// Device id, 16 bits (PCI 6.2.1).
pub const DEVICE: u16 = 0x02;
/// Command, 16 bits (PCI 6.2.2).
pub const COMMAND: u16 = 0x04;
/// Status, 16 bits (PCI 6.2.3).
pub const STATUS: u16 = 0x06;
/// Revision, 8 bits; class code in the 24 bits above it (PCI 6.2.1).
pub const REVISION: u16 = 0x08;
/// Cache line size, 8 bits (PCI 6.2.4).
pub const CACHE_LINE: u16 = 0x0c;
/// Latency timer, 8 bits (PCI 6.2.4).
pub const LATENCY: u16 = 0x0d;
/// Header type, 8 bits (PCI 6.2.1).
pub const HEADER_TYPE: u16 = 0x0e;
/// Built-in self test, 8 bits (PCI 6.2.4).
pub const BIST: u16 = 0x0f;
/// The first base address register (PCI 6.2.5).
pub const BAR0: u16 = 0x10;
/// How many BARs a type 0 header has.
pub const BARS: u8 = 6;
/// How many BARs a bridge's header has.
pub const BRIDGE_BARS: u8 = 2;
/// Expansion ROM of a type 0 header (PCI 6.2.5.2).
pub const ROM: u16 = 0x30;
/// The first capability's offset, 8 bits (PCI 6.7).
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 8 bits: for software only (PCI 6.2.4).
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits: 1 to 4, or 0 (PCI 6.2.4).
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Primary, secondary, subordinate bus and secondary latency, 8 bits each (Bridge 3.2.5.2 to 3.2.5.5).
pub const PRIMARY_BUS: u16 = 0x18;
/// The bus right behind the bridge (Bridge 3.2.5.3).
pub const SECONDARY_BUS: u16 = 0x19;
/// The highest bus number behind the bridge (Bridge 3.2.5.4).
pub const SUBORDINATE_BUS: u16 = 0x1a;
/// I/O base, and limit in the next byte: address bits 15:12 in bits 7:4 (Bridge 3.2.5.6).
pub const IO_BASE: u16 = 0x1c;
/// Memory base, and limit in the next half word: address bits 31:20 in bits 15:4 (Bridge 3.2.5.8).
pub const MEMORY_BASE: u16 = 0x20;
/// Prefetchable memory base, and limit in the next half word; bits 3:0 are 1 where it has 64 bits (Bridge
/// 3.2.5.9).
pub const PREFETCH_BASE: u16 = 0x24;
/// Upper 32 bits of the prefetchable base (Bridge 3.2.5.10).
pub const PREFETCH_BASE_UPPER: u16 = 0x28;
/// Upper 32 bits of the prefetchable limit (Bridge 3.2.5.10).
pub const PREFETCH_LIMIT_UPPER: u16 = 0x2c;
/// Upper 16 bits of the I/O base, and of the limit in the next half word (Bridge 3.2.5.11).
pub const IO_BASE_UPPER: u16 = 0x30;
/// Expansion ROM of a bridge (Bridge 3.2.5.14).
pub const BRIDGE_ROM: u16 = 0x38;
/// Bridge control, 16 bits (Bridge 3.2.5.18).
pub const BRIDGE_CONTROL: u16 = 0x3e;
/// In [`BRIDGE_CONTROL`]: the secondary bus is in reset.
pub const SECONDARY_RESET: u16 = 1 << 6;

/// In [`HEADER_TYPE`]: the slot has more functions than one.
pub const MULTIFUNCTION: u8 = 1 << 7;
/// In [`HEADER_TYPE`]: the layout of the rest of the header.
pub const LAYOUT: u8 = 0x7f;
/// [`LAYOUT`] of a bridge.
pub const LAYOUT_BRIDGE: u8 = 1;
/// In [`STATUS`]: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

bitflags! {
    /// The command register (PCI 6.2.2; PCIe 7.5.1.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// Answers accesses to its I/O BARs.
        const IO = 1 << 0;
        /// Answers accesses to its memory BARs.
        const MEMORY = 1 << 1;
        /// May issue requests, MSIs among them.
        const BUS_MASTER = 1 << 2;
        /// Reports parity errors (poisoned data).
        const PARITY = 1 << 6;
        /// Reports errors as system errors.
        const SERR = 1 << 8;
        /// Doesn't assert its interrupt pin.
        const INTX_DISABLE = 1 << 10;
    }
}

/// The offset of BAR `index`.
pub const fn bar(index: u8) -> u16 {
    BAR0 + index as u16 * 4
}

/// In a BAR: it decodes I/O ports (PCI 6.2.5.1).
pub const BAR_IO: u32 = 1;
/// In a memory BAR: its type, 0 for 32 bits and 4 for 64 bits.
pub const BAR_TYPE: u32 = 0b110;
/// [`BAR_TYPE`] of a 64-bit BAR.
pub const BAR_TYPE_64: u32 = 0b100;
/// [`BAR_TYPE`] with the reserved value.
pub const BAR_TYPE_RESERVED: u32 = 0b110;
/// In a memory BAR: prefetchable.
pub const BAR_PREFETCH: u32 = 1 << 3;
/// The flag bits of a memory BAR.
pub const BAR_MEMORY_FLAGS: u32 = 0xf;
/// The flag bits of an I/O BAR.
pub const BAR_IO_FLAGS: u32 = 0x3;

const _: () = assert!(bar(5) + 4 == 0x28 && ROM == 0x30);
