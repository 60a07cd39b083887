//! What a CPU must do against speculation that a guest steers, chosen once when it comes up: from the core's identity (MIDR_EL1), its
//! identification registers and the firmware's answers (SMCCC, Arm DEN 0028, 7; DEN 0070).
//!
//! | against | by |
//! |---|---|
//! | branch targets that a guest has trained (Spectre v2) | hardware (CSV2), else the firmware's call at each way in from a guest |
//! | branch history that a guest has left (Spectre-BHB; Arm's white paper of that name) | hardware (CSV2_3, ECBHB), else CLRBHB, a loop of branches, or the firmware's call at each way in |
//! | loads that pass stores (Spectre v4) | PSTATE.SSBS, which is zero at EL2, or the firmware's mitigation, switched on for good |
//! | translations that outlive their invalidation (errata) | invalidating twice |
//!
//! What isn't known counts as affected: a core that no list names gets the longest loop, and invalidates twice.
//!
//! ```
//! use axvm_cpu::speculation::{Core, Entry, Firmware, plan};
//!
//! let neoverse_n2 = Core { midr: 0x410f_d490, csv2: 1, ..Core::default() };
//! assert_eq!(plan(&neoverse_n2, &Firmware::default()).entry, Entry::Loop(32));
//! // CSV2_3 says that no history of another context counts.
//! let newer = Core { csv2: 3, ..neoverse_n2 };
//! assert_eq!(plan(&newer, &Firmware::default()).entry, Entry::Nothing);
//! ```

use core::fmt;

pub use crate::firmware::{Answer, Call, Firmware};

/// A core, as its registers describe it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64PFR0_EL1.CSV2.
    pub csv2: u8,
    /// FEAT_CLRBHB: an instruction clears the history (ID_AA64ISAR2_EL1.CLRBHB).
    pub clear_instruction: bool,
    /// FEAT_ECBHB: an exception does (ID_AA64MMFR1_EL1.ECBHB).
    pub clears_at_exceptions: bool,
    /// FEAT_SSBS (ID_AA64PFR1_EL1.SSBS).
    pub ssbs: bool,
}

/// What is done at each way in from a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: hardware sees to it.
    Nothing,
    /// CLRBHB.
    ClearInstruction,
    /// So many rounds of a loop of branches.
    Loop(u8),
    /// The firmware is called.
    Firmware(Call),
}

/// What holds loads back that would pass stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBypass {
    /// The core doesn't do it.
    Safe,
    /// PSTATE.SSBS, zero at EL2 (SCTLR_EL2.DSSBS is).
    Ssbs,
    /// The firmware, told once to do so for good: no guest switches it off.
    Firmware,
    /// Nothing that is known.
    Open,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// At each way in.
    pub entry: Entry,
    /// Against loads that pass stores.
    pub store_bypass: StoreBypass,
    /// Whether what invalidates translations on all CPUs does it twice.
    pub repeat_tlbi: bool,
    /// Whether branch targets are a guest's to train: no hardware says otherwise, and the firmware has no call.
    pub branch_targets_open: bool,
    /// Whether some list names the core.
    pub known: bool,
}

/// Rounds of the loop for a core that no list names: the most that any core needs.
const LONGEST_LOOP: u8 = 132;

/// What is known of a core by its name: implementer and part (MIDR_EL1, bits 31:24 and 15:4).
struct Known {
    implementer: u8,
    part: u16,
    name: &'static str,
    history: History,
    tlbi: Tlbi,
}

/// How branch history is cleared where no feature does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// It isn't used across contexts.
    Safe,
    /// By so many rounds of the loop.
    Loop(u8),
    /// By the firmware.
    Firmware,
}

/// Which revisions invalidate twice: variant and revision, up to and with which.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tlbi {
    /// None.
    Once,
    /// All.
    Twice,
    /// Those up to this one (MIDR_EL1.Variant in bits 7:4, Revision in 3:0).
    TwiceUpTo(u8),
}

const fn arm(part: u16, name: &'static str, history: History, tlbi: Tlbi) -> Known {
    Known { implementer: 0x41, part, name, history, tlbi }
}

