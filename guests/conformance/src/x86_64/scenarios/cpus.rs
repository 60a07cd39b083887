//! Two CPUs.

use axvm_guest_runtime::machine::{SURELY_S, within};

use super::Scene;
use crate::arch::apic::{self, ASSERT, LOGICAL, TO_ALL, TO_OTHERS, send};
use crate::arch::cpu::{self, let_in, settle};
use crate::arch::second::{self, Ask};

/// Beginnings and ends that the other one has seen.
fn sees(count: usize) -> bool {
    within(SURELY_S, || cpu::cpu(1).count() >= count)
}

/// A CPU's APIC after INIT.
pub fn reset(scene: &Scene<'_>) {
    scene.say(format_args!("found{}", second::found()));
}

/// What is sent to the other one comes there, the most urgent first.
pub fn to_other(scene: &Scene<'_>) {
    for vector in [0x41, 0xb7, 0x62, 0xb8] {
        send(scene.other, ASSERT | vector);
    }
    settle();
    let is_asked = second::ask(Ask::Unmask);
    scene.say(format_args!("unmasks {is_asked}, sees all {}", sees(8)));
    second::ask(Ask::Mask);
    scene.say_events_of(1);
    scene.say_state("here");
}

/// All, and all but the sender.
pub fn to_many(scene: &Scene<'_>) {
    second::ask(Ask::Unmask);
    send(0, ASSERT | TO_ALL | 0x45);
    scene.say(format_args!("sees {}", sees(2)));
    send(0, ASSERT | TO_OTHERS | 0x46);
    scene.say(format_args!("sees {}", sees(4)));
    send(if apic::is_x2() { u32::MAX } else { 0xff }, ASSERT | 0x47);
    scene.say(format_args!("sees {}", sees(6)));
    second::ask(Ask::Mask);
    scene.say_events_of(1);
    let_in();
    scene.say_events();
}

/// By logical destinations: in xAPIC mode the flat ones.
pub fn logical(scene: &Scene<'_>) {
    let own = logical_id(0x01);
    let both = if apic::is_x2() { 1 << apic::id() | 1 << scene.other } else { own | second::LOGICAL_ID };
    second::ask(Ask::Unmask);
    send(own, ASSERT | LOGICAL | 0x51);
    scene.say_state("to this one");
    send(both, ASSERT | LOGICAL | 0x52);
    scene.say_state("to all by bits");
    send(0x04, ASSERT | LOGICAL | 0x53);
    scene.say_state("to nobody");
    settle();
    second::ask(Ask::Mask);
    scene.say_events_of(1);
    let_in();
    scene.say_events();
}

/// Gives the first one a flat logical id, where it isn't given by its id.
fn logical_id(id: u32) -> u32 {
    if apic::is_x2() {
        return apic::read(apic::LDR);
    }
    apic::write(apic::DFR, u32::MAX);
    apic::write(apic::LDR, id << 24);
    id
}

/// By clusters: four bits of which cluster, four of whom in it.
pub fn clusters(scene: &Scene<'_>) {
    apic::write(apic::DFR, 0x0fff_ffff);
    for (id, vector) in [(0x21, 0x51), (0x32, 0x52)] {
        apic::write(apic::LDR, id << 24);
        for to in [0x21, 0x23, 0x22, 0x31, 0x32, 0x36, 0x3f] {
            send(to, ASSERT | LOGICAL | vector);
            settle();
            let came = apic::has(apic::IRR, vector as u8);
            scene.say(format_args!("{id:02x} hears {to:02x}: {came}"));
            let_in();
        }
    }
    apic::write(apic::DFR, u32::MAX);
    apic::write(apic::LDR, 0);
}

/// One that sleeps is woken.
pub fn asleep(scene: &Scene<'_>) {
    let is_asleep = second::ask(Ask::Sleep);
    for (vector, count) in [(0x61, 2), (0x31, 4), (0xd1, 6)] {
        settle();
        send(scene.other, ASSERT | vector);
        scene.say(format_args!("woken {}", is_asleep && sees(count)));
    }
    scene.say_events_of(1);
    // It has to be awake for the next one.
    wake(scene);
}

/// Has it listen again.
fn wake(scene: &Scene<'_>) {
    second::leave_sleep(|| send(scene.other, ASSERT | 0x21));
}

/// INIT in the middle of everything: nothing of that is left.
pub fn init(scene: &Scene<'_>) {
    cpu::cpu(1).hold.store(true, core::sync::atomic::Ordering::Relaxed);
    second::ask(Ask::Unmask);
    send(scene.other, ASSERT | 0x71);
    // It is taken and not ended; two more wait, one of which can't come before it ends.
    scene.say(format_args!("taken {}", sees(1)));
    second::ask(Ask::Mask);
    send(scene.other, ASSERT | 0x72);
    send(scene.other, ASSERT | 0x91);
    settle();
    cpu::cpu(1).reset();
    let is_started = second::start(scene.board) == Some(scene.other);
    scene.say(format_args!("starts {is_started}, found{}", second::found()));
    second::ask(Ask::Unmask);
    settle();
    second::ask(Ask::Mask);
    scene.say_events_of(1);
}
