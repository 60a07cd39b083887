//! Whatever the bytes are: what is decoded is what iced-x86 says, and what isn't decoded is none of what is served.

use axvm_x86_access::{
    Base, BitTest, Code, Extend, Index, Instruction, Memory, NotDecoded, Operation, Register, Segment,
    StringKind, Two, Unary, Value, Width,
};
use iced_x86::{
    Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register as Iced,
};
use proptest::prelude::*;

fn width_of(bytes: usize) -> Option<Width> {
    [Width::B1, Width::B2, Width::B4, Width::B8].into_iter().find(|width| usize::from(width.bytes()) == bytes)
}

fn register(iced: Iced) -> Register {
    match iced {
        Iced::AH => Register { number: 0, high: true },
        Iced::CH => Register { number: 1, high: true },
        Iced::DH => Register { number: 2, high: true },
        Iced::BH => Register { number: 3, high: true },
        other => Register::whole(other.full_register().number() as u8),
    }
}

fn segment(iced: Iced, code: Code) -> Segment {
    match iced {
        Iced::FS => Segment::Fs,
        Iced::GS => Segment::Gs,
        // In long mode the others are all the same.
        _ if code == Code::Bits64 => Segment::Ds,
        Iced::ES => Segment::Es,
        Iced::CS => Segment::Cs,
        Iced::SS => Segment::Ss,
        _ => Segment::Ds,
    }
}

fn same_in_long_mode(memory: Memory, code: Code) -> Memory {
    let plain = !matches!(memory.segment, Segment::Fs | Segment::Gs);
    let segment = if code == Code::Bits64 && plain { Segment::Ds } else { memory.segment };
    Memory { segment, displacement: memory.displacement & memory.address.mask(), ..memory }
}

/// The memory of an instruction that has one with base and index.
fn memory(iced: &iced_x86::Instruction, code: Code) -> Memory {
    let (base, index) = (iced.memory_base(), iced.memory_index());
    let relative = matches!(base, Iced::RIP | Iced::EIP);
    let size = [base, index].into_iter().find(|it| *it != Iced::None).map(|it| it.size());
    let address = match size {
        Some(bytes) => width_of(bytes).unwrap(),
        // 2, 4 or 8 bytes of displacement; in long mode those of 4 are of 32 or 64 bits.
        None => match (iced.memory_displ_size(), code) {
            (2, _) => Width::B2,
            (8, _) => Width::B8,
            (_, Code::Bits64) if iced.memory_displacement64() >> 32 != 0 => Width::B8,
            _ => Width::B4,
        },
    };
    let next = if relative { iced.len() as u64 } else { 0 };
    Memory {
        segment: segment(iced.memory_segment(), code),
        base: match base {
            Iced::None => None,
            _ if relative => Some(Base::Next),
            other => Some(Base::Register(other.full_register().number() as u8)),
        },
        index: (index != Iced::None).then(|| Index {
            register: index.full_register().number() as u8,
            shift: iced.memory_index_scale().trailing_zeros() as u8,
        }),
        displacement: iced.memory_displacement64().wrapping_sub(next) & address.mask(),
        address,
    }
}

fn value(iced: &iced_x86::Instruction, operand: u32, width: Width) -> Option<Value> {
    match iced.op_kind(operand) {
        OpKind::Register => Some(Value::Register(register(iced.op_register(operand)))),
        OpKind::Memory => None,
        _ => Some(Value::Immediate(iced.immediate(operand) & width.mask())),
    }
}

