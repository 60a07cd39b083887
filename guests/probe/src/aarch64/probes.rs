//! What is measured.

use alloc::format;
use alloc::string::String;
use core::cell::UnsafeCell;

use axvm_addr::Address;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::edu::{self, Edu};
use axvm_guest_runtime::gic::{Gic, LPI, Redistributor};
use axvm_guest_runtime::its::Its;
use axvm_guest_runtime::machine::{self, Start, store32};
use axvm_guest_runtime::println;
use axvm_platform::model::PlatformDevice;
use smccc::psci::PSCI_VERSION;

use super::measure::{self, Quiet};

/// A figure, or why there is none.
type Figure = Result<u64, String>;

/// A figure's name and what measures it.
type Named = (&'static str, fn(&Probe<'_>) -> Figure);

/// All of them, in this order.
pub const ALL: &[Named] = &[
    ("nothing", |_| measured(measure::nothing())),
    ("hypercall", |_| measured(measure::hypercall(PSCI_VERSION))),
    ("secure-call", |_| measured(measure::secure_call(PSCI_VERSION))),
    ("emulated-read", |probe| measured(measure::read(probe.gic.distributor + GICD_TYPER))),
    ("emulated-state-read", |probe| measured(measure::read(probe.gic.distributor + GICD_ISENABLER1))),
    // No bit is set: nothing changes.
    ("emulated-write", |probe| measured(measure::write(probe.gic.distributor + GICD_ISENABLER1, 0))),
    ("line-disable", |probe| switch(probe, GICD_ISENABLER, GICD_ICENABLER)),
    ("line-enable", |probe| switch(probe, GICD_ICENABLER, GICD_ISENABLER)),
    ("mapped-read", |probe| measured(measure::read(probe.registers("arm,pl031")? + PL031_MASK))),
    ("trapped-read", |probe| measured(measure::read(probe.registers("arm,pl061")? + PL061_DIRECTION))),
    ("trapped-write", |probe| measured(measure::write(probe.registers("arm,pl061")? + PL061_DIRECTION, 0))),
    ("line", |probe| line(probe, || Some(()))),
    ("timer", |probe| timer(probe, || Some(()))),
    ("msi", msi),
    ("sgi-self", |probe| measured(measure::to_itself(SGI.into(), probe.target(), || Some(())))),
    ("line-first", |probe| line(probe, || probe.settle())),
    ("timer-first", |probe| timer(probe, || probe.settle())),
    ("msi-first", msi_of_a_new_event),
    ("sgi-first", |probe| measured(measure::to_itself(SGI.into(), probe.target(), || probe.settle()))),
    ("line-pended", pended),
    ("its-int", commanded),
    ("ipi", ipi),
];

const GICD_CTLR: u64 = 0x000;
const GICD_TYPER: u64 = 0x004;
const GICD_ISENABLER: u64 = 0x100;
const GICD_ICENABLER: u64 = 0x180;
const GICD_ISPENDR: u64 = 0x200;
const GICD_ISENABLER1: u64 = GICD_ISENABLER + 4;

/// The PL031's alarm, interrupt mask and clear registers (Arm DDI 0224, 3.3).
const PL031_DATA: u64 = 0x00;
const PL031_MATCH: u64 = 0x04;
const PL031_MASK: u64 = 0x10;
const PL031_RAW: u64 = 0x14;
/// The PL061's direction register (Arm DDI 0190, 3.3).
const PL061_DIRECTION: u64 = 0x400;

/// The priority of the LPI.
const PRIORITY: u8 = 0xa0;

/// The software interrupt that is sent.
const SGI: u32 = 5;

/// The board, its GIC started.
pub struct Probe<'a> {
    board: &'a Board,
    gic: Gic,
}

fn measured(figure: Option<u64>) -> Figure {
    figure.ok_or_else(|| "skipped: no interrupt came, or another".into())
}

/// Measures everything.
pub fn run(board: &Board) {
    match start(board) {
        Ok(probe) => {
            println!("PROBE counter {} Hz", machine::frequency());
            for (name, figure) in ALL {
                match figure(&probe) {
                    Ok(ticks) => println!("PROBE {name} {ticks}"),
                    Err(why) => println!("PROBE {name} {why}"),
                }
            }
            work(&probe);
        }
        Err(why) => println!("PROBE broken: {why}"),
    }
}

