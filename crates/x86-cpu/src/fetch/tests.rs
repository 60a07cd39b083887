//! Instructions against iced-x86, and bytes across pages.

extern crate std;

use super::*;
use crate::exit::{Port, StringPort};
use crate::vmcb::Attributes;
use crate::walk::NoMemory;
use iced_x86::{Code as Iced, Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use proptest::prelude::*;
use std::vec::Vec;

fn iced(bytes: &[u8], code: Code) -> iced_x86::Instruction {
    let bits = match code {
        Code::Bits16 => 16,
        Code::Bits32 => 32,
        Code::Bits64 => 64,
    };
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::AMD).decode()
}

fn special_of(register: Register) -> Option<Special> {
    let number = register.number() as u8;
    if register.is_cr() {
        Some(Special::Control(number))
    } else if register.is_dr() {
        Some(Special::Debug(alias(number)))
    } else {
        None
    }
}

/// What exits an instruction gives, by iced.
fn exits(it: &iced_x86::Instruction) -> Vec<Exit> {
    let fixed = |instruction| std::vec![Exit::Instruction(instruction)];
    let write_cr0 = Exit::Special { register: Special::Control(0), direction: Direction::Write, with: None };
    match it.mnemonic() {
        Mnemonic::Cpuid => fixed(Instruction::Cpuid),
        Mnemonic::Hlt => fixed(Instruction::Hlt),
        Mnemonic::Vmmcall => fixed(Instruction::Vmmcall),
        Mnemonic::Xsetbv => fixed(Instruction::Xsetbv),
        Mnemonic::Invd => fixed(Instruction::Invd),
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => fixed(Instruction::Wbinvd),
        Mnemonic::Rdtsc => fixed(Instruction::Rdtsc),
        Mnemonic::Rdtscp => fixed(Instruction::Rdtscp),
        Mnemonic::Rdpmc => fixed(Instruction::Rdpmc),
        Mnemonic::Pause => fixed(Instruction::Pause),
        Mnemonic::Rdmsr => std::vec![Exit::Msr(Direction::Read)],
        Mnemonic::Wrmsr => std::vec![Exit::Msr(Direction::Write)],
        Mnemonic::Clts | Mnemonic::Lmsw => std::vec![write_cr0],
        Mnemonic::Mov => {
            let read = special_of(it.op1_register());
            let write = special_of(it.op0_register());
            let exit = |register, direction| std::vec![Exit::Special { register, direction, with: None }];
            match (read, write) {
                (Some(register), _) => exit(register, Direction::Read),
                (_, Some(register)) => exit(register, Direction::Write),
                _ => Vec::new(),
            }
        }
        Mnemonic::Insb
        | Mnemonic::Insw
        | Mnemonic::Insd
        | Mnemonic::Outsb
        | Mnemonic::Outsw
        | Mnemonic::Outsd => {
            let direction =
                if it.code() as u32 >= Iced::Outsb_DX_m8 as u32 { Direction::Write } else { Direction::Read };
            let width = match it.memory_size().size() {
                1 => Width::B1,
                2 => Width::B2,
                _ => Width::B4,
            };
            let repeat = it.has_rep_prefix() || it.has_repne_prefix();
            let string = Some(StringPort { repeat, address: None, segment: None });
            std::vec![Exit::Port(Port { port: 0x3f8, width, direction, string, next_rip: 0 })]
        }
        _ => Vec::new(),
    }
}

/// Everything that is decoded, as an exit.
fn all_exits() -> Vec<Exit> {
    let mut all = Vec::new();
    for instruction in [
        Instruction::Cpuid,
        Instruction::Hlt,
        Instruction::Vmmcall,
        Instruction::Xsetbv,
        Instruction::Invd,
        Instruction::Wbinvd,
        Instruction::Rdtsc,
        Instruction::Rdtscp,
        Instruction::Rdpmc,
        Instruction::Pause,
    ] {
        all.push(Exit::Instruction(instruction));
    }
    for direction in [Direction::Read, Direction::Write] {
        all.push(Exit::Msr(direction));
        // The registers that there are: others are #UD, without a look at the instruction.
        let controls = [0, 2, 3, 4, 8].map(Special::Control);
        for register in controls.into_iter().chain((0..8).map(Special::Debug)) {
            all.push(Exit::Special { register, direction, with: None });
        }
        for width in [Width::B1, Width::B2, Width::B4] {
            for repeat in [false, true] {
                let string = Some(StringPort { repeat, address: None, segment: None });
                all.push(Exit::Port(Port { port: 0, width, direction, string, next_rip: 0 }));
            }
        }
    }
    all
}

