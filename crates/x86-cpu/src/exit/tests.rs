//! Exits as the manual writes them, and as QEMU does.

use super::*;
use crate::vmcb::Control;
use proptest::prelude::*;

const PLAIN: Features = Features {
    vendor: crate::features::Vendor::Amd,
    family: 0x17,
    svm: Feature::NESTED_PAGING,
    has_svm: true,
    asids: 16,
    physical_bits: 40,
    rdpru: false,
    invlpgb: false,
    mcommit: false,
    invpcid: false,
    xsaves: false,
    xcr0: 7,
    speculation: crate::speculation::Speculation::empty(),
};

fn assisted() -> Features {
    Features { svm: PLAIN.svm | Feature::DECODE_ASSISTS | Feature::NEXT_RIP, ..PLAIN }
}

fn control(code: u64, info_1: u64, info_2: u64) -> Control {
    let mut control = Control::zero();
    (control.exit_code, control.exit_info_1, control.exit_info_2) = (code, info_1, info_2);
    control
}

fn decode(code: u64, info_1: u64, info_2: u64) -> Exit {
    Exit::decode(&control(code, info_1, info_2), &PLAIN)
}

#[test]
fn only_the_low_half_counts() {
    // QEMU writes 32 bits over whatever there was.
    assert_eq!(decode(0xffff_ffff_0000_0072, 0, 0), Exit::Instruction(Instruction::Cpuid));
    assert_eq!(decode(0xffff_ffff_ffff_ffff, 0, 0), Exit::Invalid);
    assert_eq!(decode(0xffff_ffff, 0, 0), Exit::Invalid);
    assert_eq!(decode(0x403, 0, 0), Exit::Unknown(0x403));
    assert_eq!(decode(0x9f, 0, 0), Exit::Unknown(0x9f));
}

/// Appendix C, table C-1.
#[test]
fn codes_are_the_manual_s() {
    use Instruction::*;
    let instructions = [
        (0x66, DescriptorTable),
        (0x6d, DescriptorTable),
        (0x6e, Rdtsc),
        (0x6f, Rdpmc),
        (0x70, Pushf),
        (0x71, Popf),
        (0x72, Cpuid),
        (0x73, Rsm),
        (0x74, Iret),
        (0x75, SoftwareInterrupt),
        (0x76, Invd),
        (0x77, Pause),
        (0x78, Hlt),
        (0x79, Invlpg),
        (0x7a, Invlpga),
        (0x80, Vmrun),
        (0x81, Vmmcall),
        (0x82, Vmload),
        (0x83, Vmsave),
        (0x84, Stgi),
        (0x85, Clgi),
        (0x86, Skinit),
        (0x87, Rdtscp),
        (0x88, Icebp),
        (0x89, Wbinvd),
        (0x8a, Monitor),
        (0x8b, Mwait),
        (0x8c, Mwait),
        (0x8d, Xsetbv),
        (0x8e, Rdpru),
        (0xa0, Invlpgb),
        (0xa1, Invlpgb),
        (0xa2, Invpcid),
        (0xa3, Mcommit),
        (0xa4, Tlbsync),
        (0xa6, Hlt),
    ];
    for (code, instruction) in instructions {
        assert_eq!(decode(code, 0, 0), Exit::Instruction(instruction), "{code:#x}");
    }
    for (code, exit) in [
        (0x60, Exit::Interrupt),
        (0x61, Exit::Nmi),
        (0x62, Exit::Smi),
        (0x63, Exit::Init),
        (0x64, Exit::Window),
        (0x7d, Exit::TaskSwitch),
        (0x7e, Exit::FerrFreeze),
        (0x7f, Exit::Shutdown),
    ] {
        assert_eq!(decode(code, 0, 0), exit, "{code:#x}");
    }
    assert_eq!(decode(0x7c, 0, 0), Exit::Msr(Direction::Read));
    assert_eq!(decode(0x7c, 1, 0), Exit::Msr(Direction::Write));
    assert_eq!(
        decode(0x4e, 7, 0xffff_8000_0000_1000),
        Exit::Exception { vector: 14, error: 7, address: 0xffff_8000_0000_1000 }
    );
}

