//! What can be wrong with an ITS command.

use axvm_addr::Gpa;

use crate::backend::BackendError;
use crate::id::{Intid, ItsDeviceId, ItsEventId};

/// Why an ITS command was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The queue isn't in the guest's memory.
    #[error("the command at {0} is not in the guest's memory")]
    QueueNotMemory(Gpa),
    /// A table isn't in the guest's memory.
    #[error("the table at {0} is not in the guest's memory")]
    TableNotMemory(Gpa),
    /// No command of GICv3.
    #[error("no command has the opcode {0:#x}")]
    UnknownCommand(u8),
    /// The device isn't the VM's.
    #[error("ITS device {0} is not this VM's")]
    ForeignDevice(ItsDeviceId),
    /// The device table that the guest gave is too small.
    #[error("ITS device {0} is outside the guest's device table")]
    DeviceOutOfTable(ItsDeviceId),
    /// The device isn't mapped.
    #[error("the device is not mapped")]
    DeviceNotMapped,
    /// More event id bits than GITS_TYPER says.
    #[error("{0} event id bits are more than the ITS has")]
    TooManyEvents(u32),
    /// The event id is larger than MAPD said.
    #[error("event {0} is outside its device's table")]
    EventOutOfRange(ItsEventId),
    /// The event isn't mapped.
    #[error("event {0} is not mapped")]
    EventNotMapped(ItsEventId),
    /// Not an LPI, or larger than the configuration table covers.
    #[error("INTID {0} is not an LPI of this ITS")]
    LpiOutOfRange(Intid),
    /// Two events of one LPI, where the hardware would have to deliver both under that number: what the
    /// architecture calls unpredictable.
    #[error("INTID {0} is another event's already")]
    LpiTwice(Intid),
    /// The collection is larger than the ITS or the guest's table has.
    #[error("collection {0} is out of range")]
    CollectionOutOfRange(u16),
    /// The collection isn't mapped.
    #[error("collection {0} is not mapped")]
    CollectionNotMapped(u16),
    /// No vCPU has this number.
    #[error("no redistributor has the number {0}")]
    NoSuchRedistributor(u64),
    /// The hypervisor couldn't do it in hardware.
    #[error("the hypervisor could not carry it out: {0}")]
    Backend(#[from] BackendError),
}
