//! Interrupts that are made on one CPU and taken on another: by the host of the VM, where there is one, and by a device. Not for
//! the bare board, which has nobody who types and injects.

use alloc::string::String;
use core::fmt::Write as _;

use axvm_guest_runtime::edu::{self, Edu};
use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::machine::{load32, store32};
use axvm_guest_runtime::println;

use super::Scene;
use crate::arch::frames::{ICENABLER, ICPENDR, ISACTIVER, ISPENDR};
use crate::arch::second::{self, Ask, spin_wait::within};

/// Registers and bits of the PL011 (Arm DDI 0183, 3.3).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const LCR_H: u64 = 0x2c;
const LCR_H_FEN: u32 = 1 << 4;
const CR: u64 = 0x30;
const CR_ON: u32 = 1 << 9 | 1 << 8 | 1;
const IMSC: u64 = 0x38;
/// A character that has waited, or many.
const RECEIVED: u32 = 1 << 6 | 1 << 4;

/// What the other CPU takes, looking for a few seconds.
fn taken_there() -> Option<u32> {
    (0..5).find_map(|_| second::do_it(Ask::Take).filter(|intid| *intid != 1023))
}

/// What is typed comes to the other CPU as the console's interrupt, and is read by the first one.
pub fn typed(scene: &Scene<'_>) {
    let (frames, console) = (&scene.frames, scene.board.console);
    let line = frames.quiet[1];
    frames.set_up(1, line, 0x80);
    frames.route(line, 1);
    for (register, value) in [(LCR_H, LCR_H_FEN), (IMSC, RECEIVED), (CR, CR_ON)] {
        let _ = store32(console + register, value);
    }
    println!("CONFORMANCE typed: now");
    let taken = taken_there();
    scene.say(format_args!(
        "there {}, active {}",
        taken == Some(line),
        within(|| frames.get(0, ISACTIVER, line))
    ));
    scene.say(format_args!("still up: {}", within(|| frames.get(0, ISPENDR, line))));
    let mut text = String::new();
    // All of it, though it may come one by one: then the line is down.
    within(|| {
        while load32(console + FR).is_ok_and(|flags| flags & FR_RXFE == 0) {
            text.push(char::from(load32(console + DR).unwrap_or(0) as u8));
        }
        text.ends_with('\n')
    });
    second::do_it(Ask::End);
    scene.say(format_args!("read {:?}", text.trim_end()));
    scene.say(format_args!("then {:?}", second::do_it(Ask::Take)));
    let _ = store32(console + IMSC, 0);
}

/// The host's own injections, as far as it makes any: a software interrupt and the first LPI, at the other CPU.
pub fn injected(scene: &Scene<'_>) {
    let frames = &scene.frames;
    let Err(why) = map_lpi(scene) else {
        frames.set_up(1, 3, 0x80);
        frames.set(1, ICPENDR, 3);
        let (mut line, mut came) = (String::new(), [false; 2]);
        for _ in 0..8 {
            // It looks around when something is said.
            println!("CONFORMANCE injected: now");
            match taken_there_soon() {
                // More urgent than the LPI: it has come, and leaves room for that.
                Some(3) => {
                    came[0] = true;
                    frames.set(1, ICENABLER, 3);
                }
                Some(lpi) if u64::from(lpi) == LPI => came[1] = true,
                Some(other) => drop(write!(line, " and {other}")),
                None => break,
            }
            second::do_it(Ask::End);
        }
        return scene.say(format_args!("there: SGI {}, LPI {}{line}", came[0], came[1]));
    };
    scene.say(format_args!("broken: {why}"));
}

fn taken_there_soon() -> Option<u32> {
    second::do_it(Ask::Take).filter(|intid| *intid != 1023)
}

/// Event 0 of the guest's `edu`: the first LPI, at the other CPU.
fn map_lpi(scene: &Scene<'_>) -> Result<(), &'static str> {
    let platform = &scene.board.platform;
    let gic = Gic::find(platform).ok_or("no GIC")?;
    let id = edu::requester_id(platform).ok_or("no edu")?;
    let target = gic.redistributor(scene.frames.mpidrs[1]).map_err(|_| "no redistributor")?;
    let memory = scene.board.scratch.next_multiple_of(0x1_0000);
    gic.map_msi(id, &target, memory).map_err(|_| "the ITS doesn't answer")
}

/// A message of a device that the first CPU works, at the other one.
pub fn message(scene: &Scene<'_>) {
    let play = || -> Result<Option<u32>, &'static str> {
        let platform = &scene.board.platform;
        map_lpi(scene)?;
        let doorbell = Gic::find(platform).and_then(|gic| gic.doorbell()).ok_or("no doorbell")?;
        let edu = Edu::find(platform).ok_or("no edu")?;
        edu.enable_msi(doorbell, 0).map_err(|_| "edu has no MSI")?;
        // What came before.
        while taken_there_soon().is_some() {
            second::do_it(Ask::End);
        }
        store32(edu.registers + edu::RAISE, 1).map_err(|_| "edu doesn't answer")?;
        let taken = taken_there();
        let _ = store32(edu.registers + edu::ACKNOWLEDGE, u32::MAX);
        second::do_it(Ask::End);
        Ok(taken)
    };
    match play() {
        Ok(taken) => scene.say(format_args!("there {}", taken.is_some_and(|lpi| u64::from(lpi) == LPI))),
        Err(why) => scene.say(format_args!("broken: {why}")),
    }
}
