//! The opcodes (AMD64 APM 3, appendix A).

use crate::model::{
    Base, BitTest, Code, Extend, Instruction, Memory, NotDecoded, Operation, Register, Segment, StringKind,
    Two, Unary, Value, Width,
};
use crate::modrm::ModRm;
use crate::prefix::{Bytes, Prefixes, Repeat};

const RAX: Register = Register::whole(0);
const RSI: u8 = 6;
const RDI: u8 = 7;

/// The eight of opcodes 0x00 to 0x3f and of 0x80 to 0x83, in their order.
const TWO: [Two; 8] = [Two::Add, Two::Or, Two::Adc, Two::Sbb, Two::And, Two::Sub, Two::Xor, Two::Cmp];

impl Instruction {
    /// The instruction that these bytes begin with, if it is one that accesses memory and that is served. More bytes than it has do no
    /// harm; 15 are always enough.
    ///
    /// # Errors
    ///
    /// [`NotDecoded`].
    pub fn decode(bytes: &[u8], code: Code) -> Result<Self, NotDecoded> {
        let mut bytes = Bytes::new(bytes);
        let (prefixes, opcode) = Prefixes::read(&mut bytes, code)?;
        let mut reader = Reader { bytes, prefixes };
        let found = if opcode == 0x0f { reader.two_bytes()? } else { reader.one_byte(opcode)? };
        let Found { memory, source, width, operation } = found;
        // What LOCK may stand before (APM 3, 1.2.5): what reads memory and writes it.
        let may_lock = match operation {
            Operation::Change { with, .. } => with.writes(),
            Operation::Bit { with, .. } => with != BitTest::Test,
            Operation::Alone { .. }
            | Operation::Exchange { .. }
            | Operation::ExchangeAdd { .. }
            | Operation::CompareExchange { .. } => true,
            _ => false,
        };
        let lock = reader.prefixes.lock;
        if lock && !may_lock {
            return Err(NotDecoded::Unknown);
        }
        let locked = lock || matches!(operation, Operation::Exchange { .. });
        Ok(Self { length: reader.bytes.taken(), memory, source, width, operation, locked })
    }
}

/// What an opcode has said.
struct Found {
    memory: Memory,
    source: Option<Memory>,
    width: Width,
    operation: Operation,
}

struct Reader<'a> {
    bytes: Bytes<'a>,
    prefixes: Prefixes,
}

