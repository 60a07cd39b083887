//! Interrupts on their way: who gets them, and how.

use crate::spec::{DeliveryMode, FIRST_VECTOR};

/// What a CPU gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An interrupt of this vector.
    Vector {
        /// The vector.
        vector: u8,
        /// Its end is told to I/O APICs.
        level: bool,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the CPU is reset, and waits for STARTUP.
    Init,
    /// STARTUP: a CPU that waits for it begins in real mode at this page.
    Startup {
        /// Bits 19:12 of the address.
        page: u8,
    },
    /// What the 8259 says.
    External,
}

/// How a CPU is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All that are named get it.
    All,
    /// The one with the lowest priority.
    Lowest,
}

/// The ids that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// An id, or a set of them.
    pub id: u32,
    /// It is a logical one.
    pub logical: bool,
    /// It was said with 8 bits, of which all ones are everybody; with 32 bits that takes 32.
    pub narrow: bool,
}

impl Destination {
    /// The id of the only one that it can be for, if it names one by that.
    pub(crate) fn one(self) -> Option<u32> {
        let all = if self.narrow { 0xff } else { u32::MAX };
        (!self.logical && self.id != all).then_some(self.id)
    }
}

/// An interrupt that goes to whom it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom.
    pub destination: Destination,
    /// All of them, or one.
    pub delivery: Delivery,
    /// What they get.
    pub signal: Signal,
}

/// An interrupt that counts by its edge, for one local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// The local APIC's id.
    pub id: u32,
    /// The vector.
    pub vector: u8,
}

/// Whom an interrupt between CPUs is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The sender.
    Own,
    /// All.
    All,
    /// All but the sender.
    Others,
    /// Those.
    Named(Destination, Delivery),
}

/// An interrupt that a CPU sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// Whom to.
    pub target: Target,
    /// What.
    pub signal: Signal,
}

/// What a CPU gets by a mode, if that is served: SMIs and vectors below 16 aren't.
pub(crate) fn signal(mode: DeliveryMode, vector: u8, level: bool) -> Option<(Signal, Delivery)> {
    let vectored = || (vector >= FIRST_VECTOR).then_some(Signal::Vector { vector, level });
    Some(match mode {
        DeliveryMode::Fixed => (vectored()?, Delivery::All),
        DeliveryMode::LowestPriority => (vectored()?, Delivery::Lowest),
        DeliveryMode::Nmi => (Signal::Nmi, Delivery::All),
        DeliveryMode::Init => (Signal::Init, Delivery::All),
        DeliveryMode::Startup => (Signal::Startup { page: vector }, Delivery::All),
        DeliveryMode::External => (Signal::External, Delivery::All),
        DeliveryMode::Smi | DeliveryMode::Reserved3 => return None,
    })
}

impl Message {
    /// What a write to memory is as a message-signalled interrupt (APM 2, 16.12; SDM 3, 12.11): `None` for addresses that aren't
    /// interrupts', and for what isn't served. INIT and STARTUP don't come so.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let mode = DeliveryMode::from_bits((data >> 8 & 7) as u8);
        if matches!(mode, DeliveryMode::Init | DeliveryMode::Startup) {
            return None;
        }
        let (signal, delivery) = signal(mode, data as u8, data >> 15 & 1 != 0)?;
        let id = (address >> 12 & 0xff) as u32;
        let logical = address >> 2 & 1 != 0;
        // RH: one of those that a logical destination names.
        let redirected = address >> 3 & 1 != 0 && logical;
        let delivery = if redirected { Delivery::Lowest } else { delivery };
        Some(Self { destination: Destination { id, logical, narrow: true }, delivery, signal })
    }

    /// Whom it is for, if it is an interrupt that counts by its edge and names one local APIC by its id.
    pub fn alone(self) -> Option<Alone> {
        let Signal::Vector { vector, level: false } = self.signal else { return None };
        Some(Alone { id: self.destination.one()?, vector })
    }

    /// The write to memory that it is, its address and its data: to who delivers nothing but such. `None` for what none is.
    pub fn to_msi(self) -> Option<(u64, u32)> {
        let Self { destination, delivery, signal } = self;
        let id = u64::from(u8::try_from(destination.id).ok()?);
        let mode = |mode: DeliveryMode| u32::from(mode.into_bits()) << 8;
        let data = match (signal, delivery) {
            (Signal::Vector { vector, level }, delivery) => {
                let by = match delivery {
                    Delivery::All => DeliveryMode::Fixed,
                    Delivery::Lowest => DeliveryMode::LowestPriority,
                };
                u32::from(vector) | mode(by) | if level { LEVEL | ASSERT } else { 0 }
            }
            (Signal::Nmi, Delivery::All) => mode(DeliveryMode::Nmi),
            _ => return None,
        };
        Some((0xfee0_0000 | id << 12 | u64::from(destination.logical) << 2, data))
    }
}

/// In a message's data: it counts by its level, and begins.
const LEVEL: u32 = 1 << 15;
const ASSERT: u32 = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_as_a_write_to_memory_is_heard_as_what_it_was() {
        for (id, logical) in [(0, false), (3, false), (0xff, false), (0x81, true)] {
            let destination = Destination { id, logical, narrow: true };
            for delivery in [Delivery::All, Delivery::Lowest] {
                for (vector, level) in [(16, false), (0x31, true), (0xff, true)] {
                    let message = Message { destination, delivery, signal: Signal::Vector { vector, level } };
                    let (address, data) = message.to_msi().unwrap();
                    assert_eq!(Message::from_msi(address, data), Some(message));
                }
            }
            let message = Message { destination, delivery: Delivery::All, signal: Signal::Nmi };
            let (address, data) = message.to_msi().unwrap();
            assert_eq!(Message::from_msi(address, data), Some(message));
        }
    }

    #[test]
    fn what_no_write_to_memory_is_is_none() {
        let destination = Destination { id: 0, logical: false, narrow: true };
        for signal in [Signal::Init, Signal::Startup { page: 8 }, Signal::External] {
            assert_eq!(Message { destination, delivery: Delivery::All, signal }.to_msi(), None);
        }
        let far = Message {
            destination: Destination { id: 0x100, ..destination },
            delivery: Delivery::All,
            signal: Signal::Nmi,
        };
        assert_eq!(far.to_msi(), None);
    }
}
