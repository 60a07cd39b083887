//! Interrupts on their way to the guest: emulated lines, SGIs and PPIs, more than list registers hold, and what the guest does to
//! them on the way.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use axvm_addr::VcpuId;
use axvm_axdevice::{InterruptLine, MmioDevice, Width};
use axvm_vgic::Intid;
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::list_register::{HCR_NPIE, HCR_TDIR, ListRegister};
use common::{Bench, PENDING, V0, V1, config, line, only};

#[test]
fn an_emulated_level_line_is_delivered_until_its_device_is_content_and_not_once_more() {
    let mut bench = Bench::started(config(1, vec![line(33, None, Trigger::Level)], 4));
    bench.enable(33);
    bench.vgic.set_level(axvm_addr::Irq(33), true);
    for _ in 0..3 {
        bench.settle();
        assert!(ListRegister(bench.cpus[0].hardware[0]).eoi());
        assert_eq!(bench.acknowledge(0), Some(33));
        bench.cycle(0);
        assert_eq!(only(&bench, 0), Some((33, (false, true))), "not pending while it is served");
        bench.end(0);
    }
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(33));
    bench.vgic.set_level(axvm_addr::Irq(33), false);
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
}

#[test]
fn a_level_that_goes_before_it_is_taken_is_not_delivered() {
    let mut bench = Bench::started(config(1, vec![line(33, None, Trigger::Level)], 4));
    bench.enable(33);
    bench.vgic.set_level(axvm_addr::Irq(33), true);
    bench.settle();
    bench.vgic.set_level(axvm_addr::Irq(33), false);
    bench.settle();
    assert_eq!(bench.listed(0), []);
}

#[test]
fn an_edge_during_the_service_of_the_same_interrupt_is_delivered_after_it() {
    let mut bench = Bench::started(config(1, vec![line(34, None, Trigger::Edge)], 4));
    bench.enable(34);
    assert!(bench.vgic.inject(V0, Intid(34)));
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(34));
    assert!(bench.vgic.inject(V0, Intid(34)));
    assert!(bench.vgic.inject(V0, Intid(34)));
    bench.settle();
    assert_eq!(only(&bench, 0), Some((34, (true, true))));
    bench.end(0);
    assert_eq!(bench.acknowledge(0), Some(34));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
}

#[test]
fn a_pending_interrupt_follows_its_route_and_an_active_one_stays() {
    let mut bench = Bench::started(config(2, vec![line(34, None, Trigger::Edge)], 4));
    bench.enable(34);
    bench.vgic.inject(V0, Intid(34));
    bench.settle();
    bench.route(34, 1);
    bench.cycle(0);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (None, Some((34, PENDING))));
    assert_eq!(bench.acknowledge(1), Some(34));
    bench.vgic.inject(V0, Intid(34));
    bench.route(34, 0);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (None, Some((34, (false, true)))));
    bench.end(1);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (Some((34, PENDING)), None));
}

#[test]
fn a_route_to_nobody_keeps_the_interrupt_pending() {
    let mut bench = Bench::started(config(2, vec![line(34, None, Trigger::Edge)], 4));
    bench.enable(34);
    bench.route(34, 0x77);
    bench.vgic.inject(V0, Intid(34));
    bench.settle();
    assert!(bench.is_pending(34));
    assert_eq!((bench.listed(0), bench.listed(1)), (vec![], vec![]));
    bench.route(34, 1);
    bench.settle();
    assert_eq!(only(&bench, 1), Some((34, PENDING)));
}

#[test]
fn another_vcpu_that_disables_an_interrupt_kicks_the_one_that_holds_it() {
    let mut bench = Bench::started(config(2, vec![line(34, None, Trigger::Edge)], 4));
    bench.enable(34);
    bench.vgic.inject(V0, Intid(34));
    bench.settle();
    bench.gicd.write(V1, 0x184, Width::B4, 1 << 2);
    assert!(bench.machine.kicked.lock().unwrap().contains(&0));
    bench.settle();
    assert_eq!(bench.listed(0), []);
    assert!(bench.is_pending(34));
}

#[test]
fn an_sgi_reaches_the_vcpus_that_are_named_and_no_other() {
    let mut bench = Bench::started(config(3, vec![], 4));
    for cpu in 0..3 {
        bench.gicr.write(VcpuId(cpu), u64::from(cpu) * 0x2_0000 + 0x1_0100, Width::B4, 0xffff);
    }
    bench.vgic.send_sgi(V0, 5 << 24 | 0b110);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (None, Some((5, PENDING))));
    assert_eq!(only(&bench, 2), Some((5, PENDING)));
    bench.acknowledge(1);
    bench.end(1);
    bench.acknowledge(2);
    bench.end(2);
    bench.vgic.send_sgi(V1, 1 << 40 | 7 << 24);
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (Some((7, PENDING)), None));
    // Affinities that nobody has, and INTIDs of others, are nothing.
    bench.vgic.send_sgi(V0, 1 << 16 | 1 << 24 | 0xffff);
    bench.settle();
    assert_eq!(only(&bench, 0), Some((7, PENDING)));
}

