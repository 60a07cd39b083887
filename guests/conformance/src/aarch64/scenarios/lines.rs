//! Levels: a line of a device that stays up, and the timer's.

use core::sync::atomic::Ordering;

use axvm_guest_runtime::{icc, machine};

use super::Scene;
use crate::arch::cpu::{self, let_in, settle};
use crate::arch::frames::{ICENABLER, ICPENDR, ISACTIVER, ISENABLER, ISPENDR};

const PRIORITY: u32 = 0xa0;

impl Scene<'_> {
    fn show_level(&self, moment: &str, intid: u32) {
        settle();
        let bit = |bank| u32::from(self.frames.get(0, bank, intid));
        self.say(format_args!("{moment}: pending {} active {}", bit(ISPENDR), bit(ISACTIVER)));
    }
}

/// A level that stays up comes again after its end, and not before; one that has fallen doesn't.
pub fn level(scene: &Scene<'_>) {
    let (frames, pins) = (&scene.frames, scene.frames.pins);
    let intid = pins.intid;
    frames.set_up(0, intid, PRIORITY);
    scene.show_level("down", intid);
    pins.set(true);
    scene.show_level("up", intid);
    frames.set(0, ICPENDR, intid);
    scene.show_level("cleared in vain", intid);
    for round in 0..3 {
        let taken = scene.take();
        scene.say(format_args!("round {round}: the line's {}", taken == u64::from(intid)));
        scene.show_level("taken", intid);
        scene.say(format_args!("meanwhile {}", scene.take()));
        if round == 2 {
            pins.set(false);
            scene.show_level("fallen", intid);
        }
        icc::end(taken);
    }
    scene.show_level("ended", intid);
    scene.say(format_args!("then {}", scene.take()));
    // Up while it is disabled.
    frames.set(0, ICENABLER, intid);
    pins.set(true);
    scene.show_level("up, disabled", intid);
    scene.say(format_args!("comes {}", scene.take()));
    pins.set(false);
    scene.show_level("fallen, disabled", intid);
    frames.set(0, ISENABLER, intid);
    scene.say(format_args!("enabled {}", scene.take()));
    // Up, down and up while it is active.
    pins.set(true);
    let taken = scene.take();
    pins.set(false);
    pins.set(true);
    scene.show_level("up again", intid);
    icc::end(taken);
    let taken = scene.take();
    scene.say(format_args!("comes {}", taken == u64::from(intid)));
    pins.set(false);
    icc::end(taken);
    scene.say(format_args!("then {}", scene.take()));
    // Made pending by software as well: the level's end doesn't take that away.
    frames.set(0, ISPENDR, intid);
    let taken = scene.take();
    scene.show_level("by software", intid);
    icc::end(taken);
    scene.show_level("ended", intid);
    scene.say(format_args!("then {}", scene.take()));
}

/// The same in a handler, among software interrupts.
pub fn handler(scene: &Scene<'_>) {
    let (frames, pins) = (&scene.frames, scene.frames.pins);
    let cpu = cpu::cpu(0);
    frames.set_up(0, pins.intid, 0x80);
    for sgi in 0..8 {
        frames.set_up(0, sgi, 0x40 + (sgi << 4));
        cpu::send_here(sgi.into());
    }
    for (slot, value) in cpu.quiet.iter().zip([pins.switch(), 0, 3]) {
        slot.store(value, Ordering::Relaxed);
    }
    pins.set(true);
    let_in();
    let count =
        |end: bool| cpu.events().filter(|event| event.intid == pins.intid && event.end == end).count();
    scene.say(format_args!("the line came {} times, and ended {}", count(false), count(true)));
    let before = cpu.events().take_while(|event| event.intid != pins.intid);
    let before: alloc::vec::Vec<u32> = before.filter(|event| !event.end).map(|event| event.intid).collect();
    scene.say(format_args!("before it {before:?}"));
    scene.say(format_args!("in all {}", cpu.count()));
    scene.say(format_args!("then {}", scene.take()));
}

/// A timer's level, of the CPU's own.
pub fn timer(scene: &Scene<'_>) {
    let frames = &scene.frames;
    let intid = frames.timer;
    frames.set_up(0, intid, PRIORITY);
    scene.show_level("stopped", intid);
    machine::start_timer(0);
    for round in 0..3 {
        let taken = scene.take();
        scene.say(format_args!("round {round}: the timer's {}", taken == u64::from(intid)));
        scene.show_level("taken", intid);
        scene.say(format_args!("meanwhile {}", scene.take()));
        if round == 2 {
            machine::stop_timer();
        }
        icc::end(taken);
    }
    scene.show_level("ended", intid);
    scene.say(format_args!("then {}", scene.take()));
}
