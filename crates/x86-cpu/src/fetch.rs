//! The instruction at CS:RIP, read anew from the guest's memory after an exit: its length, which a processor without NRIPS doesn't say, and its
//! operand, which one without decode assists doesn't.
//!
//! The guest may have changed it meanwhile. So it is checked to be what has exited; if it isn't ([`NotIt`]), the guest is run again at the
//! same address, and does whatever is there by then.

use crate::exit::{Direction, Exit, Instruction, Special};
use crate::vmcb::Save;
use crate::walk::{self, Access, Fault, Memory};
use axvm_x86_access::{Code, Memory as Operand, Operation, Segment, Width};

/// Bytes at CS:RIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    bytes: [u8; 15],
    length: u8,
}

impl Bytes {
    /// The bytes: up to 15. Fewer where a page, or the segment, ends before.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

impl From<[u8; 15]> for Bytes {
    fn from(bytes: [u8; 15]) -> Self {
        Self { bytes, length: 15 }
    }
}

/// Reads up to 15 bytes at CS:RIP. Where the second page isn't there the first's are all: no more may be needed.
///
/// # Errors
///
/// Not one byte is there. The guest changed its tables meanwhile, and finds out itself when it runs again.
pub fn bytes(save: &Save, physical_bits: u8, memory: &impl Memory) -> Result<Bytes, Fault> {
    bytes_by(save, physical_bits, memory)
}

/// The same for any memory: compiled once, and as this crate is (for speed), not as its user.
fn bytes_by(save: &Save, physical_bits: u8, memory: &dyn Memory) -> Result<Bytes, Fault> {
    let mut found = Bytes { bytes: [0; 15], length: 0 };
    let mut done = 0;
    while done < found.bytes.len() {
        // As far as the page goes, and byte by byte where the segment ends within it.
        let offset = save.rip.wrapping_add(done as u64);
        let Ok(linear) = walk::linear(save, Segment::Cs, offset, 1, Access::Fetch) else { break };
        let mut wanted = (found.bytes.len() - done).min(0x1000 - (linear & 0xfff) as usize);
        if walk::linear(save, Segment::Cs, offset, wanted as u64, Access::Fetch).is_err() {
            wanted = 1;
        }
        let physical = match walk::translate_by(save, linear, Access::Fetch, physical_bits, memory) {
            Ok(physical) => physical,
            Err(fault) if done == 0 => return Err(fault),
            Err(_) => break,
        };
        let Some(part) = found.bytes.get_mut(done..done + wanted) else { break };
        match memory.read(physical, part) {
            Ok(()) => done += wanted,
            Err(error) if done == 0 => return Err(error.into()),
            Err(_) => break,
        }
        found.length = done as u8;
    }
    Ok(found)
}

/// What comes out of LMSW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWord {
    /// A register, by its number.
    Register(u8),
    /// Two bytes of memory.
    Memory(Operand),
}

/// What an instruction is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Nothing beside registers that it always has.
    Nothing,
    /// A MOV with a control register or debug register: the general-purpose register. 64 bits in long mode, else 32.
    Register(u8),
    /// CLTS.
    ClearTaskSwitched,
    /// LMSW.
    LoadStatus(StatusWord),
    /// INS, OUTS: the segment of what is read, and the width of rSI, rDI and rCX.
    Ports {
        /// OUTS' segment, or ES.
        segment: Segment,
        /// The width.
        address: Width,
    },
}

/// An instruction that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its bytes: 1 to 15.
    pub length: u8,
    /// Its operand.
    pub about: About,
}

/// The bytes aren't the instruction that has exited, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's instruction isn't the one that has exited")]
pub struct NotIt;

/// Prefixes, with REX.
#[derive(Clone, Copy)]
struct Prefixes {
    operand: bool,
    address: bool,
    repeat: u8,
    lock: bool,
    segment: Option<Segment>,
    rex: u8,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<u8, NotIt> {
        let byte = *self.bytes.get(self.at).ok_or(NotIt)?;
        self.at += 1;
        Ok(byte)
    }