#[test]
fn a_timer_ppi_goes_to_the_vcpu_it_arrived_at() {
    let mut bench = Bench::started(config(2, vec![], 4));
    bench.gicr.write(V1, 0x3_0100, Width::B4, 1 << 27);
    assert!(bench.machine.ppis.lock().unwrap()[&(1, 27)].enabled);
    assert!(bench.vgic.hardware_ppi(V1, Intid(27)));
    assert!(!bench.vgic.hardware_ppi(V1, Intid(26)), "no hardware PPI");
    bench.settle();
    assert_eq!((only(&bench, 0), only(&bench, 1)), (None, Some((27, PENDING))));
    assert_eq!(ListRegister(bench.cpus[1].hardware[0]).host(), Some(Intid(27)));
}

#[test]
fn when_nothing_changes_neither_flush_nor_sync_touches_the_registers() {
    let mut bench = Bench::started(config(1, vec![line(34, None, Trigger::Edge)], 4));
    bench.enable(34);
    bench.vgic.inject(V0, Intid(34));
    bench.settle();
    bench.acknowledge(0);
    bench.cycle(0);
    for _ in 0..3 {
        bench.exit(0);
        let cpu = &mut bench.cpus[0];
        bench.vgic.flush(V0, &mut cpu.registers);
        assert_eq!(cpu.registers.to_write, 0);
        assert_eq!(cpu.registers.count, 1);
    }
}

#[test]
fn wfi_sees_what_can_be_delivered_and_a_sleeper_is_woken() {
    let mut bench = Bench::started(config(2, vec![line(34, None, Trigger::Edge)], 4));
    bench.enter(0);
    bench.enter(1);
    bench.route(34, 1);
    assert!(!bench.vgic.has_pending(V1));
    bench.vgic.inject(V0, Intid(34));
    assert!(!bench.vgic.has_pending(V1), "disabled");
    bench.machine.kicked.lock().unwrap().clear();
    bench.enable(34);
    assert!(bench.machine.kicked.lock().unwrap().contains(&1), "woken");
    assert!(bench.vgic.has_pending(V1));
    bench.enter(1);
    assert!(bench.vgic.has_pending(V1), "in a list register");
    assert!(!bench.vgic.has_pending(V0));
    bench.acknowledge(1);
    bench.exit(1);
    assert!(!bench.vgic.has_pending(V1), "active only");
}

#[test]
fn list_registers_hold_the_highest_priorities_and_the_rest_waits() {
    let lines: Vec<_> = (0..8).map(|n| line(40 + n, None, Trigger::Edge)).collect();
    let mut bench = Bench::started(config(1, lines, 4));
    for n in 0..8u32 {
        bench.gicd.write(V0, u64::from(0x400 + 40 + n), Width::B1, u64::from((8 - n) * 8));
        bench.enable(40 + n);
        bench.vgic.inject(V0, Intid(40 + n));
    }
    bench.settle();
    let listed: Vec<_> = bench.listed(0).iter().map(|l| l.0).collect();
    assert_eq!(listed, [44, 45, 46, 47]);
    assert_ne!(bench.cpus[0].hcr & HCR_NPIE, 0);
    let mut taken = Vec::new();
    while let Some(intid) = bench.acknowledge(0) {
        taken.push(intid);
        bench.end(0);
        bench.settle();
    }
    assert_eq!(taken, [47, 46, 45, 44, 43, 42, 41, 40]);
    assert_eq!(bench.cpus[0].hcr & HCR_NPIE, 0);
}

#[test]
fn nested_interrupts_beyond_the_list_registers_end_by_the_eoi_count() {
    let lines: Vec<_> = (0..5).map(|n| line(40 + n, None, Trigger::Edge)).collect();
    let mut bench = Bench::started(config(1, lines, 2));
    for n in 0..5u32 {
        bench.gicd.write(V0, u64::from(0x400 + 40 + n), Width::B1, u64::from(0x80 - n * 8));
        bench.enable(40 + n);
        // Active from elsewhere: what the guest restored, say.
        bench.gicd.write(V0, 0x304, Width::B4, 1 << (8 + n));
        bench.cpus[0].running.push((Intid(40 + n), (0x80 - n * 8) as u8));
    }
    bench.cycle(0);
    assert_eq!(bench.in_use(0), 2);
    while bench.end(0).is_some() {
        bench.settle();
    }
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    assert_eq!(bench.gicd.read(V0, 0x304, Width::B4), 0);
}

