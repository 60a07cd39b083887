//! The whole life of LPIs among other interrupts, many more than there are list registers. What is expected is what the
//! architecture says of a GIC (Arm IHI 0069, 4.1 and 5.2): a message makes an LPI pending, the acknowledge ends that, and there is
//! nothing else to it. The running priority is the CPU's, whatever becomes of the interrupt meanwhile.

mod common;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use common::{Bench, PENDING_TABLE, PRIORITY, TABLES, V0, config};
use proptest::prelude::*;

const CPUS: usize = 2;
const DEVICE: ItsDeviceId = ItsDeviceId(8);
const LPI: u32 = 8192;
const LPIS: usize = 12;
/// Of each CPU.
const SGIS: usize = 6;

/// Both CPUs with a collection each, and as many enabled LPIs on the first.
fn bench(list_registers: usize, lpis: usize, priority: impl Fn(usize) -> u8) -> Bench {
    let mut bench = Bench::started(config(CPUS as u64, vec![], list_registers));
    bench.start_its();
    for collection in 0..CPUS as u16 {
        bench.command(Command::Mapc { collection, target: collection.into(), valid: true }.encode());
    }
    bench.command(Command::Mapd { device: DEVICE, bits: 5, table: TABLES + 0x2000, valid: true }.encode());
    for number in 0..lpis {
        bench.set_property(LPI + number as u32, priority(number) | 1);
        map(&bench, number, 0);
    }
    for cpu in 0..CPUS {
        bench.enter(cpu);
    }
    bench
}

fn event(number: usize) -> ItsEventId {
    ItsEventId(number as u32)
}

fn map(bench: &Bench, number: usize, collection: u16) {
    let lpi = LPI + number as u32;
    bench.command(Command::Mapti { device: DEVICE, event: event(number), lpi, collection }.encode());
}

/// A message, as it comes at the CPU of a vCPU: by the fast path if that can be done, else the long way.
fn message(bench: &mut Bench, cpu: usize, number: usize) {
    let known = bench.vgic.message(|| Some((DEVICE, event(number))));
    let done = known.is_some_and(|known| {
        bench.on(cpu, |vgic, lists, hardware| {
            vgic.fast_message(vgic.local(VcpuId(cpu as u16)).unwrap(), known, lists, hardware)
        })
    });
    if !done {
        bench.exit(cpu);
        bench.vgic.hardware_lpi(DEVICE, event(number));
        bench.enter(cpu);
    }
}

#[test]
fn an_lpi_that_is_served_when_its_list_register_is_taken_comes_again() {
    for split in [false, true] {
        let mut bench = bench(4, 6, |_| PRIORITY);
        bench.cpus[0].split = split;
        message(&mut bench, 0, 0);
        bench.settle();
        assert_eq!(bench.acknowledge(0), Some(LPI));
        // Five others wait: more than the list registers.
        for number in 1..6 {
            message(&mut bench, 0, number);
        }
        bench.settle();
        assert_eq!(bench.acknowledge(0), None, "not more urgent");
        message(&mut bench, 0, 0);
        bench.end(0);
        let mut taken = Vec::new();
        bench.settle();
        while let Some(intid) = bench.acknowledge(0) {
            taken.push(intid - LPI);
            bench.end(0);
            bench.settle();
        }
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5], "split {split}");
    }
}

#[test]
fn an_lpi_has_no_second_step_of_its_end() {
    let mut bench = bench(2, 3, |_| PRIORITY);
    bench.cpus[0].split = true;
    message(&mut bench, 0, 0);
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(LPI));
    bench.end(0);
    message(&mut bench, 0, 0);
    bench.settle();
    // Dropped, and never deactivated: it comes all the same.
    assert_eq!(bench.acknowledge(0), Some(LPI));
    for number in 0..3 {
        message(&mut bench, 0, number);
    }
    bench.deactivate(0, LPI);
    bench.vgic.deactivate(V0, Intid(LPI));
    bench.cycle(0);
    bench.end(0);
    bench.settle();
    for _ in 0..3 {
        assert!(bench.acknowledge(0).is_some());
        bench.end(0);
        bench.settle();
    }
    assert_eq!(bench.acknowledge(0), None);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A device's message, of so many LPIs at once.
    Messages(usize, usize),
    Sgi(usize, usize),
    Acknowledge(usize),
    End(usize),
    /// The second step, of any that had its first.
    Deactivate(usize, usize),
    Enable(usize, bool),
    Clear(usize),
    Move(usize, usize),
    /// Another LPI's priority and its own change places.
    Swap(usize, usize),
    /// Unmapped, and mapped anew.
    Remap(usize, usize),
    /// All of a CPU's LPIs. What is pending is in its table meanwhile, and messages and commands about it are ignored (IHI 0069,
    /// GICR_CTLR.EnableLPIs).
    EnableAll(usize, bool),
    Cycle(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (cpu, lpi) = (0..CPUS, 0..LPIS);
    prop_oneof![
        6 => (lpi.clone(), 1..LPIS).prop_map(|(first, count)| Op::Messages(first, count)),
        3 => (cpu.clone(), 0..SGIS).prop_map(|(cpu, sgi)| Op::Sgi(cpu, sgi)),
        10 => cpu.clone().prop_map(Op::Acknowledge),
        9 => cpu.clone().prop_map(Op::End),
        4 => (cpu.clone(), 0..SGIS).prop_map(|(cpu, which)| Op::Deactivate(cpu, which)),
        1 => (lpi.clone(), any::<bool>()).prop_map(|(lpi, on)| Op::Enable(lpi, on)),
        1 => lpi.clone().prop_map(Op::Clear),
        2 => (lpi.clone(), cpu.clone()).prop_map(|(lpi, cpu)| Op::Move(lpi, cpu)),
        2 => (lpi.clone(), lpi.clone()).prop_map(|(one, other)| Op::Swap(one, other)),
        1 => (lpi, cpu.clone()).prop_map(|(lpi, cpu)| Op::Remap(lpi, cpu)),
        1 => (cpu.clone(), any::<bool>()).prop_map(|(cpu, on)| Op::EnableAll(cpu, on)),
        2 => cpu.prop_map(Op::Cycle),
    ]
}

