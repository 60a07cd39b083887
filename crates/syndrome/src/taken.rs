//! How a guest takes a synchronous exception to its EL1 (DDI 0487, AArch64.TakeException).

use crate::bit;
use crate::state::{is_aarch32, is_el0};

/// EL1h with D, A, I and F masked.
const EL1H_MASKED: u64 = 0x3c5;
/// EL1 with SP_EL0, in AArch64 (SPSR_EL2.M\[3:0\]).
const EL1T: u64 = 0b0100;
/// SPSR_EL2.PAN.
const PAN: u64 = 1 << 22;
/// SCTLR_EL1.SPAN: PAN is left as it is.
const SPAN: u32 = 23;

/// Where a guest goes on that takes an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// From VBAR_EL1 on.
    pub offset: u64,
    /// Its processor's state.
    pub state: u64,
}

impl Taken {
    /// A guest in a state (SPSR_EL2) takes a synchronous exception to EL1. `sctlr`: its SCTLR_EL1; `has_pan`: its CPU has FEAT_PAN.
    #[must_use]
    pub const fn synchronous(state: u64, sctlr: u64, has_pan: bool) -> Self {
        let offset = match (is_el0(state), is_aarch32(state)) {
            (_, true) => 0x600,
            (true, false) => 0x400,
            (false, false) if state & 0xf == EL1T => 0x000,
            (false, false) => 0x200,
        };
        let pan = match (has_pan, bit(sctlr, SPAN)) {
            (false, _) => 0,
            (true, false) => PAN,
            (true, true) => state & PAN,
        };
        Self { offset, state: EL1H_MASKED | pan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DDI 0487, D1.3.6, the table of vectors.
    #[test]
    fn the_vector_goes_by_level_and_stack_pointer() {
        let offset = |state| Taken::synchronous(state, 0, false).offset;
        assert_eq!([0b0100, 0b0101, 0b0000, 0b1_0000].map(offset), [0x000, 0x200, 0x400, 0x600]);
        // Flags, masks, and single step have no say.
        assert_eq!(offset(0xf020_03c5), 0x200);
    }

    #[test]
    fn everything_is_masked_and_pan_is_set_unless_the_guest_says_to_leave_it() {
        let state = |from, sctlr, has_pan| Taken::synchronous(from, sctlr, has_pan).state;
        assert_eq!(state(0, 0, false), 0x3c5);
        assert_eq!(state(0, 0, true), 0x40_03c5);
        assert_eq!(state(0, 1 << 23, true), 0x3c5);
        assert_eq!(state(1 << 22, 1 << 23, true), 0x40_03c5);
        assert_eq!(state(1 << 22, 1 << 23, false), 0x3c5, "a bit that isn't one");
    }
}
