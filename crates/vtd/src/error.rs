//! What can go wrong.

use core::fmt;

use axvm_addr::Hpa;
use axvm_iommu::{OutOfMemory, TimedOut};

use crate::id::DeviceId;

/// Why the driver couldn't do what it was asked. Whatever it is, no device is more open than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A register block that ends before what the unit has.
    #[error("the VT-d unit's registers are {bytes:#x} bytes: there must be {needs:#x}")]
    RegistersTooSmall {
        /// The block's size.
        bytes: u64,
        /// What there must be.
        needs: u64,
    },
    /// ECAP.QI is 0.
    #[error("the VT-d unit has no invalidation queue (ECAP.QI)")]
    NoQueue,
    /// CAP.CM is 1.
    #[error("the VT-d unit caches what isn't present (CAP.CM; on QEMU: caching-mode=off)")]
    CachingMode,
    /// CAP.SAGAW has neither three nor four levels.
    #[error("the VT-d unit walks tables of neither three nor four levels (CAP.SAGAW)")]
    NoWidth,
    /// No memory for a table or the queue.
    #[error("no memory for {bytes} bytes of the VT-d unit's {what}")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// The unit didn't answer in time.
    #[error("the VT-d unit didn't answer in time: {0}")]
    Timeout(Wait),
    /// The queue stopped at a descriptor. It works again; what the descriptors should have done isn't done.
    #[error("the VT-d unit stopped at an invalidation")]
    InvalidationRefused,
    /// A domain id that the unit's entries can't hold.
    #[error("domain {domain} can't be named: the VT-d unit has {bits} bits for it (CAP.ND)")]
    DomainOutOfRange {
        /// The domain's id.
        domain: u16,
        /// The bits that there are.
        bits: u32,
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
    /// Levels that the unit doesn't walk.
    #[error("page tables of {levels} levels: the VT-d unit doesn't walk them (CAP.SAGAW)")]
    Levels {
        /// What was asked for.
        levels: u8,
    },
    /// A root table that isn't a page.
    #[error("root table {root:#x} isn't aligned to 4 KiB")]
    Root {
        /// The root table.
        root: Hpa,
    },
    /// Interrupts of a unit that doesn't remap them.
    #[error("the VT-d unit doesn't remap interrupts (ECAP.IR)")]
    NoInterrupts,
    /// An entry that the interrupt table hasn't got.
    #[error("interrupt entry {index}: there are {entries}")]
    Index {
        /// What was asked for.
        index: u16,
        /// What there is.
        entries: u32,
    },
    /// A local APIC that entries can't name.
    #[error("local APIC {destination:#x} can't be named: there are {bits} bits for it")]
    Destination {
        /// What was asked for.
        destination: u32,
        /// The bits that there are.
        bits: u8,
    },
    /// A vector that the processor has for exceptions (Intel SDM 3, 7.2).
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
    /// The status to follow a global command.
    Command,
    /// An invalidation wait to store.
    Invalidation,
    /// Protected memory to be given up.
    Protected,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "Global Status doesn't follow Global Command",
            Self::Invalidation => "an invalidation wait isn't completed",
            Self::Protected => "Protected Memory Enable stays set",
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
