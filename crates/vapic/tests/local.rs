//! The local APIC, by the manuals (AMD64 APM 2, 16; Intel SDM 3, 12).

use axvm_vapic::spec::{VERSION, offset};
use axvm_vapic::{Delivery, Destination, Ipi, LocalApic, Mode, Refused, Signal, Target, Written};

const BASE: u64 = 0xfee0_0000;
const BOOT: u64 = 1 << 8;
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;

/// Enabled, in xAPIC mode.
fn xapic() -> LocalApic {
    let mut apic = LocalApic::new(3, BASE, false, true);
    write(&mut apic, offset::SVR, 0x1ff);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, BASE, false, true);
    apic.set_base(BASE | ENABLED | X2APIC).unwrap();
    msr(&mut apic, offset::SVR, 0x1ff).unwrap();
    apic
}

fn write(apic: &mut LocalApic, register: u16, value: u32) -> Written {
    apic.write_page(register.into(), value, 0)
}

fn read(apic: &mut LocalApic, register: u16) -> u32 {
    apic.read_page(register.into(), 0)
}

fn msr(apic: &mut LocalApic, register: u16, value: u64) -> Result<Written, Refused> {
    apic.write_msr(0x800 + u32::from(register >> 4), value, 0)
}

#[test]
fn after_reset_it_is_off_by_software_and_masked() {
    let mut apic = LocalApic::new(3, BASE, true, true);
    assert_eq!(apic.base(), BASE | BOOT | ENABLED);
    let expected = [
        (offset::ID, 3 << 24),
        (offset::VERSION, VERSION),
        (offset::TPR, 0),
        (offset::LDR, 0),
        (offset::DFR, u32::MAX),
        (offset::SVR, 0xff),
        (offset::LVT_TIMER, 0x1_0000),
        (offset::LVT_LINT0, 0x1_0000),
        (offset::LVT_ERROR, 0x1_0000),
        (offset::CURRENT_COUNT, 0),
    ];
    for (register, value) in expected {
        assert_eq!(read(&mut apic, register), value, "{register:#x}");
    }
    assert!(!apic.request(0x41, false), "nothing is accepted");
    write(&mut apic, offset::LVT_TIMER, 0x41);
    assert_eq!(read(&mut apic, offset::LVT_TIMER), 0x1_0041, "entries stay masked");
    write(&mut apic, offset::SVR, 0x1ff);
    write(&mut apic, offset::LVT_TIMER, 0x41);
    assert_eq!(read(&mut apic, offset::LVT_TIMER), 0x41);
    // INIT does all of it again, but for the id and the mode.
    apic.request(0x41, false);
    apic.reset();
    assert_eq!((apic.next(), read(&mut apic, offset::SVR), apic.id()), (None, 0xff, 3));
}

#[test]
fn the_highest_comes_first_and_waits_for_what_is_in_service() {
    let mut apic = xapic();
    for vector in [0x41, 0x52, 0x55, 0x31] {
        assert!(apic.request(vector, false));
    }
    assert_eq!(apic.take(), Some(0x55));
    assert_eq!(read(&mut apic, offset::ISR + 0x20), 1 << 0x15);
    assert_eq!(read(&mut apic, offset::IRR + 0x20), 1 << 1 | 1 << 0x12);
    assert_eq!(read(&mut apic, offset::PPR), 0x50);
    assert_eq!(apic.next(), None, "0x52 is of the same class");
    apic.set_tpr(0x51);
    assert_eq!(apic.ppr(), 0x51, "in one class the task's counts");
    apic.set_tpr(0);
    assert!(apic.request(0x61, false));
    assert_eq!(apic.take(), Some(0x61), "a higher class preempts");
    assert_eq!(write(&mut apic, offset::EOI, 0), Written::Look);
    assert_eq!((apic.next(), read(&mut apic, offset::PPR)), (None, 0x50));
    write(&mut apic, offset::EOI, 0);
    assert_eq!(apic.take(), Some(0x52));
    write(&mut apic, offset::EOI, 0);
    // The task's priority holds back its class and those below.
    write(&mut apic, offset::TPR, 0x4f);
    assert_eq!((apic.next(), apic.highest_request(), apic.ppr()), (None, Some(0x41), 0x4f));
    apic.set_tpr(0x3f);
    assert_eq!(apic.take(), Some(0x41));
    write(&mut apic, offset::EOI, 0);
    assert_eq!((apic.next(), apic.ppr()), (None, 0x3f));
    apic.set_tpr(0x20);
    assert_eq!(apic.take(), Some(0x31));
    assert_eq!(write(&mut apic, offset::EOI, 0), Written::Look);
    assert_eq!(write(&mut apic, offset::EOI, 0), Written::Nothing, "none is in service");
}

