//! Events, virtual interrupts, and what VMRUN refuses.

use super::*;
use crate::control::{Interrupts, Own, area};
use crate::features::Features;
use crate::start::Start;
use proptest::prelude::*;

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(EventKind::Interrupt),
        Just(EventKind::Nmi),
        Just(EventKind::Exception),
        Just(EventKind::Software)
    ];
    (any::<u8>(), kind, any::<Option<u32>>()).prop_map(|(vector, kind, error)| Event { vector, kind, error })
}

proptest! {
    #[test]
    fn events_survive_the_field(event in event()) {
        prop_assert_eq!(Event::decode(event.encode()), Some(event));
    }

    #[test]
    fn no_field_s_reserved_bits_become_part_of_an_event(field: u64) {
        if let Some(event) = Event::decode(field) {
            // Bits 30:12 are reserved, and the error code counts with its bit only.
            let error = if field & 1 << 11 != 0 { field & 0xffff_ffff_0000_0000 } else { 0 };
            prop_assert_eq!(event.encode(), field & 0x8000_0fff | error);
        } else {
            prop_assert!(field & 1 << 31 == 0 || matches!(field >> 8 & 7, 1 | 5..));
        }
    }

    #[test]
    fn a_pending_interrupt_touches_nothing_else(raw: u32, priority in 0u8..16, tpr in 0u8..16) {
        let first = VirtualInterrupt(raw & !0x001f_0100);
        let pending = first.with_tpr(tpr).pend(priority);
        prop_assert!(pending.is_pending());
        prop_assert_eq!(pending.tpr(), tpr);
        prop_assert_eq!(u32::from(priority), pending.0 >> 16 & 0x1f, "V_IGN_TPR is clear");
        prop_assert_eq!(pending.withdraw(), first.with_tpr(tpr));
        let window = first.pend(priority).open_window();
        prop_assert_eq!(window.0 & 0x001f_0100, 0x001f_0100);
        prop_assert_eq!(window.pend(priority), first.pend(priority));
    }
}

#[test]
fn events_are_the_manual_s() {
    // 15.20: type 3, vector 14, error code 5.
    let page_fault = Event { vector: 14, kind: EventKind::Exception, error: Some(5) };
    assert_eq!(page_fault.encode(), 0x5_8000_0b0e);
    assert_eq!(Event::interrupt(0x30).encode(), 0x8000_0030);
    assert_eq!(Event::nmi().encode(), 0x8000_0202);
    assert_eq!(Event { vector: 0x80, kind: EventKind::Software, error: None }.encode(), 0x8000_0480);
}

#[test]
fn no_more_instruction_bytes_than_there_are() {
    let mut control = Control::zero();
    control.instruction = [7; 15];
    for (said, length) in [(0u8, 0usize), (3, 3), (15, 15), (0x1f, 15), (0xff, 15)] {
        control.instruction_length = said;
        assert_eq!(control.instruction_bytes().len(), length);
    }
}

/// A vCPU as the host makes it.
fn vcpu(start: Start) -> Vmcb {
    let own =
        Own { io_permissions: 0x1000, msr_permissions: 0x4000, nested_cr3: 0x6000, asid: 1, tsc_offset: 0 };
    let mut vmcb = Vmcb::zero();
    vmcb.control = area(Interrupts::Emulated, &Features::default(), &own);
    vmcb.save = start.state(0).save;
    vmcb
}

#[test]
fn every_start_is_taken_by_vmrun() {
    let gdt = crate::start::Gdt { base: 0x500, limit: 31 };
    for start in [
        Start::Reset,
        Start::Sipi { vector: 0x9a },
        Start::Linux64 { entry: 0x100_0200, boot_params: 0x7000, cr3: 0x8000, gdt },
        Start::Flat64 { entry: 0x20_0000, argument: 0x7000, cr3: 0x8000, gdt },
        Start::Pvh { entry: 0x100_0000, start_info: 0x7000 },
    ] {
        assert_eq!(vcpu(start).check(40), Ok(()), "{start:?}");
    }
}

#[test]
fn each_rule_refuses_by_itself() {
    let gdt = crate::start::Gdt { base: 0x500, limit: 31 };
    let long = vcpu(Start::Linux64 { entry: 0x100_0200, boot_params: 0, cr3: 0x8000, gdt });
    let refusal = |change: fn(&mut Vmcb)| {
        let mut vmcb = long.clone();
        change(&mut vmcb);
        vmcb.check(40)
    };
    assert_eq!(refusal(|it| it.save.efer &= !(1 << 12)), Err(Refused::Svme));
    assert_eq!(refusal(|it| it.save.cr0 |= 1 << 29), Err(Refused::Cache));
    assert_eq!(refusal(|it| it.save.cr0 |= 3 << 29), Ok(()));
    assert_eq!(refusal(|it| it.save.cr0 |= 1 << 32), Err(Refused::Reserved("CR0")));
    assert_eq!(refusal(|it| it.save.cr3 |= 1 << 40), Err(Refused::Reserved("CR3")));
    assert_eq!(refusal(|it| it.save.cr4 |= 1 << 32), Err(Refused::Reserved("CR4")));
    assert_eq!(refusal(|it| it.save.dr6 |= 1 << 32), Err(Refused::Reserved("DR6")));
    assert_eq!(refusal(|it| it.save.dr7 |= 1 << 32), Err(Refused::Reserved("DR7")));
    assert_eq!(refusal(|it| it.save.cr4 &= !(1 << 5)), Err(Refused::LongMode));
    assert_eq!(refusal(|it| it.save.cr0 &= !1), Err(Refused::LongMode));
    assert_eq!(refusal(|it| it.save.cs.attributes.0 |= 1 << 10), Err(Refused::Code));
    assert_eq!(refusal(|it| it.control.intercepts.svm &= !1), Err(Refused::Vmrun));
    assert_eq!(
        refusal(|it| it.control.io_permissions = 1 << 40),
        Err(Refused::Above("the I/O permission map"))
    );
    assert_eq!(
        refusal(|it| it.control.msr_permissions = 1 << 40),
        Err(Refused::Above("the MSR permission map"))
    );
    assert_eq!(refusal(|it| it.control.nested_cr3 = 1 << 40), Err(Refused::Above("the nested page table")));
    assert_eq!(refusal(|it| it.control.asid = 0), Err(Refused::Asid));
    assert_eq!(refusal(|it| it.save.g_pat = 2), Err(Refused::Pat));
    assert_eq!(refusal(|it| it.save.g_pat = 0x0300), Err(Refused::Pat));
    // What QEMU says of an interrupt that it had delivered.
    assert_eq!(refusal(|it| it.control.injection = 0x8000_0330), Err(Refused::Injection));
    assert_eq!(refusal(|it| it.control.injection = 0x8000_0302), Err(Refused::Injection));
    assert_eq!(refusal(|it| it.control.injection = 0x8000_0130), Err(Refused::Injection));
    assert_eq!(refusal(|it| it.control.injection = 0x8000_0030), Ok(()));
}
