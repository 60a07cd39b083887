//! Functions made up for tests: registers with write masks, buses behind bridges, resets.

mod function;
mod models;
mod route;

use std::sync::Mutex;
use std::vec::Vec;

use axvm_addr::PciAddress;

pub use function::{Away, FakeFunction};
pub use route::{Arrival, Request, Target};

use crate::clock::Clock;
use crate::config::{ConfigSpace, Width};
use crate::spec::header;

/// A machine's functions, routed as bridges route them.
pub struct FakeBus {
    segment: u16,
    root: u8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    writes: Vec<(PciAddress, u16, Width, u32)>,
    microseconds: u64,
    /// What an access to a function that doesn't answer costs.
    timeout_us: u64,
}

struct Slot {
    device: u8,
    number: u8,
    function: FakeFunction,
    behind: Vec<Slot>,
}

impl FakeBus {
    /// A host bridge with an empty root bus.
    pub fn new(segment: u16, root: u8) -> Self {
        Self { segment, root, state: Mutex::default() }
    }

    /// Plugs a function into the root bus.
    pub fn with(self, device: u8, number: u8, function: FakeFunction) -> Self {
        self.locked().slots.push(Slot { device, number, function, behind: Vec::new() });
        self
    }

    /// Plugs a function in behind a bridge, to which `path` says the way: device numbers, and function numbers
    /// in bits 7:5.
    pub fn with_behind(self, path: &[u8], device: u8, number: u8, function: FakeFunction) -> Self {
        {
            let mut state = self.locked();
            let mut slots = &mut state.slots;
            for &bridge in path {
                let slot =
                    slots.iter_mut().find(|slot| slot.device == bridge & 31 && slot.number == bridge >> 5);
                slots = &mut slot.expect("no such bridge").behind;
            }
            slots.push(Slot { device, number, function, behind: Vec::new() });
        }
        self
    }

    /// Looks at, or changes, a function where it is now.
    pub fn function<R>(&self, address: PciAddress, look: impl FnOnce(&mut FakeFunction) -> R) -> Option<R> {
        let mut state = self.locked();
        let slots = &mut state.slots;
        find(slots, self.root, address).map(|slot| look(&mut slot.function))
    }

    /// Where a request of a function arrives, as bridges and ACS are set now.
    pub fn route(&self, request: &Request) -> Arrival {
        route::route(&self.locked().slots, self.root, request)
    }

    /// The writes so far, and forgets them.
    pub fn take_writes(&self) -> Vec<(PciAddress, u16, Width, u32)> {
        core::mem::take(&mut self.locked().writes)
    }

    /// How long an access takes until it is given up, to a function that doesn't answer.
    pub fn set_timeout_us(&self, microseconds: u64) {
        self.locked().timeout_us = microseconds;
    }

    /// Lets time pass.
    pub fn delay(&self, microseconds: u64) {
        self.locked().microseconds += microseconds;
    }

    /// The time that has passed.
    pub fn microseconds(&self) -> u64 {
        self.locked().microseconds
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn find(slots: &mut [Slot], bus: u8, address: PciAddress) -> Option<&mut Slot> {
    if bus == address.bus {
        return slots
            .iter_mut()
            .find(|slot| slot.device == address.device() && slot.number == address.function());
    }
    let mut claims = slots.iter_mut().filter_map(|slot| {
        let secondary = slot.function.get(header::SECONDARY_BUS, Width::B1) as u8;
        let subordinate = slot.function.get(header::SUBORDINATE_BUS, Width::B1) as u8;
        let behind = secondary != 0 && (secondary..=subordinate).contains(&address.bus);
        (slot.function.is_bridge() && behind).then_some((slot, secondary))
    });
    // What becomes of a request that two bridges take for theirs no specification says: nobody answers it.
    let claim = claims.next();
    let (slot, secondary) = claim.filter(|_| claims.next().is_none())?;
    find(&mut slot.behind, secondary, address)
}

impl Clock for FakeBus {
    fn now_us(&self) -> u64 {
        self.microseconds()
    }

    fn delay_us(&self, microseconds: u64) {
        self.delay(microseconds);
    }
}

impl ConfigSpace for FakeBus {
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        assert!(
            u64::from(offset) % width.bytes() == 0 && width != Width::B8,
            "misaligned read at {offset:#x}"
        );
        let mut state = self.locked();
        let now = state.microseconds;
        let found = (function.segment == self.segment).then(|| find(&mut state.slots, self.root, function));
        let value = match found.flatten() {
            Some(slot) if !slot.function.is_silent(now) => return slot.function.read(offset, width),
            // The root port makes up this answer (PCIe 2.3.2).
            Some(slot) if slot.function.asks_again && offset == header::VENDOR => {
                return 0xffff_0001 & width.mask() as u32;
            }
            _ => width.mask() as u32,
        };
        state.microseconds += state.timeout_us;
        value
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        assert!(
            u64::from(offset) % width.bytes() == 0 && width != Width::B8,
            "misaligned write at {offset:#x}"
        );
        let mut state = self.locked();
        state.writes.push((function, offset, width, value));
        let now = state.microseconds;
        if function.segment != self.segment {
            return;
        }
        let Some(slot) = find(&mut state.slots, self.root, function) else { return };
        if slot.function.is_silent(now) {
            state.microseconds += state.timeout_us;
            return;
        }
        let before = slot.function.get(header::BRIDGE_CONTROL, Width::B2) as u16;
        slot.function.write(offset, width, value, now);
        let after = slot.function.get(header::BRIDGE_CONTROL, Width::B2) as u16;
        if slot.function.is_bridge() && !before & after & header::SECONDARY_RESET != 0 {
            reset_all(&mut slot.behind, now);
        }
    }
}

fn reset_all(slots: &mut [Slot], now: u64) {
    for slot in slots {
        slot.function.reset(now);
        reset_all(&mut slot.behind, now);
    }
}
