#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod spec;

mod state;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, PortDevice, Transmit, Width};
use spin::Mutex;

use state::State;

/// An emulated 16550A.
pub struct Ns16550 {
    state: Mutex<State>,
    output: Arc<dyn Transmit>,
    line: Arc<dyn InterruptLine>,
    irq: Irq,
    /// Whether the output had no room for something. Only then does [`Console::pump`] want the lock, for which a guest that polls the line
    /// status would otherwise wait on every byte.
    waiting: AtomicBool,
}

impl Ns16550 {
    /// A UART as it is after reset, whose output goes to `output` and whose interrupt INTR is `irq` of `line`.
    ///
    /// Both are called with the UART's lock held, so that levels arrive in the order in which they came about: they must not call the UART.
    pub fn new(output: Arc<dyn Transmit>, line: Arc<dyn InterruptLine>, irq: Irq) -> Self {
        Self { state: Mutex::new(State::new()), output, line, irq, waiting: AtomicBool::new(false) }
    }

    /// Reads one of its eight registers ([`spec`]). What isn't one reads as all ones.
    pub fn read_register(&self, register: u8) -> u8 {
        self.with(|state| state.read(register, &*self.output))
    }

    /// Writes one of its eight registers.
    pub fn write_register(&self, register: u8, value: u8) {
        self.with(|state| state.write(register, value, &*self.output));
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

impl Console for Ns16550 {
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

/// The registers that an access of this width reaches from `offset` on: the bus of an 8-bit device makes one access of each.
fn registers(offset: u16, width: Width) -> impl Iterator<Item = (u32, u8)> {
    (0..width.bytes() as u32).map(move |byte| {
        let register = u32::from(offset) + byte;
        (8 * byte, u8::try_from(register).unwrap_or(u8::MAX))
    })
}

impl PortDevice for Ns16550 {
    fn name(&self) -> &str {
        "ns16550"
    }

    fn read(&self, _vcpu: VcpuId, offset: u16, width: Width) -> u32 {
        if let (Width::B1, Ok(register)) = (width, u8::try_from(offset)) {
            return self.read_register(register).into();
        }
        let bytes = registers(offset, width).take(4);
        bytes.fold(0, |value, (shift, register)| value | u32::from(self.read_register(register)) << shift)
    }

    fn write(&self, _vcpu: VcpuId, offset: u16, width: Width, value: u32) {
        if let (Width::B1, Ok(register)) = (width, u8::try_from(offset)) {
            return self.write_register(register, value as u8);
        }
        for (shift, register) in registers(offset, width).take(4) {
            self.write_register(register, (value >> shift) as u8);
        }
    }

    fn fast_read(&self, offset: u16) -> Option<u8> {
        self.state.try_lock()?.read_quietly(u8::try_from(offset).ok()?)
    }
}

#[cfg(test)]
mod tests;
