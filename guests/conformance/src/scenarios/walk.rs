//! A long walk of steps drawn by lot, always the same ones, and what each shows. Interrupts have priorities of their own at all
//! times, so that each answer is the only right one.

use alloc::vec::Vec;

use axvm_guest_runtime::icc;

use super::Scene;
use crate::cpu::{send_here, settle};
use crate::frames::{GROUP1, ICENABLER, ICPENDR, ISACTIVER, ISENABLER, ISPENDR};

/// Where it begins, and how far it goes, if the command line doesn't say otherwise.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// See [`SEED`].
pub const STEPS: u64 = 2_000;
/// A line is said for so many steps.
const TOGETHER: u64 = 50;

/// Numbers that look random (Marsaglia's xorshift).
struct Lot(u64);

impl Lot {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }
}

struct Walk<'a> {
    scene: &'a Scene<'a>,
    lot: Lot,
    intids: Vec<u32>,
    /// Of each, in steps of 16: all different.
    priorities: Vec<u32>,
    /// Taken and running, the most urgent last.
    running: Vec<u64>,
    /// Dropped, and still active.
    dropped: Vec<u64>,
    split: bool,
}

/// The end is one step.
pub fn plain(scene: &Scene<'_>) {
    walk(scene, false);
}

/// The end is two.
pub fn split(scene: &Scene<'_>) {
    icc::set_control(icc::control() | icc::EOI_MODE);
    walk(scene, true);
}

fn walk(scene: &Scene<'_>, split: bool) {
    let intids: Vec<u32> = (0..13).chain(scene.frames.lines()).collect();
    let priorities: Vec<u32> = (0..16).collect();
    for (intid, priority) in intids.iter().zip(&priorities) {
        scene.frames.set_up(0, *intid, priority << 4);
    }
    // The pins' line as an edge: nothing raises it here.
    scene.frames.set_edge(scene.frames.quiet[0], true);
    let mut walk = Walk {
        scene,
        lot: Lot(scene.seed),
        intids,
        priorities,
        running: Vec::with_capacity(32),
        dropped: Vec::with_capacity(32),
        split,
    };
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for step in 1..=scene.steps {
        let (what, which, seen) = walk.step();
        // FNV-1a.
        for word in [what, which, seen] {
            sum = (sum ^ word).wrapping_mul(0x100_0000_01b3);
        }
        if scene.trace {
            scene.say(format_args!("{step} {} {which} {seen:x}", NAMES[what as usize]));
        }
        if step % TOGETHER == 0 {
            scene.say(format_args!(
                "step {step}: {sum:016x} running {} dropped {}",
                walk.running.len(),
                walk.dropped.len()
            ));
        }
    }
    walk.finish();
}

const NAMES: [&str; 10] =
    ["pend", "clear", "disable", "enable", "swap", "take", "end", "mask", "look", "group"];

impl Walk<'_> {
    fn which(&mut self) -> (usize, u32) {
        let place = self.lot.below(self.intids.len() as u64) as usize;
        (place, self.intids[place])
    }

    fn is_active(&self, intid: u32) -> bool {
        self.running.iter().chain(&self.dropped).any(|it| *it == u64::from(intid))
    }

    /// A step: its name's number, the interrupt's place or what else was drawn, what is seen.
    fn step(&mut self) -> (u64, u64, u64) {
        let frames = &self.scene.frames;
        let what = self.lot.below(24);
        let (place, intid) = self.which();
        let mut which = place as u64;
        let (what, seen) = match what {
            0..=6 => {
                if intid < 16 {
                    send_here(intid.into())
                } else {
                    frames.set(0, ISPENDR, intid)
                }
                (0, 0)
            }
            7 => {
                frames.set(0, ICPENDR, intid);
                (1, 0)
            }
            8 => {
                frames.set(0, ICENABLER, intid);
                (2, 0)
            }
            9 | 10 => {
                frames.set(0, ISENABLER, intid);
                (3, 0)
            }
            11 | 12 => {
                let (other, second) = self.which();
                if !self.is_active(intid) && !self.is_active(second) {
                    self.priorities.swap(place, other);
                    frames.set_priority(0, intid, self.priorities[place] << 4);
                    frames.set_priority(0, second, self.priorities[other] << 4);
                }
                (4, other as u64)
            }
            13..=17 => {
                which = 0;
                settle();
                let taken = icc::acknowledge();
                if taken != icc::NONE {
                    self.running.push(taken);
                }
                (5, taken << 8 | icc::running_priority())
            }
            18 | 19 => {
                which = 0;
                (6, self.end())
            }
            20 => {
                // Mostly open.
                let mask = self.lot.below(24).min(16) << 4;
                which = mask;
                icc::set_mask(mask.min(0xff));
                (7, icc::mask())
            }
            21 | 22 => {
                settle();
                (8, self.look(intid))
            }
            _ => {
                which = u64::from(self.lot.below(4) != 0);
                frames.set_groups(if which == 0 { 0 } else { GROUP1 });
                (9, 0)
            }
        };
        (what, which, seen)
    }

    /// All states at once.
    fn look(&self, intid: u32) -> u64 {
        let word = |bank| u64::from(self.scene.frames.word(0, bank, intid));
        // SGIs; or the guest's own lines, which have other numbers elsewhere.
        let state = |bank| match intid {
            0..16 => word(bank) & 0xffff,
            _ => u64::from(self.scene.frames.get(0, bank, intid)),
        };
        state(ISPENDR) << 32 | state(ISACTIVER) << 16 | state(ISENABLER)
    }

    fn end(&mut self) -> u64 {
        // The second step of any, now and then.
        if self.split && !self.dropped.is_empty() && (self.running.is_empty() || self.lot.below(4) == 0) {
            let place = self.lot.below(self.dropped.len() as u64) as usize;
            let intid = self.dropped.swap_remove(place);
            icc::deactivate(intid);
            return intid << 8 | icc::running_priority();
        }
        let Some(intid) = self.running.pop() else { return 0 };
        icc::end(intid);
        if self.split {
            self.dropped.push(intid);
        }
        intid << 8 | icc::running_priority()
    }

    fn finish(&mut self) {
        while let Some(intid) = self.running.pop() {
            icc::end(intid);
            if self.split {
                self.dropped.push(intid);
            }
        }
        while let Some(intid) = self.dropped.pop() {
            icc::deactivate(intid);
        }
        icc::set_mask(0xff);
        self.scene.frames.set_groups(GROUP1);
        for intid in &self.intids {
            self.scene.frames.set(0, ISENABLER, *intid);
        }
        let mut came = 0u32;
        for _ in 0..64 {
            let taken = self.scene.take();
            if taken == icc::NONE {
                break;
            }
            came += 1;
            icc::end(taken);
            if self.split {
                icc::deactivate(taken);
            }
        }
        self.scene.say(format_args!("left {came}, running {:02x}", icc::running_priority()));
    }
}
