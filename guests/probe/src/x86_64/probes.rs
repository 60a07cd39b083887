//! What is measured.

use alloc::string::String;
use core::cell::UnsafeCell;

use axvm_guest_runtime::apic::{IoApic, Local, Order, Place, Signal};
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::edu::{self, Edu};
use axvm_guest_runtime::machine::{self, in8, out8};
use axvm_guest_runtime::println;

use super::{floor, measure};

/// A figure, or why there is none.
type Figure = Result<u64, String>;

/// A figure's name and what measures it.
type Named = (&'static str, fn(&Probe<'_>) -> Figure);

/// All of them, in this order.
pub const ALL: &[Named] = &[
    ("nothing", |_| measured(measure::nothing())),
    ("hypercall", hypercall),
    ("identify", |_| measured(measure::identify())),
    ("refused-port", refused_port),
    ("port-read", |probe| measured(measure::read_port(probe.port(LINE_STATUS)))),
    ("port-write", |probe| measured(measure::write_port(probe.port(SCRATCH), 0x5a))),
    ("local-apic-read", |probe| measured(measure::read_at(probe.apic.version()))),
    ("local-apic-own-read", |probe| measured(measure::read_at(probe.apic.priority()))),
    ("io-apic-read", io_apic_read),
    ("line", line),
    ("timer", timer),
    ("deadline", deadline),
    ("self", to_itself),
    ("ipi", ipi),
];

/// Those of devices that the command line names, before the others.
const GIVEN: &[Named] = &[
    ("direct-port", |probe| measured(measure::read_port(probe.given("axvm.direct")?))),
    ("trapped-port", |probe| measured(measure::read_port(probe.given("axvm.trapped")?))),
    ("mapped-read", mapped_read),
    ("trapped-read", |probe| measured(measure::read(probe.register()?))),
    ("trapped-write", trapped_write),
    ("device-line", device_line),
    ("level-line", level_line),
    ("msi", msi),
];

/// Registers of the 16550 (National Semiconductor PC16550D).
const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;
/// The interrupt that there is room for a byte more.
const HAS_ROOM: u8 = 1 << 1;
/// DTR, RTS, and OUT2, which lets interrupts out of a PC's UART.
const LETS_OUT: u8 = 0xb;
/// What a PC's first two serial ports interrupt by.
const CONSOLE_LINE: u8 = 4;
const SECOND_LINE: u8 = 3;

/// The fourth serial port's status: no machine here has one, and no VM is given it.
const NOBODYS: u16 = 0x2ed;

/// `edu`'s register that says what it is.
const EDU_ID: u64 = 0;

/// Vectors, each for a figure of its own.
const LINE: u8 = 0x41;
const TIMER: u8 = 0x42;
const SELF: u8 = 0x43;
const OTHER: u8 = 0x44;
const MESSAGE: u8 = 0x45;
const DEVICE: u8 = 0x46;
const LEVEL: u8 = 0x47;

/// A pin of an I/O APIC.
struct Pin {
    io_apic: IoApic,
    number: u32,
}

/// The board, its local APIC started.
pub struct Probe<'a> {
    board: &'a Board,
    apic: Local,
}

fn measured(figure: Option<u64>) -> Figure {
    figure.ok_or_else(|| "skipped: no interrupt came, or another".into())
}

fn silent(_: machine::Fault) -> String {
    "skipped: the APIC doesn't answer".into()
}

fn silent_device(_: machine::Fault) -> String {
    "skipped: the device doesn't answer".into()
}

/// Measures everything.
pub fn run(board: &Board) {
    let mut apic = Local::new(board.madt.local_apic.0);
    if leaves_page(board) && apic.use_x2apic().is_err() {
        println!("PROBE broken: the local APIC has no x2APIC mode");
        return;
    }
    if apic.start().is_err() {
        println!("PROBE broken: the local APIC doesn't answer");
        return;
    }
    // No address of 64-bit mode. Were it no exception, no other refused access would be seen either.
    if machine::load8(1 << 63).is_ok() {
        println!("PROBE broken: an access that can't be done is no exception");
    }
    println!("PROBE counter {} Hz, by {:?}", machine::frequency(), board.clock);
    let probe = Probe { board, apic };
    let given = if board.pci().is_some() { GIVEN } else { &[] };
    for (name, figure) in given.iter().chain(ALL) {
        match figure(&probe) {
            Ok(ticks) => println!("PROBE {name} {ticks}"),
            Err(why) => println!("PROBE {name} {why}"),
        }
    }
}

