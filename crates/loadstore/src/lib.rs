#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod decode;
mod fault;
#[cfg(test)]
mod tests;

pub use fault::{Fault, Mismatch};

/// Which way data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into registers.
    Load,
    /// Into memory.
    Store,
}

/// Which registers data are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// X0 to X30; 31 is the zero register.
    General,
    /// V0 to V31. A load clears what of the register it doesn't fill.
    Vector,
}

/// What a load makes of the bits of a general register that memory doesn't fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Zeros.
    Zero,
    /// The sign, up to bit 31; zeros above.
    Sign32,
    /// The sign.
    Sign64,
}

/// What an index register becomes before it is added to the base (Arm ARM, ExtendReg).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Its low 32 bits, the rest zero.
    Uxtw,
    /// All of it.
    Lsl,
    /// Its low 32 bits, with their sign.
    Sxtw,
    /// All of it; its sign has nowhere to go.
    Sxtx,
}

/// What is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// A number of bytes.
    Immediate(i64),
    /// A register, extended, then shifted.
    Register {
        /// Its number; 31 is the zero register.
        register: u8,
        /// How it is extended.
        index: Index,
        /// How far it is shifted.
        shift: u8,
    },
}

/// When the offset counts, and whether the base register changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For the access; the base stays.
    Offset,
    /// For the access, whose address the base becomes.
    PreIndex,
    /// Afterwards, for the base.
    PostIndex,
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStore {
    direction: Direction,
    bank: Bank,
    /// log2 of the bytes of each register's data: 0 to 4.
    log2_bytes: u8,
    extension: Extension,
    first: u8,
    second: Option<u8>,
    base: u8,
    offset: Offset,
    mode: Mode,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The address of the first register's data; the second's follow it without a gap.
    pub address: u64,
    /// What the base register becomes once the access is done.
    pub writeback: Option<u64>,
}

impl LoadStore {
    /// Decodes an instruction; `None`: it isn't one of those that are served.
    pub const fn decode(instruction: u32) -> Option<Self> {
        decode::decode(instruction)
    }

    /// Which way data go.
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Which registers data are in.
    pub const fn bank(&self) -> Bank {
        self.bank
    }

    /// How many bytes each register's data are: 1, 2, 4, 8, or (vectors) 16. Device memory wants an address that is a
    /// multiple of it.
    pub const fn bytes(&self) -> u64 {
        1 << self.log2_bytes
    }

    /// The bytes of all registers' data.
    pub const fn total(&self) -> u64 {
        self.bytes() << self.second.is_some() as u32
    }

    /// The registers with the data, in the order of their addresses.
    pub fn registers(&self) -> impl Iterator<Item = u8> + use<> {
        core::iter::once(self.first).chain(self.second)
    }

    /// The base register; 31 is the stack pointer.
    pub const fn base(&self) -> u8 {
        self.base
    }

    /// The register that is added to the base, if one is; 31 is the zero register.
    pub const fn index(&self) -> Option<u8> {
        match self.offset {
            Offset::Register { register, .. } => Some(register),
            Offset::Immediate(_) => None,
        }
    }

    /// Where it goes, with these values of the base register and of the index register, if there is one.
    pub const fn access(&self, base: u64, index: u64) -> Access {
        let offset = match self.offset {
            Offset::Immediate(bytes) => bytes as u64,
            Offset::Register { index: kind, shift, .. } => {
                let extended = match kind {
                    Index::Uxtw => index as u32 as u64,
                    Index::Sxtw => index as u32 as i32 as u64,
                    Index::Lsl | Index::Sxtx => index,
                };
                extended << shift
            }
        };
        let moved = base.wrapping_add(offset);
        match self.mode {
            Mode::Offset => Access { address: moved, writeback: None },
            Mode::PreIndex => Access { address: moved, writeback: Some(moved) },
            Mode::PostIndex => Access { address: base, writeback: Some(moved) },
        }
    }

    /// What a general register holds after a load of `value`, of which only [`LoadStore::bytes`] count.
    pub const fn loaded(&self, value: u64) -> u64 {
        // A general register's data are 8 bytes at most.
        let unused = 64u32.saturating_sub(8 << self.log2_bytes);
        let zero = value << unused >> unused;
        let sign = ((value << unused) as i64 >> unused) as u64;
        match self.extension {
            Extension::Zero => zero,
            Extension::Sign32 => sign as u32 as u64,
            Extension::Sign64 => sign,
        }
    }
}
