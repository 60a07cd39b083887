//! What comes before the opcode (AMD64 APM 3, 1.2).

use crate::model::{Code, NotDecoded, Segment, Width};

/// The most bytes that an instruction has (APM 3, 1.1).
pub(crate) const MOST: usize = 15;

/// An instruction's bytes, to be taken one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    all: &'a [u8],
    taken: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, taken: 0 }
    }

    pub fn taken(&self) -> u8 {
        self.taken as u8
    }

    pub fn next(&mut self) -> Result<u8, NotDecoded> {
        if self.taken == MOST {
            return Err(NotDecoded::TooLong);
        }
        let byte = self.all.get(self.taken).ok_or(NotDecoded::Incomplete)?;
        self.taken += 1;
        Ok(*byte)
    }

    /// A value of this width, as it is.
    pub fn value(&mut self, width: Width) -> Result<u64, NotDecoded> {
        let mut value = 0;
        for number in 0..width.bytes() {
            value |= u64::from(self.next()?) << (8 * u32::from(number));
        }
        Ok(value)
    }

    /// A value of this width, with its sign.
    pub fn signed(&mut self, width: Width) -> Result<u64, NotDecoded> {
        Ok(width.sign_extend(self.value(width)?))
    }
}

/// REP and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// 0xf2.
    NotEqual,
    /// 0xf3.
    Equal,
}

/// The prefixes of an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Prefixes {
    pub code: Code,
    /// 0x66, which is part of some opcodes.
    pub operand_size: bool,
    address_size: bool,
    pub lock: bool,
    /// The last of them counts.
    pub repeat: Option<Repeat>,
    pub segment: Option<Segment>,
    /// W, R, X, B in bits 3 to 0.
    rex: Option<u8>,
}

impl Prefixes {
    /// Takes them, and the first byte of the opcode.
    pub fn read(bytes: &mut Bytes<'_>, code: Code) -> Result<(Self, u8), NotDecoded> {
        let mut found = Self {
            code,
            operand_size: false,
            address_size: false,
            lock: false,
            repeat: None,
            segment: None,
            rex: None,
        };
        loop {
            let byte = bytes.next()?;
            // One that another prefix follows has no effect.
            let rex = found.rex.take();
            match byte {
                0x66 => found.operand_size = true,
                0x67 => found.address_size = true,
                0xf0 => found.lock = true,
                0xf2 => found.repeat = Some(Repeat::NotEqual),
                0xf3 => found.repeat = Some(Repeat::Equal),
                0x64 => found.segment = Some(Segment::Fs),
                0x65 => found.segment = Some(Segment::Gs),
                // In long mode these say nothing, and change nothing that was said.
                0x26 | 0x2e | 0x36 | 0x3e if code == Code::Bits64 => {}
                0x26 => found.segment = Some(Segment::Es),
                0x2e => found.segment = Some(Segment::Cs),
                0x36 => found.segment = Some(Segment::Ss),
                0x3e => found.segment = Some(Segment::Ds),
                0x40..=0x4f if code == Code::Bits64 => found.rex = Some(byte & 15),
                opcode => {
                    found.rex = rex;
                    return Ok((found, opcode));
                }
            }
        }
    }

    /// The width of operands that aren't bytes.
    pub fn operand(&self) -> Width {
        match (self.code, self.operand_size) {
            _ if self.rex_bit(3) != 0 => Width::B8,
            (Code::Bits16, false) | (Code::Bits32 | Code::Bits64, true) => Width::B2,
            (Code::Bits16, true) | (Code::Bits32 | Code::Bits64, false) => Width::B4,
        }
    }

    /// The width of addresses.
    pub fn address(&self) -> Width {
        match (self.code, self.address_size) {
            (Code::Bits64, false) => Width::B8,
            (Code::Bits64, true) | (Code::Bits32, false) | (Code::Bits16, true) => Width::B4,
            (Code::Bits32, true) | (Code::Bits16, false) => Width::B2,
        }
    }

    /// Whether there is a REX prefix: bytes 4 to 7 are then SPL to DIL.
    pub fn has_rex(&self) -> bool {
        self.rex.is_some()
    }

    fn rex_bit(&self, bit: u8) -> u8 {
        self.rex.unwrap_or(0) >> bit & 1
    }

    /// R: the upper bit of ModRM.reg.
    pub fn extended_reg(&self) -> u8 {
        self.rex_bit(2) << 3
    }

    /// X: the upper bit of SIB.index.
    pub fn extended_index(&self) -> u8 {
        self.rex_bit(1) << 3
    }

    /// B: the upper bit of the base.
    pub fn extended_base(&self) -> u8 {
        self.rex_bit(0) << 3
    }
}
