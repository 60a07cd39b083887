//! Which of many pending interrupts comes first, and which comes into the middle of another.

use core::sync::atomic::Ordering;

use axvm_guest_runtime::{icc, machine};

use super::Scene;
use crate::arch::cpu::{self, let_in, send_here, settle};
use crate::arch::frames::{ISACTIVER, ISPENDR};

/// The priority of each SGI in an order that is neither theirs nor its opposite: all different.
fn mixed(sgi: u32) -> u32 {
    ((sgi * 5 + 3) % 16) << 4
}

/// All 16 SGIs, each of a priority of its own: many more than a CPU has list registers.
pub fn by_priority(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(0, sgi, mixed(sgi));
        send_here(sgi.into());
    }
    settle();
    scene.say(format_args!("pending {:04x}", frames.word(0, ISPENDR, 0) & 0xffff));
    scene.say(format_args!("first {}", icc::highest_pending()));
    let_in();
    scene.say_events();
    scene.say(format_args!("pending {:04x}", frames.word(0, ISPENDR, 0) & 0xffff));
}

/// SGIs, a PPI and SPIs together.
pub fn of_all_kinds(scene: &Scene<'_>) {
    let frames = &scene.frames;
    let lines = frames.lines();
    let all = (0..12).chain([frames.timer]).chain(lines);
    for (place, intid) in (0..).zip(all) {
        frames.set_up(0, intid, mixed(place));
        if intid >= 32 {
            frames.set(0, ISPENDR, intid);
        } else if intid < 16 {
            send_here(intid.into());
        }
    }
    machine::start_timer(0);
    settle();
    let pending = |intid: u32| u32::from(frames.get(0, ISPENDR, intid));
    scene.say(format_args!(
        "pending {:04x} timer {} lines {} {} {}",
        frames.word(0, ISPENDR, 0) & 0xffff,
        pending(frames.timer),
        pending(lines[0]),
        pending(lines[1]),
        pending(lines[2])
    ));
    // The timer's level stays up: it comes until it is stopped.
    for _ in 0..32 {
        let intid = scene.take();
        if intid == icc::NONE {
            break;
        }
        if intid == u64::from(frames.timer) {
            machine::stop_timer();
        }
        scene.say(format_args!("{} at {:02x}", name(scene, intid), icc::running_priority()));
        icc::end(intid);
    }
}

/// The same name on boards whose lines have other numbers.
fn name(scene: &Scene<'_>, intid: u64) -> alloc::string::String {
    let lines = scene.frames.lines();
    match lines.iter().position(|line| u64::from(*line) == intid) {
        Some(place) => alloc::format!("line {place}"),
        None if intid == u64::from(scene.frames.timer) => "timer".into(),
        None => alloc::format!("SGI {intid}"),
    }
}

/// Two priorities only: those of the more urgent come first, in whatever order.
pub fn equals(scene: &Scene<'_>) {
    for sgi in 0..16 {
        scene.frames.set_up(0, sgi, if sgi % 3 == 0 { 0x40 } else { 0x80 });
        send_here(sgi.into());
    }
    let (mut came, mut last) = (0u32, 0);
    for _ in 0..20 {
        let intid = scene.take();
        let running = if intid == icc::NONE { 0xff } else { icc::running_priority() };
        if running != last && came != 0 {
            scene.say(format_args!("at {last:02x}: {came:04x}"));
            came = 0;
        }
        if intid == icc::NONE {
            break;
        }
        last = running;
        came |= 1 << (intid & 0xf);
        icc::end(intid);
    }
}

/// Each handler raises the next, more urgent one and lets it in: more active interrupts than there are list registers. The last
/// raises some that are less urgent than all, which come when all have ended.
pub fn nested(scene: &Scene<'_>) {
    const DEEP: u32 = 12;
    let cpu = cpu::cpu(0);
    for sgi in 0..16 {
        scene.frames.set_up(0, sgi, if sgi < DEEP { (DEEP - sgi) << 4 } else { sgi << 4 });
    }
    for sgi in 0..DEEP - 1 {
        cpu.raises[sgi as usize].store(1 << (sgi + 1), Ordering::Relaxed);
    }
    // And itself, once more: it can't come before its own end.
    cpu.raises[(DEEP - 1) as usize].store(0xe000, Ordering::Relaxed);
    cpu.nest.store(true, Ordering::Relaxed);
    send_here(0);
    let_in();
    settle();
    let_in();
    scene.say_events();
    scene.say(format_args!("running {:02x}", icc::running_priority()));
    scene.say(format_args!("active {:04x}", scene.frames.word(0, ISACTIVER, 0) & 0xffff));
}

/// Only the bits above the binary point decide whether one interrupt comes into another.
pub fn binary_point(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for point in [5, 6, 7] {
        icc::set_binary_point(point);
        let mut line = alloc::string::String::new();
        for (first, second) in [(0xb0, 0xa0), (0xb0, 0x90), (0xb0, 0x70), (0x80, 0x70), (0x40, 0x40)] {
            frames.set_up(0, 1, first);
            frames.set_up(0, 2, second);
            send_here(1);
            let outer = scene.take();
            let running = icc::running_priority();
            send_here(2);
            let inner = scene.take();
            let nested = icc::running_priority();
            if inner != icc::NONE {
                icc::end(inner);
            }
            icc::end(outer);
            let after = scene.take();
            if after != icc::NONE {
                icc::end(after);
            }
            let _ = core::fmt::Write::write_fmt(
                &mut line,
                format_args!(
                    " {first:02x},{second:02x}: {outer}/{running:02x} {inner}/{nested:02x} {after};"
                ),
            );
        }
        scene.say(format_args!("point {point}:{line}"));
    }
    icc::set_binary_point(0);
}

/// The priority mask, and the CPU's own switch of the group.
pub fn mask(scene: &Scene<'_>) {
    let frames = &scene.frames;
    for sgi in 0..16 {
        frames.set_up(0, sgi, sgi << 4);
        send_here(sgi.into());
    }
    for mask in [0x00, 0x10, 0x40, 0x40, 0x80] {
        icc::set_mask(mask);
        scene.say(format_args!("mask {:02x}", icc::mask()));
        scene.drain("let through");
        scene.say(format_args!("pending {:04x}", frames.word(0, ISPENDR, 0) & 0xffff));
    }
    icc::set_mask(0xf0);
    icc::set_group1(0);
    scene.drain("group off");
    icc::set_group1(1);
    // By the handler, the rest but the least urgent.
    let_in();
    scene.say_events();
    icc::set_mask(0xff);
    scene.drain("open");
}