/// Cores of Arm's and others'. Loops: Arm's white paper on Spectre-BHB, and what vendors have said since. Invalidating twice: errata
/// 1286807 (Cortex-A76 up to r3p0), 2441007 (A55), 2441009 (A510 up to r1p1), and CVE-2025-10263 (4118414, 4193714 and its kin), which
/// all revisions of the larger cores have.
const KNOWN: &[Known] = {
    use History::{Firmware, Loop, Safe};
    use Tlbi::{Once, Twice, TwiceUpTo};
    &[
        arm(0xd03, "Cortex-A53", Safe, Once),
        arm(0xd04, "Cortex-A35", Safe, Once),
        arm(0xd05, "Cortex-A55", Safe, Twice),
        arm(0xd06, "Cortex-A65", Firmware, Once),
        arm(0xd07, "Cortex-A57", Loop(8), Once),
        arm(0xd08, "Cortex-A72", Loop(8), Once),
        arm(0xd09, "Cortex-A73", Firmware, Once),
        arm(0xd0a, "Cortex-A75", Firmware, Once),
        arm(0xd0b, "Cortex-A76", Loop(24), Twice),
        arm(0xd0c, "Neoverse-N1", Loop(24), Twice),
        arm(0xd0d, "Cortex-A77", Loop(24), Twice),
        arm(0xd0e, "Cortex-A76AE", Loop(24), Twice),
        arm(0xd40, "Neoverse-V1", Loop(32), Twice),
        arm(0xd41, "Cortex-A78", Loop(32), Twice),
        arm(0xd42, "Cortex-A78AE", Loop(32), Twice),
        arm(0xd43, "Cortex-A65AE", Firmware, Once),
        arm(0xd44, "Cortex-X1", Loop(32), Twice),
        arm(0xd46, "Cortex-A510", Safe, TwiceUpTo(0x11)),
        arm(0xd47, "Cortex-A710", Loop(32), Twice),
        arm(0xd48, "Cortex-X2", Loop(32), Twice),
        arm(0xd49, "Neoverse-N2", Loop(32), Twice),
        arm(0xd4a, "Neoverse-E1", Firmware, Once),
        arm(0xd4b, "Cortex-A78C", Loop(32), Twice),
        arm(0xd4c, "Cortex-X1C", Loop(32), Twice),
        arm(0xd4d, "Cortex-A715", Loop(38), Once),
        arm(0xd4e, "Cortex-X3", Loop(132), Twice),
        arm(0xd4f, "Neoverse-V2", Loop(132), Twice),
        arm(0xd80, "Cortex-A520", Safe, Once),
        arm(0xd81, "Cortex-A720", Loop(38), Once),
        Known { implementer: 0xc0, part: 0xac3, name: "Ampere-1", history: Loop(11), tlbi: Once },
        Known { implementer: 0x6d, part: 0xd49, name: "Azure Cobalt 100", history: Loop(32), tlbi: Twice },
    ]
};

fn known(midr: u64) -> Option<&'static Known> {
    let (implementer, part) = ((midr >> 24) as u8, (midr >> 4 & 0xfff) as u16);
    KNOWN.iter().find(|core| (core.implementer, core.part) == (implementer, part))
}

/// Variant and revision of a core.
fn revision(midr: u64) -> u8 {
    (midr >> 16 & 0xf0) as u8 | (midr & 0xf) as u8
}

/// What a core must do.
pub fn plan(core: &Core, firmware: &Firmware) -> Plan {
    let known = known(core.midr);
    // Cores without branch prediction that another context could train are those whose history is safe too.
    let in_order = known.is_some_and(|it| it.history == History::Safe);
    let targets_safe = core.csv2 != 0 || in_order || firmware.workaround_1 == Answer::NotNeeded;
    // What calls the firmware for targets has done it for the history: both calls forget all that was predicted.
    let for_targets = match firmware {
        _ if targets_safe => None,
        Firmware { workaround_3: Answer::Needed, .. } => Some(Call::Workaround3),
        Firmware { workaround_1: Answer::Needed, .. } => Some(Call::Workaround1),
        _ => None,
    };
    let entry = for_targets.map_or_else(|| for_history(core, known, firmware), Entry::Firmware);
    Plan {
        entry,
        store_bypass: store_bypass(core, in_order, firmware),
        repeat_tlbi: known.is_none_or(|it| match it.tlbi {
            Tlbi::Once => false,
            Tlbi::Twice => true,
            Tlbi::TwiceUpTo(last) => revision(core.midr) <= last,
        }),
        branch_targets_open: !targets_safe && for_targets.is_none(),
        known: known.is_some(),
    }
}