/// A request that comes while its vector is in service waits as one more; more of them are one.
#[test]
fn requests_of_one_vector_merge() {
    let mut apic = xapic();
    apic.request(0x41, false);
    apic.request(0x41, false);
    assert_eq!(apic.take(), Some(0x41));
    apic.request(0x41, false);
    assert_eq!(apic.next(), None);
    write(&mut apic, offset::EOI, 0);
    assert_eq!(apic.take(), Some(0x41));
    write(&mut apic, offset::EOI, 0);
    assert_eq!(apic.take(), None);
}

#[test]
fn the_end_of_a_level_is_told() {
    let mut apic = xapic();
    apic.request(0x41, true);
    apic.request(0x31, false);
    assert_eq!(read(&mut apic, offset::TMR + 0x20), 1 << 1);
    apic.take();
    assert_eq!(write(&mut apic, offset::EOI, 7), Written::Ended { vector: 0x41 });
    apic.take();
    assert_eq!(write(&mut apic, offset::EOI, 0), Written::Look);
    // The same vector by its edge the next time.
    apic.request(0x41, false);
    apic.take();
    assert_eq!(write(&mut apic, offset::EOI, 0), Written::Look);
}

#[test]
fn turned_off_by_software_it_masks_its_entries_and_holds_what_it_has() {
    let mut apic = xapic();
    write(&mut apic, offset::LVT_LINT0, 0x700);
    assert!(apic.takes_external() && !apic.takes_nmi());
    write(&mut apic, offset::LVT_LINT1, 0x400);
    assert!(apic.takes_nmi());
    apic.request(0x41, false);
    write(&mut apic, offset::SVR, 0xff);
    assert_eq!((apic.next(), read(&mut apic, offset::LVT_LINT0)), (None, 0x1_0700));
    assert!(!apic.takes_external() && !apic.takes_nmi());
    write(&mut apic, offset::SVR, 0x1ff);
    assert_eq!(apic.take(), Some(0x41));
}

#[test]
fn ipis_say_whom_they_are_for() {
    let mut apic = xapic();
    let mut send = |high: u32, low: u32| {
        write(&mut apic, offset::ICR_HIGH, high);
        let sent = write(&mut apic, offset::ICR, low);
        assert_eq!(read(&mut apic, offset::ICR), low & !(1 << 12), "it is sent at once");
        sent
    };
    let vector = |vector| Signal::Vector { vector, level: false };
    let named = |id, logical, delivery, signal| {
        let destination = Destination { id, logical, narrow: true };
        Written::Send(Ipi { target: Target::Named(destination, delivery), signal })
    };
    assert_eq!(send(2 << 24, 0x41), named(2, false, Delivery::All, vector(0x41)));
    assert_eq!(send(3 << 24, 0x941), named(3, true, Delivery::Lowest, vector(0x41)));
    assert_eq!(send(1 << 24, 0x4400), named(1, false, Delivery::All, Signal::Nmi));
    assert_eq!(send(1 << 24, 0xc500), named(1, false, Delivery::All, Signal::Init));
    assert_eq!(send(1 << 24, 0x8500), Written::Nothing, "the end of its level");
    assert_eq!(send(1 << 24, 0x4699), named(1, false, Delivery::All, Signal::Startup { page: 0x99 }));
    let short = |target, signal| Written::Send(Ipi { target, signal });
    assert_eq!(send(0, 0x4_0041), short(Target::Own, vector(0x41)));
    assert_eq!(send(0, 0x8_0041), short(Target::All, vector(0x41)));
    assert_eq!(send(0, 0xc_0041), short(Target::Others, vector(0x41)));
    assert_eq!(send(0, 0xc_4500), short(Target::Others, Signal::Init));
    // An SMI, a kind that there isn't, the 8259's, and to oneself what has no vector.
    for low in [0x200, 0x300, 0x700, 0x4_0400, 0x8_0500, 0x4_0141] {
        assert_eq!(send(0, low), Written::NotServed, "{low:#x}");
    }
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let mut apic = xapic();
    write(&mut apic, offset::LVT_ERROR, 0x77);
    assert_eq!(write(&mut apic, offset::ICR, 0x0f), Written::Look);
    assert_eq!(apic.take(), Some(0x77));
    write(&mut apic, offset::EOI, 0);
    assert_eq!(read(&mut apic, offset::ESR), 0, "it is shown once it is written");
    write(&mut apic, offset::ESR, 0);
    assert_eq!(read(&mut apic, offset::ESR), 1 << 5);
    assert!(!apic.request(0x0f, false));
    for at in [0x40, 0x108, 0x24, 0x3b0, 0x400, 0x1000, u64::MAX, offset::SELF_IPI.into()] {
        assert_eq!(apic.read_page(at, 0), 0);
        apic.write_page(at, 1, 0);
    }
    write(&mut apic, offset::ESR, 0);
    assert_eq!(read(&mut apic, offset::ESR), 1 << 6 | 1 << 7);
    write(&mut apic, offset::ESR, 0);
    assert_eq!(read(&mut apic, offset::ESR), 0);
    // What can be read only is no error, and stays.
    for register in [offset::ID, offset::VERSION, offset::PPR, offset::IRR, offset::CURRENT_COUNT] {
        let before = read(&mut apic, register);
        write(&mut apic, register, 0x1234_5678);
        assert_eq!(read(&mut apic, register), before, "{register:#x}");
    }
    write(&mut apic, offset::ESR, 0);
    assert_eq!(read(&mut apic, offset::ESR), 0);
    // An error whose own vector is illegal makes no more of them.
    write(&mut apic, offset::LVT_ERROR, 0x05);
    write(&mut apic, offset::ICR, 0x0f);
    write(&mut apic, offset::ESR, 0);
    assert_eq!(read(&mut apic, offset::ESR), 1 << 5);
}