#[test]
fn a_reset_gives_physical_interrupts_back_and_forgets_everything() {
    let mut bench = Bench::started(config(2, vec![line(40, Some(50), Trigger::Level)], 4));
    bench.enable(40);
    bench.machine.set_line(Intid(50), true);
    bench.settle();
    bench.vgic.reset();
    let spi = bench.machine.spis.lock().unwrap()[&50];
    assert!(!spi.active && !spi.enabled);
    bench.cpus[0].registers = bench.vgic.switch_on(V0).unwrap();
    bench.enter(0);
    assert_eq!(bench.listed(0), []);
    assert_eq!(bench.gicd.read(V0, 0, Width::B4), 0x50);
}

#[test]
fn interrupts_of_others_are_not_accepted() {
    let bench = Bench::started(config(1, vec![line(40, Some(50), Trigger::Level)], 4));
    assert!(!bench.vgic.hardware_spi(Intid(51)));
    assert!(!bench.vgic.inject(V0, Intid(41)));
    assert!(!bench.vgic.inject(VcpuId(9), Intid(3)));
    assert!(!bench.vgic.inject(V0, Intid(9000)));
    assert!(!bench.vgic.inject(V0, Intid(40)), "a hardware line comes from hardware");
}

#[test]
fn a_vcpu_that_acts_only_when_kicked_misses_nothing_that_other_threads_do() {
    const ROUNDS: usize = 2000;
    let mut bench =
        Bench::started(config(2, vec![line(34, None, Trigger::Edge), line(35, None, Trigger::Edge)], 4));
    for intid in [34, 35] {
        bench.enable(intid);
        bench.route(intid, 1);
    }
    bench.enter(1);
    let (vgic, machine) = (bench.vgic.clone(), bench.machine.clone());
    let (taken_in, taken) = mpsc::channel();
    let guest = thread::spawn(move || {
        for _ in 0..ROUNDS {
            loop {
                if let Some(intid) = bench.acknowledge(1) {
                    bench.end(1);
                    taken_in.send(intid).unwrap();
                    break;
                }
                // It waits in the guest, or outside of it: for a kick, whatever it is.
                bench.exit(1);
                if !bench.vgic.has_pending(V1) {
                    while !machine.kicked.lock().unwrap().contains(&1) {
                        thread::yield_now();
                    }
                }
                bench.enter(1);
            }
        }
    });
    for round in 0..ROUNDS {
        let intid = 34 + (round % 2) as u32;
        assert!(vgic.inject(V0, Intid(intid)));
        assert_eq!(taken.recv_timeout(Duration::from_secs(60)), Ok(intid), "round {round}");
    }
    guest.join().unwrap();
}

/// Lines 40 and on, edges made up by software, each more urgent than the one before.
fn ever_more_urgent(count: u32, list_registers: usize) -> Bench {
    let lines: Vec<_> = (0..count).map(|n| line(40 + n, None, Trigger::Edge)).collect();
    let bench = Bench::started(config(1, lines, list_registers));
    for n in 0..count {
        bench.gicd.write(V0, u64::from(0x400 + 40 + n), Width::B1, u64::from(0x80 - n * 8));
        bench.enable(40 + n);
    }
    bench
}

#[test]
fn what_is_more_urgent_comes_though_every_list_register_could_hold_an_active_one() {
    let mut bench = ever_more_urgent(8, 2);
    for n in 0..8 {
        assert!(bench.vgic.inject(V0, Intid(40 + n)));
        bench.settle();
        assert_eq!(bench.acknowledge(0), Some(40 + n), "{n} are active");
        bench.settle();
    }
    for n in (0..8).rev() {
        assert_eq!(bench.end(0), Some(40 + n));
        bench.settle();
        bench.cycle(0);
        assert_eq!(bench.gicd.read(V0, 0x304, Width::B4), (0xff >> (8 - n)) << 8, "those before it");
    }
}

#[test]
fn what_ends_in_two_steps_ends_in_any_order() {
    let mut bench = ever_more_urgent(6, 2);
    bench.gicd.write(V0, 0x304, Width::B4, 0x3f << 8);
    bench.cycle(0);
    assert_ne!(bench.cpus[0].hcr & HCR_TDIR, 0, "the second step is trapped");
    let mut left = 0x3f00;
    for n in [1, 4, 0, 5, 3, 2] {
        bench.exit(0);
        bench.vgic.deactivate(V0, Intid(40 + n));
        bench.enter(0);
        left &= !(1 << (8 + n));
        assert_eq!(bench.gicd.read(V0, 0x304, Width::B4), left);
    }
    bench.cycle(0);
    assert_eq!(bench.cpus[0].hcr & HCR_TDIR, 0);
}
