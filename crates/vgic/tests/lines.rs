//! Physical lines on their way to the guest: linked by the hardware bit, or masked until their end.

mod common;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::Intid;
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::list_register::ListRegister;
use common::{Bench, PENDING, V0, config, line, masked_line, only};

#[test]
fn a_hardware_line_is_delivered_with_the_hardware_bit_and_its_end_deactivates_it() {
    let mut bench = Bench::started(config(2, vec![line(40, Some(50), Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    assert_eq!(ListRegister(bench.cpus[0].hardware[0]).host(), Some(Intid(50)));
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.machine.set_line(Intid(50), false);
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
    assert!(!bench.machine.spis.lock().unwrap()[&50].active);
}

#[test]
fn a_hardware_line_still_high_at_the_end_of_interrupt_comes_again() {
    let mut bench = Bench::started(config(1, vec![line(40, Some(50), Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    for _ in 0..3 {
        bench.settle();
        assert_eq!(bench.acknowledge(0), Some(40));
        bench.settle();
        assert_eq!(bench.acknowledge(0), None);
        bench.end(0);
    }
}

#[test]
fn a_hardware_line_disabled_before_the_guest_took_it_goes_back_to_the_physical_gic() {
    let mut bench = Bench::started(config(
        1,
        vec![line(40, Some(50), Trigger::Level), line(41, Some(51), Trigger::Edge)],
        4,
    ));
    bench.enable(40);
    bench.enable(41);
    bench.machine.set_line(Intid(50), true);
    bench.machine.set_line(Intid(51), true);
    bench.settle();
    bench.disable(40);
    bench.disable(41);
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    // The device is quiet again before the line is enabled: nothing is left of the level, the edge is kept.
    bench.machine.set_line(Intid(50), false);
    bench.machine.set_line(Intid(51), false);
    bench.enable(40);
    bench.enable(41);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((41, PENDING)));
}

#[test]
fn a_hardware_line_whose_pending_state_is_cleared_can_come_again() {
    let mut bench = Bench::started(config(1, vec![line(40, Some(50), Trigger::Edge)], 4));
    bench.enable(40);
    for _ in 0..2 {
        bench.machine.set_line(Intid(50), true);
        bench.machine.set_line(Intid(50), false);
        bench.settle();
        assert_eq!(only(&bench, 0), Some((40, PENDING)));
        bench.clear_pending(40);
        bench.cycle(0);
        assert_eq!(bench.listed(0), []);
    }
}

/// What anyone with HCR_EL2.IMO = 0 can do to the line of anyone: ICC_EOIR1_EL1 with its number.
fn foreign_end(bench: &Bench, host: u32) {
    bench.machine.deactivate(VcpuId(9), Intid(host));
}

#[test]
fn a_masked_line_is_off_and_inactive_while_it_is_served_and_on_again_after_its_end() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    for _ in 0..3 {
        bench.machine.set_line(Intid(50), true);
        bench.settle();
        let lr = ListRegister(bench.cpus[0].hardware[0]);
        assert!(lr.host().is_none() && lr.eoi());
        for taken in [false, true] {
            let spi = bench.machine.spis.lock().unwrap()[&50];
            assert_eq!((spi.enabled, spi.active), (false, false), "taken: {taken}");
            if !taken {
                assert_eq!(bench.acknowledge(0), Some(40));
                bench.settle();
            }
        }
        bench.machine.set_line(Intid(50), false);
        bench.end(0);
        bench.settle();
        assert_eq!(bench.listed(0), []);
        let spi = bench.machine.spis.lock().unwrap()[&50];
        assert_eq!((spi.enabled, spi.active), (true, false));
    }
}

#[test]
fn a_masked_line_still_high_at_the_end_of_interrupt_comes_again() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    for _ in 0..3 {
        bench.settle();
        assert_eq!(bench.acknowledge(0), Some(40));
        bench.settle();
        assert_eq!(bench.acknowledge(0), None);
        bench.end(0);
    }
}

#[test]
fn an_edge_of_a_masked_line_during_its_service_is_delivered_after_it() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Edge)], 4));
    bench.enable(40);
    let edge = |bench: &Bench| {
        bench.machine.set_line(Intid(50), true);
        bench.machine.set_line(Intid(50), false);
    };
    edge(&bench);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    edge(&bench);
    edge(&bench);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((40, (false, true))));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
}