/// Whether the command line says that the local APICs are to be used in x2APIC mode.
fn leaves_page(board: &Board) -> bool {
    board.number("axvm.x2apic").is_some_and(|number| number != 0)
}

impl Probe<'_> {
    /// A port of the console's.
    fn port(&self, register: u16) -> u16 {
        self.board.console as u16 + register
    }

    /// A port of a 16550 that the command line names by its first: one that keeps what it is given.
    fn given(&self, name: &str) -> Result<u16, String> {
        let first = self.board.number(name).and_then(|port| u16::try_from(port).ok());
        Ok(first.ok_or("skipped: the command line names none")? + SCRATCH)
    }

    /// The register that the command line names: one that reads without an effect, and may be written what it has.
    fn register(&self) -> Result<u64, String> {
        self.board.number("axvm.register").ok_or_else(|| "skipped: the command line names none".into())
    }

    fn edu(&self) -> Result<Edu, String> {
        Edu::of(self.board).ok_or_else(|| "skipped: no edu".into())
    }

    /// Has a line of the board's come to this CPU as a vector.
    fn routed(&self, gsi: u32, signal: Signal, vector: u8) -> Result<Pin, String> {
        let found = self.board.madt.io_apic_of(gsi).ok_or("skipped: no I/O APIC")?;
        let pin = Pin { io_apic: IoApic::new(found.registers.0), number: gsi - found.first };
        pin.io_apic.route(pin.number, signal, vector, self.id()?).map_err(silent)?;
        Ok(pin)
    }

    fn id(&self) -> Result<u8, String> {
        self.apic.id().map_err(silent)
    }
}

/// A call that the hypervisor answers. On the bare board the least of a hypervisor does.
fn hypercall(_: &Probe<'_>) -> Figure {
    if floor::is_possible() {
        return floor::round_trip().ok_or_else(|| "skipped: the processor runs no guest".into());
    }
    measured(measure::hypercall())
}

/// A port that nobody has: it reads as a bus does on which nobody answers.
fn refused_port(_: &Probe<'_>) -> Figure {
    match in8(NOBODYS) {
        0xff => measured(measure::read_port(NOBODYS)),
        other => Err(alloc::format!("broken: it reads as {other:#x}")),
    }
}

fn io_apic_read(probe: &Probe<'_>) -> Figure {
    let io_apic = probe.board.madt.io_apics.first().ok_or("skipped: no I/O APIC")?;
    measured(measure::read(IoApic::new(io_apic.registers.0).window().map_err(silent)?))
}

/// A register of a device that the guest has.
fn mapped_read(probe: &Probe<'_>) -> Figure {
    measured(measure::read(probe.edu()?.registers + EDU_ID))
}

fn trapped_write(probe: &Probe<'_>) -> Figure {
    let register = probe.register()?;
    let value = machine::load32(register).map_err(silent_device)?;
    measured(measure::write(register, value))
}

/// `edu`'s message.
fn msi(probe: &Probe<'_>) -> Figure {
    const DOORBELL: u64 = 0xfee0_0000;
    let edu = probe.edu()?;
    edu.enable_msi(DOORBELL | u64::from(probe.id()?) << 12, MESSAGE.into()).map_err(silent_device)?;
    let acknowledge = edu.registers + edu::ACKNOWLEDGE;
    let raise = Order { place: Place::Address(edu.registers + edu::RAISE), value: 1 };
    let figure = measure::raised_by(&probe.apic, MESSAGE, raise, 0, || machine::store32(acknowledge, 1).ok());
    machine::store32(acknowledge, 1).map_err(silent_device)?;
    measured(figure)
}

