//! Any mixture of what devices, guests and the hypervisor do: every interrupt is taken as often as it should
//! be, where it should be.

mod common;

use axvm_addr::VcpuId;
use axvm_axdevice::{InterruptLine, MmioDevice, Width};
use axvm_vgic::Intid;
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::list_register::{HCR_NPIE, ListRegister};
use common::{Bench, V0, config, line, masked_line};
use proptest::prelude::*;

const VCPUS: usize = 3;
const SOFTWARE_EDGES: core::ops::Range<u32> = 40..46;
const SOFTWARE_LEVELS: core::ops::Range<u32> = 46..49;
/// Their physical lines are 100 higher.
const HARDWARE_LEVELS: core::ops::Range<u32> = 49..51;
const HARDWARE_EDGES: core::ops::Range<u32> = 51..53;
/// The same, masked until their end.
const MASKED_LEVELS: core::ops::Range<u32> = 53..55;
const MASKED_EDGES: core::ops::Range<u32> = 55..57;
const ALL: core::ops::Range<u32> = 40..57;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The device behind the interrupt wants service.
    Raise(u32),
    /// It no longer does.
    Lower(u32),
    Enable(u32),
    Disable(u32),
    Clear(u32),
    /// Another VM ends the active state of the physical line.
    ForeignEnd(u32),
    Route(u32, u64),
    Priority(u32, u8),
    Groups(bool),
    Acknowledge(usize),
    End(usize),
    Cycle(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let cpu = 0..VCPUS;
    prop_oneof![
        6 => ALL.prop_map(Op::Raise),
        2 => ALL.prop_map(Op::Lower),
        2 => ALL.prop_map(Op::Enable),
        1 => ALL.prop_map(Op::Disable),
        1 => ALL.prop_map(Op::Clear),
        2 => (MASKED_LEVELS.start..MASKED_EDGES.end).prop_map(Op::ForeignEnd),
        2 => (ALL, 0u64..4).prop_map(|(intid, vcpu)| Op::Route(intid, vcpu)),
        2 => (ALL, any::<u8>()).prop_map(|(intid, priority)| Op::Priority(intid, priority)),
        1 => any::<bool>().prop_map(Op::Groups),
        6 => cpu.clone().prop_map(Op::Acknowledge),
        5 => cpu.clone().prop_map(Op::End),
        2 => cpu.prop_map(Op::Cycle),
    ]
}

/// What a guest may expect of one interrupt.
#[derive(Clone, Copy, Default)]
struct Expected {
    enabled: bool,
    route: u64,
    level: bool,
    /// For edges that software makes up: one is on its way.
    pending: bool,
}

fn is_hardware_edge(intid: u32) -> bool {
    HARDWARE_EDGES.contains(&intid) || MASKED_EDGES.contains(&intid)
}

struct Run {
    bench: Bench,
    expected: Vec<Expected>,
    groups: bool,
}

impl Run {
    fn new(list_registers: usize) -> Self {
        let lines = ALL
            .map(|intid| {
                let trigger = match SOFTWARE_EDGES.contains(&intid) || is_hardware_edge(intid) {
                    true => Trigger::Edge,
                    false => Trigger::Level,
                };
                if intid >= MASKED_LEVELS.start {
                    return masked_line(intid, intid + 100, trigger);
                }
                line(intid, (intid >= HARDWARE_LEVELS.start).then_some(intid + 100), trigger)
            })
            .collect();
        let mut bench = Bench::started(config(VCPUS as u64, lines, list_registers));
        for cpu in 0..VCPUS {
            bench.enter(cpu);
        }
        Self { bench, expected: vec![Expected::default(); ALL.len()], groups: true }
    }

    fn expected(&mut self, intid: u32) -> &mut Expected {
        &mut self.expected[(intid - ALL.start) as usize]
    }

    /// Whether it was done by the fast path.
    fn raise(&mut self, intid: u32) -> bool {
        self.expected(intid).level = true;
        if SOFTWARE_EDGES.contains(&intid) {
            self.expected(intid).pending = true;
            if self.bench.fast {
                return self.bench.pend(intid);
            }
            assert!(self.bench.vgic.inject(V0, Intid(intid)));
        } else if SOFTWARE_LEVELS.contains(&intid) {
            self.bench.vgic.set_level(axvm_addr::Irq(intid), true);
        } else {
            self.bench.machine.set_line(Intid(intid + 100), true);
        }
        false
    }

