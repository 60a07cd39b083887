//! A vCPU that is switched off and on: the bare board's redistributor and distributor keep what they know (IHI 0069, 11.1), and only
//! the CPU interface is reset.

mod common;

use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{HardwareInterrupts, Physical, StillOn};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use common::*;

const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
const EVENT: ItsEventId = ItsEventId(0);

/// GICR_ISPENDR0 and GICR_ISACTIVER0 of vCPU 1.
const PENDING_1: u64 = 0x3_0200;
const ACTIVE_1: u64 = 0x3_0300;

#[test]
fn the_list_registers_of_a_vcpu_are_given_once() {
    let bench = Bench::started(config(1, vec![], 4));
    assert_eq!(bench.vgic.switch_on(V0).err(), Some(StillOn(V0)));
}

#[test]
fn a_timer_that_waits_in_a_list_register_can_come_again_after_off_and_on() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.gicr.write(V1, 0x3_0100, Width::B4, 1 << 27);
    bench.machine.set_active(Physical::Private(V1, Intid(27)), true);
    assert!(bench.vgic.hardware_ppi(V1, Intid(27)));
    bench.settle();
    assert_eq!(only(&bench, 1), Some((27, PENDING)));
    bench.restart(1, |bench| {
        let ppi = bench.machine.ppis.lock().unwrap()[&(1, 27)];
        assert!(!ppi.active, "the physical timer's interrupt would never come again");
        assert!(!ppi.pending, "its level is looked at, and is made by nobody");
    });
    assert_eq!(bench.listed(1), []);
    assert_eq!(bench.gicr.read(V1, 0x3_0100, Width::B4), 0xffff | 1 << 27, "set-up stays");
    bench.machine.set_active(Physical::Private(V1, Intid(27)), true);
    assert!(bench.vgic.hardware_ppi(V1, Intid(27)));
    bench.settle();
    assert_eq!(bench.acknowledge(1), Some(27));
}

#[test]
fn a_timer_that_the_guest_made_pending_stays_so() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.gicr.write(V1, 0x3_0100, Width::B4, 1 << 27);
    bench.gicr.write(V1, PENDING_1, Width::B4, 1 << 27);
    bench.machine.set_pending(Physical::Private(V1, Intid(27)), false);
    bench.machine.set_active(Physical::Private(V1, Intid(27)), true);
    assert!(bench.vgic.hardware_ppi(V1, Intid(27)));
    bench.settle();
    bench.restart(1, |bench| {
        let ppi = bench.machine.ppis.lock().unwrap()[&(1, 27)];
        assert!(ppi.pending && !ppi.active, "it comes again by itself");
    });
}

#[test]
fn an_active_timer_stays_active_as_does_the_physical_one() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.gicr.write(V1, 0x3_0100, Width::B4, 1 << 27);
    bench.machine.set_active(Physical::Private(V1, Intid(27)), true);
    assert!(bench.vgic.hardware_ppi(V1, Intid(27)));
    bench.settle();
    assert_eq!(bench.acknowledge(1), Some(27));
    bench.restart(1, |bench| {
        assert!(bench.machine.ppis.lock().unwrap()[&(1, 27)].active);
        assert_eq!(bench.gicr.read(V0, ACTIVE_1, Width::B4), 1 << 27);
    });
    // As an operating system does that starts a processor.
    bench.gicr.write(V1, 0x3_0380, Width::B4, 1 << 27);
    bench.cycle(1);
    assert!(!bench.machine.ppis.lock().unwrap()[&(1, 27)].active);
    assert_eq!(bench.listed(1), []);
}

#[test]
fn software_interrupts_wait_for_a_vcpu_that_is_off() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.vgic.send_sgi(V0, 3 << 24 | 2);
    bench.vgic.send_sgi(V0, 5 << 24 | 2);
    bench.settle();
    assert_eq!(bench.acknowledge(1), Some(3));
    bench.restart(1, |bench| {
        bench.vgic.send_sgi(V0, 6 << 24 | 2);
        assert_eq!(bench.gicr.read(V0, PENDING_1, Width::B4), 1 << 5 | 1 << 6);
        assert_eq!(bench.gicr.read(V0, ACTIVE_1, Width::B4), 1 << 3);
    });
    assert_eq!(bench.acknowledge(1), Some(5));
    bench.end(1);
    assert_eq!(bench.acknowledge(1), Some(6));
}

#[test]
fn a_line_that_waits_at_a_vcpu_that_goes_off_can_be_routed_away() {
    for line in [
        line(40, Some(50), Trigger::Level),
        masked_line(40, 50, Trigger::Level),
        line(40, None, Trigger::Level),
    ] {
        let mut bench = Bench::started(config(2, vec![line], 4));
        bench.enable(40);
        bench.route(40, 1);
        let raise = |bench: &mut Bench, high| match line.host {
            Some(host) => bench.machine.set_line(host, high),
            None => axvm_axdevice::InterruptLine::set_level(&*bench.vgic, axvm_addr::Irq(40), high),
        };
        raise(&mut bench, true);
        bench.settle();
        assert_eq!(only(&bench, 1), Some((40, PENDING)));
        bench.restart(1, |bench| {
            assert!(bench.is_pending(40));
            assert_eq!(bench.machine.arrived(), [], "it doesn't come again and again");
            bench.route(40, 0);
            bench.cycle(0);
            assert_eq!(bench.acknowledge(0), Some(40));
            raise(bench, false);
            bench.end(0);
            bench.cycle(0);
            assert!(!bench.is_active(40) && !bench.is_pending(40));
        });
        assert_eq!(bench.listed(1), []);
        bench.route(40, 1);
        raise(&mut bench, true);
        bench.settle();
        assert_eq!(bench.acknowledge(1), Some(40), "and comes again");
    }
}

#[test]
fn a_message_for_a_vcpu_that_is_off_waits_and_moves() {
    for in_a_list_register in [false, true] {
        let mut bench = Bench::started(config(2, vec![], 4));
        bench.start_its();
        bench.set_property(8192, PRIORITY | 1);
        let table = TABLES + 0x2000;
        for command in [
            Command::Mapc { collection: 0, target: 0, valid: true },
            Command::Mapc { collection: 1, target: 1, valid: true },
            Command::Mapd { device: DEVICE, bits: 5, table, valid: true },
            Command::Mapti { device: DEVICE, event: EVENT, lpi: 8192, collection: 1 },
        ] {
            bench.command(command.encode());
        }
        let arrive = |bench: &Bench| assert!(bench.vgic.hardware_lpi(DEVICE, EVENT));
        if in_a_list_register {
            arrive(&bench);
            bench.settle();
            assert_eq!(only(&bench, 1), Some((8192, PENDING)));
        }
        bench.restart(1, |bench| {
            if !in_a_list_register {
                arrive(bench);
            }
            bench.command(Command::Movi { device: DEVICE, event: EVENT, collection: 0 }.encode());
            bench.cycle(0);
            assert_eq!(bench.acknowledge(0), Some(8192));
            bench.end(0);
        });
        assert_eq!(bench.listed(1), []);
    }
}
