//! The firmware below: how it is called, and what it says of its workarounds (SMCCC, Arm DEN 0028, 7; PSCI, Arm DEN 0022).
//!
//! ```
//! use axvm_cpu::firmware::{Answer, answers};
//!
//! // Firmware of before SMCCC 1.1 knows of none.
//! assert_eq!(answers(|_, _| -1).workaround_1, Answer::Unknown);
//! ```

use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION,
};
use smccc::psci::{PSCI_FEATURES, PSCI_VERSION};

/// What the firmware says of one of its workarounds (SMCCC_ARCH_FEATURES).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It doesn't know it.
    #[default]
    Unknown,
    /// This core needs it, and the call does it.
    Needed,
    /// This core doesn't need it.
    NotNeeded,
}

impl Answer {
    /// The answer as the call gives it: 0; 1, of WORKAROUND_2 also -2 (NOT_REQUIRED); other negative values.
    pub fn from_call(answer: i32) -> Self {
        match answer {
            0 => Self::Needed,
            1 | -2 => Self::NotNeeded,
            _ => Self::Unknown,
        }
    }
}

/// The firmware's answers on a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// SMCCC_ARCH_WORKAROUND_1: branch targets.
    pub workaround_1: Answer,
    /// SMCCC_ARCH_WORKAROUND_2: loads that pass stores.
    pub workaround_2: Answer,
    /// SMCCC_ARCH_WORKAROUND_3: branch history, and what WORKAROUND_1 does.
    pub workaround_3: Answer,
}

/// A call of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// SMCCC_ARCH_WORKAROUND_1.
    Workaround1 = SMCCC_ARCH_WORKAROUND_1,
    /// SMCCC_ARCH_WORKAROUND_3.
    Workaround3 = SMCCC_ARCH_WORKAROUND_3,
}

/// SMCCC_ARCH_WORKAROUND_2 (Arm DEN 0070): with 1 the firmware keeps loads from passing stores on the calling CPU.
pub const WORKAROUND_2: u32 = SMCCC_ARCH_WORKAROUND_2;

/// Whether software at EL2 reaches the firmware, which it does by SMC alone: an HVC at EL2 is taken to EL2 itself (DDI 0487, HVC). The
/// device tree's `method` is meant for EL1: where that is HVC, whoever was to be at EL2 would have answered. What is below EL2 is
/// EL3, if the CPU has it (`el3`: ID_AA64PFR0_EL1.EL3 isn't 0); without it an SMC is undefined, but where the tree names it
/// (`method_is_smc`): then something stands in for EL3, as QEMU does.
pub const fn is_reached(method_is_smc: bool, el3: bool) -> bool {
    method_is_smc || el3
}

/// What the firmware says of a workaround on the calling CPU, as SMCCC_ARCH_FEATURES has it ([`Answer::from_call`]); -1 where it can't
/// be asked. The standard's way there (DEN 0028, 7): only PSCI 1.0 can say whether there is an SMCCC_VERSION, and only SMCCC 1.1 has
/// features. `call`: function and first argument.
pub fn workaround(function: u32, mut call: impl FnMut(u32, u32) -> i32) -> i32 {
    let is_old = call(PSCI_VERSION, 0) < 0x1_0000
        || call(PSCI_FEATURES, SMCCC_VERSION) < 0
        || call(SMCCC_VERSION, 0) < 0x1_0001;
    if is_old { -1 } else { call(SMCCC_ARCH_FEATURES, function) }
}

/// Asks for all workarounds, as [`workaround`] does for one.
pub fn answers(mut call: impl FnMut(u32, u32) -> i32) -> Firmware {
    let mut answer = |function| Answer::from_call(workaround(function, &mut call));
    Firmware {
        workaround_1: answer(Call::Workaround1 as u32),
        workaround_2: answer(WORKAROUND_2),
        workaround_3: answer(Call::Workaround3 as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Firmware of a version, which answers a call that it doesn't know with what would be taken for an answer.
    fn ask(psci: i32, has_version: bool, smccc: i32) -> Firmware {
        answers(|function, argument| match (function, argument) {
            (PSCI_VERSION, _) => psci,
            (PSCI_FEATURES, SMCCC_VERSION) if psci >= 0x1_0000 => {
                if has_version {
                    0
                } else {
                    -1
                }
            }
            (SMCCC_VERSION, _) if has_version => smccc,
            (SMCCC_ARCH_FEATURES, 0x8000_8000) if smccc >= 0x1_0001 => 0,
            (SMCCC_ARCH_FEATURES, 0x8000_7fff) if smccc >= 0x1_0001 => -2,
            (SMCCC_ARCH_FEATURES, 0x8000_3fff) if smccc >= 0x1_0001 => -1,
            _ => panic!("the standard doesn't let anybody call {function:#x} here"),
        })
    }

    #[test]
    fn old_firmware_is_asked_nothing_that_it_has_not_got() {
        for (psci, has_version, smccc) in
            [(0x0_0002, false, -1), (-1, false, -1), (0x1_0000, false, -1), (0x1_0000, true, 0x1_0000)]
        {
            assert_eq!(ask(psci, has_version, smccc), Firmware::default());
        }
    }

    #[test]
    fn answers_are_each_workaround_s_own() {
        let expected = Firmware {
            workaround_1: Answer::Needed,
            workaround_2: Answer::NotNeeded,
            workaround_3: Answer::Unknown,
        };
        assert_eq!(ask(0x1_0001, true, 0x1_0002), expected);
    }

    #[test]
    fn at_el2_firmware_is_below_whatever_the_tree_says_to_el1() {
        // By the tree, or because there is an EL3; never by HVC, which would come back.
        assert!(is_reached(true, true) && is_reached(true, false) && is_reached(false, true));
        assert!(!is_reached(false, false));
    }
}
