//! A long walk of steps drawn by lot, always the same ones, and what each shows. Interrupts have priorities of their own at all
//! times, so that each answer is the only right one.

use alloc::vec::Vec;

use axvm_guest_runtime::icc;

use super::Scene;
use super::messages::{EVENT_LPI, Messages};
use crate::arch::cpu::{send_here, settle};
use crate::arch::frames::{GROUP1, ICENABLER, ICPENDR, ISACTIVER, ISENABLER, ISPENDR};
use crate::lot::{Lot, Sum};

/// A line is said for so many steps.
const TOGETHER: u64 = 50;

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
    /// Those whose interrupts are among them.
    messages: Option<Messages<'a>>,
}

/// The end is one step.
pub fn plain(scene: &Scene<'_>) {
    walk(scene, false, None);
}

/// The end is two.
pub fn split(scene: &Scene<'_>) {
    walk(scene, true, None);
}

/// Software interrupts, and more LPIs than there are list registers.
pub fn messages(scene: &Scene<'_>) {
    Messages::with(scene, |messages| walk(scene, false, Some(messages)));
}

/// The same with an end of two steps, of which LPIs have the first only.
pub fn messages_split(scene: &Scene<'_>) {
    Messages::with(scene, |messages| walk(scene, true, Some(messages)));
}

/// How many LPIs, and how many software interrupts among them.
const LPIS: u32 = 11;
const SGIS_AMONG_LPIS: u32 = 5;

fn walk(scene: &Scene<'_>, split: bool, mut messages: Option<Messages<'_>>) {
    if split {
        icc::set_control(icc::control() | icc::EOI_MODE);
    }
    let intids: Vec<u32> = match &messages {
        None => (0..13).chain(scene.frames.lines()).collect(),
        Some(_) => (0..SGIS_AMONG_LPIS).chain(EVENT_LPI..EVENT_LPI + LPIS).collect(),
    };
    let priorities: Vec<u32> = (0..16).collect();
    for (intid, priority) in intids.iter().zip(&priorities) {
        match &mut messages {
            Some(messages) if *intid >= EVENT_LPI => messages.set_up(*intid, priority << 4),
            _ => scene.frames.set_up(0, *intid, priority << 4),
        }
    }
    // The pins' line as an edge: nothing raises it here.
    scene.frames.set_edge(scene.frames.quiet[0], true);
    let mut walk = Walk {
        scene,
        messages,
        lot: Lot(scene.seed),
        intids,
        priorities,
        running: Vec::with_capacity(32),
        dropped: Vec::with_capacity(32),
        split,
    };
    let mut sum = Sum::new();
    for step in 1..=scene.steps {
        let (what, which, seen) = walk.step();
        sum.add([what, which, seen]);
        if scene.trace {
            scene.say(format_args!("{step} {} {which} {seen:x}", NAMES[what as usize]));
        }
        if step % TOGETHER == 0 {
            scene.say(format_args!(
                "step {step}: {:016x} running {} dropped {}",
                sum.0,
                walk.running.len(),
                walk.dropped.len()
            ));
        }
    }
    walk.finish();
}

const NAMES: [&str; 11] =
    ["pend", "clear", "disable", "enable", "swap", "take", "end", "mask", "look", "group", "remap"];

impl<'a> Walk<'a> {
    fn which(&mut self) -> (usize, u32) {
        let place = self.lot.below(self.intids.len() as u64) as usize;
        (place, self.intids[place])
    }

    fn is_active(&self, intid: u32) -> bool {
        self.running.iter().chain(&self.dropped).any(|it| *it == u64::from(intid))
    }

    /// The messages that an interrupt is one of.
    fn messages_of(&mut self, intid: u32) -> Option<&mut Messages<'a>> {
        self.messages.as_mut().filter(|_| intid >= EVENT_LPI)
    }

    fn pend(&mut self, intid: u32) {
        match self.messages_of(intid) {
            Some(messages) => messages.raise(intid),
            None if intid < 16 => send_here(intid.into()),
            None => self.scene.frames.set(0, ISPENDR, intid),
        }
    }

    fn clear(&mut self, intid: u32) {
        match self.messages_of(intid) {
            Some(messages) => messages.clear(intid),
            None => self.scene.frames.set(0, ICPENDR, intid),
        }
    }

    fn enable(&mut self, intid: u32, enabled: bool) {
        match self.messages_of(intid) {
            Some(messages) => messages.enable(intid, enabled),
            None => self.scene.frames.set(0, if enabled { ISENABLER } else { ICENABLER }, intid),
        }
    }

    fn set_priority(&mut self, place: usize) {
        let (intid, priority) = (self.intids[place], self.priorities[place] << 4);
        match self.messages_of(intid) {
            Some(messages) => messages.set_priority(intid, priority),
            None => self.scene.frames.set_priority(0, intid, priority),
        }
    }

    /// A step: its name's number, the interrupt's place or what else was drawn, what is seen.
    fn step(&mut self) -> (u64, u64, u64) {
        let frames = &self.scene.frames;
        let what = self.lot.below(if self.messages.is_some() { 26 } else { 24 });
        let (place, intid) = self.which();
        let mut which = place as u64;
        let (what, seen) = match what {
            0..=6 => {
                self.pend(intid);
                (0, 0)
            }
            7 => {
                self.clear(intid);
                (1, 0)
            }
            8 => {
                self.enable(intid, false);
                (2, 0)
            }
            9 | 10 => {
                self.enable(intid, true);
                (3, 0)
            }
            11 | 12 => {
                let (other, second) = self.which();
                if !self.is_active(intid) && !self.is_active(second) {
                    self.priorities.swap(place, other);
                    self.set_priority(place);
                    self.set_priority(other);
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
            24 => {
                let many = self.lot.below(u64::from(LPIS));
                which = many;
                for lpi in EVENT_LPI..EVENT_LPI + many as u32 {
                    self.pend(lpi);
                }
                (0, many)
            }
            25 => {
                if let Some(messages) = self.messages_of(intid) {
                    messages.remap(intid);
                }
                (10, 0)
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
            EVENT_LPI.. => 0,
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
        if self.split && intid < u64::from(EVENT_LPI) {
            self.dropped.push(intid);
        }
        intid << 8 | icc::running_priority()
    }

    fn finish(&mut self) {
        while let Some(intid) = self.running.pop() {
            icc::end(intid);
            if self.split && intid < u64::from(EVENT_LPI) {
                self.dropped.push(intid);
            }
        }
        while let Some(intid) = self.dropped.pop() {
            icc::deactivate(intid);
        }
        icc::set_mask(0xff);
        self.scene.frames.set_groups(GROUP1);
        for place in 0..self.intids.len() {
            self.enable(self.intids[place], true);
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