#[test]
fn modes_follow_each_other() {
    let mut apic = LocalApic::new(0x123, BASE, true, true);
    let off = BASE;
    let x = BASE | ENABLED;
    let x2 = x | X2APIC;
    assert_eq!(apic.mode(), Mode::XApic);
    // Moved, reserved bits, EXTD without AE.
    for value in [x + 0x1000, x | 1, x | 1 << 9, x | 1 << 52, off | X2APIC] {
        assert_eq!(apic.set_base(value), Err(Refused), "{value:#x}");
    }
    assert_eq!(apic.base(), x | BOOT);
    apic.set_base(x2).unwrap();
    assert_eq!((apic.mode(), apic.base()), (Mode::X2Apic, x2 | BOOT), "who boots is read only");
    assert_eq!(apic.set_base(x), Err(Refused), "from x2APIC only off");
    msr(&mut apic, offset::SVR, 0x1ff).unwrap();
    apic.request(0x41, false);
    apic.set_base(off).unwrap();
    assert_eq!((apic.mode(), apic.takes_external(), apic.request(0x41, false)), (Mode::Off, true, false));
    assert_eq!(apic.set_base(x2), Err(Refused), "from off only xAPIC");
    apic.set_base(x).unwrap();
    assert_eq!(apic.next(), None, "turned off it has lost all");
    assert_eq!(read(&mut apic, offset::SVR), 0xff);
    let mut without = LocalApic::new(1, BASE, false, false);
    assert_eq!(without.set_base(x2), Err(Refused));
}

