//! Bytes of AML, read from one end to the other (ACPI 6.5, 20.2).

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::error::Error;
use crate::name::{Name, Path, Root};

/// A place in a table's code, and where what is read there ends.
#[derive(Clone)]
pub(crate) struct Code {
    pub bytes: Rc<[u8]>,
    pub at: usize,
    pub end: usize,
}

impl Code {
    pub fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    pub fn peek(&self) -> Option<u8> {
        if self.is_at_end() { None } else { self.bytes.get(self.at).copied() }
    }

    pub fn byte(&mut self) -> Result<u8, Error> {
        let byte = self.peek().ok_or(Error::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    /// So many bytes as a number, the lowest first.
    pub fn number(&mut self, bytes: u32) -> Result<u64, Error> {
        (0..bytes).try_fold(0, |number, place| Ok(number | u64::from(self.byte()?) << (8 * place)))
    }

    /// PkgLength (20.2.4): where what it is the length of ends.
    pub fn package_end(&mut self) -> Result<usize, Error> {
        let start = self.at;
        let lead = self.byte()?;
        let mut length = usize::from(lead & 0x3f);
        let more = lead >> 6;
        if more != 0 {
            length &= 0xf;
            for place in 0..u32::from(more) {
                length |= usize::from(self.byte()?) << (4 + 8 * place);
            }
        }
        let end = start.checked_add(length).ok_or(Error::Cut)?;
        if end > self.end || end < self.at { Err(Error::Cut) } else { Ok(end) }
    }

    /// A PkgLength that counts bits (in field lists).
    pub fn bits(&mut self) -> Result<u64, Error> {
        let lead = self.byte()?;
        let more = lead >> 6;
        if more == 0 {
            return Ok(u64::from(lead & 0x3f));
        }
        let low = u64::from(lead & 0xf);
        Ok(low | self.number(more.into())? << 4)
    }

    /// A name by itself, without any path.
    pub fn segment(&mut self) -> Result<Name, Error> {
        let mut name = [0; 4];
        for byte in &mut name {
            *byte = self.byte()?;
        }
        let is_lead = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        let is_name = |byte: u8| is_lead(byte) || byte.is_ascii_digit();
        let [first, rest @ ..] = name;
        if is_lead(first) && rest.into_iter().all(is_name) { Ok(Name(name)) } else { Err(Error::Name) }
    }

    /// NameString (20.2.2).
    pub fn path(&mut self) -> Result<Path, Error> {
        let mut root = Root::Here { up: 0 };
        loop {
            match (self.peek().ok_or(Error::Cut)?, &mut root) {
                (b'\\', Root::Here { up: 0 }) => {
                    self.at += 1;
                    root = Root::Top;
                    break;
                }
                (b'^', Root::Here { up }) => {
                    self.at += 1;
                    *up = up.checked_add(1).ok_or(Error::Name)?;
                }
                _ => break,
            }
        }
        let count = match self.peek().ok_or(Error::Cut)? {
            0 => {
                self.at += 1;
                0
            }
            0x2e => {
                self.at += 1;
                2
            }
            0x2f => {
                self.at += 1;
                usize::from(self.byte()?)
            }
            _ => 1,
        };
        let names = (0..count).map(|_| self.segment()).collect::<Result<Vec<_>, _>>()?;
        Ok(Path { root, names })
    }

    /// Whether a NameString begins here.
    pub fn is_at_name(&self) -> bool {
        matches!(self.peek(), Some(b'\\' | b'^' | b'_' | b'A'..=b'Z' | 0x2e | 0x2f))
    }

    /// The opcode here: of those of two bytes 0x5b is the upper one.
    pub fn opcode(&mut self) -> Result<u16, Error> {
        match self.byte()? {
            0x5b => Ok(0x5b00 | u16::from(self.byte()?)),
            byte => Ok(byte.into()),
        }
    }

    /// A part of it.
    pub fn until(&self, end: usize) -> Self {
        Self { bytes: self.bytes.clone(), at: self.at, end }
    }
}
