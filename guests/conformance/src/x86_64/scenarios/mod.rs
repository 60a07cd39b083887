//! What is done and said.

use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use alloc::string::String;
use alloc::vec::Vec;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::println;

use super::line::{self, Pin, entry};
use super::{apic, cpu, second};
use crate::lot;

mod cpus;
mod io;
mod local;
mod timer;
mod walk;

/// A scenario: its name, and what plays it.
type Scenario = (&'static str, fn(&Scene<'_>));

/// Those that are played in each mode of the local APIC.
const ALL: &[Scenario] = &[
    ("reset", cpus::reset),
    ("order", local::order),
    ("nested", local::nested),
    ("class", local::class),
    ("again", local::again),
    ("task-priority", local::task_priority),
    ("cr8", local::cr8),
    ("ends", local::ends),
    ("vectors", local::vectors),
    ("entries", local::entries),
    ("command", local::command),
    ("self", local::to_self),
    ("timer", timer::once),
    ("timer-periodic", timer::periodic),
    ("timer-masked", timer::masked),
    ("timer-registers", timer::registers),
    ("to-other", cpus::to_other),
    ("to-many", cpus::to_many),
    ("logical", cpus::logical),
    ("asleep", cpus::asleep),
    ("init", cpus::init),
    ("edge", io::edge),
    ("level", io::level),
    ("level-masked", io::level_masked),
    ("level-handler", io::level_handler),
    ("level-other", io::level_other),
    ("pin-registers", io::registers),
    ("walk", walk::local),
    ("walk-edges", walk::edges),
    ("walk-levels", walk::levels),
];

/// Those of one mode alone.
const PAGE: &[Scenario] = &[("clusters", cpus::clusters), ("page", local::page)];
const X2: &[Scenario] =
    &[("self-register", local::self_register), ("faults", local::faults), ("logical-id", local::logical_id)];

/// Where a scenario plays.
pub struct Scene<'a> {
    /// What the guest was given.
    pub board: &'a Board,
    /// The pin of the console's line.
    pub pin: Pin,
    /// The other CPU's id.
    pub other: u32,
    /// Each step of a walk is said.
    pub trace: bool,
    /// Where a walk begins: not zero.
    pub seed: u64,
    /// How far it goes.
    pub steps: u64,
    mode: &'static str,
    name: &'static str,
}

impl Scene<'_> {
    /// Says a line of what was seen. The console's line is lowered.
    pub fn say(&self, what: core::fmt::Arguments<'_>) {
        println!("SEEN {}-{} {what}", self.mode, self.name);
    }

    /// Everything as it is at the start, so that no scenario knows of the one before.
    fn tidy(&self) {
        cpu::mask();
        line::set(false);
        self.pin.set_low(entry::MASKED);
        self.pin.aim(0);
        for timer in [apic::TIMER, apic::LINT0, apic::LINT1] {
            apic::write(timer, apic::MASKED);
        }
        apic::write(apic::INITIAL, 0);
        apic::write(apic::SVR, 0x1ff);
        apic::write(apic::TPR, 0);
        second::ask(second::Ask::Mask);
        // What is in service ends, what waits comes and ends.
        cpu::cpu(0).reset();
        cpu::cpu(1).reset();
        for _ in 0..256 {
            if apic::highest(apic::ISR) == 0 {
                break;
            }
            apic::end();
        }
        cpu::let_in();
        cpu::cpu(0).reset();
    }

    /// What the first CPU's handler has seen.
    pub fn say_events(&self) {
        self.say_events_of(0);
    }

    /// What a CPU's handler has seen.
    pub fn say_events_of(&self, number: u32) {
        let seen: Vec<cpu::Event> = cpu::cpu(number).events().collect();
        for some in seen.chunks(10) {
            let mut line = String::new();
            for event in some {
                let what = if event.end { '-' } else { '+' };
                let _ = write!(line, " {what}{:02x}/{:02x}", event.vector, event.priority);
            }
            self.say(format_args!("events of {number}:{line}"));
        }
        if seen.is_empty() {
            self.say(format_args!("events of {number}: none"));
        }
    }

    /// What the calling CPU's APIC has: what is in service, what waits, and the priorities.
    pub fn say_state(&self, when: &str) {
        cpu::settle();
        let list = |first| {
            let mut line = String::new();
            apic::all(first).for_each(|vector| {
                let _ = write!(line, " {vector:02x}");
            });
            line
        };
        let (service, waits) = (list(apic::ISR), list(apic::IRR));
        let (task, processor) = (apic::read(apic::TPR), apic::read(apic::PPR));
        self.say(format_args!(
            "{when}: in service{service}, waits{waits}, tpr {task:02x} ppr {processor:02x}"
        ));
    }

    /// Takes what is next, and leaves it in service; 0 if nothing comes.
    pub fn take(&self) -> u8 {
        let cpu = cpu::cpu(0);
        cpu.hold.store(true, Ordering::Relaxed);
        let before = cpu.count();
        cpu::settle();
        // What is in service keeps out whatever else waits: it was the most urgent one.
        cpu::let_in();
        let taken = cpu.events().nth(before).map_or(0, |event| event.vector);
        cpu.reset();
        taken
    }
}

/// Plays what the command line asks for: `xapic`, `x2apic` all of a mode, or names of scenarios with the mode before them, as they are said.
pub fn run(board: &Board) {
    let words = || board.cmdline.split_whitespace();
    let wants = |word: &str| words().any(|it| it == word);
    cpu::make_table();
    let Some(pin) = Pin::of_console(board) else {
        return println!("CONFORMANCE broken: the console has no line to an I/O APIC");
    };
    line::set_up(board);
    for (mode, own) in [("xapic", PAGE), ("x2apic", X2)] {
        let is_wanted = |name: &str| {
            wants(mode)
                || words()
                    .any(|word| word.strip_prefix(mode).and_then(|it| it.strip_prefix('-')) == Some(name))
        };
        if !ALL.iter().chain(own).any(|(name, _)| is_wanted(name)) {
            continue;
        }
        if mode == "xapic" && apic::is_x2() || mode == "x2apic" && !apic::use_x2() {
            println!("CONFORMANCE broken: the local APIC can't be in this mode: {mode}");
            return;
        }
        apic::write(apic::SVR, 0x1ff);
        let Some(other) = second::start(board) else {
            return println!("CONFORMANCE broken: the other CPU doesn't start");
        };
        for &(name, play) in ALL.iter().chain(own).filter(|(name, _)| is_wanted(name)) {
            let scene = Scene {
                board,
                pin,
                other,
                trace: wants("trace"),
                seed: board.number("axvm.seed").filter(|&seed| seed != 0).unwrap_or(lot::SEED),
                steps: board.number("axvm.steps").unwrap_or(lot::STEPS),
                mode,
                name,
            };
            scene.tidy();
            play(&scene);
            scene.tidy();
            println!("CONFORMANCE {mode}-{name} done");
        }
    }
}
