//! Exceptions, and what has to be injected again.

use super::*;
use crate::vmcb::Vmcb;

fn interrupted(event: Option<Event>) -> Vmcb {
    let mut vmcb = Vmcb::zero();
    vmcb.control.exit_interrupt = event.map_or(0, Event::encode);
    vmcb
}

fn exception(vector: u8, error: Option<u32>) -> Event {
    Event { vector, kind: EventKind::Exception, error }
}

#[test]
fn what_was_being_delivered_comes_again_unless_its_instruction_does() {
    let again = |event| again(&interrupted(Some(event)).control);
    assert_eq!(again(Event::interrupt(0x31)), Some(Event::interrupt(0x31)));
    assert_eq!(again(Event::nmi()), Some(Event::nmi()));
    assert_eq!(again(exception(14, Some(2))), Some(exception(14, Some(2))));
    assert_eq!(again(exception(1, None)), Some(exception(1, None)));
    assert_eq!(again(Event { vector: 0x80, kind: EventKind::Software, error: None }), None);
    assert_eq!(again(exception(3, None)), None);
    assert_eq!(again(exception(4, None)), None);
    assert_eq!(super::again(&interrupted(None).control), None);
}

#[test]
fn what_qemu_calls_an_exception_is_what_its_vector_says() {
    assert_eq!(again(&interrupted(Some(exception(0x20, None))).control), Some(Event::interrupt(0x20)));
    assert_eq!(again(&interrupted(Some(exception(0xff, None))).control), Some(Event::interrupt(0xff)));
    assert_eq!(again(&interrupted(Some(exception(2, None))).control), Some(Event::nmi()));
    assert_eq!(again(&interrupted(Some(exception(31, None))).control), Some(exception(31, None)));
}

#[test]
fn a_virtual_interrupt_that_is_still_pending_isn_t_doubled() {
    for event in [Event::interrupt(0x41), exception(0x41, None)] {
        let mut vmcb = interrupted(Some(event));
        vmcb.control.virtual_interrupt = vmcb.control.virtual_interrupt.pend(4);
        vmcb.control.interrupt_vector = 0x41;
        assert_eq!(again(&vmcb.control), None);
        vmcb.control.interrupt_vector = 0x42;
        assert_eq!(again(&vmcb.control), Some(Event::interrupt(0x41)));
    }
    // The vector is an interrupt's; an exception of that number is something else.
    let mut vmcb = interrupted(Some(exception(14, Some(0))));
    vmcb.control.virtual_interrupt = vmcb.control.virtual_interrupt.pend(0);
    vmcb.control.interrupt_vector = 14;
    assert_eq!(again(&vmcb.control), Some(exception(14, Some(0))));
}

/// What becomes of a first and a second (table 8-3).
fn both(first: Event, second: Exception) -> (Raised, Option<Event>) {
    let mut vmcb = interrupted(Some(first));
    let raised = raise(&mut vmcb.control, &mut vmcb.save, second);
    assert_eq!(again(&vmcb.control), None, "it is dealt with");
    (raised, vmcb.control.injected())
}

#[test]
fn faults_in_deliveries_combine() {
    let page = Exception::Page(PageFault { address: 0x1000, error: 2 });
    let double = (Raised::DoubleFault, Some(exception(8, Some(0))));
    let alone = |second: Exception| (Raised::Delivered { aside: None }, Some(second.event()));
    // Contributory: #DE, #TS, #NP, #SS, #GP.
    for vector in [0, 10, 11, 12, 13] {
        let first = exception(vector, None);
        assert_eq!(both(first, Exception::GP), double, "{vector}");
        assert_eq!(both(first, Exception::Stack(0)), double, "{vector}");
        assert_eq!(both(first, page), alone(page), "{vector}");
        assert_eq!(both(first, Exception::Alignment), alone(Exception::Alignment), "{vector}");
    }
    let first = exception(14, Some(0));
    assert_eq!(both(first, page), double);
    assert_eq!(both(first, Exception::GP), double);
    assert_eq!(both(first, Exception::Debug), alone(Exception::Debug));
    let first = exception(8, Some(0));
    assert_eq!(both(first, page), (Raised::Shutdown, None));
    assert_eq!(both(first, Exception::GP), (Raised::Shutdown, None));
    assert_eq!(both(exception(6, None), Exception::GP), alone(Exception::GP));
    assert_eq!(both(exception(1, None), page), alone(page));
}

#[test]
fn an_interrupt_that_is_pushed_aside_is_told_of() {
    for first in [Event::interrupt(0x50), Event::nmi()] {
        let (raised, injected) = both(first, Exception::GP);
        assert_eq!(raised, Raised::Delivered { aside: Some(first) });
        assert_eq!(injected, Some(Exception::GP.event()));
    }
}

#[test]
fn one_that_waits_to_be_injected_counts_as_first() {
    let mut vmcb = Vmcb::zero();
    raise(&mut vmcb.control, &mut vmcb.save, Exception::GP);
    assert_eq!(raise(&mut vmcb.control, &mut vmcb.save, Exception::GP), Raised::DoubleFault);
    assert_eq!(raise(&mut vmcb.control, &mut vmcb.save, Exception::GP), Raised::Shutdown);
}

#[test]
fn a_page_fault_has_its_address() {
    let mut vmcb = Vmcb::zero();
    raise(
        &mut vmcb.control,
        &mut vmcb.save,
        Exception::Page(PageFault { address: 0xdead_b000, error: 0x15 }),
    );
    assert_eq!((vmcb.save.cr2, vmcb.control.injected()), (0xdead_b000, Some(exception(14, Some(0x15)))));
    raise(&mut vmcb.control, &mut vmcb.save, Exception::Debug);
    assert_eq!(vmcb.save.cr2, 0xdead_b000);
}

#[test]
fn vectors_and_error_codes_are_the_manual_s() {
    for (it, vector, error) in [
        (Exception::Debug, 1, None),
        (Exception::Undefined, 6, None),
        (Exception::NoCoprocessor, 7, None),
        (Exception::DoubleFault, 8, Some(0)),
        (Exception::Stack(0x18), 12, Some(0x18)),
        (Exception::GP, 13, Some(0)),
        (Exception::Alignment, 17, Some(0)),
        (Exception::MachineCheck, 18, None),
    ] {
        assert_eq!(it.event(), exception(vector, error));
    }
}

#[test]
fn an_instruction_that_is_done_ends_shadows_and_steps() {
    let mut vmcb = Vmcb::zero();
    vmcb.control.interrupt_shadow = 3;
    vmcb.save.rflags = 1 << 16 | 2;
    assert_eq!(advance(&mut vmcb.control, &mut vmcb.save, 0x1_0000_0002), None);
    assert_eq!((vmcb.save.rip, vmcb.save.rflags, vmcb.control.interrupt_shadow), (2, 2, 2));
    assert_eq!(vmcb.control.injected(), None);
    // In long mode all 64 bits count.
    vmcb.save.efer = 1 << 10;
    vmcb.save.cs.attributes = crate::vmcb::Attributes::CODE64;
    vmcb.save.rflags = 1 << 8 | 2;
    let raised = advance(&mut vmcb.control, &mut vmcb.save, 0xffff_8000_0000_0002);
    assert_eq!(raised, Some(Raised::Delivered { aside: None }));
    assert_eq!((vmcb.save.rip, vmcb.save.dr6), (0xffff_8000_0000_0002, 1 << 14));
    assert_eq!(vmcb.control.injected(), Some(exception(1, None)));
}
