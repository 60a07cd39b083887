//! Marks: hints whose numbers the architecture leaves without effect (Arm ARM, C6.2, HINT), and which the counting
//! plugin knows. To the processor they do nothing.

use core::arch::asm;

/// User space is reached.
pub fn user_space() {
    // SAFETY: a hint without an effect.
    unsafe { asm!("hint #96") }
}

/// Between two rounds of reads.
pub fn reads() {
    // SAFETY: a hint without an effect.
    unsafe { asm!("hint #97") }
}

/// Between two rounds of echo requests.
pub fn pings() {
    // SAFETY: a hint without an effect.
    unsafe { asm!("hint #98") }
}
