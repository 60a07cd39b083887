//! Syndromes that a guest is given (ESR_EL1): what its own CPU would say of an exception that is injected (DDI 0487, D24.2.40).

use super::Syndrome;
use super::class::{DATA_ABORT, DATA_ABORT_SAME, INSTRUCTION_ABORT, INSTRUCTION_ABORT_SAME};
use super::state::is_el0;

/// IL: the instruction has 32 bits, or the exception is of a class that says so of any.
const IL: u64 = 1 << 25;

/// IFSC and DFSC of a synchronous external abort, not in a walk.
const EXTERNAL: u64 = 0x10;
/// DFSC of an alignment fault.
const ALIGNMENT: u64 = 0x21;
/// WnR.
const WRITE: u64 = 1 << 6;

const fn of(class: u8, specific: u64) -> Syndrome {
    Syndrome((class as u64) << 26 | IL | specific)
}

impl Syndrome {
    /// An instruction that doesn't exist.
    pub const UNDEFINED: Self = of(0, 0);

    /// That fetching from a place got no answer, in a guest of this state (SPSR_EL2).
    #[must_use]
    pub const fn fetch_aborted(state: u64) -> Self {
        of(if is_el0(state) { INSTRUCTION_ABORT } else { INSTRUCTION_ABORT_SAME }, EXTERNAL)
    }

    /// That an access got no answer, in a guest of this state.
    #[must_use]
    pub const fn access_aborted(state: u64, write: bool) -> Self {
        of(data_class(state), EXTERNAL | if write { WRITE } else { 0 })
    }

    /// That an access to device memory isn't aligned, in a guest of this state: what its own first stage would say.
    #[must_use]
    pub const fn misaligned(state: u64, write: bool) -> Self {
        of(data_class(state), ALIGNMENT | if write { WRITE } else { 0 })
    }
}

const fn data_class(state: u64) -> u8 {
    if is_el0(state) { DATA_ABORT } else { DATA_ABORT_SAME }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abort::{DataAbort, InstructionAbort, Kind};

    const EL0: u64 = 0;
    const EL1: u64 = 0b0101;

    #[test]
    fn what_is_given_is_what_the_decoder_reads() {
        for write in [false, true] {
            for (state, class) in [(EL0, DATA_ABORT), (EL1, DATA_ABORT_SAME)] {
                let given = Syndrome::access_aborted(state, write);
                assert_eq!(given.class(), class);
                let abort = DataAbort(given.0);
                assert_eq!((abort.status().kind(), abort.is_write()), (Kind::External, write));
                let given = DataAbort(Syndrome::misaligned(state, write).0);
                assert_eq!((given.status().kind(), given.is_write()), (Kind::Alignment, write));
            }
        }
        for (state, class) in [(EL0, INSTRUCTION_ABORT), (EL1, INSTRUCTION_ABORT_SAME)] {
            let given = Syndrome::fetch_aborted(state);
            assert_eq!(given.class(), class);
            assert_eq!(InstructionAbort(given.0).status().kind(), Kind::External);
        }
    }

    /// The words as the manual lays them out.
    #[test]
    fn the_words_are_the_manuals() {
        assert_eq!(Syndrome::UNDEFINED, Syndrome(0x0200_0000));
        assert_eq!(Syndrome::fetch_aborted(EL0), Syndrome(0x8200_0010));
        assert_eq!(Syndrome::fetch_aborted(EL1), Syndrome(0x8600_0010));
        assert_eq!(Syndrome::access_aborted(EL0, true), Syndrome(0x9200_0050));
        assert_eq!(Syndrome::access_aborted(EL1, false), Syndrome(0x9600_0010));
        assert_eq!(Syndrome::misaligned(EL1, true), Syndrome(0x9600_0061));
    }
}