    fn prefixes(&mut self, code: Code) -> Result<(Prefixes, u8), NotIt> {
        let mut prefixes =
            Prefixes { operand: false, address: false, repeat: 0, lock: false, segment: None, rex: 0 };
        loop {
            let byte = self.next()?;
            let rex = match byte {
                0x26 => segment(&mut prefixes, Segment::Es, code),
                0x2e => segment(&mut prefixes, Segment::Cs, code),
                0x36 => segment(&mut prefixes, Segment::Ss, code),
                0x3e => segment(&mut prefixes, Segment::Ds, code),
                0x64 => segment(&mut prefixes, Segment::Fs, code),
                0x65 => segment(&mut prefixes, Segment::Gs, code),
                0x66 => {
                    prefixes.operand = true;
                    0
                }
                0x67 => {
                    prefixes.address = true;
                    0
                }
                0xf0 => {
                    prefixes.lock = true;
                    0
                }
                0xf2 | 0xf3 => {
                    prefixes.repeat = byte;
                    0
                }
                0x40..=0x4f if code == Code::Bits64 => byte,
                opcode => return Ok((prefixes, opcode)),
            };
            // REX counts directly before the opcode only.
            prefixes.rex = rex;
        }
    }
}

/// In long mode the four plain ones say nothing (APM 3, 1.2.4).
fn segment(prefixes: &mut Prefixes, name: Segment, code: Code) -> u8 {
    if code != Code::Bits64 || matches!(name, Segment::Fs | Segment::Gs) {
        prefixes.segment = Some(name);
    }
    0
}

/// The instruction that these bytes begin with, if it is what has exited.
///
/// # Errors
///
/// It isn't, or the bytes end before it does.
pub fn decode(bytes: &[u8], code: Code, exit: &Exit) -> Result<Fetched, NotIt> {
    let bytes = bytes.get(..bytes.len().min(15)).unwrap_or(bytes);
    if let Some(length) = plain(bytes, exit) {
        return Ok(Fetched { length, about: About::Nothing });
    }
    let mut reader = Reader { bytes, at: 0 };
    let (prefixes, opcode) = reader.prefixes(code)?;
    let about = match *exit {
        Exit::Port(port) => {
            let string = port.string.ok_or(NotIt)?;
            let direction = match opcode {
                0x6c | 0x6d => Direction::Read,
                0x6e | 0x6f => Direction::Write,
                _ => return Err(NotIt),
            };
            // REX.W makes 64 bits, of which ports have 32, and 66 says nothing beside it.
            let small = prefixes.operand && prefixes.rex & 8 == 0;
            let width = match (opcode & 1, code, small) {
                (0, _, _) => Width::B1,
                (_, Code::Bits16, false) | (_, Code::Bits32 | Code::Bits64, true) => Width::B2,
                _ => Width::B4,
            };
            let repeat = prefixes.repeat != 0;
            if direction != port.direction || width != port.width || repeat != string.repeat || prefixes.lock
            {
                return Err(NotIt);
            }
            let segment = match direction {
                Direction::Read => Segment::Es,
                Direction::Write => prefixes.segment.unwrap_or(Segment::Ds),
            };
            let address = match (code, prefixes.address) {
                (Code::Bits16, false) | (Code::Bits32, true) => Width::B2,
                (Code::Bits16, true) | (Code::Bits32, false) | (Code::Bits64, true) => Width::B4,
                (Code::Bits64, false) => Width::B8,
            };
            About::Ports { segment, address }
        }
        Exit::Special { register, direction, .. } => {
            if opcode != 0x0f {
                return Err(NotIt);
            }
            special(&mut reader, &prefixes, code, register, direction)?
        }
        Exit::Msr(direction) => fixed(&mut reader, opcode, &prefixes, msr(direction))?,
        Exit::Instruction(instruction) => {
            let encoding = encoding(instruction).ok_or(NotIt)?;
            fixed(&mut reader, opcode, &prefixes, encoding)?
        }
        _ => return Err(NotIt),
    };
    Ok(Fetched { length: reader.at as u8, about })
}

/// How long it is if it is an instruction without operands and prefixes, as most are: the way that is short.
#[inline]
fn plain(bytes: &[u8], exit: &Exit) -> Option<u8> {
    let encoding = match *exit {
        Exit::Msr(direction) => msr(direction),
        // Without its prefix it is another one.
        Exit::Instruction(Instruction::Pause) => return None,
        Exit::Instruction(instruction) => encoding(instruction)?,
        _ => return None,
    };
    bytes.starts_with(encoding).then_some(encoding.len() as u8)
}

/// RDMSR, WRMSR.
fn msr(direction: Direction) -> &'static [u8] {
    if direction == Direction::Read { &[0x0f, 0x32] } else { &[0x0f, 0x30] }
}