#[test]
fn a_foreign_end_brings_a_line_with_the_hardware_bit_again_and_again_and_a_masked_one_never() {
    for (line, arrives) in
        [(line(40, Some(50), Trigger::Level), true), (masked_line(40, 50, Trigger::Level), false)]
    {
        let mut bench = Bench::started(config(1, vec![line], 4));
        bench.enable(40);
        bench.machine.set_line(Intid(50), true);
        bench.settle();
        assert_eq!(bench.acknowledge(0), Some(40));
        for _ in 0..3 {
            foreign_end(&bench, 50);
            let arrived = bench.machine.arrived();
            assert_eq!(!arrived.is_empty(), arrives);
            for host in arrived {
                assert!(bench.vgic.hardware_spi(host));
            }
        }
    }
}

#[test]
fn a_foreign_end_before_a_line_is_masked_does_not_bring_its_level_twice() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    assert_eq!(bench.machine.arrived(), [Intid(50)]);
    foreign_end(&bench, 50);
    assert_eq!(bench.machine.arrived(), [Intid(50)], "acknowledged a second time");
    assert!(bench.vgic.hardware_spi(Intid(50)));
    assert!(bench.vgic.hardware_spi(Intid(50)));
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.machine.set_line(Intid(50), false);
    bench.end(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), None);
    assert!(bench.machine.spis.lock().unwrap()[&50].enabled);
}

#[test]
fn a_masked_line_that_the_guest_disables_stays_off_after_its_end_until_it_is_enabled() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.disable(40);
    bench.end(0);
    bench.settle();
    assert!(!bench.machine.spis.lock().unwrap()[&50].enabled);
    bench.enable(40);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((40, PENDING)));
}

#[test]
fn a_masked_line_set_up_anew_while_it_is_served_stays_off_until_its_end() {
    let mut bench = Bench::started(config(2, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.route(40, 1);
    bench.disable(40);
    bench.enable(40);
    bench.settle();
    assert!(!bench.machine.spis.lock().unwrap()[&50].enabled);
    bench.end(0);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (None, Some((40, PENDING))));
    // To nobody: it is on again only when it goes to somebody.
    assert_eq!(bench.acknowledge(1), Some(40));
    bench.route(40, 0x77);
    bench.end(1);
    bench.cycle(1);
    bench.settle();
    assert!(!bench.machine.spis.lock().unwrap()[&50].enabled);
    bench.route(40, 0);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((40, PENDING)));
}

#[test]
fn a_masked_line_made_active_by_the_guest_is_off_until_the_guest_ends_that() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.gicd.write(V0, 0x304, Width::B4, 1 << 8);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    assert_eq!(bench.acknowledge(0), None);
    bench.gicd.write(V0, 0x384, Width::B4, 1 << 8);
    bench.cycle(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(40));
}

#[test]
fn after_a_reset_a_masked_line_can_come_again() {
    let mut bench = Bench::started(config(1, vec![masked_line(40, 50, Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    bench.vgic.reset();
    assert!(!bench.machine.spis.lock().unwrap()[&50].enabled);
    bench.cpus[0].registers = bench.vgic.switch_on(V0).unwrap();
    bench.gicd.write(V0, 0, Width::B4, 0x13);
    bench.enable(40);
    bench.enter(0);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((40, PENDING)));
}

#[test]
fn a_physical_line_that_the_guest_made_pending_is_neither_lost_nor_doubled() {
    let mut bench = Bench::started(config(2, vec![line(40, Some(50), Trigger::Level)], 4));
    // By vCPU 0, which is out of the guest for that.
    let pend = |bench: &mut Bench| {
        bench.gicd.write(V0, 0x204, Width::B4, 1 << 8);
        bench.cycle(0);
        bench.settle();
    };
    // While it is disabled, and disabled again when it has arrived: no level is behind it.
    pend(&mut bench);
    assert!(bench.is_pending(40));
    bench.enable(40);
    bench.settle();
    bench.disable(40);
    bench.cycle(0);
    bench.settle();
    assert!(bench.is_pending(40));
    bench.enable(40);
    bench.settle();
    // Twice before it is taken: once.
    pend(&mut bench);
    assert_eq!(bench.acknowledge(0), Some(40));
    bench.cycle(0);
    assert!(!bench.is_pending(40));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), None);
    // On another vCPU, which has taken it before without that anyone knows: once more.
    bench.route(40, 1);
    bench.cycle(0);
    pend(&mut bench);
    bench.cycle(1);
    assert_eq!(bench.acknowledge(1), Some(40));
    pend(&mut bench);
    bench.end(1);
    bench.settle();
    bench.cycle(1);
    assert_eq!(bench.acknowledge(1), Some(40));
    bench.end(1);
    bench.settle();
    assert_eq!(bench.acknowledge(1), None);
}
