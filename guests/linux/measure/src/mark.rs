//! Marks: instructions without an effect, which the counting plugin knows.

use crate::arch::mark;

/// User space is reached.
pub fn user_space() {
    mark!(96)
}

/// Between two rounds of reads.
pub fn reads() {
    mark!(97)
}

/// A program is about to be started.
pub fn launch() {
    mark!(100)
}

/// Between two rounds of echo requests.
pub fn pings() {
    mark!(98)
}
