//! Every field, bit by bit, where the manual has it (DDI 0487, D24.2, ESR_EL2).

use axvm_syndrome::{
    Cause, Condition, DataAbort, Deadline, InstructionAbort, Kind, Length, Status, Syndrome, SystemAccess,
    Wait, WaitFor, fault_address, is_aarch32, is_el0, past,
};

/// A field: its name, its highest and lowest bit, and what is decoded of it.
struct Field {
    name: &'static str,
    high: u32,
    low: u32,
    decoded: fn(u64) -> u64,
}

const fn field(name: &'static str, high: u32, low: u32, decoded: fn(u64) -> u64) -> Field {
    Field { name, high, low, decoded }
}

/// Each field has its own bits and no others, whatever the others are.
fn holds(fields: &[Field]) {
    for it in fields {
        for bit in 0..64 {
            let own = if (it.low..=it.high).contains(&bit) { 1 << (bit - it.low) } else { 0 };
            assert_eq!((it.decoded)(1 << bit), own, "{} of bit {bit}", it.name);
            let all = u64::MAX >> (63 - (it.high - it.low));
            assert_eq!((it.decoded)(!(1 << bit)), all & !own, "{} of all but bit {bit}", it.name);
        }
    }
}

#[test]
fn class_and_length() {
    holds(&[
        field("EC", 31, 26, |esr| Syndrome(esr).class().into()),
        field("IL", 25, 25, |esr| u64::from(Syndrome(esr).length() == Length::Four)),
    ]);
    assert_eq!((Length::Two.bytes(), Length::Four.bytes()), (2, 4));
}

#[test]
fn what_a_load_leaves() {
    /// A read of `1 << size` bytes.
    fn load(size: u64, signed: bool, wide: bool) -> DataAbort {
        DataAbort(size << 22 | u64::from(signed) << 21 | u64::from(wide) << 15)
    }
    // ldrb, ldrsb w, ldrsb x, ldrh, ldrsh w, ldrsw, ldr w, ldr x: what is read beyond the width counts for nothing.
    assert_eq!(load(0, false, false).loaded(0xfff0), 0xf0);
    assert_eq!(load(0, true, false).loaded(0x80), 0xffff_ff80);
    assert_eq!(load(0, true, true).loaded(0x80), 0xffff_ffff_ffff_ff80);
    assert_eq!(load(0, true, true).loaded(0x7f), 0x7f);
    assert_eq!(load(1, false, false).loaded(0x1_8000), 0x8000);
    assert_eq!(load(1, true, false).loaded(0x8000), 0xffff_8000);
    assert_eq!(load(2, true, true).loaded(0x8000_0000), 0xffff_ffff_8000_0000);
    assert_eq!(load(2, false, false).loaded(u64::MAX), 0xffff_ffff);
    assert_eq!(load(3, false, true).loaded(u64::MAX), u64::MAX);
}

#[test]
fn the_level_and_its_state() {
    // EL0t of AArch64, User of AArch32; EL1t, EL1h; Supervisor.
    assert_eq!([0, 0x10, 0b0100, 0b0101, 0x13].map(is_el0), [true, true, false, false, false]);
    assert_eq!([0, 0x10, 0b0100, 0b0101, 0x13].map(is_aarch32), [false, true, false, false, true]);
}

#[test]
fn a_data_abort() {
    holds(&[
        field("DFSC", 5, 0, |esr| DataAbort(esr).status().0.into()),
        field("WnR", 6, 6, |esr| DataAbort(esr).is_write().into()),
        field("S1PTW", 7, 7, |esr| DataAbort(esr).in_walk().into()),
        field("CM", 8, 8, |esr| DataAbort(esr).is_maintenance().into()),
        field("EA", 9, 9, |esr| DataAbort(esr).external_type().into()),
        field("FnV", 10, 10, |esr| DataAbort(esr).without_address().into()),
        field("SET", 12, 11, |esr| DataAbort(esr).severity().into()),
        field("VNCR", 13, 13, |esr| DataAbort(esr).is_nested().into()),
        field("AR", 14, 14, |esr| DataAbort(esr).is_ordered().into()),
        field("SF", 15, 15, |esr| DataAbort(esr).is_wide().into()),
        field("SRT", 20, 16, |esr| DataAbort(esr).register()),
        field("SSE", 21, 21, |esr| DataAbort(esr).is_signed().into()),
        field("SAS", 23, 22, |esr| DataAbort(esr).size()),
        field("SAS", 23, 22, |esr| DataAbort(esr).bytes().trailing_zeros().into()),
        field("ISV", 24, 24, |esr| DataAbort(esr).is_described().into()),
    ]);
    // ldr w3, [x1], of something that isn't translated at level 3; ldrsh; a store pair; dc civac.
    assert!(DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 0x07).is_plain());
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 22 | 1 << 21 | 0x07).is_plain());
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 6 | 0x07).is_plain());
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 8 | 1 << 6 | 0x07).is_plain());
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 7 | 0x07).is_plain(), "in a walk");
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 0x0f).is_plain(), "permission");
    assert!(!DataAbort(0x24 << 26 | 1 << 25 | 1 << 24 | 0x10).is_plain(), "the bus");
}