/// What it is by iced, if it is one that is served.
fn expected(iced: &iced_x86::Instruction, code: Code) -> Option<Instruction> {
    let string = match iced.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => Some(StringKind::Move),
        // Also SSE2's of that name, which has no memory of strings.
        Mnemonic::Movsd
            if matches!(
                iced.op1_kind(),
                OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI
            ) =>
        {
            Some(StringKind::Move)
        }
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Some(StringKind::Store),
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => Some(StringKind::Load),
        _ => None,
    };
    let length = iced.len() as u8;
    let width = width_of(iced.memory_size().size())?;
    if let Some(kind) = string {
        let address = (0..iced.op_count()).find_map(|operand| match iced.op_kind(operand) {
            OpKind::MemoryESDI | OpKind::MemorySegSI => Some(Width::B2),
            OpKind::MemoryESEDI | OpKind::MemorySegESI => Some(Width::B4),
            OpKind::MemoryESRDI | OpKind::MemorySegRSI => Some(Width::B8),
            _ => None,
        })?;
        let at = |segment, number| Memory {
            segment,
            base: Some(Base::Register(number)),
            index: None,
            displacement: 0,
            address,
        };
        let destination = at(segment(Iced::ES, code), 7);
        let source = at(segment(iced.memory_segment(), code), 6);
        let repeat = iced.has_rep_prefix() || iced.has_repne_prefix();
        let (memory, source) = match kind {
            StringKind::Move => (destination, Some(source)),
            StringKind::Store => (destination, None),
            StringKind::Load => (source, None),
        };
        let operation = Operation::String { kind, repeat };
        return Some(Instruction { length, memory, source, width, operation, locked: false });
    }
    let first = iced.op0_kind() == OpKind::Memory;
    if !first && (iced.op_count() < 2 || iced.op1_kind() != OpKind::Memory) {
        return None;
    }
    let two = |with| {
        if first {
            Some(Operation::Change { with, value: value(iced, 1, width)? })
        } else {
            Some(Operation::Combine { with, to: register(iced.op0_register()) })
        }
    };
    let other = || register(if first { iced.op1_register() } else { iced.op0_register() });
    let alone = |with| Some(Operation::Alone { with });
    let bit = |with| match value(iced, 1, Width::B1)? {
        Value::Immediate(number) => {
            Some(Operation::Bit { with, number: number as u8 & (8 * width.bytes() - 1) })
        }
        Value::Register(_) => None,
    };
    let to = || register(iced.op0_register());
    let whole = || width_of(iced.op0_register().size());
    let operation = match iced.mnemonic() {
        Mnemonic::Mov if matches!(value(iced, u32::from(first), width)?, Value::Register(it) if it.number > 15) => {
            None
        }
        Mnemonic::Mov
            if [iced.op0_register(), iced.op1_register()].into_iter().any(Iced::is_segment_register) =>
        {
            None
        }
        Mnemonic::Mov if first => Some(Operation::Store { value: value(iced, 1, width)? }),
        Mnemonic::Mov => Some(Operation::Load { to: to(), extend: Extend::No }),
        Mnemonic::Movnti => Some(Operation::Store { value: value(iced, 1, width)? }),
        Mnemonic::Movzx => Some(Operation::Load { to: to(), extend: Extend::Zero(whole()?) }),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            Some(Operation::Load { to: to(), extend: Extend::Sign(whole()?) })
        }
        Mnemonic::Add => two(Two::Add),
        Mnemonic::Or => two(Two::Or),
        Mnemonic::Adc => two(Two::Adc),
        Mnemonic::Sbb => two(Two::Sbb),
        Mnemonic::And => two(Two::And),
        Mnemonic::Sub => two(Two::Sub),
        Mnemonic::Xor => two(Two::Xor),
        Mnemonic::Cmp => two(Two::Cmp),
        Mnemonic::Test => two(Two::Test),
        Mnemonic::Not => alone(Unary::Not),
        Mnemonic::Neg => alone(Unary::Neg),
        Mnemonic::Inc => alone(Unary::Inc),
        Mnemonic::Dec => alone(Unary::Dec),
        Mnemonic::Xchg => Some(Operation::Exchange { with: other() }),
        Mnemonic::Xadd => Some(Operation::ExchangeAdd { with: other() }),
        Mnemonic::Cmpxchg => Some(Operation::CompareExchange { with: other() }),
        Mnemonic::Bt => bit(BitTest::Test),
        Mnemonic::Bts => bit(BitTest::Set),
        Mnemonic::Btr => bit(BitTest::Reset),
        Mnemonic::Btc => bit(BitTest::Complement),
        _ => None,
    }?;
    let locked = iced.has_lock_prefix() || iced.mnemonic() == Mnemonic::Xchg;
    Some(Instruction { length, memory: memory(iced, code), source: None, width, operation, locked })
}

