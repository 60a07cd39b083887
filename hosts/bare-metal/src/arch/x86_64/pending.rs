//! What a vCPU waits to be answered, and what the answer does to it.

use axvm::vcpu::Answer;
use axvm_x86_cpu::event::Exception;
use axvm_x86_cpu::exit::Direction;

use super::emulate::{Emulation, Next};
use super::exit::skip;
use super::ports::Transfer;
use super::run::Running;

/// What the last exit has to be answered for.
pub enum Pending {
    /// Nothing.
    None,
    /// An instruction that accesses registers in memory.
    Memory(Emulation),
    /// One that accesses ports.
    Ports(Transfer),
    /// One that accesses a model-specific register.
    Register {
        /// Which way.
        direction: Direction,
        /// Its bytes.
        length: u64,
    },
    /// A call.
    Call {
        /// Its bytes.
        length: u64,
    },
}

/// What a guest reads where nobody answers, on a bus of PCI's or ISA's.
const ALL_ONES: u64 = u64::MAX;

/// What Linux's and others' KVM guests take for a call that isn't there.
pub const NO_SUCH_CALL: u64 = -1000i64 as u64;

/// Answers the last exit.
pub fn complete(running: &mut Running<'_>, answer: Answer) {
    let value = match answer {
        Answer::Value(value) => Some(value),
        Answer::Nobody | Answer::Power(_) => None,
    };
    match core::mem::replace(&mut running.pending, Pending::None) {
        Pending::None => {}
        Pending::Memory(mut emulation) => {
            let ram = &running.vm.ends().ram;
            if let Next::Access = emulation.answered(&mut running.context, ram, value.unwrap_or(ALL_ONES)) {
                running.pending = Pending::Memory(emulation);
            }
        }
        Pending::Ports(mut transfer) => {
            if let Next::Access = transfer.answered(running, value.unwrap_or(ALL_ONES)) {
                running.pending = Pending::Ports(transfer);
            }
        }
        Pending::Register { direction, length } => match value {
            Some(value) => {
                if direction == Direction::Read {
                    running.context.set_edx_eax(value);
                }
                skip(running, length);
            }
            None => {
                let _ = running.context.raise(Exception::GP);
            }
        },
        Pending::Call { length } => {
            running.context.set_register(0, value.unwrap_or(NO_SUCH_CALL));
            skip(running, length);
        }
    }
}