/// The bytes of an instruction without operands. Those that the guest takes a fault for need no length.
fn encoding(instruction: Instruction) -> Option<&'static [u8]> {
    Some(match instruction {
        Instruction::Cpuid => &[0x0f, 0xa2],
        Instruction::Hlt => &[0xf4],
        Instruction::Vmmcall => &[0x0f, 0x01, 0xd9],
        Instruction::Xsetbv => &[0x0f, 0x01, 0xd1],
        Instruction::Invd => &[0x0f, 0x08],
        Instruction::Wbinvd => &[0x0f, 0x09],
        Instruction::Rdtsc => &[0x0f, 0x31],
        Instruction::Rdtscp => &[0x0f, 0x01, 0xf9],
        Instruction::Rdpmc => &[0x0f, 0x33],
        Instruction::Pause => &[0x90],
        _ => return None,
    })
}

fn fixed(reader: &mut Reader<'_>, opcode: u8, prefixes: &Prefixes, encoding: &[u8]) -> Result<About, NotIt> {
    if encoding.first() != Some(&opcode) || prefixes.lock {
        return Err(NotIt);
    }
    // Without the prefix it is NOP, which doesn't exit.
    if opcode == 0x90 && prefixes.repeat != 0xf3 {
        return Err(NotIt);
    }
    for &byte in encoding.iter().skip(1) {
        if reader.next()? != byte {
            return Err(NotIt);
        }
    }
    Ok(About::Nothing)
}

fn special(
    reader: &mut Reader<'_>,
    prefixes: &Prefixes,
    code: Code,
    register: Special,
    direction: Direction,
) -> Result<About, NotIt> {
    let writes_cr0 = register == Special::Control(0) && direction == Direction::Write;
    let opcode = reader.next()?;
    match opcode {
        0x06 if writes_cr0 && !prefixes.lock => Ok(About::ClearTaskSwitched),
        0x01 if writes_cr0 && !prefixes.lock => load_status(reader, prefixes, code),
        0x20..=0x23 => {
            let modrm = reader.next()?;
            // The mode's bits aren't looked at (APM 3, MOV CRn).
            let number = modrm >> 3 & 7 | (prefixes.rex & 4) << 1;
            let found = match opcode & 1 {
                // LOCK makes CR0 CR8 (APM 3, MOV CRn, "AltMovCr8").
                0 if prefixes.lock && number == 0 => Special::Control(8),
                0 if !prefixes.lock => Special::Control(number),
                1 if !prefixes.lock => Special::Debug(alias(number)),
                _ => return Err(NotIt),
            };
            let found_direction = if opcode & 2 == 0 { Direction::Read } else { Direction::Write };
            let expected = match register {
                Special::Debug(number) => Special::Debug(alias(number)),
                control => control,
            };
            if found != expected || found_direction != direction {
                return Err(NotIt);
            }
            Ok(About::Register(modrm & 7 | (prefixes.rex & 1) << 3))
        }
        _ => Err(NotIt),
    }
}

/// DR4 and DR5 are DR6 and DR7 (APM 2, 13.1.1).
pub(crate) const fn alias(debug: u8) -> u8 {
    if debug == 4 || debug == 5 { debug + 2 } else { debug }
}

/// LMSW: the operand is that of any instruction with a ModRM, so a MOV with this one's says what it is.
fn load_status(reader: &mut Reader<'_>, prefixes: &Prefixes, code: Code) -> Result<About, NotIt> {
    let opcode = reader.at - 2;
    let modrm = reader.next()?;
    if modrm >> 3 & 7 != 6 {
        return Err(NotIt);
    }
    if modrm >> 6 == 3 {
        let number = modrm & 7 | (prefixes.rex & 1) << 3;
        return Ok(About::LoadStatus(StatusWord::Register(number)));
    }
    let mut rewritten = [0; 15];
    let before = reader.bytes.get(..opcode).unwrap_or(&[]);
    let after = reader.bytes.get(opcode + 2..).unwrap_or(&[]);
    // MOV r8, r/m8: one byte shorter.
    for (to, from) in rewritten.iter_mut().zip(before.iter().chain(&[0x8a]).chain(after)) {
        *to = *from;
    }
    let present = before.len() + 1 + after.len();
    let load = axvm_x86_access::Instruction::decode(rewritten.get(..present).ok_or(NotIt)?, code);
    let load = load.map_err(|_| NotIt)?;
    if !matches!(load.operation, Operation::Load { .. }) {
        return Err(NotIt);
    }
    reader.at = usize::from(load.length) + 1;
    if reader.at > reader.bytes.len() {
        return Err(NotIt);
    }
    Ok(About::LoadStatus(StatusWord::Memory(load.memory)))
}

#[cfg(test)]
mod tests;