#[test]
fn x2apic_has_msrs_and_faults() {
    let mut apic = x2apic(0x123);
    let get = |apic: &LocalApic, register: u16| apic.read_msr(0x800 + u32::from(register >> 4), 0);
    assert_eq!(get(&apic, offset::ID), Ok(0x123));
    assert_eq!(get(&apic, offset::LDR), Ok(0x12_0008), "cluster 0x12, the fourth");
    assert_eq!(get(&apic, offset::VERSION), Ok(VERSION.into()));
    for register in [offset::APR, offset::DFR, offset::ICR_HIGH, offset::EOI, offset::SELF_IPI, 0x040, 0x3b0]
    {
        assert_eq!(get(&apic, register), Err(Refused), "{register:#x}");
    }
    for (register, value) in [
        (offset::ID, 1),
        (offset::LDR, 1),
        (offset::VERSION, 1),
        (offset::IRR, 1),
        (offset::TPR, 0x100),
        (offset::EOI, 1),
        (offset::ESR, 1),
        (offset::SVR, 0x400),
        (offset::ICR, 1 << 12),
        (offset::LVT_TIMER, 1 << 12),
        (offset::LVT_ERROR, 1 << 8),
        (offset::SELF_IPI, 0x100),
        (offset::DIVIDE, 4),
        (offset::INITIAL_COUNT, 1 << 32),
        (offset::CURRENT_COUNT, 0),
    ] {
        assert_eq!(msr(&mut apic, register, value), Err(Refused), "{register:#x}");
    }
    assert_eq!(apic.read_msr(0x7ff, 0), Err(Refused));
    assert_eq!(apic.read_msr(0x840, 0), Err(Refused));
    let vector = Signal::Vector { vector: 0x41, level: false };
    let destination = Destination { id: 0x1_0002, logical: true, narrow: false };
    let sent = Written::Send(Ipi { target: Target::Named(destination, Delivery::All), signal: vector });
    assert_eq!(msr(&mut apic, offset::ICR, 0x0001_0002_0000_0841), Ok(sent));
    assert_eq!(get(&apic, offset::ICR), Ok(0x0001_0002_0000_0841));
    let own = Written::Send(Ipi { target: Target::Own, signal: vector });
    assert_eq!(msr(&mut apic, offset::SELF_IPI, 0x41), Ok(own));
    assert_eq!(msr(&mut apic, offset::SELF_IPI, 0x0f), Ok(Written::Look), "an illegal vector");
    apic.request(0x41, true);
    apic.take();
    assert_eq!(msr(&mut apic, offset::EOI, 0), Ok(Written::Ended { vector: 0x41 }));
    // The page isn't there, and in xAPIC mode the MSRs aren't.
    assert_eq!(apic.read_page(offset::VERSION.into(), 0), 0);
    assert_eq!(xapic().read_msr(0x803, 0), Err(Refused));
    assert_eq!(msr(&mut xapic(), offset::TPR, 0), Err(Refused));
}

#[test]
fn destinations_name_apics() {
    let of = |id, logical, narrow| Destination { id, logical, narrow };
    // Physical.
    let mut apic = xapic();
    assert!(apic.is_named(of(3, false, true)) && !apic.is_named(of(2, false, true)));
    assert!(apic.is_named(of(0xff, false, true)) && apic.is_named(of(u32::MAX, false, false)));
    assert!(!apic.is_named(of(0x103, false, false)), "ids aren't cut");
    // Flat: a bit each.
    write(&mut apic, offset::LDR, 0x0400_0000);
    assert_eq!(read(&mut apic, offset::LDR), 0x0400_0000);
    assert!(apic.is_named(of(0x06, true, true)) && !apic.is_named(of(0x03, true, true)));
    assert!(apic.is_named(of(0xff, true, true)) && !apic.is_named(of(0x106, true, false)));
    // Clusters.
    write(&mut apic, offset::DFR, 0);
    assert_eq!(read(&mut apic, offset::DFR), 0x0fff_ffff);
    write(&mut apic, offset::LDR, 0x2100_0000);
    assert!(apic.is_named(of(0x23, true, true)) && apic.is_named(of(0xf1, true, true)));
    assert!(!apic.is_named(of(0x22, true, true)) && !apic.is_named(of(0x31, true, true)));
    // x2APIC: clusters of 16.
    let apic = x2apic(0x123);
    assert!(apic.is_named(of(0x123, false, false)) && !apic.is_named(of(0x23, false, true)));
    assert!(apic.is_named(of(0x12_0009, true, false)) && !apic.is_named(of(0x12_0007, true, false)));
    assert!(!apic.is_named(of(0x11_0008, true, false)));
    assert!(apic.is_named(of(0xff, false, true)) && apic.is_named(of(u32::MAX, true, false)));
    assert!(!apic.is_named(of(0xff, false, false)), "with 32 bits that is an id");
    let mut off = xapic();
    off.set_base(BASE).unwrap();
    assert!(!off.is_named(of(0xff, false, true)));
}

/// Divisors, in their odd encoding (APM 2, 16.4.1).
#[test]
fn the_timer_counts_down() {
    for (divide, by) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128), (0xb, 1)] {
        let mut apic = xapic();
        write(&mut apic, offset::LVT_TIMER, 0x41);
        write(&mut apic, offset::DIVIDE, divide);
        assert_eq!(read(&mut apic, offset::DIVIDE), divide);
        apic.write_page(offset::INITIAL_COUNT.into(), 100, 1000);
        assert_eq!(apic.deadline(), Some(1000 + 100 * by));
        let count = |apic: &mut LocalApic, now| apic.read_page(offset::CURRENT_COUNT.into(), now);
        assert_eq!(count(&mut apic, 1000), 100);
        assert_eq!(count(&mut apic, 1000 + 30 * by), 70);
        apic.expire(1000 + 100 * by - 1);
        assert_eq!(apic.next(), None);
        apic.expire(1000 + 100 * by);
        assert_eq!((apic.take(), apic.deadline(), count(&mut apic, 9999)), (Some(0x41), None, 0));
        apic.expire(u64::MAX);
        assert_eq!(apic.highest_request(), None, "once");
    }
}