    fn lower(&mut self, intid: u32) {
        self.expected(intid).level = false;
        if SOFTWARE_LEVELS.contains(&intid) {
            self.bench.vgic.set_level(axvm_addr::Irq(intid), false);
        } else if intid >= HARDWARE_LEVELS.start {
            self.bench.machine.set_line(Intid(intid + 100), false);
        }
    }

    /// A guest takes an interrupt: is it one that it may find here?
    fn acknowledge(&mut self, cpu: usize) -> Option<u32> {
        let intid = self.bench.acknowledge(cpu)?;
        let groups = self.groups;
        let expected = self.expected(intid);
        assert!(groups && expected.enabled, "{intid} is disabled");
        assert_eq!(expected.route, cpu as u64, "{intid} is routed elsewhere");
        if SOFTWARE_EDGES.contains(&intid) {
            assert!(core::mem::take(&mut expected.pending), "{intid} was taken twice");
        }
        if SOFTWARE_LEVELS.contains(&intid) {
            assert!(expected.level, "{intid} has a low line");
        }
        Some(intid)
    }

    fn apply(&mut self, op: Op) {
        let mut fast = false;
        match op {
            Op::Raise(intid) => fast = self.raise(intid),
            Op::Lower(intid) => self.lower(intid),
            Op::Enable(intid) => {
                self.expected(intid).enabled = true;
                fast = self.bench.switch(intid, true);
            }
            Op::Disable(intid) => {
                self.expected(intid).enabled = false;
                fast = self.bench.switch(intid, false);
            }
            Op::Clear(intid) => {
                self.expected(intid).pending = false;
                self.bench.clear_pending(intid);
            }
            Op::ForeignEnd(intid) => self.bench.machine.deactivate(V0, Intid(intid + 100)),
            Op::Route(intid, vcpu) => {
                self.expected(intid).route = vcpu;
                self.bench.route(intid, vcpu);
            }
            Op::Priority(intid, priority) => {
                // Never the idle priority: that one is masked on every CPU.
                let value = u64::from(priority & 0x7f);
                self.bench.gicd.write(V0, u64::from(0x400 + intid), Width::B1, value);
            }
            Op::Groups(on) => {
                self.groups = on;
                self.bench.gicd.write(V0, 0, Width::B4, if on { 0x12 } else { 0x10 });
            }
            Op::Acknowledge(cpu) => {
                self.acknowledge(cpu);
            }
            Op::End(cpu) => {
                self.bench.end(cpu);
            }
            Op::Cycle(cpu) => self.bench.cycle(cpu),
        }
        // Registers are written by vCPU 0, which is out of the guest for that, but where the fast path answers.
        if !fast {
            self.bench.cycle(0);
        }
        self.bench.settle();
    }