/// Without 66, F2 and F3 before the opcode.
fn without_mandatory_prefixes(bytes: &[u8], code: Code) -> Vec<u8> {
    let is_prefix =
        |byte: &u8| PREFIXES.contains(byte) && (code == Code::Bits64 || !(0x40..0x50).contains(byte));
    let prefixes = bytes.iter().take_while(|byte| is_prefix(byte)).count();
    let says_nothing = |byte: &u8| matches!(byte, 0x66 | 0xf2 | 0xf3);
    bytes[..prefixes].iter().filter(|byte| !says_nothing(byte)).chain(&bytes[prefixes..]).copied().collect()
}

fn register(it: Register) -> u8 {
    it.full_register().number() as u8
}

/// What the operand is, by iced.
fn check_about(it: &iced_x86::Instruction, found: About, code: Code) {
    match it.mnemonic() {
        Mnemonic::Mov => {
            let general =
                if special_of(it.op0_register()).is_some() { it.op1_register() } else { it.op0_register() };
            assert_eq!(found, About::Register(register(general)), "{it}");
        }
        Mnemonic::Clts => assert_eq!(found, About::ClearTaskSwitched),
        Mnemonic::Lmsw if it.op0_kind() == OpKind::Register => {
            assert_eq!(found, About::LoadStatus(StatusWord::Register(register(it.op0_register()))), "{it}");
        }
        Mnemonic::Lmsw => {
            let About::LoadStatus(StatusWord::Memory(memory)) = found else { panic!("{it}: {found:?}") };
            // The address of some values of registers says whether it is the same memory.
            let value = |number: u8| 0x0101_0101_0101_0101u64.wrapping_mul(u64::from(number) + 3);
            let ours = memory.offset(value, it.len() as u64);
            let theirs = it.virtual_address(0, 0, |named, _, _| {
                Some(if named.is_segment_register() { 0 } else { value(register(named)) & width_mask(named) })
            });
            assert_eq!(Some(ours), theirs.map(|it| it & memory.address.mask()), "{it}");
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            let About::Ports { segment, address } = found else { panic!("{it}: {found:?}") };
            assert_eq!(address, address_of(it.op1_kind()), "{it}");
            let theirs = match it.memory_segment() {
                Register::FS => Segment::Fs,
                Register::GS => Segment::Gs,
                _ if code == Code::Bits64 => Segment::Ds,
                Register::ES => Segment::Es,
                Register::CS => Segment::Cs,
                Register::SS => Segment::Ss,
                _ => Segment::Ds,
            };
            assert_eq!(segment, theirs, "{it}");
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            assert_eq!(
                found,
                About::Ports { segment: Segment::Es, address: address_of(it.op0_kind()) },
                "{it}"
            );
        }
        _ => assert_eq!(found, About::Nothing, "{it}"),
    }
}

fn width_mask(named: Register) -> u64 {
    u64::MAX >> (64 - 8 * named.size().min(8))
}

fn address_of(kind: OpKind) -> Width {
    match kind {
        OpKind::MemoryESDI | OpKind::MemorySegSI => Width::B2,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => Width::B4,
        OpKind::MemoryESRDI | OpKind::MemorySegRSI => Width::B8,
        other => panic!("{other:?}"),
    }
}

const OPCODES: &[&[u8]] = &[
    &[0x0f, 0xa2],
    &[0xf4],
    &[0x0f, 0x01, 0xd9],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x31],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x33],
    &[0x90],
    &[0x0f, 0x32],
    &[0x0f, 0x30],
    &[0x0f, 0x06],
    &[0x0f, 0x01],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0x0f],
    &[],
];

const PREFIXES: [u8; 16] =
    [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x44, 0x45, 0x4f];

fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let prefixes = proptest::collection::vec(proptest::sample::select(&PREFIXES[..]), 0..4);
    let opcode = proptest::sample::select(OPCODES);
    (prefixes, opcode, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(mut bytes, opcode, tail)| {
        bytes.extend(opcode);
        bytes.extend(tail);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn what_is_decoded_is_what_iced_says(bytes in instruction(), mode in 0usize..3) {
        let code = [Code::Bits16, Code::Bits32, Code::Bits64][mode];
        let it = iced(&bytes, code);
        let expected = exits(&it);
        for exit in all_exits() {
            let found = decode(&bytes, code, &exit);
            let same = expected.iter().any(|expected| match (expected, &exit) {
                (Exit::Port(a), Exit::Port(b)) => (a.width, a.direction, a.string) == (b.width, b.direction, b.string),
                (Exit::Special { register: a, direction: b, .. }, Exit::Special { register: c, direction: d, .. }) => {
                    let alias = |it| if let Special::Debug(number) = it { Special::Debug(alias(number)) } else { it };
                    alias(*a) == alias(*c) && b == d
                }
                (a, b) => a == b,
            });
            match found {
                Ok(found) if same => {
                    prop_assert_eq!(usize::from(found.length), it.len(), "{} {:x?}", it, bytes);
                    check_about(&it, found.about, code);
                }
                // A processor may be less strict about prefixes that say nothing here: it has exited, so it was.
                Ok(found) => {
                    let plain = without_mandatory_prefixes(&bytes, code);
                    let it = iced(&plain, code);
                    prop_assert!(exits(&it).contains(&exit), "{it} {bytes:x?} isn't {exit:?}: {found:?}");
                    prop_assert_eq!(usize::from(found.length), it.len() + bytes.len() - plain.len());
                }
                Err(NotIt) => prop_assert!(!same, "{it} {bytes:x?} is {exit:?}"),
            }
            // Bytes that end before the instruction aren't taken for it.
            if let Ok(found) = found {
                let short = bytes.get(..usize::from(found.length) - 1).unwrap();
                prop_assert_eq!(decode(short, code, &exit), Err(NotIt));
            }
        }
    }

    #[test]
    fn whatever_bytes_there_are_decoding_ends(bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in 0usize..3) {
        let code = [Code::Bits16, Code::Bits32, Code::Bits64][mode];
        for exit in all_exits() {
            if let Ok(found) = decode(&bytes, code, &exit) {
                prop_assert!(found.length >= 1 && usize::from(found.length) <= bytes.len().min(15));
            }
        }
    }
}

/// Every byte of memory says where it is, in pages that are there.
struct Pages(&'static [u64]);

impl Memory for Pages {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        assert!((address & 0xfff) + into.len() as u64 <= 0x1000);
        if !self.0.contains(&(address & !0xfff)) {
            return Err(NoMemory(address));
        }
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = (address + at as u64) as u8;
        }
        Ok(())
    }
}

fn flat(rip: u64, limit: u32) -> Save {
    let mut save = Save::zero();
    save.cr0 = 1;
    save.cs.attributes = Attributes::CODE32;
    save.cs.limit = limit;
    save.rip = rip;
    save
}

#[test]
fn bytes_are_read_across_pages_as_far_as_there_are_any() {
    let both = Pages(&[0x1000, 0x2000]);
    let read = |save: &Save, memory: &Pages| bytes(save, 40, memory).map(|bytes| bytes.as_slice().to_vec());
    let expected = |from: u64, count: u64| Ok((from..from + count).map(|at| at as u8).collect::<Vec<_>>());
    assert_eq!(read(&flat(0x1000, u32::MAX), &both), expected(0x1000, 15));
    assert_eq!(read(&flat(0x1ff1, u32::MAX), &both), expected(0x1ff1, 15));
    assert_eq!(read(&flat(0x1ffa, u32::MAX), &both), expected(0x1ffa, 15));
    // The second page isn't there.
    assert_eq!(read(&flat(0x2ffd, u32::MAX), &both), expected(0x2ffd, 3));
    assert_eq!(read(&flat(0x3000, u32::MAX), &both), Err(Fault::Memory(NoMemory(0x3000))));
    // The segment ends.
    assert_eq!(read(&flat(0x1ffa, 0x2001), &both), expected(0x1ffa, 8));
    assert_eq!(read(&flat(0x1000, 0x1003), &both), expected(0x1000, 4));
    assert_eq!(read(&flat(0x1004, 0x1003), &both), expected(0, 0));
}

#[test]
fn a_longer_instruction_than_15_bytes_is_none() {
    let mut bytes = [0x66; 17];
    bytes[14..16].copy_from_slice(&[0x0f, 0xa2]);
    assert_eq!(decode(&bytes, Code::Bits64, &Exit::Instruction(Instruction::Cpuid)), Err(NotIt));
    bytes[13..15].copy_from_slice(&[0x0f, 0xa2]);
    assert_eq!(decode(&bytes, Code::Bits64, &Exit::Instruction(Instruction::Cpuid)).unwrap().length, 15);
}

/// With paging, a page directory at 0x8000: its first 4 MiB are there, the next aren't.
struct Paged;

impl Memory for Paged {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = match address + at as u64 {
                // Present, a large page.
                0x8000 => 0x81,
                0x8001..0x9000 => 0,
                other => other as u8,
            };
        }
        Ok(())
    }
}

#[test]
fn a_page_that_isn_t_there_ends_the_bytes() {
    let mut save = flat(0x3f_fffa, u32::MAX);
    save.cr0 |= 1 << 31;
    save.cr3 = 0x8000;
    save.cr4 = 1 << 4;
    assert_eq!(bytes(&save, 40, &Paged).unwrap().as_slice(), [0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]);
    save.rip = 0x40_0000;
    let fault = crate::event::PageFault { address: 0x40_0000, error: 0 };
    assert_eq!(bytes(&save, 40, &Paged), Err(Fault::Page(fault)));
}
