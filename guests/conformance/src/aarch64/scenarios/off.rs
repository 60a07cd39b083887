//! The other CPU goes off and on again. Its interface is reset by that, and nothing else: what was pending at it, comes in the
//! meantime or was active is known to redistributor and distributor (Arm IHI 0069, 11.1), and can be sent elsewhere.

use axvm_guest_runtime::edu::{self, Edu};
use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::icc;
use axvm_guest_runtime::its::Its;
use axvm_guest_runtime::machine::{Fault, store32};
use axvm_platform::model::Platform;

use super::Scene;
use crate::arch::cpu::{send, settle};
use crate::arch::frames::{ICACTIVER, ISACTIVER, ISENABLER, ISPENDR};
use crate::arch::second::{self, Ask, spin_wait::within};

/// Taken by it and not ended.
const TAKEN: u32 = 3;
/// Sent before it goes off.
const BEFORE: u32 = 5;
/// Collections of the ITS: the other CPU, and the first one.
const THERE: u64 = 0;
/// See [`THERE`].
const HERE: u64 = 1;
/// Sent while it is off.
const MEANWHILE: u32 = 7;

impl Scene<'_> {
    fn show_other(&self, moment: &str, interrupts: &[(&str, u32)]) {
        settle();
        for &(name, intid) in interrupts {
            let bit = |bank| u32::from(self.frames.get(1, bank, intid));
            self.say(format_args!(
                "{moment}: {name} pending {} active {} enabled {}",
                bit(ISPENDR),
                bit(ISACTIVER),
                bit(ISENABLER)
            ));
        }
    }

    /// Has the other CPU take the most urgent interrupt: which it is, by name.
    fn taken_by_other(&self) -> Option<u32> {
        second::do_it(Ask::Take).filter(|&intid| u64::from(intid) != icc::NONE)
    }
}

/// All that a CPU that goes off has of interrupts.
pub fn interrupts(scene: &Scene<'_>) {
    let (frames, pins) = (&scene.frames, scene.frames.pins);
    let [quiet, _] = frames.quiet;
    let timer = frames.timer;
    for (intid, priority) in [(TAKEN, 0x40), (BEFORE, 0x60), (MEANWHILE, 0x80), (timer, 0xa0)] {
        frames.set_up(1, intid, priority);
    }
    for (intid, priority) in [(pins.intid, 0x50), (quiet, 0x70)] {
        frames.set_up(0, intid, priority);
        frames.route(intid, 1);
    }
    let own = [("the taken one", TAKEN), ("one sent before", BEFORE), ("one sent meanwhile", MEANWHILE)];
    let lines = [("a level", pins.intid), ("a line made pending", quiet)];

    send(frames.mpidrs[1], TAKEN.into());
    scene.say(format_args!("taken {:?}", scene.taken_by_other()));
    send(frames.mpidrs[1], BEFORE.into());
    second::do_it(Ask::StartTimer);
    pins.set(true);
    let waits = within(|| {
        frames.get(1, ISPENDR, BEFORE) && frames.get(1, ISPENDR, timer) && frames.get(0, ISPENDR, pins.intid)
    });
    scene.say(format_args!("others wait: {waits}"));
    scene.show_other("on", &own);
    scene.show_other("on", &lines);

    scene.say(format_args!("off: {}", second::off(frames)));
    send(frames.mpidrs[1], MEANWHILE.into());
    frames.set(0, ISPENDR, quiet);
    let waits = within(|| frames.get(1, ISPENDR, MEANWHILE) && frames.get(0, ISPENDR, quiet));
    scene.say(format_args!("more wait: {waits}"));
    scene.show_other("off", &own);
    scene.show_other("off", &lines);

    scene.say(format_args!("on again: {}", second::on(frames)));
    second::do_it(Ask::StopTimer);
    scene.show_other("on again", &own);
    scene.show_other("on again", &lines);
    scene.show_other("on again", &[("the timer", timer)]);
    while let Some(intid) = scene.taken_by_other() {
        scene.say(format_args!("comes {intid}"));
        if intid == pins.intid {
            pins.set(false);
        }
        second::do_it(Ask::End);
    }
    // What it has never ended.
    send(frames.mpidrs[1], TAKEN.into());
    within(|| frames.get(1, ISPENDR, TAKEN));
    scene.say(format_args!("active: comes {:?}", scene.taken_by_other()));
    frames.set(1, ICACTIVER, TAKEN);
    scene.say(format_args!("active no more: comes {:?}", scene.taken_by_other()));
    second::do_it(Ask::End);
    for time in ["once", "again"] {
        second::do_it(Ask::StartTimer);
        scene.say(format_args!("the timer: comes {time} {}", scene.taken_by_other() == Some(timer)));
        second::do_it(Ask::StopTimer);
        second::do_it(Ask::End);
    }
    scene.show_other("at last", &own);
    scene.show_other("at last", &lines);
}