/// Where the command line asks for it (`axvm.rounds=N`), all of it so often again, each round between two marks: a guest that works, and
/// needs its hypervisor for that.
fn work(probe: &Probe<'_>) {
    let rounds = probe.board.number("axvm.rounds").unwrap_or(0);
    for round in 0..rounds {
        machine::mark::<ROUND>();
        // A second CPU is started once only, and a timer fires when it is time, whoever works how fast.
        let repeated = |name: &str| name != "ipi" && !name.starts_with("timer");
        for (name, figure) in ALL.iter().filter(|(name, _)| repeated(name)) {
            if let Err(why) = figure(probe) {
                println!("WORK {round} {name} broken: {why}");
            }
        }
        println!(
            "WORK round {round} is done: it has used registers, calls, lines, messages and software interrupts"
        );
    }
    if rounds != 0 {
        machine::mark::<ROUND>();
    }
}

/// The mark between two rounds.
const ROUND: u8 = 99;

fn start(board: &Board) -> Result<Probe<'_>, String> {
    let gic = Gic::find(&board.platform).ok_or("no GIC")?;
    let own = gic.redistributor(machine::mpidr()).map_err(|_| "no redistributor")?;
    gic.start()
        .and_then(|()| own.start())
        .and_then(|()| own.enable(SGI))
        .map_err(|_| "the GIC doesn't answer")?;
    measure::open_interface();
    Ok(Probe { board, gic })
}

impl Probe<'_> {
    fn device(&self, compatible: &str) -> Result<&PlatformDevice, String> {
        let is = |device: &&PlatformDevice| device.compatible.iter().any(|it| it == compatible);
        self.board.platform.devices.iter().find(is).ok_or_else(|| format!("skipped: no {compatible}"))
    }

    fn registers(&self, compatible: &str) -> Result<u64, String> {
        let registers = self.device(compatible)?.registers.first().map(|it| it.start().get());
        registers.ok_or_else(|| format!("skipped: {compatible} has no registers"))
    }

    fn own_redistributor(&self) -> Result<Redistributor, String> {
        self.gic.redistributor(machine::mpidr()).map_err(|_| "skipped: no redistributor".into())
    }

    /// Has a hypervisor look at what became of its list registers, by a register that it can't answer without: what it injected
    /// before is in none of them any more, and the next interrupt is the first of its kind.
    fn settle(&self) -> Option<()> {
        machine::load32(self.gic.distributor + GICD_CTLR).ok().map(drop)
    }

    /// What ICC_SGI1R_EL1 names the first CPU by: affinity fields and target list.
    fn target(&self) -> u64 {
        target(machine::mpidr())
    }
}

fn target(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 48 | (mpidr >> 16 & 0xff) << 32 | (mpidr >> 8 & 0xff) << 16 | 1 << (mpidr & 0xf)
}

/// The switch of the PL031's line by the second register, after it was turned by the first.
fn switch(probe: &Probe<'_>, other: u64, register: u64) -> Figure {
    let intid = probe.device("arm,pl031")?.interrupts.first().ok_or("skipped: the PL031 has no line")?.irq.0;
    let [other, register] =
        [other, register].map(|bank| probe.gic.distributor + bank + u64::from(intid / 32) * 4);
    let bit = 1 << (intid % 32);
    measured(measure::write_after((other, bit), register, bit))
}

/// The PL031's line: its alarm is due, and the mask decides whether its line is high.
fn line(probe: &Probe<'_>, first: impl FnMut() -> Option<()>) -> Figure {
    let device = probe.device("arm,pl031")?;
    let registers = probe.registers("arm,pl031")?;
    let intid = device.interrupts.first().ok_or("skipped: the PL031 has no line")?.irq.0;
    let broken = |_| String::from("skipped: the PL031 doesn't answer");
    store32(registers + PL031_MASK, 0).map_err(broken)?;
    let start = machine::now();
    while machine::load32(registers + PL031_RAW).map_err(broken)? == 0 {
        let time = machine::load32(registers + PL031_DATA).map_err(broken)?;
        store32(registers + PL031_MATCH, time).map_err(broken)?;
        if machine::now() - start > machine::frequency() {
            return Err("skipped: the PL031's alarm doesn't come".into());
        }
    }
    probe.gic.enable_line(intid, machine::mpidr()).map_err(broken)?;
    let quiet = Quiet(registers + PL031_MASK, 0);
    let figure = measure::raised_by(registers + PL031_MASK, 1, intid.into(), quiet, first);
    probe.gic.disable_line(intid).map_err(broken)?;
    measured(figure)
}

