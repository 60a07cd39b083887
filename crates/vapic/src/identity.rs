//! What of a local APIC says whether an interrupt is for it. Others ask for that without waiting for its own CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::base::Mode;
use crate::message::Destination;

/// What of a local APIC decides whether it is named, and takes an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it is reached.
    pub mode: Mode,
    /// It is turned on by software: it takes what has a vector.
    pub enabled: bool,
    /// Its logical id, as its register has it.
    pub logical: u32,
    /// Its logical id is flat, where each bit is an APIC; else there are clusters.
    pub flat: bool,
    /// The Processor Priority.
    pub priority: u8,
}

impl Identity {
    /// That of one that is in x2APIC mode, whose logical id follows from its id (SDM 3, 12.12.10.2).
    pub fn in_x2apic(id: u32) -> Self {
        let logical = (id >> 4) << 16 | 1 << (id & 15);
        Self { mode: Mode::X2Apic, enabled: true, logical, flat: false, priority: 0 }
    }

    /// Whether the one with this id is among those that a destination names (APM 2, 16.6; SDM 3, 12.12.9).
    pub fn is_named(&self, own: u32, destination: Destination) -> bool {
        let Destination { id, logical, narrow } = destination;
        let all = if narrow { 0xff } else { u32::MAX };
        match (self.mode, logical) {
            (Mode::Off, _) => false,
            (_, false) => id == all || id == own,
            (_, true) if id == all => true,
            (Mode::X2Apic, true) => self.logical >> 16 == id >> 16 && self.logical & id & 0xffff != 0,
            (Mode::XApic, true) if id > 0xff => false,
            (Mode::XApic, true) => {
                let own = self.logical >> 24;
                // In clusters 15 is all.
                let same_cluster = id >> 4 == 0xf || id >> 4 == own >> 4;
                if self.flat { own & id != 0 } else { same_cluster && own & id & 0xf != 0 }
            }
        }
    }

    /// Whether it takes what has a vector.
    pub fn takes_vectors(&self) -> bool {
        self.enabled && self.mode != Mode::Off
    }
}

/// Where it says that it is turned on by software.
const ENABLED: u64 = 1 << 2;

/// An identity that its own CPU writes and others read.
#[derive(Debug)]
pub(crate) struct Published(AtomicU64);

impl Published {
    pub fn new(identity: Identity) -> Self {
        Self(AtomicU64::new(pack(identity)))
    }

    /// By its own CPU.
    pub fn set(&self, identity: Identity) {
        let value = pack(identity);
        if self.0.load(Ordering::Relaxed) != value {
            self.0.store(value, Ordering::SeqCst);
        }
    }

    /// By its own CPU, where nothing else has changed.
    #[inline(always)]
    pub fn set_priority(&self, priority: u8) {
        const PRIORITY: u64 = 0xff << 8;
        let value = self.0.load(Ordering::Relaxed) & !PRIORITY | u64::from(priority) << 8;
        self.0.store(value, Ordering::SeqCst);
    }

    /// Whether it is on: [`Identity::mode`].
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst) & 3 != 0
    }

    /// Whether it takes what has a vector: [`Identity::takes_vectors`].
    pub fn takes_vectors(&self) -> bool {
        let value = self.0.load(Ordering::SeqCst);
        value & 3 != 0 && value & ENABLED != 0
    }

    pub fn get(&self) -> Identity {
        let value = self.0.load(Ordering::SeqCst);
        let mode = match value & 3 {
            0 => Mode::Off,
            1 => Mode::XApic,
            _ => Mode::X2Apic,
        };
        Identity {
            mode,
            enabled: value & ENABLED != 0,
            flat: value >> 3 & 1 != 0,
            priority: (value >> 8) as u8,
            logical: (value >> 32) as u32,
        }
    }
}

fn pack(identity: Identity) -> u64 {
    let mode = match identity.mode {
        Mode::Off => 0,
        Mode::XApic => 1,
        Mode::X2Apic => 2,
    };
    mode | if identity.enabled { ENABLED } else { 0 }
        | u64::from(identity.flat) << 3
        | u64::from(identity.priority) << 8
        | u64::from(identity.logical) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        for mode in [Mode::Off, Mode::XApic, Mode::X2Apic] {
            for (enabled, flat, priority, logical) in
                [(true, false, 0xf1, 0x8000_0001), (false, true, 0, u32::MAX), (true, true, 0xff, 0)]
            {
                let identity = Identity { mode, enabled, logical, flat, priority };
                let published = Published::new(identity);
                assert_eq!(published.get(), identity);
                assert_eq!(published.takes_vectors(), identity.takes_vectors());
                assert_eq!(published.is_on(), mode != Mode::Off);
                let other = Identity { priority: priority ^ 1, ..identity };
                published.set(other);
                assert_eq!(published.get(), other);
                published.set_priority(priority);
                assert_eq!(published.get(), identity);
            }
        }
    }
}
