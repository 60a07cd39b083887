#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | `model` | what an instruction is: its operands and what it does |
//! | `prefix` | what comes before the opcode |
//! | `modrm` | which memory, and which register |
//! | `decode` | the opcodes |
//! | `plain` | loads and stores of 32 bits, ready to be done |
//! | `compute` | results and flags |
#![no_std]
#![forbid(unsafe_code)]

mod compute;
mod decode;
mod model;
mod modrm;
mod plain;
mod prefix;

pub use compute::{Flags, Outcome};
pub use model::{
    Base, BitTest, Code, Extend, Index, Instruction, Memory, NotDecoded, Operation, Register, Segment,
    StringKind, Two, Unary, Value, Width,
};
pub use plain::{Move, Plain};
