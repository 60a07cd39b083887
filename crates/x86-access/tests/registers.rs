//! Parts of registers, and addresses.

use axvm_x86_access::{Base, Code, Instruction, Memory, Register, Segment, Width};

#[test]
fn a_part_is_read_and_written_and_the_rest_stays() {
    const WHOLE: u64 = 0x1122_3344_5566_7788;
    let (low, high) = (Register::whole(0), Register { number: 0, high: true });
    assert_eq!(low.get(WHOLE, Width::B1), 0x88);
    assert_eq!(high.get(WHOLE, Width::B1), 0x77);
    assert_eq!(low.get(WHOLE, Width::B2), 0x7788);
    assert_eq!(low.get(WHOLE, Width::B4), 0x5566_7788);
    assert_eq!(low.put(WHOLE, 0xabcd, Width::B1), 0x1122_3344_5566_77cd);
    assert_eq!(high.put(WHOLE, 0xabcd, Width::B1), 0x1122_3344_5566_cd88);
    assert_eq!(low.put(WHOLE, 0xabcd, Width::B2), 0x1122_3344_5566_abcd);
    assert_eq!(low.put(WHOLE, 0xabcd, Width::B4), 0xabcd, "32 bits clear those above");
    assert_eq!(low.put(WHOLE, 0xabcd, Width::B8), 0xabcd);
}

#[test]
fn an_address_is_cut_to_its_width() {
    let memory = |address| Memory {
        segment: Segment::Ds,
        base: Some(Base::Register(3)),
        index: None,
        displacement: u64::MAX,
        address,
    };
    assert_eq!(memory(Width::B8).offset(|_| 0, 0), u64::MAX);
    assert_eq!(memory(Width::B4).offset(|_| 0, 0), 0xffff_ffff);
    assert_eq!(memory(Width::B2).offset(|_| 0, 0), 0xffff);
    // mov eax, [rip - 1]: from the end of the instruction.
    let relative = Instruction::decode(&[0x8b, 0x05, 0xff, 0xff, 0xff, 0xff], Code::Bits64).unwrap();
    assert_eq!(relative.memory.offset(|_| panic!(), 0x1006), 0x1005);
    // mov eax, [rbx + 8 * r12 + 0x10]
    let indexed = Instruction::decode(&[0x42, 0x8b, 0x44, 0xe3, 0x10], Code::Bits64).unwrap();
    assert_eq!(indexed.memory.offset(|number| u64::from(number) << 8, 0), 0x300 + 0xc00 * 8 + 0x10);
}