fn for_history(core: &Core, known: Option<&Known>, firmware: &Firmware) -> Entry {
    if core.csv2 >= 3 || core.clears_at_exceptions {
        return Entry::Nothing;
    }
    if known.is_some_and(|it| it.history == History::Safe) {
        return Entry::Nothing;
    }
    if core.clear_instruction {
        return Entry::ClearInstruction;
    }
    if let Some(Known { history: History::Loop(rounds), .. }) = known {
        return Entry::Loop(*rounds);
    }
    match (firmware.workaround_3, firmware.workaround_1) {
        (Answer::Needed, _) => Entry::Firmware(Call::Workaround3),
        (Answer::NotNeeded, _) => Entry::Nothing,
        // Firmware that is older than the discovery: its call for targets forgets all predictions.
        (Answer::Unknown, Answer::Needed) if known.is_some() => Entry::Firmware(Call::Workaround1),
        (Answer::Unknown, _) => Entry::Loop(LONGEST_LOOP),
    }
}

fn store_bypass(core: &Core, in_order: bool, firmware: &Firmware) -> StoreBypass {
    match firmware.workaround_2 {
        _ if in_order => StoreBypass::Safe,
        _ if core.ssbs => StoreBypass::Ssbs,
        Answer::NotNeeded => StoreBypass::Safe,
        Answer::Needed => StoreBypass::Firmware,
        Answer::Unknown => StoreBypass::Open,
    }
}

