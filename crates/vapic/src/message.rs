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
}
