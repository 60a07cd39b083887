//! The end in two steps (ICC_CTLR_EL1.EOImode): the priority drops, and later the interrupt ends.

use alloc::string::String;
use core::fmt::Write as _;

use axvm_guest_runtime::icc;

use super::Scene;
use crate::arch::cpu::{send_here, settle};
use crate::arch::frames::{ISACTIVER, ISPENDR};

const PRIORITY: u32 = 0xa0;

impl Scene<'_> {
    fn two_steps(&self) {
        icc::set_control(icc::control() | icc::EOI_MODE);
    }

    fn active_sgis(&self) -> u32 {
        settle();
        self.frames.word(0, ISACTIVER, 0) & 0xffff
    }

    fn pending_sgis(&self) -> u32 {
        settle();
        self.frames.word(0, ISPENDR, 0) & 0xffff
    }
}

/// One interrupt: between the steps it is active and lets others of its priority in, but not itself.
pub fn one(scene: &Scene<'_>) {
    scene.two_steps();
    for sgi in [3, 4] {
        scene.frames.set_up(0, sgi, PRIORITY);
    }
    send_here(3);
    let taken = scene.take();
    scene.say(format_args!(
        "taken {taken} running {:02x} active {:04x}",
        icc::running_priority(),
        scene.active_sgis()
    ));
    icc::end(taken);
    scene.say(format_args!(
        "dropped running {:02x} active {:04x}",
        icc::running_priority(),
        scene.active_sgis()
    ));
    send_here(3);
    scene.say(format_args!("comes {} pending {:04x}", scene.take(), scene.pending_sgis()));
    send_here(4);
    let other = scene.take();
    scene.say(format_args!("comes {other} active {:04x}", scene.active_sgis()));
    icc::deactivate(taken);
    scene.say(format_args!("deactivated active {:04x}", scene.active_sgis()));
    icc::end(other);
    icc::deactivate(other);
    let again = scene.take();
    scene.say(format_args!(
        "comes {again} active {:04x} pending {:04x}",
        scene.active_sgis(),
        scene.pending_sgis()
    ));
    icc::end(again);
    icc::deactivate(again);
    scene.say(format_args!("then {} active {:04x}", scene.take(), scene.active_sgis()));
}

/// All SGIs active at once, many more than there are list registers, ended in an order of their own, some of them pending again.
pub fn many(scene: &Scene<'_>) {
    scene.two_steps();
    let mut line = String::new();
    for sgi in 0..16 {
        scene.frames.set_up(0, sgi, ((sgi * 7 + 2) % 16) << 4);
        send_here(sgi.into());
    }
    for _ in 0..16 {
        let taken = scene.take();
        let _ = write!(line, " {taken}/{:02x}", icc::running_priority());
        if taken != icc::NONE {
            icc::end(taken);
        }
    }
    scene.say(format_args!("taken:{line}"));
    scene.say(format_args!(
        "running {:02x} active {:04x} pending {:04x}",
        icc::running_priority(),
        scene.active_sgis(),
        scene.pending_sgis()
    ));
    for sgi in [1, 6, 11] {
        send_here(sgi);
    }
    scene.say(format_args!("comes {} pending {:04x}", scene.take(), scene.pending_sgis()));
    for step in 0..16u64 {
        let sgi = (step * 11 + 5) % 16;
        icc::deactivate(sgi);
        let came = scene.take();
        scene.say(format_args!(
            "deactivated {sgi}: active {:04x} pending {:04x} comes {came}",
            scene.active_sgis(),
            scene.pending_sgis()
        ));
        if came != icc::NONE {
            icc::end(came);
            icc::deactivate(came);
        }
    }
    scene.say(format_args!("then {} active {:04x}", scene.take(), scene.active_sgis()));
}

/// A level that is up doesn't come again between the steps.
pub fn level(scene: &Scene<'_>) {
    let pins = scene.frames.pins;
    scene.two_steps();
    scene.frames.set_up(0, pins.intid, PRIORITY);
    pins.set(true);
    for round in 0..3 {
        let taken = scene.take();
        scene.say(format_args!("round {round}: the line's {}", taken == u64::from(pins.intid)));
        icc::end(taken);
        scene.say(format_args!("dropped: comes {}", scene.take()));
        if round == 2 {
            pins.set(false);
        }
        icc::deactivate(taken);
    }
    scene.say(format_args!("then {}", scene.take()));
}