impl Reader<'_> {
    /// Byte operands, or larger ones, by bit 0 of the opcode.
    fn width(&self, opcode: u8) -> Width {
        if opcode & 1 == 0 { Width::B1 } else { self.prefixes.operand() }
    }

    fn modrm(&mut self) -> Result<ModRm, NotDecoded> {
        ModRm::read(&mut self.bytes, &self.prefixes)
    }

    /// One with a ModRM, of which the register is of this width too.
    fn with_register(
        &mut self,
        width: Width,
        operation: impl FnOnce(Register) -> Operation,
    ) -> Result<Found, NotDecoded> {
        let modrm = self.modrm()?;
        let operation = operation(modrm.register(&self.prefixes, width));
        Ok(Found { memory: modrm.memory, source: None, width, operation })
    }

    /// An immediate of an operand of this width: of 64 bits there are the lower 32, with their sign.
    fn immediate(&mut self, width: Width) -> Result<Value, NotDecoded> {
        let value = match width {
            Width::B8 => self.bytes.signed(Width::B4)?,
            other => self.bytes.value(other)?,
        };
        Ok(Value::Immediate(value))
    }

    fn one_byte(&mut self, opcode: u8) -> Result<Found, NotDecoded> {
        let width = self.width(opcode);
        let with = TWO.get(usize::from(opcode >> 3 & 7)).copied().unwrap_or(Two::Cmp);
        let plain = |memory, operation| Ok(Found { memory, source: None, width, operation });
        match opcode {
            // ADD to CMP: to memory, to a register.
            0x00..0x40 if opcode & 7 < 2 => self.with_register(width, |register| Operation::Change {
                with,
                value: Value::Register(register),
            }),
            0x00..0x40 if opcode & 7 < 4 => self.with_register(width, |to| Operation::Combine { with, to }),
            // MOVSXD; outside long mode that is ARPL.
            0x63 if self.prefixes.code == Code::Bits64 => {
                let to_width = self.prefixes.operand();
                let width = if to_width == Width::B2 { Width::B2 } else { Width::B4 };
                let modrm = self.modrm()?;
                let to = modrm.register(&self.prefixes, to_width);
                let operation = Operation::Load { to, extend: Extend::Sign(to_width) };
                Ok(Found { memory: modrm.memory, source: None, width, operation })
            }
            // The eight with an immediate. 0x82 is there outside long mode only.
            0x80 | 0x81 | 0x83 => {
                let modrm = self.modrm()?;
                let value = match opcode {
                    0x83 => Value::Immediate(self.bytes.signed(Width::B1)? & width.mask()),
                    _ => self.immediate(width)?,
                };
                let with = TWO.get(usize::from(modrm.extension)).copied().unwrap_or(Two::Cmp);
                plain(modrm.memory, Operation::Change { with, value })
            }
            0x84 | 0x85 => self.with_register(width, |register| Operation::Change {
                with: Two::Test,
                value: Value::Register(register),
            }),
            0x86 | 0x87 => self.with_register(width, |with| Operation::Exchange { with }),
            0x88 | 0x89 => {
                self.with_register(width, |from| Operation::Store { value: Value::Register(from) })
            }
            0x8a | 0x8b => self.with_register(width, |to| Operation::Load { to, extend: Extend::No }),
            // MOV between rAX and an address that is as wide as addresses are.
            0xa0..=0xa3 => {
                let address = self.prefixes.address();
                let memory = Memory {
                    segment: self.prefixes.segment.unwrap_or(Segment::Ds),
                    base: None,
                    index: None,
                    displacement: self.bytes.value(address)?,
                    address,
                };
                plain(
                    memory,
                    match opcode {
                        0xa0 | 0xa1 => Operation::Load { to: RAX, extend: Extend::No },
                        _ => Operation::Store { value: Value::Register(RAX) },
                    },
                )
            }
            // Jcc, LEA, XCHG with rAX and NOP, MOV of an immediate, JMP.
            0x8d => self.modrm().and(Err(NotDecoded::NoMemory)),
            0x70..=0x7f | 0x90..=0x97 | 0xb0..=0xbf | 0xe9 | 0xeb => Err(NotDecoded::NoMemory),
            0xa4 | 0xa5 => self.string(StringKind::Move, width),
            0xaa | 0xab => self.string(StringKind::Store, width),
            0xac | 0xad => self.string(StringKind::Load, width),
            0xc6 | 0xc7 => {
                let modrm = self.modrm()?;
                if modrm.extension != 0 {
                    return Err(NotDecoded::Unknown);
                }
                let value = self.immediate(width)?;
                plain(modrm.memory, Operation::Store { value })
            }
            // TEST, NOT, NEG.
            0xf6 | 0xf7 => {
                let modrm = self.modrm()?;
                let operation = match modrm.extension {
                    0 | 1 => Operation::Change { with: Two::Test, value: self.immediate(width)? },
                    2 => Operation::Alone { with: Unary::Not },
                    3 => Operation::Alone { with: Unary::Neg },
                    _ => return Err(NotDecoded::Unknown),
                };
                plain(modrm.memory, operation)
            }
            0xfe | 0xff => {
                // CALL and PUSH reach the stack, also where their operand is a register.
                let with = match { self.bytes }.next()? >> 3 & 7 {
                    0 => Unary::Inc,
                    1 => Unary::Dec,
                    _ => return Err(NotDecoded::Unknown),
                };
                plain(self.modrm()?.memory, Operation::Alone { with })
            }
            _ => Err(NotDecoded::Unknown),
        }
    }

    fn two_bytes(&mut self) -> Result<Found, NotDecoded> {
        let opcode = self.bytes.next()?;
        let width = self.width(opcode);
        match opcode {
            // NOP with an operand, Jcc.
            0x1f => self.modrm().and(Err(NotDecoded::NoMemory)),
            0x80..=0x8f => Err(NotDecoded::NoMemory),
            // CMPXCHG, XADD.
            0xb0 | 0xb1 => self.with_register(width, |with| Operation::CompareExchange { with }),
            0xc0 | 0xc1 => self.with_register(width, |with| Operation::ExchangeAdd { with }),
            // MOVZX, MOVSX: bit 0 is the width of the memory.
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let to_width = self.prefixes.operand();
                let modrm = self.modrm()?;
                let to = modrm.register(&self.prefixes, to_width);
                let extend = if opcode & 8 == 0 { Extend::Zero(to_width) } else { Extend::Sign(to_width) };
                let width = if opcode & 1 == 0 { Width::B1 } else { Width::B2 };
                Ok(Found {
                    memory: modrm.memory,
                    source: None,
                    width,
                    operation: Operation::Load { to, extend },
                })
            }
            // BT and its kin with the bit's number behind them. Where a register has it, the memory lies elsewhere.
            0xba => {
                let width = self.prefixes.operand();
                let modrm = self.modrm()?;
                let with = match modrm.extension {
                    4 => BitTest::Test,
                    5 => BitTest::Set,
                    6 => BitTest::Reset,
                    7 => BitTest::Complement,
                    _ => return Err(NotDecoded::Unknown),
                };
                let number = self.bytes.next()? & (8 * width.bytes() - 1);
                let operation = Operation::Bit { with, number };
                Ok(Found { memory: modrm.memory, source: None, width, operation })
            }
            // MOVNTI, of 32 or 64 bits; with these prefixes it is another instruction.
            0xc3 if self.prefixes.repeat.is_none() && !self.prefixes.operand_size => {
                let width = self.prefixes.operand().max(Width::B4);
                self.with_register(width, |from| Operation::Store { value: Value::Register(from) })
            }
            _ => Err(NotDecoded::Unknown),
        }
    }

    fn string(&mut self, kind: StringKind, width: Width) -> Result<Found, NotDecoded> {
        let address = self.prefixes.address();
        let at = |segment, register| Memory {
            segment,
            base: Some(Base::Register(register)),
            index: None,
            displacement: 0,
            address,
        };
        let source = at(self.prefixes.segment.unwrap_or(Segment::Ds), RSI);
        let destination = at(Segment::Es, RDI);
        let (memory, source) = match kind {
            StringKind::Move => (destination, Some(source)),
            StringKind::Store => (destination, None),
            StringKind::Load => (source, None),
        };
        // 0xf2 repeats these just as 0xf3 does (APM 3, 1.2.6).
        let repeat = matches!(self.prefixes.repeat, Some(Repeat::Equal | Repeat::NotEqual));
        Ok(Found { memory, source, width, operation: Operation::String { kind, repeat } })
    }
}