/// An immediate compared by the bits that count, and segments by what they are.
fn normal(mut found: Instruction, code: Code) -> Instruction {
    found.memory = same_in_long_mode(found.memory, code);
    found.source = found.source.map(|source| same_in_long_mode(source, code));
    if let Operation::Store { value: Value::Immediate(value) }
    | Operation::Change { value: Value::Immediate(value), .. } = &mut found.operation
    {
        *value &= found.width.mask();
    }
    found
}

fn compare(bytes: &[u8], code: Code) -> Result<(), TestCaseError> {
    let bits = match code {
        Code::Bits16 => 16,
        Code::Bits32 => 32,
        Code::Bits64 => 64,
    };
    let iced = Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE).decode();
    let found = Instruction::decode(bytes, code);
    if iced.is_invalid() {
        prop_assert!(found.is_err(), "{:02x?}: {:?}", bytes, found);
        return Ok(());
    }
    // Outside long mode there is another encoding of 0x80, which nobody uses.
    let opcode = bytes.iter().find(|byte| {
        !matches!(byte, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x64 | 0x65 | 0x26 | 0x2e | 0x36 | 0x3e)
    });
    let expected = expected(&iced, code).filter(|_| code == Code::Bits64 || opcode != Some(&0x82));
    match (found, expected) {
        (Ok(found), Some(expected)) => {
            let mut found = normal(found, code);
            // With no base an address of 32 bits is the same in 64 where it is below.
            if code == Code::Bits64 && found.memory.base.is_none() && found.memory.index.is_none() {
                found.memory.address = expected.memory.address.max(found.memory.address);
                let address = found.memory.address;
                prop_assert_eq!(
                    found,
                    normal(Instruction { memory: Memory { address, ..expected.memory }, ..expected }, code),
                    "{:02x?} {}",
                    bytes,
                    iced
                );
                return Ok(());
            }
            prop_assert_eq!(found, normal(expected, code), "{:02x?} {}", bytes, iced);
        }
        (Ok(found), None) => prop_assert!(false, "{bytes:02x?} {iced}: {found:?}"),
        (Err(error), Some(expected)) => {
            prop_assert!(false, "{bytes:02x?} {iced}: {error} instead of {expected:?}");
        }
        (Err(error), None) => {
            prop_assert!(error != NotDecoded::Incomplete, "{:02x?} {}", bytes, iced);
            prop_assert!(
                error != NotDecoded::NoMemory || !accesses_memory(&iced),
                "{:02x?} {}: it accesses memory",
                bytes,
                iced
            );
        }
    }
    Ok(())
}

/// Whether it does, a stack included.
fn accesses_memory(iced: &iced_x86::Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    factory.info(iced).used_memory().iter().any(|memory| memory.access() != OpAccess::NoMemAccess)
}

fn code() -> impl Strategy<Value = Code> {
    prop_oneof![3 => Just(Code::Bits64), 1 => Just(Code::Bits32), 1 => Just(Code::Bits16)]
}

