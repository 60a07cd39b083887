//! Interrupts from one CPU to the other.

use axvm_guest_runtime::icc;

use super::Scene;
use crate::arch::cpu::{self, let_in, send, send_here, settle};
use crate::arch::frames::{ICENABLER, ISACTIVER, ISENABLER, ISPENDR};
use crate::arch::second::{self, Ask, spin_wait::within};

/// The other CPU sends all SGIs, then one to all others.
pub fn from_other(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(0, sgi, ((sgi * 3 + 1) % 16) << 4);
    }
    second::do_it(Ask::Send);
    let all = within(|| frames.word(0, ISPENDR, 0) & 0xffff == 0xffff);
    scene.say(format_args!("all pending: {all}"));
    let_in();
    scene.say_events();
    cpu::cpu(0).reset();
    second::do_it(Ask::Broadcast);
    let came = within(|| frames.get(0, ISPENDR, 5));
    settle();
    scene.say(format_args!("to all others: here {came}, there {}", frames.get(1, ISPENDR, 5)));
    let_in();
    scene.say_events();
}

/// All SGIs to the other CPU, while it has interrupts masked, and while it takes them.
pub fn to_other(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(1, sgi, (15 - sgi) << 4);
        send(frames.mpidrs[1], sgi.into());
    }
    let all = within(|| frames.word(1, ISPENDR, 0) & 0xffff == 0xffff);
    scene.say(format_args!("all pending: {all}"));
    scene.say(format_args!("seen {:?}", second::do_it(Ask::Listen(32))));
    scene.say_events_of(1);
    cpu::cpu(1).reset();
    second::ask(Ask::Listen(32));
    for sgi in 0..16 {
        send(frames.mpidrs[1], sgi);
        // One after the other: each must have come before the next.
        within(|| cpu::cpu(1).count() >= (sgi as usize + 1) * 2);
    }
    scene.say(format_args!("seen {:?}", second::wait()));
    scene.say_events_of(1);
}

/// What one CPU sees of an interrupt that is active on the other.
pub fn other_active(scene: &Scene<'_>) {
    let frames = &scene.frames;
    frames.set_up(1, 7, 0x80);
    send(frames.mpidrs[1], 7);
    scene.say(format_args!("taken there: {:?}", second::do_it(Ask::Take)));
    scene.say(format_args!("active there: {}", within(|| frames.get(1, ISACTIVER, 7))));
    send(frames.mpidrs[1], 7);
    scene.say(format_args!("pending there: {}", within(|| frames.get(1, ISPENDR, 7))));
    scene.say(format_args!("neither here: {} {}", frames.get(0, ISACTIVER, 7), frames.get(0, ISPENDR, 7)));
    second::do_it(Ask::End);
    scene.say(format_args!("active no more: {}", within(|| !frames.get(1, ISACTIVER, 7))));
    scene.say(format_args!("taken again: {:?}", second::do_it(Ask::Take)));
    scene.say(format_args!("pending no more: {}", within(|| !frames.get(1, ISPENDR, 7))));
    second::do_it(Ask::End);
    // Switched off by the first CPU while it waits for the other one's mask.
    send(frames.mpidrs[1], 7);
    let pending = within(|| frames.get(1, ISPENDR, 7));
    frames.set(1, ICENABLER, 7);
    settle();
    scene.say(format_args!("pending {pending}, disabled: taken {:?}", second::do_it(Ask::Take)));
    frames.set(1, ISENABLER, 7);
    scene.say(format_args!("enabled: taken {:?}", second::do_it(Ask::Take)));
    second::do_it(Ask::End);
}

/// Lines that wait for one CPU and are routed to the other; an active one stays where it is.
pub fn reroute(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for (place, line) in (0u32..).zip(frames.lines()) {
        frames.set_up(0, line, 0x80);
        frames.set(0, ISPENDR, line);
        settle();
        scene.say(format_args!("line {place} waits here: {}", icc::highest_pending() == u64::from(line)));
        frames.route(line, 1);
        let here = scene.take();
        let there = second::do_it(Ask::Take);
        scene.say(format_args!("here {here}, there {}", there == Some(line)));
        frames.set(0, ISPENDR, line);
        frames.route(line, 0);
        scene.say(format_args!("active there: {}", within(|| frames.get(0, ISACTIVER, line))));
        scene.say(format_args!("here meanwhile {}", scene.take()));
        second::do_it(Ask::End);
        let mut came = icc::NONE;
        within(|| {
            came = icc::acknowledge();
            came != icc::NONE
        });
        scene.say(format_args!("here again: {}", came == u64::from(line)));
        if came != icc::NONE {
            icc::end(came);
        }
        scene.say(format_args!("then {}", scene.take()));
    }
    send_here(0);
}
