//! What can go wrong.

use core::fmt;

use axvm_addr::Hpa;
use axvm_iommu::{OutOfMemory, TimedOut};

use crate::id::DeviceId;
use crate::spec::interrupts;
use crate::spec::registers::REGISTER_BYTES;

/// Why the driver couldn't do what it was asked. Whatever it is, no device is more open than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A register block without the second half.
    #[error("the IOMMU's registers are {bytes:#x} bytes: there must be {:#x}", REGISTER_BYTES)]
    RegistersTooSmall {
        /// The block's size.
        bytes: u64,
    },
    /// No memory for a table or ring.
    #[error("no memory for {bytes} bytes of the IOMMU's {what}")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// The IOMMU didn't answer in time.
    #[error("the IOMMU didn't answer in time: {0}")]
    Timeout(Wait),
    /// It stopped at a command. The buffer works again; what the commands should have done isn't done.
    #[error("the IOMMU stopped at a command")]
    CommandRefused,
    /// A device that its table has no entry for.
    #[error("device {:#x} is out of range: the device table ends after {:#x}", .device.0, .last.0)]
    OutOfRange {
        /// The device.
        device: DeviceId,
        /// The last that there is an entry for.
        last: DeviceId,
    },
    /// Two devices with the same domain id but different tables would see each other's translations.
    #[error(
        "device {:#x} can't have domain {domain} with tables at {root:#x}: device {:#x} has it with other tables, at {other_root:#x}",
        .device.0,
        .other.0
    )]
    DomainInUse {
        /// The domain's id.
        domain: u16,
        /// The device that was to be attached.
        device: DeviceId,
        /// Its tables.
        root: Hpa,
        /// The device that has the domain.
        other: DeviceId,
        /// That device's tables.
        other_root: Hpa,
    },
    /// More levels than the IOMMU walks, or none.
    #[error("page tables of {levels} levels: the IOMMU walks 1 to {most}")]
    Levels {
        /// What was asked for.
        levels: u8,
        /// What it has (EFR.HATS).
        most: u8,
    },
    /// A root table that isn't a page, or lies past the addresses that an entry can hold.
    #[error("root table {root:#x} isn't aligned to 4 KiB, or lies above 52 bits")]
    Root {
        /// The root table.
        root: Hpa,
    },
    /// An entry that an interrupt table hasn't got.
    #[error("interrupt {index} of device {:#x}: there are {}", .device.0, interrupts::ENTRIES)]
    Index {
        /// The device.
        device: DeviceId,
        /// What was asked for.
        index: u16,
    },
    /// A local APIC that the IOMMU's entries can't name.
    #[error("local APIC {destination:#x} can't be named: this IOMMU's entries have {bits} bits for it")]
    Destination {
        /// What was asked for.
        destination: u32,
        /// The bits that there are.
        bits: u8,
    },
    /// A vector that the processor has for exceptions (AMD64 APM 2, 8.2).
    #[error("vector {vector} is an exception's: interrupts have 32 to 255")]
    Vector {
        /// What was asked for.
        vector: u8,
    },
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// COMPLETION_WAIT to store.
    Completion,
    /// The command buffer or the event log to stop.
    Stop,
    /// The command buffer or the event log to start.
    Start,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completion => "COMPLETION_WAIT isn't completed",
            Self::Stop => "CmdBufRun or EventLogRun stays set",
            Self::Start => "CmdBufRun or EventLogRun stays clear",
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
