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

/// Between two rounds of echo requests.
pub fn pings() {
    mark!(98)
}
