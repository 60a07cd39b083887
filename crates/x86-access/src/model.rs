//! What an instruction is.

/// How large operands and addresses are where nothing else is said: by the code segment (CS.L and CS.D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Real mode, virtual-8086 mode and segments of 16 bits.
    Bits16,
    /// Segments of 32 bits.
    Bits32,
    /// Long mode.
    Bits64,
}

/// The width of an operand or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// 8 bits.
    B1,
    /// 16 bits.
    B2,
    /// 32 bits.
    B4,
    /// 64 bits.
    B8,
}

impl Width {
    /// How many bytes.
    pub const fn bytes(self) -> u8 {
        1 << self as u8
    }

    /// A value's bits of this width.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes() as u32)
    }

    /// A value of this width with its sign in all 64 bits.
    pub const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64 - 8 * self.bytes() as u32;
        ((value << unused) as i64 >> unused) as u64
    }
}

/// A general-purpose register, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// 0 to 15: rAX, rCX, rDX, rBX, rSP, rBP, rSI, rDI, r8 to r15.
    pub number: u8,
    /// Bits 15:8: AH, CH, DH or BH.
    pub high: bool,
}

impl Register {
    /// The register of this number, from bit 0 on.
    pub const fn whole(number: u8) -> Self {
        Self { number, high: false }
    }

    /// What it holds, of all 64 bits of the register.
    pub const fn get(self, whole: u64, width: Width) -> u64 {
        (if self.high { whole >> 8 } else { whole }) & width.mask()
    }

    /// All 64 bits of the register after `value` was written to it: 32 bits clear those above, fewer leave the rest as it was (AMD64 APM 1,
    /// 3.1.2).
    pub const fn put(self, whole: u64, value: u64, width: Width) -> u64 {
        let value = value & width.mask();
        match width {
            Width::B8 | Width::B4 => value,
            Width::B2 => whole & !0xffff | value,
            Width::B1 if self.high => whole & !0xff00 | value << 8,
            Width::B1 => whole & !0xff | value,
        }
    }
}

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// What an address begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A register, by its number.
    Register(u8),
    /// The next instruction's address.
    Next,
}

/// A register that is added to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its number.
    pub register: u8,
    /// It is multiplied by 2 to the power of this: 0 to 3.
    pub shift: u8,
}

/// Where an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Which segment. In long mode only FS and GS have a base.
    pub segment: Segment,
    /// What it begins with.
    pub base: Option<Base>,
    /// What is added.
    pub index: Option<Index>,
    /// What is added, with its sign.
    pub displacement: u64,
    /// How many bits of the sum count.
    pub address: Width,
}

impl Memory {
    /// The offset in the segment, of the values of registers and the address of the next instruction.
    pub fn offset(&self, register: impl Fn(u8) -> u64, next: u64) -> u64 {
        let base = match self.base {
            Some(Base::Register(number)) => register(number),
            Some(Base::Next) => next,
            None => 0,
        };
        let index = self.index.map_or(0, |index| register(index.register) << (index.shift & 3));
        base.wrapping_add(index).wrapping_add(self.displacement) & self.address.mask()
    }
}

/// An operand that isn't the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A register's.
    Register(Register),
    /// This.
    Immediate(u64),
}

/// What becomes of the bits above a value that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// They stay, or are cleared, as the width of the register has it.
    No,
    /// They are cleared up to this width.
    Zero(Width),
    /// They are the sign, up to this width.
    Sign(Width),
}

/// What is done with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Two {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC.
    Adc,
    /// SBB.
    Sbb,
    /// AND.
    And,
    /// SUB.
    Sub,
    /// XOR.
    Xor,
    /// CMP: as SUB, and nothing is written.
    Cmp,
    /// TEST: as AND, and nothing is written.
    Test,
}

impl Two {
    /// Whether the result is written.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Cmp | Self::Test)
    }
}

/// What is done with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// NOT: no flag changes.
    Not,
    /// NEG.
    Neg,
    /// INC: the carry stays.
    Inc,
    /// DEC: the carry stays.
    Dec,
}

/// What is done with a bit, which goes to the carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitTest {
    /// BT: nothing is written.
    Test,
    /// BTS.
    Set,
    /// BTR.
    Reset,
    /// BTC.
    Complement,
}

/// What a string instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringKind {
    /// MOVS: from memory to memory.
    Move,
    /// STOS: rAX to memory.
    Store,
    /// LODS: memory to rAX.
    Load,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The register becomes what is in memory.
    Load {
        /// The register.
        to: Register,
        /// What is above it.
        extend: Extend,
    },
    /// The memory becomes this.
    Store {
        /// What.
        value: Value,
    },
    /// The memory becomes what is computed of it, first, and of the value.
    Change {
        /// What is computed.
        with: Two,
        /// The value.
        value: Value,
    },
    /// The register becomes what is computed of it, first, and of the memory.
    Combine {
        /// What is computed.
        with: Two,
        /// The register.
        to: Register,
    },
    /// The memory becomes what is computed of it.
    Alone {
        /// What is computed.
        with: Unary,
    },
    /// A bit of the memory.
    Bit {
        /// What becomes of it.
        with: BitTest,
        /// Which: below the width's bits.
        number: u8,
    },
    /// Register and memory change places.
    Exchange {
        /// The register.
        with: Register,
    },
    /// The memory becomes the sum of both, the register what the memory was.
    ExchangeAdd {
        /// The register.
        with: Register,
    },
    /// If the memory is what rAX is it becomes the register's value, else rAX becomes what it is.
    CompareExchange {
        /// The register.
        with: Register,
    },
    /// A step of a string instruction, forward or backward by the direction flag.
    String {
        /// What it does.
        kind: StringKind,
        /// It is repeated rCX times (REP). rCX has the width of addresses.
        repeat: bool,
    },
}

/// An instruction that accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its bytes: 1 to 15.
    pub length: u8,
    /// The memory. Of MOVS the one that is written.
    pub memory: Memory,
    /// Of MOVS, the one that is read.
    pub source: Option<Memory>,
    /// How much of the memory is accessed.
    pub width: Width,
    /// What is done.
    pub operation: Operation,
    /// It is one access for everybody else (LOCK, and XCHG always).
    pub locked: bool,
}

/// Why an instruction isn't decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecoded {
    /// It goes on past the bytes that there are.
    #[error("the instruction goes on after these bytes")]
    Incomplete,
    /// It is none that this knows, or none at all.
    #[error("no instruction that is served")]
    Unknown,
    /// It accesses no memory, for certain: it isn't what has reached for a register. Of others that don't, and of those that use a stack, nothing but
    /// [`Unknown`](Self::Unknown) is said.
    #[error("the instruction accesses no memory")]
    NoMemory,
    /// It is longer than 15 bytes, which faults.
    #[error("the instruction has more than 15 bytes")]
    TooLong,
}