/// Some prefixes, an opcode that is served or any, and more than is needed.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just(0x66u8),
        Just(0x67),
        Just(0xf0),
        Just(0xf2),
        Just(0xf3),
        Just(0x64),
        Just(0x65),
        Just(0x2e),
        Just(0x36),
        0x40u8..0x50
    ];
    let opcode = prop_oneof![
        4 => any::<u8>().prop_map(|byte| vec![byte]),
        4 => prop_oneof![0x80u8..0x8c, 0xa0u8..0xb0, 0xc6u8..0xc8, 0xf6u8..0xf8, 0xfeu8..=0xff, Just(0x63)].prop_map(|byte| vec![byte]),
        3 => any::<u8>().prop_map(|byte| vec![0x0f, byte]),
        3 => prop_oneof![0xb0u8..0xb2, 0xb6u8..0xb8, Just(0xba), 0xbeu8..0xc2, Just(0xc3)].prop_map(|byte| vec![0x0f, byte]),
    ];
    (prop::collection::vec(prefix, 0..4), opcode, prop::collection::vec(any::<u8>(), 13))
        .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_decoded_is_what_it_is(bytes in instruction(), code in code()) {
        compare(&bytes, code)?;
    }

    /// Cut off anywhere it is incomplete, or it had ended before.
    #[test]
    fn what_is_cut_off_is_incomplete(bytes in instruction(), code in code(), end in 0usize..15) {
        let whole = Instruction::decode(&bytes, code);
        let cut = Instruction::decode(&bytes[..end], code);
        match whole {
            Ok(found) if usize::from(found.length) <= end => prop_assert_eq!(cut, whole),
            Ok(_) => prop_assert_eq!(cut, Err(NotDecoded::Incomplete)),
            Err(_) => prop_assert!(cut.is_err()),
        }
    }
}

/// What another CPU makes of an instruction that accessed a register, so that it is nothing, or goes elsewhere.
#[test]
fn what_accesses_nothing_for_certain_is_known() {
    for bytes in [
        &[0x8d, 0x07][..],                     // lea eax, [rdi]
        &[0x90],                               // nop
        &[0xf3, 0x90],                         // pause
        &[0x66, 0x90],                         // xchg ax, ax
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],       // nop dword ptr [rax + rax]
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], // the same with a prefix
        &[0xeb, 0x10],                         // jmp, near and far
        &[0xe9, 0x10, 0x00, 0x00, 0x00],
        &[0x74, 0x10], // jz, near and far
        &[0x0f, 0x84, 0x10, 0x00, 0x00, 0x00],
        &[0xb8, 0x10, 0x00, 0x00, 0x00], // mov eax, 16
        &[0x89, 0xc8],                   // mov eax, ecx
        &[0xff, 0xc0],                   // inc eax
    ] {
        assert_eq!(Instruction::decode(bytes, Code::Bits64), Err(NotDecoded::NoMemory), "{bytes:02x?}");
    }
    // These use a stack, or aren't known.
    for bytes in [
        &[0x50][..],         // push rax
        &[0xff, 0xf0],       // push rax, by its other opcode
        &[0xff, 0xd0],       // call rax
        &[0xc3],             // ret
        &[0xcc],             // int3
        &[0x0f, 0xae, 0x07], // fxsave [rdi]
    ] {
        assert_eq!(Instruction::decode(bytes, Code::Bits64), Err(NotDecoded::Unknown), "{bytes:02x?}");
    }
}

/// All ModRM bytes and SIB bytes, of all sizes of addresses.
#[test]
fn every_modrm_and_sib_leads_where_it_should() {
    for code in [Code::Bits16, Code::Bits32, Code::Bits64] {
        for prefix in [None, Some(0x67), Some(0x4f), Some(0x42), Some(0x41)] {
            for modrm in 0..=255 {
                for sib in 0..=255 {
                    let mut bytes: Vec<u8> = prefix.into_iter().collect();
                    bytes.extend([0x8b, modrm, sib, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]);
                    compare(&bytes, code).unwrap();
                }
            }
        }
    }
}

#[test]
fn fifteen_bytes_are_the_most() {
    let mut bytes = vec![0x66; 13];
    bytes.extend([0x8b, 0x00]);
    assert_eq!(Instruction::decode(&bytes, Code::Bits32).unwrap().length, 15);
    bytes.insert(0, 0x66);
    assert_eq!(Instruction::decode(&bytes, Code::Bits32), Err(NotDecoded::TooLong));
}