#[test]
fn a_periodic_timer_begins_again() {
    let mut apic = xapic();
    write(&mut apic, offset::DIVIDE, 0xb);
    write(&mut apic, offset::LVT_TIMER, 1 << 17 | 0x41);
    apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
    apic.expire(100);
    assert_eq!((apic.take(), apic.deadline()), (Some(0x41), Some(200)));
    write(&mut apic, offset::EOI, 0);
    // Ends that nobody has looked at are one, and it stays in step.
    apic.expire(555);
    assert_eq!((apic.take(), apic.deadline()), (Some(0x41), Some(600)));
    assert_eq!(apic.read_page(offset::CURRENT_COUNT.into(), 555), 45);
    write(&mut apic, offset::EOI, 0);
    // Masked it goes on without interrupts.
    write(&mut apic, offset::LVT_TIMER, 1 << 17 | 1 << 16 | 0x41);
    assert_eq!(apic.deadline(), None);
    apic.expire(650);
    assert_eq!(apic.highest_request(), None);
    write(&mut apic, offset::LVT_TIMER, 1 << 17 | 0x41);
    assert_eq!(apic.deadline(), Some(700));
    // Zero stops it.
    apic.write_page(offset::INITIAL_COUNT.into(), 0, 660);
    assert_eq!(apic.deadline(), None);
}

/// What ends while it is masked makes no interrupt, also if nobody looked meanwhile.
#[test]
fn a_timer_that_has_ended_masked_is_over() {
    for (mode, svr) in [(0, false), (2 << 17, false), (0, true)] {
        let mut apic = xapic();
        write(&mut apic, offset::DIVIDE, 0xb);
        write(&mut apic, offset::LVT_TIMER, mode | 0x41);
        apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
        apic.set_tsc_deadline(100);
        if svr {
            // Turned off by software all entries are masked.
            write(&mut apic, offset::SVR, 0xff);
            apic.write_page(offset::SVR.into(), 0x1ff, 200);
        } else {
            write(&mut apic, offset::LVT_TIMER, mode | 1 << 16 | 0x41);
        }
        apic.write_page(offset::LVT_TIMER.into(), mode | 0x41, 200);
        apic.expire(300);
        assert_eq!((apic.highest_request(), apic.deadline()), (None, None), "{mode:#x} {svr}");
    }
}

/// Another divisor changes the speed and not the count.
#[test]
fn a_divisor_changes_the_speed_of_what_is_under_way() {
    let mut apic = xapic();
    write(&mut apic, offset::DIVIDE, 0xb);
    write(&mut apic, offset::LVT_TIMER, 0x41);
    apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
    apic.write_page(offset::DIVIDE.into(), 0, 40);
    assert_eq!(apic.read_page(offset::CURRENT_COUNT.into(), 40), 60);
    assert_eq!(apic.read_page(offset::CURRENT_COUNT.into(), 60), 50);
}

#[test]
fn a_deadline_is_of_the_time_stamp_counter() {
    let mut apic = xapic();
    apic.set_tsc_deadline(5000);
    assert_eq!((apic.tsc_deadline(), apic.deadline()), (0, None), "in another mode it is ignored");
    apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
    write(&mut apic, offset::LVT_TIMER, 2 << 17 | 0x41);
    assert_eq!(apic.deadline(), None, "what was under way is disarmed");
    apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
    assert_eq!(read(&mut apic, offset::INITIAL_COUNT), 0, "ignored");
    apic.set_tsc_deadline(5000);
    assert_eq!(apic.deadline(), Some(5000));
    apic.expire(4999);
    assert_eq!(apic.next(), None);
    apic.expire(5000);
    assert_eq!((apic.take(), apic.tsc_deadline(), apic.deadline()), (Some(0x41), 0, None));
    apic.set_tsc_deadline(6000);
    write(&mut apic, offset::LVT_TIMER, 0x41);
    assert_eq!((apic.tsc_deadline(), apic.deadline()), (0, None));
    write(&mut apic, offset::LVT_TIMER, 3 << 17 | 0x41);
    apic.write_page(offset::INITIAL_COUNT.into(), 100, 0);
    assert_eq!(apic.deadline(), None, "a mode that there isn't");
}
