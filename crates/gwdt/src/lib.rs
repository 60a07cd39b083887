#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod spec;

mod state;

use alloc::sync::Arc;

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{InterruptLine, MmioDevice, Width};
use spin::Mutex;

use state::State;

/// The system counter that the guest reads, and whoever calls [`Watchdog::attend`] by it.
pub trait Clock: Send + Sync {
    /// Its value.
    fn now(&self) -> u64;

    /// [`Watchdog::attend`] is to be called sooner than it has said: the guest has switched the watchdog on, or shortened its time.
    ///
    /// Called with the watchdog's lock held: it must not call the watchdog.
    fn rearmed(&self);
}

/// What whoever looks after a watchdog has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Nothing, until [`Clock::rearmed`].
    None,
    /// To call [`Watchdog::attend`] again at this value of the counter.
    At(u64),
    /// Its time was over twice: the machine is to be reset.
    Expired,
}

/// An emulated watchdog.
pub struct Watchdog {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    line: Option<Signal>,
}

/// Where WS0 leads.
struct Signal {
    line: Arc<dyn InterruptLine>,
    irq: Irq,
}

impl Watchdog {
    /// A watchdog as it is after reset: off. Its WS0 is the interrupt `irq` of `line`, or nobody's.
    ///
    /// `line` is called with the watchdog's lock held: it must not call the watchdog.
    pub fn new(clock: Arc<dyn Clock>, line: Option<(Arc<dyn InterruptLine>, Irq)>) -> Self {
        let line = line.map(|(line, irq)| Signal { line, irq });
        Self { state: Mutex::new(State::new()), clock, line }
    }

    /// Brings it to where it is now, WS0 with it, and says when that is to be done again.
    pub fn attend(&self) -> Attention {
        self.with(|state, _| match state.next() {
            _ if state.has_expired() => Attention::Expired,
            Some(at) => Attention::At(at),
            None => Attention::None,
        })
    }

    /// Its time stands still from now on, as its VM's does.
    pub fn suspend(&self) {
        self.with(State::suspend);
    }

    /// Its time goes on.
    pub fn resume(&self) {
        self.with(State::resume);
    }

    /// The frame with its settings.
    pub fn control_frame(self: &Arc<Self>) -> ControlFrame {
        ControlFrame(self.clone())
    }

    /// The frame by which it is refreshed.
    pub fn refresh_frame(self: &Arc<Self>) -> RefreshFrame {
        RefreshFrame(self.clone())
    }

    /// Does something with what it is now, then brings WS0 to the level that follows from it.
    fn with<R>(&self, change: impl FnOnce(&mut State, u64) -> R) -> R {
        let mut state = self.state.lock();
        let was = state.is_first();
        let now = self.clock.now();
        state.advance(now);
        let before = state.next();
        let result = change(&mut state, now);
        let after = state.next();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.clock.rearmed();
        }
        if let Some(Signal { line, irq }) = &self.line
            && was != state.is_first()
        {
            line.set_level(*irq, state.is_first());
        }
        result
    }
}

/// The frame with a watchdog's settings.
pub struct ControlFrame(Arc<Watchdog>);

/// The frame by which a watchdog is refreshed.
pub struct RefreshFrame(Arc<Watchdog>);

/// The registers that an access is of: 32 bits each, and two of them at once where it is 64 bits wide. Other accesses are none's.
fn registers(offset: u64, width: Width) -> impl Iterator<Item = (u64, u32)> {
    let count = match width {
        Width::B4 if offset.is_multiple_of(4) => 1,
        Width::B8 if offset.is_multiple_of(8) => 2,
        _ => 0,
    };
    [(offset, 0), (offset.saturating_add(4), 32)].into_iter().take(count)
}

fn read(offset: u64, width: Width, register: impl Fn(u64) -> u32) -> u64 {
    registers(offset, width).fold(0, |value, (at, shift)| value | u64::from(register(at)) << shift)
}

impl MmioDevice for ControlFrame {
    fn name(&self) -> &str {
        "watchdog"
    }

    fn read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        self.0.with(|state, _| read(offset, width, |register| state.read(register)))
    }

    fn write(&self, _: VcpuId, offset: u64, width: Width, value: u64) {
        self.0.with(|state, now| {
            for (register, shift) in registers(offset, width) {
                state.write(register, (value >> shift) as u32, now);
            }
        });
    }
}

impl MmioDevice for RefreshFrame {
    fn name(&self) -> &str {
        "watchdog"
    }

    fn read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        read(offset, width, |register| if register == spec::W_IIDR { spec::IIDR } else { 0 })
    }

    fn write(&self, _: VcpuId, offset: u64, width: Width, _: u64) {
        if registers(offset, width).any(|(register, _)| register == spec::WRR) {
            self.0.with(State::refresh);
        }
    }
}

#[cfg(test)]
mod tests;
