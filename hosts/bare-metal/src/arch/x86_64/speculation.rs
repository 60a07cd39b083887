//! What the way into a guest and out of it does against speculation that the guest steers: as `axvm_x86_cpu::speculation` has it for the
//! CPU, in a word that `run_guest` reads.

use axvm_x86_cpu::features::Features;
use axvm_x86_cpu::speculation::{Measure, Moment, measures};
use x86_64::registers::segmentation::{SS, Segment};

/// At the exit: a barrier (IBPB).
pub const BARRIER: u64 = 1 << 0;
/// At the exit: calls, as many as the CPU predicts returns of.
pub const FILL: u64 = 1 << 1;
/// How many that is, on all of today's processors.
pub const RETURNS: usize = 32;
/// At the entry: VERW.
pub const VERW: u64 = 1 << 2;

/// What a CPU does, and from bit 32 on the selector that VERW takes: the stack segment's, which can be written.
pub fn word(features: &Features) -> u64 {
    let at = |moment| {
        measures(moment, features).fold(0, |word, measure| {
            word | match (moment, measure) {
                (Moment::Exit, Measure::Barrier) => BARRIER,
                (Moment::Exit, Measure::FillReturns) => FILL,
                (Moment::Entry, Measure::Verw) => VERW,
                // The rest is for a change of VMs (`registers::Switched`).
                _ => 0,
            }
        })
    };
    at(Moment::Entry) | at(Moment::Exit) | u64::from(SS::get_reg().0) << 32
}