#[test]
fn an_instruction_abort() {
    holds(&[
        field("IFSC", 5, 0, |esr| InstructionAbort(esr).status().0.into()),
        field("S1PTW", 7, 7, |esr| InstructionAbort(esr).in_walk().into()),
        field("EA", 9, 9, |esr| InstructionAbort(esr).external_type().into()),
        field("FnV", 10, 10, |esr| InstructionAbort(esr).without_address().into()),
        field("SET", 12, 11, |esr| InstructionAbort(esr).severity().into()),
    ]);
}

#[test]
fn a_system_register() {
    holds(&[
        field("Direction", 0, 0, |esr| SystemAccess(esr).is_read().into()),
        field("CRm", 4, 1, |esr| SystemAccess(esr).encoding().3.into()),
        field("Rt", 9, 5, |esr| SystemAccess(esr).register()),
        field("CRn", 13, 10, |esr| SystemAccess(esr).encoding().2.into()),
        field("Op1", 16, 14, |esr| SystemAccess(esr).encoding().1.into()),
        field("Op2", 19, 17, |esr| SystemAccess(esr).encoding().4.into()),
        field("Op0", 21, 20, |esr| SystemAccess(esr).encoding().0.into()),
    ]);
    // msr icc_sgi1r_el1, x9: S3_0_C12_C11_5.
    let write = SystemAccess(0x18 << 26 | 1 << 25 | 0x3a_3016 | 9 << 5);
    let sgi1r = (3, 0, 12, 11, 5);
    assert_eq!((write.encoding(), write.register(), write.is_read()), (sgi1r, 9, false));
    assert!(write.writes(sgi1r) && !write.writes((3, 0, 12, 11, 6)));
    assert!(!SystemAccess(write.0 | 1).writes(sgi1r), "a read");
    for bit in (0..5).chain(10..22) {
        assert!(!SystemAccess(write.0 ^ 1 << bit).writes(sgi1r), "bit {bit}");
    }
}

#[test]
fn calls_have_an_immediate() {
    for (class, hvc) in [(0x16u64, true), (0x17, false)] {
        for bit in 0..16 {
            let cause = Syndrome(class << 26 | 1 << 25 | 1 << bit).cause();
            let immediate = 1 << bit;
            assert_eq!(cause, if hvc { Cause::Hvc { immediate } } else { Cause::Smc { immediate } });
        }
    }
}

#[test]
fn every_other_class_is_other() {
    for class in 0..64u8 {
        let cause = Syndrome(u64::from(class) << 26).cause();
        let decoded = matches!(class, 0x01 | 0x16 | 0x17 | 0x18 | 0x20 | 0x24);
        assert_eq!(cause == Cause::Other(class), !decoded, "{class:#x}");
    }
}