/// A core with its plan, in words for people.
pub struct Said<'a>(pub &'a Core, pub &'a Plan);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(core, plan) = self;
        let (variant, minor) = (core.midr >> 20 & 0xf, core.midr & 0xf);
        match known(core.midr) {
            Some(known) => write!(f, "{} r{variant}p{minor}: ", known.name)?,
            None => write!(f, "a core that isn't known (MIDR {:#x}): ", core.midr)?,
        }
        match plan.entry {
            Entry::Nothing => f.write_str("its hardware forgets branch history")?,
            Entry::ClearInstruction => f.write_str("branch history is cleared at each exit, by CLRBHB")?,
            Entry::Loop(rounds) => {
                write!(f, "branch history is overwritten at each exit, by a loop of {rounds}")?;
            }
            Entry::Firmware(Call::Workaround1) => {
                f.write_str("the firmware is called at each exit (WORKAROUND_1)")?
            }
            Entry::Firmware(Call::Workaround3) => {
                f.write_str("the firmware is called at each exit (WORKAROUND_3)")?
            }
        }
        f.write_str(match plan.store_bypass {
            StoreBypass::Safe => "; its loads don't pass stores",
            StoreBypass::Ssbs => "; loads pass stores only where SSBS lets them",
            StoreBypass::Firmware => "; the firmware keeps loads from passing stores",
            StoreBypass::Open => "; NOTHING keeps loads from passing stores",
        })?;
        if plan.repeat_tlbi {
            f.write_str("; translations are invalidated twice")?;
        }
        if plan.branch_targets_open {
            f.write_str("; BRANCH TARGETS ARE A GUEST'S TO TRAIN: its firmware has no call against it")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A55: u64 = 0x412f_d050;
    const A72: u64 = 0x410f_d083;
    const A73: u64 = 0x410f_d091;
    const A76: u64 = 0x414f_d0b1;
    const N2: u64 = 0x410f_d490;
    const QEMU_MAX: u64 = 0x000f_0510;

    fn core(midr: u64, csv2: u8) -> Core {
        Core { midr, csv2, ..Core::default() }
    }

    fn entry(core: &Core, firmware: &Firmware) -> Entry {
        plan(core, firmware).entry
    }

    const NONE: Firmware = Firmware {
        workaround_1: Answer::Unknown,
        workaround_2: Answer::Unknown,
        workaround_3: Answer::Unknown,
    };

    #[test]
    fn each_core_has_the_loop_that_it_needs() {
        for (midr, rounds) in [
            (A76, 24),
            (0x413f_d0c1, 24), // Neoverse-N1
            (0x411f_d0d0, 24), // A77
            (0x411f_d410, 32), // A78
            (0x411f_d440, 32), // X1
            (0x411f_d401, 32), // Neoverse-V1
            (N2, 32),
            (0x411f_d4d0, 38),  // A715
            (0x411f_d4e0, 132), // X3
            (0x410f_d4f0, 132), // Neoverse-V2
            (0xc00f_ac30, 11),  // Ampere-1
        ] {
            assert_eq!(entry(&core(midr, 1), &NONE), Entry::Loop(rounds), "{midr:#x}");
        }
    }

    #[test]
    fn features_come_before_lists() {
        assert_eq!(entry(&core(N2, 3), &NONE), Entry::Nothing);
        assert_eq!(entry(&Core { clears_at_exceptions: true, ..core(N2, 1) }, &NONE), Entry::Nothing);
        assert_eq!(entry(&Core { clear_instruction: true, ..core(N2, 1) }, &NONE), Entry::ClearInstruction);
        // QEMU's `max` says CSV2_3: no exit of it costs anything.
        assert_eq!(entry(&core(QEMU_MAX, 3), &NONE), Entry::Nothing);
    }

    #[test]
    fn an_unknown_core_counts_as_affected() {
        let unknown = plan(&core(0x4e0f_0040, 1), &NONE);
        assert_eq!(unknown.entry, Entry::Loop(LONGEST_LOOP));
        assert!(unknown.repeat_tlbi && !unknown.known);
        assert_eq!(unknown.store_bypass, StoreBypass::Open);
        // Its firmware may know better.
        let firmware = Firmware { workaround_3: Answer::Needed, ..NONE };
        assert_eq!(entry(&core(0x4e0f_0040, 1), &firmware), Entry::Firmware(Call::Workaround3));
        let firmware = Firmware { workaround_3: Answer::NotNeeded, ..NONE };
        assert_eq!(entry(&core(0x4e0f_0040, 1), &firmware), Entry::Nothing);
        assert!(KNOWN.iter().all(|it| !matches!(it.history, History::Loop(rounds) if rounds > LONGEST_LOOP)));
    }

    #[test]
    fn targets_without_csv2_are_the_firmwares() {
        let old = Firmware { workaround_1: Answer::Needed, ..NONE };
        let new = Firmware { workaround_3: Answer::Needed, ..old };
        assert_eq!(entry(&core(A72, 0), &old), Entry::Firmware(Call::Workaround1));
        assert_eq!(entry(&core(A72, 0), &new), Entry::Firmware(Call::Workaround3));
        // r1p0 and later have CSV2; the loop is enough.
        assert_eq!(entry(&core(A72, 1), &old), Entry::Loop(8));
        assert!(plan(&core(A72, 0), &NONE).branch_targets_open);
        assert_eq!(entry(&core(A72, 0), &NONE), Entry::Loop(8));
        assert!(!plan(&core(A72, 0), &old).branch_targets_open);
    }

    #[test]
    fn history_of_some_is_the_firmwares() {
        let old = Firmware { workaround_1: Answer::Needed, ..NONE };
        assert_eq!(
            entry(&core(A73, 1), &Firmware { workaround_3: Answer::Needed, ..old }),
            Entry::Firmware(Call::Workaround3)
        );
        assert_eq!(entry(&core(A73, 1), &old), Entry::Firmware(Call::Workaround1));
        // No call at all: whatever else there is.
        assert_eq!(entry(&core(A73, 1), &NONE), Entry::Loop(LONGEST_LOOP));
    }

    #[test]
    fn in_order_cores_need_nothing_at_entry() {
        let plan = plan(&core(A55, 0), &NONE);
        assert_eq!(
            (plan.entry, plan.store_bypass, plan.branch_targets_open),
            (Entry::Nothing, StoreBypass::Safe, false)
        );
        assert!(plan.repeat_tlbi, "2441007");
    }

    #[test]
    fn stores_are_not_passed() {
        let needed = Firmware { workaround_2: Answer::Needed, ..NONE };
        assert_eq!(plan(&core(A76, 1), &needed).store_bypass, StoreBypass::Firmware);
        let ssbs = Core { ssbs: true, ..core(A76, 1) };
        assert_eq!(plan(&ssbs, &needed).store_bypass, StoreBypass::Ssbs);
        let safe = Firmware { workaround_2: Answer::from_call(-2), ..NONE };
        assert_eq!(plan(&core(A76, 1), &safe).store_bypass, StoreBypass::Safe);
    }

    #[test]
    fn revisions_decide_on_invalidating_twice() {
        for (midr, twice) in [
            (A76, true),
            (N2, true),
            (0x410f_d460, true),  // A510 r0p0
            (0x411f_d461, true),  // r1p1
            (0x411f_d462, false), // r1p2
            (A72, false),
            (QEMU_MAX, true),
        ] {
            assert_eq!(plan(&core(midr, 3), &NONE).repeat_tlbi, twice, "{midr:#x}");
        }
    }

    #[test]
    fn it_is_said_in_words() {
        let n2 = core(N2, 1);
        let said = Said(&n2, &plan(&n2, &NONE)).to_string();
        assert!(
            said.starts_with("Neoverse-N2 r0p0: branch history is overwritten at each exit, by a loop of 32"),
            "{said}"
        );
        let open = core(A72, 0);
        assert!(Said(&open, &plan(&open, &NONE)).to_string().contains("BRANCH TARGETS"));
    }
}
