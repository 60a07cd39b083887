//! The I/O APIC, by the line of the console.

use core::sync::atomic::Ordering;

use alloc::vec::Vec;

use axvm_guest_runtime::machine::{SURELY_S, within};

use super::Scene;
use crate::arch::apic;
use crate::arch::cpu::{self, let_in, settle};
use crate::arch::line::{self, entry};
use crate::arch::second::{self, Ask};

const VECTOR: u8 = 0x81;

/// Where an interrupt of the pin is, at a moment.
struct Sight {
    when: &'static str,
    requested: bool,
    in_service: bool,
    not_ended: bool,
}

/// What is seen while the line may be active: said once it is lowered.
struct Seen(Vec<Sight>);

impl Seen {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn look(&mut self, scene: &Scene<'_>, when: &'static str, by_level: bool) {
        settle();
        self.0.push(Sight {
            when,
            requested: apic::has(apic::IRR, VECTOR),
            in_service: apic::has(apic::ISR, VECTOR),
            not_ended: by_level && scene.pin.waits(),
        });
    }

    fn say(self, scene: &Scene<'_>) {
        line::set(false);
        for Sight { when, requested, in_service, not_ended } in self.0 {
            scene.say(format_args!(
                "{when}: requested {requested}, in service {in_service}, not ended {not_ended}"
            ));
        }
    }
}

/// Edges come once each; what comes while the pin is masked is lost.
pub fn edge(scene: &Scene<'_>) {
    let mut seen = Seen::new();
    let pin = scene.pin;
    pin.set_low(entry::MASKED | u32::from(VECTOR));
    line::set(true);
    seen.look(scene, "masked", false);
    pin.set_low(VECTOR.into());
    seen.look(scene, "unmasked while active", false);
    line::set(false);
    seen.look(scene, "lowered", false);
    line::set(true);
    seen.look(scene, "raised", false);
    scene.take();
    seen.look(scene, "taken", false);
    line::set(false);
    line::set(true);
    seen.look(scene, "raised again", false);
    line::set(false);
    line::set(true);
    line::set(false);
    seen.look(scene, "and again", false);
    apic::end();
    seen.look(scene, "ended", false);
    scene.take();
    apic::end();
    seen.look(scene, "taken and ended", false);
    seen.say(scene);
}

/// A level comes as long as it is there, each time the one before has ended.
pub fn level(scene: &Scene<'_>) {
    let mut seen = Seen::new();
    let pin = scene.pin;
    pin.set_low(entry::BY_LEVEL | u32::from(VECTOR));
    seen.look(scene, "unmasked", true);
    line::set(true);
    seen.look(scene, "raised", true);
    scene.take();
    seen.look(scene, "taken", true);
    apic::end();
    seen.look(scene, "ended while active", true);
    scene.take();
    line::set(false);
    seen.look(scene, "taken, then lowered", true);
    apic::end();
    seen.look(scene, "ended", true);
    line::set(true);
    scene.take();
    line::set(false);
    line::set(true);
    seen.look(scene, "lowered and raised in service", true);
    apic::end();
    seen.look(scene, "ended", true);
    scene.take();
    line::set(false);
    apic::end();
    seen.look(scene, "over", true);
    seen.say(scene);
}

/// One that is masked while it is active, and while its interrupt is under way.
pub fn level_masked(scene: &Scene<'_>) {
    let mut seen = Seen::new();
    let pin = scene.pin;
    let open = entry::BY_LEVEL | u32::from(VECTOR);
    pin.set_low(open | entry::MASKED);
    line::set(true);
    seen.look(scene, "masked", true);
    pin.set_low(open);
    seen.look(scene, "unmasked", true);
    scene.take();
    pin.set_low(open | entry::MASKED);
    seen.look(scene, "masked in service", true);
    apic::end();
    seen.look(scene, "ended", true);
    pin.set_low(open);
    seen.look(scene, "unmasked again", true);
    scene.take();
    pin.set_low(open | entry::MASKED);
    line::set(false);
    apic::end();
    pin.set_low(open);
    seen.look(scene, "over", true);
    seen.say(scene);
}

/// A handler that lowers it at the third time.
pub fn level_handler(scene: &Scene<'_>) {
    scene.pin.set_low(entry::BY_LEVEL | u32::from(VECTOR));
    cpu::cpu(0).quiet_after.store(3, Ordering::Relaxed);
    line::set(true);
    let_in();
    line::set(false);
    scene.say_events();
    scene.say(format_args!("not ended {}", scene.pin.waits()));
}

/// The other CPU takes it.
pub fn level_other(scene: &Scene<'_>) {
    scene.pin.aim(scene.other);
    scene.pin.set_low(entry::BY_LEVEL | u32::from(VECTOR));
    cpu::cpu(1).quiet_after.store(2, Ordering::Relaxed);
    second::ask(Ask::Unmask);
    line::set(true);
    let came = within(SURELY_S, || cpu::cpu(1).count() >= 4);
    second::ask(Ask::Mask);
    line::set(false);
    scene.say(format_args!("comes {came}, not ended {}", scene.pin.waits()));
    scene.say_events_of(1);
    scene.say_state("here");
    scene.pin.aim(0);
}

/// What can be written of an entry can be read, and the rest stays.
pub fn registers(scene: &Scene<'_>) {
    let pin = scene.pin;
    for value in [entry::MASKED | 0x45, entry::MASKED | entry::BY_LEVEL | entry::LOGICAL | 0x2100 | 0xfe] {
        pin.set_low(value | 1 << 12 | entry::REMOTE);
        scene.say(format_args!("{:x}", pin.low()));
    }
    for destination in [0xff, 0x01, 0] {
        pin.aim(destination);
        scene.say(format_args!("names {:x}", pin.destination()));
    }
}