fn wait(iss: u64) -> Wait {
    match Syndrome(0x01 << 26 | 1 << 25 | iss).cause() {
        Cause::Wait(wait) => wait,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_cpu_waits_for_and_until_when() {
    assert_eq!((wait(0b00).waits_for, wait(0b00).deadline), (WaitFor::Interrupt, Deadline::None));
    assert_eq!((wait(0b01).waits_for, wait(0b01).deadline), (WaitFor::Event, Deadline::None));
    for register in 0..32u8 {
        let rn = u64::from(register) << 5;
        for (ti, waits_for) in [(0b10, WaitFor::Interrupt), (0b11, WaitFor::Event)] {
            let told = wait(ti | 1 << 2 | rn);
            assert_eq!((told.waits_for, told.deadline), (waits_for, Deadline::InRegister(register)));
            assert_eq!(wait(ti | rn).deadline, Deadline::Unknown, "RV is 0");
        }
        assert_eq!(wait(1 << 2 | rn).deadline, Deadline::None, "no deadline, whatever RN and RV are");
    }
    for condition in 0..16u8 {
        let cond = u64::from(condition) << 20;
        assert_eq!(wait(1 << 24 | cond).condition, Some(Condition(condition)));
        assert_eq!(wait(cond).condition, None, "CV is 0");
    }
}

#[test]
fn an_instruction_says_it_too() {
    let of = |instruction| Wait::of_instruction(instruction).map(|it| (it.waits_for, it.deadline));
    // As an assembler has them: wfi, wfe, wfit x0, wfit x30, wfet x7, nop, sev, yield.
    assert_eq!(of(0xd503_207f), Some((WaitFor::Interrupt, Deadline::None)));
    assert_eq!(of(0xd503_205f), Some((WaitFor::Event, Deadline::None)));
    assert_eq!(of(0xd503_1020), Some((WaitFor::Interrupt, Deadline::InRegister(0))));
    assert_eq!(of(0xd503_103e), Some((WaitFor::Interrupt, Deadline::InRegister(30))));
    assert_eq!(of(0xd503_1007), Some((WaitFor::Event, Deadline::InRegister(7))));
    for other in [0xd503_201f, 0xd503_209f, 0xd503_203f, 0, u32::MAX] {
        assert_eq!(of(other), None);
    }
}

/// AArch32 at EL0, T32.
const T32: u64 = 1 << 5 | 1 << 4;

/// IT\[7:0\] where SPSR_EL2 has it.
fn it_block(it: u64) -> u64 {
    (it >> 2) << 10 | (it & 3) << 25
}

#[test]
fn conditions_are_those_of_the_flags() {
    // EQ NE CS CC MI PL VS VC HI LS GE LT GT LE AL, by N Z C V (DDI 0487, table C1-1).
    for flags in 0..16u64 {
        let (n, z, c, v) = (flags & 8 != 0, flags & 4 != 0, flags & 2 != 0, flags & 1 != 0);
        let expected = [
            z,
            !z,
            c,
            !c,
            n,
            !n,
            v,
            !v,
            c && !z,
            !c || z,
            n == v,
            n != v,
            !z && n == v,
            z || n != v,
            true,
            true,
        ];
        for (condition, expected) in (0..).zip(expected) {
            assert_eq!(Condition(condition).holds(flags << 28), expected, "{condition} of {flags:04b}");
            assert_eq!(wait(1 << 24 | u64::from(condition) << 20).is_executed(flags << 28), expected);
            // Where the syndrome has none, the IT block's: its last instruction.
            let state = flags << 28 | T32 | it_block(u64::from(condition) << 4 | 0b1000);
            assert_eq!(wait(0).is_executed(state), expected);
        }
    }
    assert!(wait(0).is_executed(1 << 30), "AArch64 has none");
    assert!(wait(0).is_executed(T32), "outside a block");
}

#[test]
fn past_an_instruction() {
    // AArch64: BTYPE and SS are over, all else stays.
    assert_eq!(past(0x1000, !(1 << 4), Length::Four).0, 0x1004);
    for bit in (0..64).filter(|bit| *bit != 4) {
        let kept = if matches!(bit, 10 | 11 | 21) { 0 } else { 1 << bit };
        assert_eq!(past(0, 1 << bit, Length::Four).1, kept, "bit {bit}");
    }
    assert_eq!(past(u64::MAX - 1, 0, Length::Four).0, 2);
    // T32: two bytes, and on in the IT block. ITTE EQ, by DDI 0487, E1.2.4.
    let states = [0b0000_0110u64, 0b0000_1100, 0b0001_1000, 0];
    for step in states.windows(2) {
        let (pc, state) = past(0x8000, 0xf000_0000 | T32 | it_block(step[0]) | 1 << 21, Length::Two);
        assert_eq!((pc, state), (0x8002, 0xf000_0000 | T32 | it_block(step[1])), "{:08b}", step[0]);
    }
    assert_eq!(past(0x8000, T32, Length::Four), (0x8004, T32));
}

#[test]
fn fault_status_codes() {
    let of = |code: u8| (Status(code).kind(), Status(code).level());
    for level in 0..4u8 {
        let some = Some(level as i8);
        assert_eq!(of(level), (Kind::AddressSize, some));
        assert_eq!(of(0b0001 << 2 | level), (Kind::Translation, some));
        assert_eq!(of(0b0010 << 2 | level), (Kind::AccessFlag, some));
        assert_eq!(of(0b0011 << 2 | level), (Kind::Permission, some));
        assert_eq!(of(0b0101 << 2 | level), (Kind::ExternalInWalk, some));
        assert_eq!(of(0b0111 << 2 | level), (Kind::ParityInWalk, some));
    }
    assert_eq!(of(0b10_1001), (Kind::AddressSize, Some(-1)));
    assert_eq!(of(0b10_1011), (Kind::Translation, Some(-1)));
    assert_eq!(of(0b01_0011), (Kind::ExternalInWalk, Some(-1)));
    assert_eq!(of(0b01_1011), (Kind::ParityInWalk, Some(-1)));
    assert_eq!(of(0b01_0000), (Kind::External, None));
    assert_eq!(of(0b01_1000), (Kind::Parity, None));
    assert_eq!(of(0b10_0001), (Kind::Alignment, None));
    // Tag check, granule protection, TLB conflict, hardware update, lockdown, exclusives: never a guest's in a VM.
    for code in [0b01_0001, 0b01_0010, 0b10_0100, 0b10_1000, 0b11_0000, 0b11_0001, 0b11_0100, 0b11_0101] {
        assert_eq!(of(code), (Kind::Other, None), "{code:06b}");
    }
}

#[test]
fn where_a_fault_of_the_second_stage_was() {
    for bit in 0..64 {
        let page = if (4..48).contains(&bit) { 1 << (bit + 8) } else { 0 };
        assert_eq!(fault_address(1 << bit, 0), page, "HPFAR_EL2, bit {bit}");
        assert_eq!(fault_address(0, 1 << bit), if bit < 12 { 1 << bit } else { 0 }, "FAR_EL2, bit {bit}");
    }
}