/// What the architecture knows of an LPI.
#[derive(Clone, Copy)]
struct Lpi {
    pending: bool,
    enabled: bool,
    priority: u8,
    cpu: usize,
}

/// What it knows of an SGI.
#[derive(Clone, Copy, Default)]
struct Sgi {
    pending: bool,
    active: bool,
}

#[derive(Clone, Default)]
struct Cpu {
    lpis_enabled: bool,
    sgis: [Sgi; SGIS],
    /// Acknowledged, and the priority not yet dropped.
    running: Vec<(u32, u8)>,
    /// The priority dropped, but still active.
    dropped: Vec<u32>,
}

struct Walk {
    bench: Bench,
    lpis: Vec<Lpi>,
    cpus: Vec<Cpu>,
    split: bool,
}

/// Priorities are all different, so that each answer is the only right one: those of SGIs lie between those of LPIs.
fn lpi_priority(number: usize) -> u8 {
    (number as u8 * 2) << 3
}

fn sgi_priority(number: usize) -> u8 {
    (number as u8 * 4 + 1) << 3
}

impl Walk {
    fn new(list_registers: usize, split: bool) -> Self {
        let mut bench = bench(list_registers, LPIS, lpi_priority);
        for cpu in 0..CPUS {
            bench.cpus[cpu].split = split;
            let frame = cpu as u64 * 0x2_0000 + 0x1_0000;
            bench.gicr.write(V0, frame + 0x100, Width::B4, (1 << SGIS) - 1);
            for sgi in 0..SGIS {
                bench.gicr.write(V0, frame + 0x400 + sgi as u64, Width::B1, sgi_priority(sgi).into());
            }
        }
        let lpi = |number| Lpi { pending: false, enabled: true, priority: lpi_priority(number), cpu: 0 };
        Self {
            bench,
            lpis: (0..LPIS).map(lpi).collect(),
            cpus: vec![Cpu { lpis_enabled: true, ..Cpu::default() }; CPUS],
            split,
        }
    }

    /// What the most urgent interrupt is that a CPU would be given now.
    fn expected(&self, number: usize) -> Option<(u32, u8)> {
        let cpu = &self.cpus[number];
        let running = cpu.running.last().map_or(0x100, |(_, priority)| u16::from(*priority));
        let lpis = (LPI..).zip(&self.lpis);
        let lpis = lpis
            .filter(|(_, lpi)| lpi.pending && lpi.enabled && lpi.cpu == number && cpu.lpis_enabled)
            .map(|(intid, lpi)| (intid, lpi.priority));
        let sgis = (0..).zip(&cpu.sgis).filter(|(_, sgi)| sgi.pending && !sgi.active);
        let sgis = sgis.map(|(intid, _)| (intid, sgi_priority(intid as usize)));
        lpis.chain(sgis)
            .min_by_key(|(_, priority)| *priority)
            .filter(|(_, priority)| u16::from(*priority) < running)
    }

    fn acknowledge(&mut self, number: usize) -> Option<u32> {
        let expected = self.expected(number);
        let taken = self.bench.acknowledge(number);
        assert_eq!(taken, expected.map(|(intid, _)| intid), "what CPU {number} takes");
        let (intid, priority) = expected?;
        let cpu = &mut self.cpus[number];
        cpu.running.push((intid, priority));
        match intid.checked_sub(LPI) {
            Some(lpi) => self.lpis[lpi as usize].pending = false,
            None => cpu.sgis[intid as usize] = Sgi { pending: false, active: true },
        }
        Some(intid)
    }

