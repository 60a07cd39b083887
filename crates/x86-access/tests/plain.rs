//! Plain loads and stores against the instructions that they are of.

use axvm_x86_access::{Code, Extend, Instruction, Move, Operation, Plain, Segment, Value, Width};
use proptest::prelude::*;

fn plain(bytes: &[u8]) -> Option<Plain> {
    Plain::of(&Instruction::decode(bytes, Code::Bits64).ok()?, RIP)
}

const RIP: u64 = 0xffff_ffff_8100_0000;

#[test]
fn what_drivers_do_is_plain() {
    // mov eax, [rdi + 0x20]
    let load = Plain { base: Some(7), displacement: 0x20, next: RIP + 3, what: Move::Load(0) };
    assert_eq!(plain(&[0x8b, 0x47, 0x20]), Some(load));
    // mov [r12 - 4], r9d
    let store =
        Plain { base: Some(12), displacement: 4u64.wrapping_neg(), next: RIP + 5, what: Move::Store(9) };
    assert_eq!(plain(&[0x45, 0x89, 0x4c, 0x24, 0xfc]), Some(store));
    // mov dword ptr [rip + 0x10], 0x80000000
    let bytes = [0xc7, 0x05, 0x10, 0, 0, 0, 0, 0, 0, 0x80];
    let next = RIP + 10;
    let value = Plain { base: None, displacement: next + 0x10, next, what: Move::StoreValue(0x8000_0000) };
    assert_eq!(plain(&bytes), Some(value));
}

#[test]
fn nothing_else_is() {
    for (bytes, why) in [
        (&[0x8a, 0x47, 0x20][..], "a byte"),
        (&[0x66, 0x8b, 0x47, 0x20], "16 bits"),
        (&[0x48, 0x8b, 0x47, 0x20], "64 bits"),
        (&[0x0f, 0xb6, 0x47, 0x20], "a byte that is extended"),
        (&[0x63, 0x47, 0x20], "movsxd of 32 bits, of no more without REX.W"),
        (&[0x65, 0x8b, 0x47, 0x20], "by GS, which has a base"),
        (&[0x8b, 0x44, 0x8f, 0x20], "with an index"),
        (&[0x67, 0x8b, 0x47, 0x20], "an address of 32 bits"),
        (&[0x01, 0x47, 0x20], "an addition"),
        (&[0x87, 0x47, 0x20], "an exchange"),
        (&[0xa5], "a string"),
    ] {
        let instruction = Instruction::decode(bytes, Code::Bits64);
        let is_load = matches!(
            instruction,
            Ok(Instruction { operation: Operation::Load { extend: Extend::No, .. }, width: Width::B4, .. })
        );
        assert!(plain(bytes).is_none() || bytes[0] == 0x63 && is_load, "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// What is said beforehand is what the instruction comes to, whatever is in the registers.
    #[test]
    fn a_plain_one_is_its_instruction(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..15),
            (prop_oneof![Just(vec![]), (0x40..0x48u8).prop_map(|rex| vec![rex])], prop::sample::select(vec![0x8bu8, 0x89, 0xc7, 0xa1, 0xa3]), prop::collection::vec(any::<u8>(), 1..12))
                .prop_map(|(rex, opcode, rest)| [rex, vec![opcode], rest].concat()),
        ],
        registers in prop::array::uniform16(any::<u64>()),
        rip in any::<u64>(),
        read in any::<u32>(),
    ) {
        let Ok(instruction) = Instruction::decode(&bytes, Code::Bits64) else { return Ok(()) };
        let Some(plain) = Plain::of(&instruction, rip) else { return Ok(()) };
        let register = |number: u8| registers[usize::from(number)];
        prop_assert_eq!(plain.next, rip.wrapping_add(instruction.length.into()));
        prop_assert_eq!(
            plain.base.map_or(0, register).wrapping_add(plain.displacement),
            instruction.memory.offset(register, plain.next)
        );
        prop_assert!(!matches!(instruction.memory.segment, Segment::Fs | Segment::Gs));
        prop_assert_eq!(instruction.width, Width::B4);
        match (plain.what, instruction.operation) {
            (Move::Load(number), Operation::Load { to, extend: Extend::No }) => {
                prop_assert_eq!(number, to.number);
                prop_assert_eq!(to.put(register(number), read.into(), Width::B4), u64::from(read));
            }
            (Move::Store(number), Operation::Store { value: Value::Register(from) }) => {
                prop_assert_eq!(u64::from(register(number) as u32), from.get(register(from.number), Width::B4));
            }
            (Move::StoreValue(value), Operation::Store { value: Value::Immediate(own) }) => {
                prop_assert_eq!(u64::from(value), own & Width::B4.mask());
            }
            (what, operation) => prop_assert!(false, "{what:?} of {operation:?}"),
        }
    }
}
