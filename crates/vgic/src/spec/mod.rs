//! What Arm IHI 0069 (GIC architecture, versions 3 and 4) defines, as pure data: offsets, fields, layouts.

pub mod distributor;
pub mod its_command;
pub mod its_registers;
pub mod list_register;
pub mod redistributor;
pub mod sgi;

/// What makes a line pending (IHI 0069, 1.2.1; GICD_ICFGR).
pub use axvm_addr::Trigger;

/// The group of an interrupt (IHI 0069, 4.6; GICD_IGROUPR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Signalled as an FIQ.
    Zero,
    /// Signalled as an IRQ.
    One,
}

/// GICD_PIDR2, GICR_PIDR2, GITS_PIDR2: all at this offset of their 64 KiB frame (IHI 0069, 12.9 to 12.19).
pub const PIDR2: u64 = 0xffe8;

/// The value of PIDR2: architecture revision GICv3 in bits 7:4, the JEP106 flag in bit 3.
pub const PIDR2_GICV3: u32 = 0x3b;

/// The value of GICD_IIDR, GICR_IIDR and GITS_IIDR: a product id of its own, no JEP106 implementer, so that
/// no guest applies a workaround made for a chip.
pub const IIDR: u32 = 0x4100_0000;

/// The bits of an affinity, as MPIDR_EL1 and GICD_IROUTER have them: Aff3 in 39:32, Aff2 to Aff0 in 23:0.
pub const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

/// The size of one register frame.
pub const FRAME: u64 = 0x1_0000;

/// The first LPI (IHI 0069, 2.2).
pub const LPI_FIRST: u32 = 8192;

/// The first SPI (IHI 0069, 2.2).
pub const SPI_FIRST: u32 = 32;

/// One past the last SPI (IHI 0069, 2.2).
pub const SPI_END: u32 = 1020;

/// The first PPI (IHI 0069, 2.2).
pub const PPI_FIRST: u32 = 16;