    fn check(&self) {
        let mut seen = Vec::new();
        for cpu in 0..VCPUS {
            let listed = self.bench.listed(cpu);
            seen.extend(listed.iter().map(|l| l.0));
            for (intid, expected) in ALL.zip(&self.expected) {
                let software = SOFTWARE_EDGES.contains(&intid) && expected.pending
                    || SOFTWARE_LEVELS.contains(&intid) && expected.level;
                let here = expected.enabled && self.groups && expected.route == cpu as u64;
                if software && here && !(0..VCPUS).any(|c| self.is_running(c, intid)) {
                    let waits = self.bench.cpus[cpu].hcr & HCR_NPIE != 0;
                    assert!(
                        waits || listed.iter().any(|(i, pending, _)| *i == intid && *pending),
                        "{intid} got lost on vCPU {cpu}: {listed:?}"
                    );
                }
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(count, seen.len(), "an interrupt is in two list registers");
    }

    fn is_running(&self, cpu: usize, intid: u32) -> bool {
        self.bench.cpus[cpu].running.iter().any(|(running, _)| running.0 == intid)
    }

    /// Everything is enabled and served: then nothing is left, and it took no longer than it should.
    fn drain(mut self) {
        for cpu in 0..VCPUS {
            while self.bench.end(cpu).is_some() {
                self.bench.settle();
            }
        }
        self.apply(Op::Groups(true));
        for intid in ALL {
            self.apply(Op::Route(intid, u64::from(intid % VCPUS as u32)));
            self.apply(Op::Enable(intid));
        }
        let mut taken = 0;
        loop {
            let before = taken;
            for cpu in 0..VCPUS {
                self.bench.settle();
                while let Some(intid) = self.acknowledge(cpu) {
                    taken += 1;
                    assert!(taken < 60, "an interrupt storm");
                    self.lower(intid);
                    self.bench.end(cpu);
                    self.bench.settle();
                }
            }
            if taken == before {
                break;
            }
        }
        for (intid, expected) in ALL.zip(&self.expected) {
            assert!(!expected.pending, "{intid} got lost");
            let waits = expected.level && !SOFTWARE_EDGES.contains(&intid) && !is_hardware_edge(intid);
            assert!(!waits, "the line of {intid} is still high");
        }
        for cpu in 0..VCPUS {
            self.bench.cycle(cpu);
            assert_eq!(self.bench.listed(cpu), []);
        }
        for (host, spi) in &*self.bench.machine.spis.lock().unwrap() {
            assert!(spi.enabled && !spi.active && !spi.pending, "physical {host} is stuck");
        }
        for intid in ALL {
            assert!(!self.bench.is_pending(intid) && !self.bench.is_active(intid));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_interrupt_is_taken_where_and_as_often_as_it_should_be(
        list_registers in 2usize..5,
        ops in prop::collection::vec(op(), 1..150),
        fast in any::<bool>(),
    ) {
        let mut run = Run::new(list_registers);
        run.bench.fast = fast;
        for op in ops {
            run.apply(op);
            run.check();
        }
        run.drain();
    }

    #[test]
    fn more_messages_than_list_registers_are_each_taken_once(
        list_registers in 2usize..5,
        order in Just((0u32..32).collect::<Vec<_>>()).prop_shuffle(),
        priorities in prop::collection::vec(0u8..32, 32),
    ) {
        let mut bench = Bench::started(config(1, vec![], list_registers));
        bench.start_its();
        use axvm_vgic::{ItsDeviceId, ItsEventId};
        use axvm_vgic::spec::its_command::Command;
        let device = ItsDeviceId(8);
        bench.command(Command::Mapc { collection: 0, target: 0, valid: true }.encode());
        bench.command(
            Command::Mapd { device, bits: 5, table: common::TABLES + 0x2000, valid: true }.encode(),
        );
        for number in 0..32 {
            bench.set_property(8192 + number, priorities[number as usize] << 3 | 1);
            let event = ItsEventId(number);
            bench.command(Command::Mapti { device, event, lpi: 8192 + number, collection: 0 }.encode());
        }
        for number in &order {
            prop_assert!(bench.vgic.hardware_lpi(device, ItsEventId(*number)));
        }
        let mut taken = Vec::new();
        bench.settle();
        while let Some(intid) = bench.acknowledge(0) {
            taken.push(intid - 8192);
            bench.end(0);
            // A list register may be empty while others wait, but not all of them.
            bench.cycle(0);
            bench.settle();
        }
        let mut expected = order;
        expected.sort_by_key(|n| (priorities[*n as usize], *n));
        prop_assert_eq!(
            taken.iter().map(|n| priorities[*n as usize]).collect::<Vec<_>>(),
            expected.iter().map(|n| priorities[*n as usize]).collect::<Vec<_>>(),
            "by priority"
        );
        taken.sort_unstable();
        prop_assert_eq!(taken, (0..32).collect::<Vec<_>>());
        prop_assert_eq!(bench.vgic.statistics().interrupts_taken, 32);
        prop_assert!(bench.cpus[0].hardware.iter().all(|lr| !ListRegister(*lr).in_use()));
        prop_assert!(!bench.vgic.has_pending(VcpuId(0)));
    }
}