    fn end(&mut self, number: usize) {
        let ended = self.bench.end(number);
        let cpu = &mut self.cpus[number];
        let expected = cpu.running.pop().map(|(intid, _)| intid);
        assert_eq!(ended, expected);
        if let Some(sgi) = expected.filter(|intid| *intid < LPI) {
            if self.split {
                cpu.dropped.push(sgi);
            } else {
                cpu.sgis[sgi as usize].active = false;
            }
        }
    }

    fn deactivate(&mut self, number: usize, which: usize) {
        let cpu = &mut self.cpus[number];
        if cpu.dropped.is_empty() {
            return;
        }
        let sgi = cpu.dropped.remove(which % cpu.dropped.len());
        cpu.sgis[sgi as usize].active = false;
        self.bench.deactivate(number, sgi);
    }

    fn configure(&mut self, number: usize) {
        let lpi = self.lpis[number];
        self.bench.set_property(LPI + number as u32, lpi.priority | u8::from(lpi.enabled));
        self.bench.command(Command::Inv { device: DEVICE, event: event(number) }.encode());
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Messages(first, count) => {
                for number in (first..first + count).map(|number| number % LPIS) {
                    let cpu = self.lpis[number].cpu;
                    message(&mut self.bench, cpu, number);
                    self.lpis[number].pending |= self.cpus[cpu].lpis_enabled;
                }
            }
            Op::Sgi(cpu, sgi) => {
                self.cpus[cpu].sgis[sgi].pending = true;
                self.bench.vgic.send_sgi(V0, (sgi as u64) << 24 | 1 << cpu);
            }
            Op::Acknowledge(cpu) => drop(self.acknowledge(cpu)),
            Op::End(cpu) => self.end(cpu),
            Op::Deactivate(cpu, which) => self.deactivate(cpu, which),
            Op::Enable(number, on) => {
                self.lpis[number].enabled = on;
                self.configure(number);
            }
            Op::Clear(number) => {
                self.lpis[number].pending &= !self.cpus[self.lpis[number].cpu].lpis_enabled;
                self.bench.command(Command::Clear { device: DEVICE, event: event(number) }.encode());
            }
            // What becomes of one that is pending, where one of the redistributors ignores it, is left open.
            Op::Move(number, cpu) | Op::Remap(number, cpu)
                if !self.cpus[cpu].lpis_enabled || !self.cpus[self.lpis[number].cpu].lpis_enabled => {}
            Op::Move(number, cpu) => {
                self.lpis[number].cpu = cpu;
                let collection = cpu as u16;
                self.bench
                    .command(Command::Movi { device: DEVICE, event: event(number), collection }.encode());
            }
            Op::Swap(one, other) => {
                let priority = self.lpis[one].priority;
                self.lpis[one].priority = core::mem::replace(&mut self.lpis[other].priority, priority);
                self.configure(one);
                self.configure(other);
            }
            Op::Remap(number, cpu) => {
                self.bench.command(Command::Discard { device: DEVICE, event: event(number) }.encode());
                map(&self.bench, number, cpu as u16);
                (self.lpis[number].pending, self.lpis[number].cpu) = (false, cpu);
            }
            Op::EnableAll(cpu, on) => {
                self.cpus[cpu].lpis_enabled = on;
                // What a CPU has just taken is known when it has left its guest.
                self.bench.exit(cpu);
                let frame = cpu as u64 * 0x2_0000;
                self.bench.gicr.write(V0, frame + 0x78, Width::B8, PENDING_TABLE + cpu as u64 * 0x1_0000);
                self.bench.gicr.write(V0, frame, Width::B4, on.into());
                self.bench.enter(cpu);
            }
            Op::Cycle(cpu) => self.bench.cycle(cpu),
        }
        // Registers are written by vCPU 0, which is out of the guest for that.
        self.bench.cycle(0);
        self.bench.settle();
    }

    /// Everything is let in and served: each that waits comes once, in its order, and nothing is left.
    fn drain(mut self) {
        for cpu in 0..CPUS {
            self.apply(Op::EnableAll(cpu, true));
        }
        for number in 0..LPIS {
            self.apply(Op::Enable(number, true));
        }
        for cpu in 0..CPUS {
            while !self.cpus[cpu].running.is_empty() {
                self.apply(Op::End(cpu));
            }
            while !self.cpus[cpu].dropped.is_empty() {
                self.apply(Op::Deactivate(cpu, 0));
            }
            let mut taken = 0;
            while self.acknowledge(cpu).is_some() {
                taken += 1;
                assert!(taken <= LPIS + SGIS, "more came than waited");
                self.apply(Op::End(cpu));
                self.apply(Op::Deactivate(cpu, 0));
            }
            self.bench.cycle(cpu);
            assert_eq!(self.bench.listed(cpu), []);
        }
        assert!(self.lpis.iter().all(|lpi| !lpi.pending), "an LPI got lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn lpis_live_as_the_architecture_says(
        list_registers in 2usize..5,
        split in any::<bool>(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut walk = Walk::new(list_registers, split);
        for op in ops {
            walk.apply(op);
        }
        walk.drain();
    }
}
