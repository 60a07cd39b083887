//! What can be wrong with a GIC or an ITS.

use axvm_addr::{CpuId, Hpa};
use axvm_gicv3::Refused;
use axvm_vgic::{Intid, ItsDeviceId};

/// How long is waited for what hardware does within microseconds.
pub const MOST_US: u64 = 1_000_000;

/// Bytes of a distributor's registers, and of an ITS's control frame (Arm IHI 0069, 12.8 and 12.18).
pub const FRAME: u64 = 0x1_0000;

/// Hardware that isn't as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GicError {
    /// The distributor or a redistributor did not finish a write.
    #[error("the GIC did not finish a register write")]
    Stuck,
    /// A CPU has no redistributor.
    #[error("CPU {0} has no redistributor in the GIC's regions")]
    NoRedistributor(CpuId),
    /// LPIs were left on by firmware, and the GIC doesn't let them be turned off.
    #[error("LPIs were left enabled by firmware on CPU {0}, and this GIC can't turn them off")]
    LpisLeftOn(CpuId),
    /// The secure world keeps the SGI by which CPUs call each other.
    #[error("the firmware leaves CPU {0} no interrupt by which other CPUs can call it")]
    NoCall(CpuId),
    /// No memory for a table.
    #[error("no memory for the GIC's tables")]
    NoMemory,
    /// A register block that isn't a distributor.
    #[error("the distributor's registers are {0:#x} bytes: it has {frame:#x}", frame = FRAME)]
    TooSmall(u64),
    /// A table where it can't reach it.
    #[error(
        "the GIC has addresses of {bits} bits, and there is no memory for its tables below that: {table:#x}"
    )]
    OutOfReach {
        /// Where the memory is that there is.
        table: Hpa,
        /// The address bits.
        bits: u32,
    },
    /// A register doesn't keep what it must.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A vCPU without a virtual processor, or a redistributor that serves none.
    #[error("the vCPU has no virtual processor in the GIC")]
    NoVirtualProcessor,
}

/// What went wrong at an ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItsError {
    /// It has stopped reading its commands.
    #[error("the ITS does not finish its commands")]
    Stuck,
    /// No memory for a table.
    #[error("no memory for the ITS's tables")]
    NoMemory,
    /// A register block without a control frame.
    #[error("the ITS's registers are {0:#x} bytes: its control frame has {frame:#x}", frame = FRAME)]
    TooSmall(u64),
    /// A table where it can't reach it.
    #[error(
        "the ITS has addresses of {bits} bits, and there is no memory for its tables below that: {table:#x}"
    )]
    OutOfReach {
        /// Where the memory is that there is.
        table: Hpa,
        /// The address bits.
        bits: u32,
    },
    /// A register doesn't keep what it must.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// More devices' events than there are LPIs.
    #[error("no LPIs are left")]
    NoLpis,
    /// Not one of those that a guest may have under its own number.
    #[error("LPI {0} isn't one that a guest may have under its own number")]
    NotForGuests(Intid),
    /// A CPU that hasn't been made known to it.
    #[error("CPU {0} is not mapped at the ITS")]
    NoSuchCpu(CpuId),
    /// A device or event that isn't mapped.
    #[error("device {0} is not mapped at the ITS")]
    NotMapped(ItsDeviceId),
    /// The device id is beyond what the ITS has, or has a table for.
    #[error("device id {0} is beyond what the ITS serves")]
    DeviceId(ItsDeviceId),
}
