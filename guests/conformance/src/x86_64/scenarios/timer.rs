//! The timer, as far as it doesn't matter how fast it is.

use axvm_guest_runtime::machine::{SURELY_S, within};

use super::Scene;
use crate::arch::apic::{self, CURRENT, DIVIDER, INITIAL, MASKED, PERIODIC, TIMER};
use crate::arch::cpu::{self, let_in, settle};

const VECTOR: u8 = 0x91;
/// Not long on any machine, in ticks of it.
const SHORT: u32 = 100_000;
/// Longer than any scenario.
const LONG: u32 = 0xffff_ffff;
/// How often something that is to be done in time is tried.
const TRIES: u32 = 20;
/// By 1, and by 128, which is what LONG is counted by.
const BY_1: u32 = 0xb;
const BY_128: u32 = 0xa;

fn comes() -> bool {
    within(SURELY_S, || apic::has(apic::IRR, VECTOR))
}

/// It comes once, and its count is zero then.
pub fn once(scene: &Scene<'_>) {
    apic::write(DIVIDER, BY_1);
    apic::write(TIMER, VECTOR.into());
    apic::write(INITIAL, SHORT);
    scene.say(format_args!(
        "comes {}, initial {}, left {}",
        comes(),
        apic::read(INITIAL),
        apic::read(CURRENT)
    ));
    let_in();
    scene.say_events();
    cpu::cpu(0).reset();
    // Not again.
    wait_for(SHORT);
    scene.say_state("later");
    // Started anew before it comes.
    apic::write(DIVIDER, BY_128);
    apic::write(INITIAL, LONG);
    settle();
    let left = apic::read(CURRENT);
    scene.say(format_args!("runs {}", left > LONG / 2 && left < LONG));
    apic::write(INITIAL, 0);
    scene.say(format_args!("stopped: left {}", apic::read(CURRENT)));
    settle();
    scene.say_state("stopped");
}

/// Waits until a count of its own, masked, has run down twice.
fn wait_for(ticks: u32) {
    let entry = apic::read(TIMER);
    apic::write(TIMER, MASKED | u32::from(VECTOR));
    for _ in 0..2 {
        apic::write(INITIAL, ticks);
        within(SURELY_S, || apic::read(CURRENT) == 0);
    }
    apic::write(INITIAL, 0);
    apic::write(TIMER, entry);
}

/// It comes again and again, until it is stopped.
pub fn periodic(scene: &Scene<'_>) {
    apic::write(DIVIDER, BY_1);
    apic::write(TIMER, PERIODIC | u32::from(VECTOR));
    apic::write(INITIAL, SHORT * 10);
    for _ in 0..4 {
        let came = comes();
        scene.say(format_args!("comes {came}, taken {:02x}", scene.take()));
        apic::end();
    }
    apic::write(INITIAL, 0);
    let_in();
    cpu::cpu(0).reset();
    wait_for(SHORT);
    scene.say_state("stopped");
}

/// What comes while it is masked is lost.
pub fn masked(scene: &Scene<'_>) {
    apic::write(DIVIDER, BY_1);
    apic::write(TIMER, MASKED | u32::from(VECTOR));
    apic::write(INITIAL, SHORT);
    scene.say(format_args!("ends {}", within(SURELY_S, || apic::read(CURRENT) == 0)));
    scene.say_state("masked");
    apic::write(TIMER, VECTOR.into());
    let_in();
    scene.say_events();
    // Unmasked before it comes: again where something has kept the CPU from that for too long.
    for _ in 0..TRIES {
        apic::write(TIMER, MASKED | u32::from(VECTOR));
        apic::write(INITIAL, SHORT * 100);
        apic::write(TIMER, VECTOR.into());
        if apic::read(CURRENT) != 0 {
            break;
        }
    }
    scene.say(format_args!("comes {}", comes()));
    let_in();
    scene.say_events();
}

/// What can be written can be read.
pub fn registers(scene: &Scene<'_>) {
    apic::write(TIMER, MASKED);
    for divider in [0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa, 0xb] {
        apic::write(DIVIDER, divider);
        scene.say(format_args!("divider {:x}", apic::read(DIVIDER)));
    }
    for initial in [1, 0x8000_0000, 0] {
        apic::write(INITIAL, initial);
        scene.say(format_args!("initial {:x}", apic::read(INITIAL)));
    }
}
