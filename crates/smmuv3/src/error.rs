//! What can go wrong.

use core::fmt;

use axvm_addr::Hpa;
use axvm_iommu::{OutOfMemory, TimedOut};

use crate::id::StreamId;
use crate::spec::commands::Reason;
use crate::spec::registers::REGISTER_BYTES;

/// Why the driver couldn't do what it was asked. Whatever it is, no stream is more open than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A register block without register page 1.
    #[error(
        "the SMMU's registers are {bytes:#x} bytes: there must be {:#x} (two pages of 64 KiB)",
        REGISTER_BYTES
    )]
    RegistersTooSmall {
        /// The block's size.
        bytes: u64,
    },
    /// IDR0.S2P is 0.
    #[error("the SMMU has no stage 2 translation (IDR0.S2P; on QEMU: needs 9.1 or newer)")]
    NoStage2,
    /// IDR0.TTF lacks AArch64.
    #[error("the SMMU can't walk AArch64 tables (IDR0.TTF)")]
    NoAarch64Tables,
    /// IDR0.TTENDIAN says big-endian only.
    #[error("the SMMU walks big-endian tables only (IDR0.TTENDIAN)")]
    BigEndianOnly,
    /// IDR5.GRAN4K is 0.
    #[error("the SMMU has no 4 KiB granule (IDR5.GRAN4K)")]
    No4KGranule,
    /// IDR0.STALL_MODEL says that every fault stalls.
    #[error("the SMMU stalls every faulting transaction (IDR0.STALL_MODEL)")]
    StallForced,
    /// IDR1.TABLES_PRESET or QUEUES_PRESET.
    #[error("the SMMU's tables or queues lie at fixed addresses (IDR1.TABLES_PRESET, QUEUES_PRESET)")]
    Preset,
    /// No memory for a table or queue.
    #[error("no memory for {bytes} bytes of the SMMU's {what}")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// The SMMU didn't answer in time.
    #[error("the SMMU didn't answer in time: {0}")]
    Timeout(Wait),
    /// The SMMU refused a command. The queue works again.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A stream that the SMMU or its table doesn't know.
    #[error("stream {:#x} is out of range: the SMMU's table serves {bits} bits", .stream.0)]
    StreamOutOfRange {
        /// The stream.
        stream: StreamId,
        /// The bits of StreamID that are served.
        bits: u32,
    },
    /// A VMID above 255 where the SMMU has 8 bits of them.
    #[error("VMID {vmid} doesn't fit: the SMMU has VMIDs of 8 bits (IDR0.VMID16)")]
    VmidTooWide {
        /// The VMID.
        vmid: u16,
    },
    /// Two streams with the same VMID but different tables would see each other's translations.
    #[error(
        "stream {:#x} can't have VMID {vmid} with tables at {root:#x}: stream {:#x} has it with other tables, at \
         {other_root:#x}, or another address size",
        .stream.0,
        .other.0
    )]
    VmidInUse {
        /// The VMID.
        vmid: u16,
        /// The stream that was to be attached.
        stream: StreamId,
        /// Its tables.
        root: Hpa,
        /// The stream that has the VMID.
        other: StreamId,
        /// That stream's tables.
        other_root: Hpa,
    },
    /// An input size that walks with the 4 KiB granule don't have.
    #[error("stage 2 addresses of {bits} bits: 32 to 48 are served")]
    InputSize {
        /// What was asked for.
        bits: u32,
    },
    /// Address sizes that the SMMU would refuse: it needs input <= output <= what it puts out.
    #[error(
        "input addresses of {input} bits and output addresses of {output} bits don't go with the SMMU's {oas} bits"
    )]
    AddressSize {
        /// The size of input addresses.
        input: u32,
        /// The size of output addresses.
        output: u32,
        /// What the SMMU puts out (IDR5.OAS).
        oas: u32,
    },
    /// A root table that isn't aligned to its size, or lies past the output addresses.
    #[error("root table {root:#x} isn't aligned to its {bytes:#x} bytes, or out of range")]
    Root {
        /// The root table.
        root: Hpa,
        /// Its size.
        bytes: u64,
    },
}

/// A command that the SMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SMMU refused command {opcode:#x}: {reason:?}")]
pub struct CommandError {
    /// The command's opcode.
    pub opcode: u8,
    /// Why.
    pub reason: Reason,
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// SMMU_GBPA.UPDATE to clear.
    Gbpa,
    /// SMMU_CR0ACK to follow SMMU_CR0.
    Cr0,
    /// SMMU_IRQ_CTRLACK to follow SMMU_IRQ_CTRL.
    IrqCtrl,
    /// Room in the command queue.
    CommandRoom,
    /// CMD_SYNC to be consumed.
    Sync,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gbpa => "GBPA.UPDATE stays set",
            Self::Cr0 => "CR0ACK doesn't follow CR0",
            Self::IrqCtrl => "IRQ_CTRLACK doesn't follow IRQ_CTRL",
            Self::CommandRoom => "the command queue stays full",
            Self::Sync => "CMD_SYNC isn't consumed",
        })
    }
}

impl From<TimedOut<Wait>> for Error {
    fn from(TimedOut(what): TimedOut<Wait>) -> Self {
        Self::Timeout(what)
    }
}

impl From<OutOfMemory> for Error {
    fn from(OutOfMemory { what, bytes }: OutOfMemory) -> Self {
        Self::OutOfMemory { what, bytes }
    }
}
