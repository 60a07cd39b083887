//! What an interrupt becomes (5.1.4).

use crate::error::Error;
use crate::features::Features;
use crate::id::DeviceId;
pub(crate) use crate::spec::interrupts::ENTRY_BYTES;
use crate::spec::interrupts::{High, Kind, Low};

/// Which CPUs get an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The one with this local APIC.
    Physical(u32),
    /// Those that answer to this logical id.
    Logical(u32),
}

/// What an interrupt of a device becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The vector: 32 to 255.
    pub vector: u8,
    /// Who gets it.
    pub destination: Destination,
    /// How it is delivered. NMI, SMI, INIT and ExtINT there are none.
    pub kind: Kind,
    /// It counts by its level: an I/O APIC's.
    pub level: bool,
}

/// The words of an entry, which lets this device's interrupts through and no other's.
pub(crate) fn encode(features: &Features, device: DeviceId, interrupt: Interrupt) -> Result<[u64; 2], Error> {
    let Interrupt { vector, destination, kind, level } = interrupt;
    if vector < 32 {
        return Err(Error::Vector { vector });
    }
    let (destination, logical) = match destination {
        Destination::Physical(id) => (id, false),
        Destination::Logical(id) => (id, true),
    };
    let bits = if features.x2apic { 32 } else { 8 };
    if u64::from(destination) >> bits != 0 {
        return Err(Error::Destination { destination, bits });
    }
    let low = Low::new()
        .with_present(true)
        .with_logical(logical)
        .with_redirected(kind == Kind::LowestPriority)
        .with_level(level)
        .with_kind(kind as u8)
        .with_vector(vector)
        .with_destination(if features.x2apic { destination } else { destination << 8 });
    let high = High::new().with_source(device.0).with_verify(1);
    Ok([low.into(), high.into()])
}