#[test]
fn registers_are_believed_with_decode_assists_only() {
    let cr4 = control(0x14, 1 << 63 | 9, 0);
    let special = |register, direction, with| Exit::Special { register, direction, with };
    let cr = Special::Control;
    assert_eq!(Exit::decode(&cr4, &PLAIN), special(cr(4), Direction::Write, None));
    assert_eq!(Exit::decode(&cr4, &assisted()), special(cr(4), Direction::Write, Some(9)));
    // CLTS or LMSW: bit 63 is clear.
    let cr0 = control(0x10, 9, 0);
    assert_eq!(Exit::decode(&cr0, &assisted()), special(cr(0), Direction::Write, None));
    let selective = control(0x65, 1 << 63 | 1, 0);
    assert_eq!(Exit::decode(&selective, &assisted()), special(cr(0), Direction::Write, Some(1)));
    let dr7 = control(0x27, 3, 0);
    assert_eq!(Exit::decode(&dr7, &assisted()), special(Special::Debug(7), Direction::Read, Some(3)));
    assert_eq!(Exit::decode(&dr7, &PLAIN), special(Special::Debug(7), Direction::Read, None));
    assert_eq!(decode(0x32, 0, 0), special(Special::Debug(2), Direction::Write, None));
}

#[test]
fn ports_are_the_manual_s() {
    // REP OUTSB of 64 bits, FS, to 0x3f8.
    let info = 0x3f8 << 16 | 4 << 10 | 1 << 9 | 1 << 4 | 1 << 3 | 1 << 2;
    let string = StringPort { repeat: true, address: Some(Width::B8), segment: Some(Segment::Fs) };
    let port = Port {
        port: 0x3f8,
        width: Width::B1,
        direction: Direction::Write,
        string: Some(string),
        next_rip: 0x1002,
    };
    assert_eq!(Exit::decode(&control(0x7b, info, 0x1002), &assisted()), Exit::Port(port));
    let string = StringPort { segment: None, ..string };
    assert_eq!(decode(0x7b, info, 0x1002), Exit::Port(Port { string: Some(string), ..port }));
    // IN EAX, as QEMU says it.
    let input = Port { port: 0xcfc, width: Width::B4, direction: Direction::Read, string: None, next_rip: 2 };
    assert_eq!(decode(0x7b, 0xcfc << 16 | 1 << 6 | 1, 2), Exit::Port(input));
    // INSW, of which QEMU says no address size.
    let string = StringPort { repeat: false, address: None, segment: Some(Segment::Es) };
    let words =
        Port { port: 0x1f0, width: Width::B2, direction: Direction::Read, string: Some(string), next_rip: 2 };
    assert_eq!(decode(0x7b, 0x1f0 << 16 | 1 << 5 | 1 << 2 | 1, 2), Exit::Port(words));
}

#[test]
fn nested_faults_are_the_manual_s() {
    let fault = |info| match decode(0x400, info, 0xfee0_0080) {
        Exit::NestedFault(fault) => fault,
        other => panic!("{other:?}"),
    };
    let store = fault(1 << 32 | 0b110);
    assert_eq!(
        store,
        NestedFault {
            address: 0xfee0_0080,
            access: Access::Write,
            reached: Reached::Target,
            present: false,
            reserved: false
        }
    );
    assert_eq!(fault(1 << 32 | 0b100).access, Access::Read);
    assert_eq!(fault(1 << 32 | 0b1_0101), NestedFault { access: Access::Fetch, present: true, ..store });
    assert_eq!(fault(1 << 33 | 0b110).reached, Reached::Table);
    assert!(fault(0b1001).reserved);
}

#[test]
fn the_next_address_is_believed_where_it_is_offered() {
    let mut control = control(0x72, 0, 0);
    control.next_rip = 0x1002;
    assert_eq!(next_rip(&control, &PLAIN), None);
    assert_eq!(next_rip(&control, &assisted()), Some(0x1002));
    control.next_rip = 0;
    assert_eq!(next_rip(&control, &assisted()), None);
}

proptest! {
    #[test]
    fn whatever_is_written_decodes(code: u64, info_1: u64, info_2: u64, small in 0u64..0x500) {
        for code in [code, small] {
            let _ = Exit::decode(&control(code, info_1, info_2), &PLAIN);
            let _ = Exit::decode(&control(code, info_1, info_2), &assisted());
        }
    }
}

/// Instructions that are intercepted for every guest, by the table of control, are all answered, and those that are hidden by #UD.
#[test]
fn every_instruction_that_exits_is_answered() {
    use Answer::{Carried, Protection, Undefined};
    let words = crate::control::intercepts(crate::control::Interrupts::Emulated, &assisted());
    let bits = [(0x60u64, words.general), (0x80, words.svm), (0xa0, words.later)];
    let exits = bits.into_iter().flat_map(|(base, word)| {
        (0..32u64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| base + bit)
    });
    for code in exits {
        let Exit::Instruction(instruction) = decode(code, 0, 0) else { continue };
        let expected = match code {
            // CPUID, HLT, VMMCALL, XSETBV, INVD, WBINVD.
            0x72 | 0x78 | 0x81 | 0x8d | 0x76 | 0x89 => Carried,
            0x6f => Protection,
            _ => Undefined,
        };
        assert_eq!(instruction.answer(), expected, "{code:#x}");
    }
}