/// Who makes a message.
enum Sender {
    /// The guest itself, by a command of the ITS.
    Command,
    /// The device, by a write to the doorbell.
    Device(Edu),
}

impl Sender {
    /// The guest's `edu`, which may write to the doorbell from here on.
    fn device(platform: &Platform) -> Result<Self, &'static str> {
        let doorbell = Gic::find(platform).and_then(|gic| gic.doorbell()).ok_or("no doorbell")?;
        let edu = Edu::find(platform).ok_or("no edu")?;
        edu.enable_msi(doorbell, 0).map_err(|_| "edu has no MSI")?;
        Ok(Self::Device(edu))
    }

    fn send(&self, its: &mut Its<'_>) -> Result<(), Fault> {
        match self {
            Self::Command => its.raise(0),
            Self::Device(edu) => {
                store32(edu.registers + edu::RAISE, 1)?;
                // It has sent it, and would send no other for the same reason.
                store32(edu.registers + edu::ACKNOWLEDGE, 1)
            }
        }
    }
}

/// A line that waits at a CPU that is off is routed to the first one; a message for it is moved there, or waits for it.
pub fn message(scene: &Scene<'_>) {
    if let Err(why) = play_message(scene, |_| Ok(Sender::Command)) {
        scene.say(format_args!("broken: {why}"));
    }
}

/// As [`message`], of messages that the device itself sends.
pub fn device_message(scene: &Scene<'_>) {
    if let Err(why) = play_message(scene, Sender::device) {
        scene.say(format_args!("broken: {why}"));
    }
}

fn play_message(
    scene: &Scene<'_>,
    sender: impl FnOnce(&Platform) -> Result<Sender, &'static str>,
) -> Result<(), &'static str> {
    let frames = &scene.frames;
    let platform = &scene.board.platform;
    let gic = Gic::find(platform).ok_or("no GIC")?;
    let device = edu::requester_id(platform).ok_or("no edu")?;
    let [here, there] = frames.mpidrs.map(|mpidr| gic.redistributor(mpidr));
    let targets = [there.map_err(|_| "no redistributor")?, here.map_err(|_| "no redistributor")?];
    let memory = scene.board.scratch.next_multiple_of(0x1_0000);
    let stuck = |_| "the ITS or the device doesn't answer";
    let mut its = Its::start(&gic, device, 1, &targets, memory).map_err(stuck)?;
    its.set(0, 0xa0, true).and_then(|()| its.map(0, THERE)).map_err(stuck)?;
    let sender = sender(platform)?;
    let take_here = || {
        let mut taken = icc::NONE;
        within(|| {
            taken = icc::acknowledge();
            taken != icc::NONE
        });
        if taken != icc::NONE {
            icc::end(taken);
        }
        taken
    };

    sender.send(&mut its).map_err(stuck)?;
    scene.say(format_args!("on: there {}", scene.taken_by_other().is_some_and(|it| u64::from(it) == LPI)));
    second::do_it(Ask::End);

    scene.say(format_args!("off: {}", second::off(frames)));
    sender.send(&mut its).map_err(stuck)?;
    settle();
    scene.say(format_args!("raised for it: here {}", scene.take()));
    its.move_to(0, HERE).map_err(stuck)?;
    scene.say(format_args!("moved: here {}", take_here() == LPI));

    // The other way round: it comes while the CPU is off, and waits there.
    its.move_to(0, THERE).map_err(stuck)?;
    sender.send(&mut its).map_err(stuck)?;
    settle();
    scene.say(format_args!("moved back and raised: here {}", scene.take()));
    let line = frames.quiet[0];
    frames.set_up(0, line, 0x80);
    frames.route(line, 1);
    frames.set(0, ISPENDR, line);
    scene.say(format_args!(
        "a line waits there: {}, here {}",
        within(|| frames.get(0, ISPENDR, line)),
        scene.take()
    ));
    frames.route(line, 0);
    scene.say(format_args!("routed: here {}", take_here() == u64::from(line)));

    scene.say(format_args!("on again: {}", second::on(frames)));
    scene.say(format_args!("there {}", scene.taken_by_other().is_some_and(|it| u64::from(it) == LPI)));
    second::do_it(Ask::End);
    scene.say(format_args!("then {:?}", scene.taken_by_other()));

    // It has come before the CPU goes off, which hasn't taken it.
    sender.send(&mut its).map_err(stuck)?;
    settle();
    scene.say(format_args!("raised before, off: {}", second::off(frames)));
    its.move_to(0, HERE).map_err(stuck)?;
    scene.say(format_args!("moved: here {}", take_here() == LPI));
    scene.say(format_args!("on again: {}", second::on(frames)));
    scene.say(format_args!("then {:?}", scene.taken_by_other()));
    Ok(())
}