/// The same line, made pending by a write of GICD_ISPENDR while its device doesn't raise it.
fn pended(probe: &Probe<'_>) -> Figure {
    let registers = probe.registers("arm,pl031")?;
    let intid = probe.device("arm,pl031")?.interrupts.first().ok_or("skipped: the PL031 has no line")?.irq.0;
    let broken = |_| String::from("skipped: the GIC doesn't answer");
    store32(registers + PL031_MASK, 0).map_err(broken)?;
    probe.gic.enable_line(intid, machine::mpidr()).map_err(broken)?;
    let register = probe.gic.distributor + GICD_ISPENDR + u64::from(intid / 32) * 4;
    let figure = measure::raised_by(register, 1 << (intid % 32), intid.into(), Quiet::nothing(), || Some(()));
    probe.gic.disable_line(intid).map_err(broken)?;
    measured(figure)
}

fn timer(probe: &Probe<'_>, first: impl FnMut() -> Option<()>) -> Figure {
    /// The virtual timer's place in the device tree's list.
    const VIRTUAL: usize = 2;
    let intid = probe.board.platform.timer.get(VIRTUAL).ok_or("skipped: no timer")?.irq.0;
    let own = probe.own_redistributor()?;
    own.enable(intid).map_err(|_| "skipped: the GIC doesn't answer")?;
    measured(measure::timer(intid.into(), first))
}

/// `edu`, whose event 0 is the first LPI, and the ITS, which is started anew.
fn messages<'a>(probe: &Probe<'_>, target: &'a [Redistributor]) -> Result<(Edu, Its<'a>), String> {
    let platform = &probe.board.platform;
    let edu = Edu::find(platform).ok_or("skipped: no edu")?;
    let id = edu::requester_id(platform).ok_or("skipped: no edu")?;
    let doorbell = probe.gic.doorbell().ok_or("skipped: no ITS")?;
    let memory = probe.board.scratch.next_multiple_of(0x1_0000);
    let its = Its::start(&probe.gic, id, 1, target, memory).and_then(|mut its| {
        its.set(0, PRIORITY, true)?;
        its.map(0, 0)?;
        edu.enable_msi(doorbell, 0)?;
        Ok(its)
    });
    Ok((edu, its.map_err(|_| "skipped: ITS or edu don't answer")?))
}

fn msi(probe: &Probe<'_>) -> Figure {
    let target = [probe.own_redistributor()?];
    let (edu, _) = messages(probe, &target)?;
    let quiet = Quiet(edu.registers + edu::ACKNOWLEDGE, u32::MAX);
    measured(measure::raised_by(edu.registers + edu::RAISE, 1, LPI, quiet, || Some(())))
}

/// An MSI whose event has just been mapped.
fn msi_of_a_new_event(probe: &Probe<'_>) -> Figure {
    let target = [probe.own_redistributor()?];
    let (edu, mut its) = messages(probe, &target)?;
    let quiet = Quiet(edu.registers + edu::ACKNOWLEDGE, u32::MAX);
    let mut map = || its.discard(0).and_then(|()| its.map(0, 0)).ok();
    measured(measure::raised_by(edu.registers + edu::RAISE, 1, LPI, quiet, &mut map))
}

/// The same event's LPI, by an INT command: from the write of GITS_CWRITER.
fn commanded(probe: &Probe<'_>) -> Figure {
    let target = [probe.own_redistributor()?];
    let (_, mut its) = messages(probe, &target)?;
    measured(measure::raised_by_next(LPI, || its.prepare_to_raise(0).ok()))
}

/// The second CPU's stack.
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; 16 << 10]>);

// SAFETY: nothing in Rust refers to its bytes; the second CPU, started once, has them.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; 16 << 10]));

fn ipi(probe: &Probe<'_>) -> Figure {
    let own = machine::mpidr();
    let other = probe.board.platform.cpus.iter().find(|cpu| cpu.hardware_id != own && cpu.usable);
    let other = other.ok_or("skipped: one CPU only")?.hardware_id;
    let redistributor = probe.gic.redistributor(other).map_err(|_| "skipped: no second redistributor")?;
    redistributor
        .start()
        .and_then(|()| redistributor.enable(SGI))
        .map_err(|_| "skipped: the GIC doesn't answer")?;
    let conduit = probe.board.conduit.ok_or("skipped: no PSCI")?;
    let start = alloc::boxed::Box::leak(alloc::boxed::Box::new(Start {
        stack_top: STACK.0.get() as u64 + (16 << 10),
        function: measure::wait_for_interrupts,
    }));
    // SAFETY: this is called once, and the stack is there for it alone.
    if !unsafe { machine::start_cpu(conduit, other, start) } {
        return Err("skipped: the second CPU doesn't start".into());
    }
    measured(measure::to_another(SGI.into(), target(other)))
}
