#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod spec;

mod fifo;
mod state;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, MmioDevice, Transmit, Width};
use spin::Mutex;

use state::State;

/// An emulated PL011.
pub struct Pl011 {
    state: Mutex<State>,
    output: Arc<dyn Transmit>,
    line: Arc<dyn InterruptLine>,
    irq: Irq,
    /// Whether the output had no room for something. Only then does [`Console::pump`] want the lock, for which a guest that
    /// polls the flag register would otherwise wait on every byte.
    waiting: AtomicBool,
}

impl Pl011 {
    /// A UART as it is after reset, whose output goes to `output` and whose combined interrupt UARTINTR is `irq` of `line`.
    ///
    /// `line` is called with the UART's lock held, so that levels arrive in the order in which they came about: it must
    /// not call the UART.
    pub fn new(output: Arc<dyn Transmit>, line: Arc<dyn InterruptLine>, irq: Irq) -> Self {
        Self { state: Mutex::new(State::new()), output, line, irq, waiting: AtomicBool::new(false) }
    }

    /// Changes the state, then brings the interrupt line to the level that follows from it.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let before = state.line();
        let result = change(&mut state);
        if state.waits() && !self.waiting.swap(true, Ordering::SeqCst) {
            // Whoever made room meanwhile may not have seen the mark.
            state.drain(&*self.output);
        }
        if !state.waits() && self.waiting.load(Ordering::Relaxed) {
            self.waiting.store(false, Ordering::Relaxed);
        }
        let after = state.line();
        if before != after {
            self.line.set_level(self.irq, after);
        }
        if state.calls_for_input() {
            self.output.has_room();
        }
        result
    }
}

impl Console for Pl011 {
    fn push_input(&self, input: &[u8]) -> usize {
        self.with(|state| {
            let count = input.iter().take_while(|&&byte| state.receive(byte)).count();
            state.input_waits = count < input.len();
            count
        })
    }

    fn pump(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.with(|state| state.drain(&*self.output));
        }
    }

    fn reset(&self) {
        self.with(|state| *state = State::new());
    }

    fn lost(&self) -> u64 {
        self.state.lock().lost()
    }
}

impl MmioDevice for Pl011 {
    fn name(&self) -> &str {
        "pl011"
    }

    fn read(&self, _vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        // A register is 16 bits or less in a 32-bit slot. Only an access that includes its low byte reads it (and so pops
        // the FIFO); the others read the slot's upper bits, which are zero beyond bit 15.
        let (register, byte) = (offset & !3, offset & 3);
        let value = match byte {
            0 => self.with(|state| state.read(register, &*self.output)),
            1 if register != spec::DR => self.with(|state| state.read(register, &*self.output)) >> 8,
            _ => 0,
        };
        u64::from(value) & width.mask()
    }

    fn write(&self, _vcpu: VcpuId, offset: u64, _width: Width, value: u64) {
        // Arm DDI 0183G, 2.2.1: the APB interface has no byte lanes; a write is a write of the register.
        if offset & 3 == 0 {
            self.with(|state| state.write(offset, value as u16, &*self.output));
        }
    }

    // What a guest does for every character that it prints.

    fn has_fast_path(&self) -> bool {
        true
    }

    fn fast_read(&self, offset: u64) -> Option<u32> {
        let mut state = self.state.try_lock().filter(|_| offset == spec::FR)?;
        (state.is_quiet() && !state.may_listen()).then(|| state.read_flags().into())
    }

    fn fast_write(&self, offset: u64, value: u32) -> bool {
        offset == spec::DR
            && self.state.try_lock().is_some_and(|mut state| state.pass_on(value as u8, &*self.output))
    }
}

#[cfg(test)]
mod tests;
