//! Loads and stores of whole registers of 32 bits, as drivers have them for a device's registers.

use crate::model::{Base, Extend, Instruction, Operation, Register, Segment, Value, Width};

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Memory to the register of this number, whose upper half is cleared.
    Load(u8),
    /// The lower half of the register of this number to memory.
    Store(u8),
    /// This to memory.
    StoreValue(u32),
}

/// Such an instruction in 64-bit mode, with all said of it that can be said before it is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The linear address is the register of this number and `displacement`.
    pub base: Option<u8>,
    /// What is added.
    pub displacement: u64,
    /// Where the next instruction is.
    pub next: u64,
    /// What moves.
    pub what: Move,
}

impl Plain {
    /// What an instruction at `rip` in 64-bit mode is, if it is one of these: 32 bits, at one register at the most, by segments without a base.
    pub fn of(instruction: &Instruction, rip: u64) -> Option<Self> {
        let Instruction { length, memory, source: None, width: Width::B4, operation, locked: false } =
            *instruction
        else {
            return None;
        };
        let has_base = matches!(memory.segment, Segment::Fs | Segment::Gs);
        if has_base || memory.index.is_some() || memory.address != Width::B8 {
            return None;
        }
        let next = rip.wrapping_add(length.into());
        let (base, displacement) = match memory.base {
            Some(Base::Register(number)) => (Some(number), memory.displacement),
            Some(Base::Next) => (None, memory.displacement.wrapping_add(next)),
            None => (None, memory.displacement),
        };
        let what = match operation {
            Operation::Load { to: Register { number, high: false }, extend: Extend::No } => {
                Move::Load(number)
            }
            Operation::Store { value: Value::Register(Register { number, high: false }) } => {
                Move::Store(number)
            }
            Operation::Store { value: Value::Immediate(value) } => Move::StoreValue(value as u32),
            _ => return None,
        };
        Some(Self { base, displacement, next, what })
    }
}