/// `edu`'s line, which signals by its level: that of the I/O APIC's pin that the command line names, as the tables say that in code.
fn level_line(probe: &Probe<'_>) -> Figure {
    let edu = probe.edu()?;
    let gsi = probe.board.number("axvm.line").and_then(|gsi| u32::try_from(gsi).ok());
    let gsi = gsi.ok_or("skipped: the command line names none")?;
    let pin = probe.routed(gsi, Signal { low: true, by_level: true }, LEVEL)?;
    let raise = Order { place: Place::Address(edu.registers + edu::RAISE), value: 1 };
    let figure = measure::raised_by(&probe.apic, LEVEL, raise, edu.registers + edu::ACKNOWLEDGE, || Some(()));
    pin.io_apic.mask(pin.number).map_err(silent)?;
    machine::store32(edu.registers + edu::ACKNOWLEDGE, 1).map_err(silent_device)?;
    measured(figure)
}

/// The console's line, which rises when the console may tell that it has room.
fn line(probe: &Probe<'_>) -> Figure {
    port_line(probe, probe.port(0), CONSOLE_LINE, LINE)
}

/// The same of the second serial port, a device of the guest's.
fn device_line(probe: &Probe<'_>) -> Figure {
    port_line(probe, probe.given("axvm.direct")? - SCRATCH, SECOND_LINE, DEVICE)
}

fn port_line(probe: &Probe<'_>, first: u16, line: u8, vector: u8) -> Figure {
    use axvm_acpi::madt::{Polarity, Sense};
    let isa = probe.board.madt.isa(line);
    let signal = Signal { low: isa.polarity == Polarity::Low, by_level: isa.sense == Sense::Level };
    let pin = probe.routed(isa.gsi, signal, vector)?;
    let (enable, id) = (first + INTERRUPT_ENABLE, first + INTERRUPT_ID);
    out8(first + MODEM_CONTROL, LETS_OUT);
    let figure = measure::raised_by_port(&probe.apic, vector, enable, HAS_ROOM, id, || {
        out8(enable, 0);
        in8(id);
        Some(())
    });
    out8(enable, 0);
    pin.io_apic.mask(pin.number).map_err(silent)?;
    measured(figure)
}

/// The timer, from the write that starts it to its interrupt: with the time that it was told to wait.
fn timer(probe: &Probe<'_>) -> Figure {
    const AHEAD: u64 = 100_000;
    probe.apic.prepare_timer(TIMER).map_err(silent)?;
    let start = Order { place: probe.apic.initial(), value: AHEAD };
    let figure = measure::raised_by(&probe.apic, TIMER, start, 0, || Some(()));
    let left = probe.apic.current().map_err(silent)?;
    probe.apic.stop_timer().map_err(silent)?;
    match left {
        0 => measured(figure),
        left => Err(alloc::format!("broken: {left} ticks are left of a timer that has ended")),
    }
}

fn deadline(probe: &Probe<'_>) -> Figure {
    const HAS_DEADLINE: u32 = 1 << 24;
    if machine::cpuid(1, 0)[2] & HAS_DEADLINE == 0 {
        return Err("skipped: not offered".into());
    }
    probe.apic.prepare_deadline(TIMER).map_err(silent)?;
    let figure = measure::deadline(&probe.apic, TIMER);
    probe.apic.stop_timer().map_err(silent)?;
    measured(figure)
}

fn to_itself(probe: &Probe<'_>) -> Figure {
    let id = probe.id()?;
    let order = probe.apic.to_itself(id, SELF);
    measured(measure::raised_by(&probe.apic, SELF, order, 0, || probe.apic.aim(id).ok()))
}

/// The second CPU's stack.
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; 16 << 10]>);

// SAFETY: nothing in Rust refers to its bytes; the second CPU, started once, has them.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; 16 << 10]));

fn ipi(probe: &Probe<'_>) -> Figure {
    let own = probe.id()?;
    let other = probe.board.cpus().find(|id| *id != own).ok_or("skipped: one CPU only")?;
    measure::set_apic(probe.board.madt.local_apic.0, leaves_page(probe.board));
    let top = STACK.0.get() as u64 + (16 << 10);
    // SAFETY: this is called once, and the stack is there for it alone.
    if !unsafe { machine::start_cpu(&probe.apic, other, top, measure::wait_for_interrupts) } {
        return Err("skipped: the second CPU doesn't start".into());
    }
    measured(measure::to_another(&probe.apic, OTHER, other))
}
