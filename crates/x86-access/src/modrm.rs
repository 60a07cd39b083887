//! ModRM and SIB (AMD64 APM 3, 1.4): which memory, and which register or further opcode.

use crate::model::{Base, Code, Index, Memory, NotDecoded, Register, Segment, Width};
use crate::prefix::{Bytes, Prefixes};

/// What they say.
pub(crate) struct ModRm {
    /// ModRM.reg as it is: an opcode's extension.
    pub extension: u8,
    /// With REX.R: a register's number.
    reg: u8,
    pub memory: Memory,
}

const RSP: u8 = 4;
const RBP: u8 = 5;

impl ModRm {
    /// Takes them.
    pub fn read(bytes: &mut Bytes<'_>, prefixes: &Prefixes) -> Result<Self, NotDecoded> {
        let byte = bytes.next()?;
        let (mode, extension, rm) = (byte >> 6, byte >> 3 & 7, byte & 7);
        if mode == 3 {
            return Err(NotDecoded::NoMemory);
        }
        let memory = if prefixes.address() == Width::B2 {
            narrow(bytes, prefixes, mode, rm)?
        } else {
            wide(bytes, prefixes, mode, rm)?
        };
        Ok(Self { extension, reg: extension | prefixes.extended_reg(), memory })
    }

    /// The register of ModRM.reg, of which so much is used.
    pub fn register(&self, prefixes: &Prefixes, width: Width) -> Register {
        // Without REX 4 to 7 are the upper bytes of the first four (APM 3, 1.4.2).
        if width == Width::B1 && !prefixes.has_rex() && self.reg >= 4 {
            Register { number: self.reg - 4, high: true }
        } else {
            Register::whole(self.reg)
        }
    }
}

/// Addresses of 16 bits (table 1-14).
fn narrow(bytes: &mut Bytes<'_>, prefixes: &Prefixes, mode: u8, rm: u8) -> Result<Memory, NotDecoded> {
    const BX: u8 = 3;
    const BP: u8 = 5;
    const SI: u8 = 6;
    const DI: u8 = 7;
    let (base, index) = match rm {
        0 => (Some(BX), Some(SI)),
        1 => (Some(BX), Some(DI)),
        2 => (Some(BP), Some(SI)),
        3 => (Some(BP), Some(DI)),
        4 => (Some(SI), None),
        5 => (Some(DI), None),
        6 if mode == 0 => (None, None),
        6 => (Some(BP), None),
        _ => (Some(BX), None),
    };
    let displacement = match (mode, base) {
        (0, None) | (2, _) => bytes.signed(Width::B2)?,
        (1, _) => bytes.signed(Width::B1)?,
        _ => 0,
    };
    Ok(Memory {
        segment: segment(prefixes, base),
        base: base.map(Base::Register),
        index: index.map(|register| Index { register, shift: 0 }),
        displacement,
        address: Width::B2,
    })
}

/// Addresses of 32 and 64 bits.
fn wide(bytes: &mut Bytes<'_>, prefixes: &Prefixes, mode: u8, rm: u8) -> Result<Memory, NotDecoded> {
    let mut index = None;
    let base = if rm == RSP {
        let sib = bytes.next()?;
        let (shift, register) = (sib >> 6, sib >> 3 & 7 | prefixes.extended_index());
        // rSP can't be an index, but r12 can.
        index = (register != RSP).then_some(Index { register, shift });
        let low = sib & 7;
        (low != RBP || mode != 0).then_some(Base::Register(low | prefixes.extended_base()))
    } else if rm == RBP && mode == 0 {
        (prefixes.code == Code::Bits64).then_some(Base::Next)
    } else {
        Some(Base::Register(rm | prefixes.extended_base()))
    };
    let displacement = match (mode, base) {
        (0, None | Some(Base::Next)) | (2, _) => bytes.signed(Width::B4)?,
        (1, _) => bytes.signed(Width::B1)?,
        _ => 0,
    };
    let register = match base {
        Some(Base::Register(number)) => Some(number),
        _ => None,
    };
    Ok(Memory {
        segment: segment(prefixes, register),
        base,
        index,
        displacement,
        address: prefixes.address(),
    })
}

/// The segment: what a prefix says, else SS where the base is a stack's register, else DS.
fn segment(prefixes: &Prefixes, base: Option<u8>) -> Segment {
    let default = if matches!(base, Some(RSP | RBP)) { Segment::Ss } else { Segment::Ds };
    prefixes.segment.unwrap_or(default)
}
