//! What is done and said.

use core::fmt::Write as _;

use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::{icc, println};

use crate::arch::cpu::{self, Event};
use crate::arch::frames::{Frames, GROUP1, ICACTIVER, ICENABLER, ICPENDR};
use crate::arch::second;
use crate::lot;

mod cpus;
mod deadline;
mod elsewhere;
mod lines;
mod messages;
mod off;
mod order;
mod pending;
mod resets;
mod split;
mod state;
mod walk;

/// A scenario: its name, and what plays it.
type Scenario = (&'static str, fn(&Scene<'_>));

/// What the word `many-pending` asks for: all of them.
const EVERYTHING: &str = "many-pending";

/// All of them.
pub const ALL: &[Scenario] = &[
    ("order", order::by_priority),
    ("kinds", order::of_all_kinds),
    ("equals", order::equals),
    ("nested", order::nested),
    ("binary-point", order::binary_point),
    ("mask", order::mask),
    ("again", state::again),
    ("disabled", state::disabled),
    ("cleared", state::cleared),
    ("priority", state::priority),
    ("groups", state::groups),
    ("set-active", state::set_active),
    ("level", lines::level),
    ("level-handler", lines::handler),
    ("timer", lines::timer),
    ("split", split::one),
    ("split-many", split::many),
    ("split-level", split::level),
    ("from-other", cpus::from_other),
    ("to-other", cpus::to_other),
    ("other-active", cpus::other_active),
    ("reroute", cpus::reroute),
    ("messages", messages::many),
    ("messages-nested", messages::nested),
    ("messages-split", messages::split),
    ("messages-moved", messages::moved),
    ("messages-renumbered", messages::renumbered),
    ("messages-raising", messages::raising),
    ("messages-beyond", messages::beyond),
    ("messages-pending", pending::mapped),
    ("messages-unmapped", pending::unmapped),
    ("messages-stored", pending::stored),
    ("walk", walk::plain),
    ("walk-split", walk::split),
    ("walk-messages", walk::messages),
    ("walk-messages-split", walk::messages_split),
];

/// Those of a CPU's power and sleep, which ends what its timer and its interface were in the middle of: by name only.
const POWER: &[Scenario] = &[
    ("deadline", deadline::deadline),
    ("off", off::interrupts),
    ("off-message", off::message),
    ("off-device", off::device_message),
];

/// Those that take somebody who types or injects, and so are asked for by name only.
const IN_A_VM: &[Scenario] =
    &[("typed", elsewhere::typed), ("message", elsewhere::message), ("injected", elsewhere::injected)];

/// Where a scenario plays.
pub struct Scene<'a> {
    /// What the guest was given.
    pub board: &'a Board,
    /// The registers.
    pub frames: Frames,
    name: &'static str,
    /// Each step of a walk is said.
    pub trace: bool,
    /// Where a walk begins: not zero.
    pub seed: u64,
    /// How far it goes.
    pub steps: u64,
}

impl Scene<'_> {
    /// Says a line of what was seen.
    pub fn say(&self, what: core::fmt::Arguments<'_>) {
        println!("SEEN {} {what}", self.name);
    }

    /// Everything as it is at the start, so that no scenario knows of the one before.
    fn tidy(&self) {
        self.frames.pins.set(false);
        cpu::mask();
        cpu::cpu(0).reset();
        cpu::cpu(1).reset();
        icc::open();
        icc::set_binary_point(0);
        icc::set_control(icc::control() & !icc::EOI_MODE);
        self.frames.set_groups(GROUP1);
        let timer = self.frames.timer;
        for intid in (0..16).chain([timer]).chain(self.frames.lines()) {
            for cpu in 0..if intid < 32 { 2 } else { 1 } {
                for bank in [ICENABLER, ICPENDR, ICACTIVER] {
                    self.frames.set(cpu, bank, intid);
                }
                self.frames.set_group(cpu, intid, true);
            }
        }
    }

    /// What the first CPU's handler has seen since the last time.
    pub fn say_events(&self) {
        self.say_events_of(0);
    }

    /// What a CPU's handler has seen.
    pub fn say_events_of(&self, number: usize) {
        let seen: alloc::vec::Vec<Event> = cpu::cpu(number).events().collect();
        for some in seen.chunks(8) {
            let mut line = String::new();
            for event in some {
                let what = if event.end { '-' } else { '+' };
                let _ = write!(line, " {what}{}/{:02x}/{:04x}", event.intid, event.running, event.active);
            }
            self.say(format_args!("events{line}"));
        }
    }

    /// Takes an interrupt; 1023 if there is none.
    pub fn take(&self) -> u64 {
        cpu::settle();
        icc::acknowledge()
    }

    /// Takes and ends interrupts until there are no more, and says what came with which running priority.
    pub fn drain(&self, what: &str) {
        let mut line = String::new();
        for _ in 0..64 {
            let intid = self.take();
            if intid == icc::NONE {
                break;
            }
            let _ = write!(line, " {intid}/{:02x}", icc::running_priority());
            icc::end(intid);
        }
        self.say(format_args!("{what}:{line}"));
    }
}

/// Plays what the command line asks for.
pub fn run(board: &Board) {
    let words = || board.cmdline.split_whitespace();
    let everything = words().any(|word| word == EVERYTHING);
    // Before a register is written.
    if everything || words().any(|word| word == "resets") {
        resets::show(board);
    }
    let Some(frames) = Frames::find(board) else {
        return println!("CONFORMANCE broken: the board lacks what is needed");
    };
    cpu::become_cpu(0, &frames);
    if !second::start(board, &frames) {
        return println!("CONFORMANCE broken: the other CPU doesn't start");
    }
    let by_name = POWER.iter().chain(IN_A_VM).map(|it| (it, false));
    let all = ALL.iter().map(|it| (it, everything)).chain(by_name);
    for (&(name, play), wanted) in all {
        if wanted || words().any(|word| word == name) {
            let scene = Scene {
                board,
                frames,
                name,
                trace: words().any(|word| word == "trace"),
                seed: board.number("axvm.seed").filter(|&seed| seed != 0).unwrap_or(lot::SEED),
                steps: board.number("axvm.steps").unwrap_or(lot::STEPS),
            };
            scene.tidy();
            play(&scene);
            scene.tidy();
            println!("CONFORMANCE {name} done");
        }
    }
}
