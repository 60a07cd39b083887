//! Long walks of steps drawn by lot, always the same ones, and what each shows.

use alloc::string::String;
use alloc::vec::Vec;

use super::Scene;
use crate::arch::apic::{self, send_here};
use crate::arch::cpu::settle;
use crate::arch::line::{self, entry};
use crate::lot::{Lot, Sum};

/// A line is said for so many steps.
const TOGETHER: u64 = 50;

/// What is sent: in a few classes, two and more of each.
const VECTORS: [u8; 14] =
    [0x21, 0x2f, 0x30, 0x31, 0x3a, 0x50, 0x51, 0x5f, 0x83, 0x84, 0xb0, 0xe1, 0xee, 0xfe];
/// What the pin sends, in the middle of them.
const PIN: u8 = 0x58;

/// How the pin's line counts in a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    None,
    Edge,
    Level,
}

/// Interrupts to oneself, and the task's priority.
pub fn local(scene: &Scene<'_>) {
    walk(scene, Line::None);
}

/// The line among them, by its edges.
pub fn edges(scene: &Scene<'_>) {
    walk(scene, Line::Edge);
}

/// The line by its level.
pub fn levels(scene: &Scene<'_>) {
    walk(scene, Line::Level);
}

struct Walk<'a> {
    scene: &'a Scene<'a>,
    lot: Lot,
    line: Line,
}

const NAMES: [&str; 8] = ["send", "take", "end", "priority", "look", "raise", "lower", "mask"];

fn walk(scene: &Scene<'_>, line: Line) {
    let mut walk = Walk { scene, lot: Lot(scene.seed), line };
    if line != Line::None {
        scene.pin.set_low(walk.entry());
    }
    let mut sum = Sum::new();
    // The console is silent while its line is active.
    let mut lines: Vec<String> = Vec::new();
    for step in 1..=scene.steps {
        let (what, which, seen) = walk.step();
        sum.add([what as u64, which, seen]);
        if scene.trace {
            lines.push(alloc::format!("{step} {} {which:x} {seen:x}", NAMES[what]));
        }
        if step % TOGETHER == 0 {
            lines.push(alloc::format!("step {step}: {:016x}", sum.0));
        }
    }
    line::set(false);
    lines.iter().for_each(|line| scene.say(format_args!("{line}")));
    scene.say_state("in the end");
}

impl Walk<'_> {
    fn entry(&self) -> u32 {
        let by = if self.line == Line::Level { entry::BY_LEVEL } else { 0 };
        by | u32::from(PIN)
    }

    /// A step: its name's number, what was drawn, what is seen.
    fn step(&mut self) -> (usize, u64, u64) {
        match self.lot.below(if self.line == Line::None { 17 } else { 24 }) {
            0..=5 => {
                let vector = VECTORS[self.lot.below(VECTORS.len() as u64) as usize];
                send_here(vector);
                (0, vector.into(), 0)
            }
            6..=9 => (1, 0, self.scene.take().into()),
            10..=13 => {
                let ends = apic::highest(apic::ISR);
                apic::end();
                settle();
                (2, ends.into(), self.priorities())
            }
            14 => {
                // Mostly open.
                let priority = self.lot.below(16).saturating_sub(8) << 5 | self.lot.below(16);
                apic::write(apic::TPR, priority as u32);
                (3, priority, self.priorities())
            }
            15 | 16 => {
                settle();
                let mut all = Sum::new();
                for bank in [apic::ISR, apic::IRR] {
                    all.add(apic::all(bank).map(u64::from));
                    all.add([0]);
                }
                (4, 0, all.0)
            }
            17..=19 => {
                line::set(true);
                (5, 0, self.pin())
            }
            20 | 21 => {
                line::set(false);
                (6, 0, self.pin())
            }
            _ => {
                let masked = self.lot.below(2) as u32 * entry::MASKED;
                self.scene.pin.set_low(self.entry() | masked);
                (7, masked.into(), self.pin())
            }
        }
    }

    fn priorities(&self) -> u64 {
        u64::from(apic::read(apic::TPR)) << 8 | u64::from(apic::read(apic::PPR))
    }

    /// The pin's state, and its interrupt's.
    fn pin(&self) -> u64 {
        settle();
        let waits = self.line == Line::Level && self.scene.pin.waits();
        u64::from(waits) << 2
            | u64::from(apic::has(apic::IRR, PIN)) << 1
            | u64::from(apic::has(apic::ISR, PIN))
    }
}
