//! The control registers that bound a guest: every bit that matters, with its reason, in one table.
//!
//! A register is written as a whole: what the table doesn't set is zero. Zero is the closed side where a bit enables (HCRX_EL2, CPTR's
//! and the fine-grained `n..` traps) and harmless where a bit traps something that the guest may have.
//!
//! A row says which feature its bits need: without it they are reserved, and stay zero. What keeps the guest out then is the row's
//! too ([`Needs::without`]). Some rows hold only once the CPU is in a certain state: that is [`FIRST`], which whoever runs on the CPU
//! establishes before any guest does.
//! Sections are those of the Arm ARM (DDI 0487), D24.2.

use crate::features::{Feature, Features};

/// A register that the table sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// HCR_EL2.
    Hcr,
    /// CPTR_EL2 (layout with E2H=0).
    Cptr,
    /// MDCR_EL2, but HPMN, which is the number of counters that the CPU has.
    Mdcr,
    /// HSTR_EL2.
    Hstr,
    /// CNTHCTL_EL2 (layout with E2H=0).
    Cnthctl,
    /// HCRX_EL2.
    Hcrx,
    /// The fine-grained traps HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR, HAFGRTR, and the second set of them.
    FineGrained,
    /// MPAM2_EL2.
    Mpam2,
    /// ICH_HCR_EL2, the part that doesn't change while the guest runs.
    IchHcr,
}

/// Which guests a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Those whose interrupts the hypervisor takes and injects.
    Emulated,
    /// Those that take physical interrupts themselves.
    Direct,
}

/// What a CPU must have for a row's bits to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The feature.
    pub feature: Feature,
    /// What holds on a CPU that hasn't got it.
    pub without: &'static str,
}

/// Bits of a register and why they are as they are.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The register.
    pub register: Register,
    /// The field's name.
    pub name: &'static str,
    /// What is written.
    pub bits: u64,
    /// For guests of one kind only.
    pub only: Option<Interrupts>,
    /// For CPUs with a feature only.
    pub needs: Option<Needs>,
    /// What it rests on: of [`FIRST`].
    pub first: &'static [State],
    /// Why.
    pub why: &'static str,
}

const fn set(register: Register, name: &'static str, bits: u64, why: &'static str) -> Control {
    Control { register, name, bits, only: None, needs: None, first: &[], why }
}

impl Control {
    const fn only(self, interrupts: Interrupts) -> Self {
        Self { only: Some(interrupts), ..self }
    }

    const fn needs(self, feature: Feature, without: &'static str) -> Self {
        Self { needs: Some(Needs { feature, without }), ..self }
    }

    const fn first(self, states: &'static [State]) -> Self {
        Self { first: states, ..self }
    }
}

/// A field that stays zero for a reason worth saying.
const fn clear(register: Register, name: &'static str, why: &'static str) -> Control {
    set(register, name, 0, why)
}

/// The table.
pub const CONTROLS: &[Control] = {
    use Interrupts::{Direct, Emulated};
    use Register::{Cnthctl, Cptr, FineGrained, Hcr, Hcrx, Hstr, IchHcr, Mdcr, Mpam2};
    &[
        set(Hcr, "VM", 1 << 0, "the second stage bounds every access"),
        set(Hcr, "SWIO", 1 << 1, "invalidating by set and way also cleans: no one else's dirty line is lost"),
        set(Hcr, "PTW", 1 << 2, "a table walk through device memory faults instead of touching registers"),
        set(Hcr, "FMO", 1 << 3, "Group 0 interrupts come here; SGI registers trap"),
        set(
            Hcr,
            "IMO",
            1 << 4,
            "Group 1 interrupts come here; the guest's CPU interface is the virtual one. Direct: they are the guest's",
        )
        .only(Emulated),
        set(Hcr, "AMO", 1 << 5, "SErrors come here, and what the guest reads of deferred ones is virtual")
            .first(&[State::NoVirtualError]),
        set(Hcr, "FB", 1 << 9, "a TLB or cache maintenance by one vCPU reaches the VM's others"),
        set(Hcr, "BSU", 1 << 10, "barriers reach at least the inner shareable domain"),
        set(Hcr, "TID3", 1 << 18, "identification registers show only what is handled"),
        set(Hcr, "TSC", 1 << 19, "no call reaches the firmware: PSCI could switch the machine off"),
        set(Hcr, "TIDCP", 1 << 20, "implementation defined registers are nobody's"),
        set(Hcr, "TACR", 1 << 21, "so is ACTLR_EL1"),
        set(Hcr, "RW", 1 << 31, "EL1 is AArch64"),
        set(Hcr, "TLOR", 1 << 35, "limited ordering regions are not handled")
            .needs(Feature::LimitedOrdering, "their registers aren't there"),
        set(Hcr, "TERR", 1 << 36, "error records belong to the machine")
            .needs(Feature::Ras, "there are no error records"),
        set(Hcr, "TEA", 1 << 37, "an access that the bus aborts is seen here first")
            .needs(Feature::Ras, "the guest takes the abort itself, and nothing records it"),
        set(Hcr, "APK", 1 << 40, "pointer authentication keys are the guest's: the hypervisor has none")
            .needs(Feature::PointerAuthentication, "there are no keys"),
        set(Hcr, "API", 1 << 41, "and so are its instructions")
            .needs(Feature::PointerAuthentication, "there are no such instructions"),
        set(
            Hcr,
            "TWI",
            1 << 13,
            "it could sleep where no call of the hypervisor's wakes it (direct.rs). Emulated: a call always does",
        )
        .only(Direct)
        .first(&[State::OsLockOpen]),
        clear(Hcr, "TWE", "a guest with its own CPU may wait on it: a call, or SEV, ends that"),
        clear(Hcr, "TSW", "set and way maintenance harms nobody, with SWIO"),
        clear(Hcr, "TVM, TRVM", "the first stage is the guest's"),
        clear(Hcr, "E2H, TGE", "the hypervisor is no host kernel"),
        clear(Hcr, "NV", "nested virtualization is hidden"),
        clear(
            Hcr,
            "FWB",
            "memory attributes combine, so that what the second stage calls device stays device",
        ),
        clear(Hcr, "FIEN", "fault injection into error records is hidden"),
        clear(Hcr, "AMVOFFEN", "activity monitors are hidden"),
        clear(Hcr, "EnSCXT", "SCXTNUM is hidden, as CSV2 tells"),
        clear(Hcr, "ATA", "memory tagging is hidden"),
        set(Cptr, "RES1", 0x22ff, "reserved, one"),
        set(Cptr, "TZ", 1 << 8, "SVE is hidden: its state is not reset yet"),
        set(Cptr, "TSM", 1 << 12, "SME is hidden"),
        set(Cptr, "TTA", 1 << 20, "trace registers are hidden"),
        set(Cptr, "TAM", 1 << 30, "activity monitors are hidden"),
        clear(Cptr, "TFP", "floating point is the guest's: the hypervisor uses none"),
        clear(Cptr, "TCPAC", "CPACR_EL1 is the guest's"),
        set(Mdcr, "TPMCR", 1 << 5, "performance counters are hidden")
            .needs(Feature::Counters, "there are no counters"),
        set(Mdcr, "TPM", 1 << 6, "performance counters are hidden")
            .needs(Feature::Counters, "there are no counters"),
        set(
            Mdcr,
            "TDA",
            1 << 9,
            "breakpoints, watchpoints and MDSCR_EL1 are the guest's by way of `debug`, which leaves out what reaches further: \
             interrupts masked for the external debugger (INTdis), the core halted (HDE), the debug channel, OSECCR",
        )
        .first(&[State::DebugControlClear, State::DoubleLockOpen, State::OsLockOpen]),
        set(Mdcr, "TDOSA", 1 << 10, "the OS lock and power-down of debug are the machine's: the lock stays open")
            .first(&[State::OsLockOpen]),
        set(Mdcr, "TDRA", 1 << 11, "no debug ROM is shown"),
        set(Mdcr, "TPMS", 1 << 14, "statistical profiling is hidden")
            .needs(Feature::Profiling, "there is no profiling"),
        set(Mdcr, "HPMD", 1 << 17, "nothing is counted in the hypervisor")
            .needs(Feature::CountersOffAtEl2, "counters are nobody's: none is ever enabled"),
        set(Mdcr, "TTRF", 1 << 19, "trace filters are hidden")
            .needs(Feature::TraceFilter, "there are no filters"),
        set(Mdcr, "HCCD", 1 << 23, "nor are cycles")
            .needs(Feature::CyclesOffAtEl2, "the cycle counter is nobody's: it is never enabled"),
        set(Mdcr, "TDCC", 1 << 27, "the debug communication channel is the machine's")
            .needs(Feature::FineGrained, "TDA traps it with the rest"),
        clear(
            Mdcr,
            "TDE",
            "debug exceptions of the guest's breakpoints go to the guest; as they go to EL1, none is generated at EL2 \
             (D2.4: not from a level above the one that they go to)",
        ),
        clear(Mdcr, "E2PB, E2TB", "profiling and trace buffers are the hypervisor's, and off"),
        clear(Hstr, "all", "AArch32 runs at EL0 only, where these registers are no one's but its own"),
        set(Cnthctl, "EL1PCTEN", 1 << 0, "the physical count is no secret"),
        set(Cnthctl, "EL1PCEN", 1 << 1, "the EL1 physical timer is the guest's: the hypervisor has its own"),
        set(Hcrx, "TALLINT", 1 << 6, "non-maskable interrupts are hidden, and with them their mask (reads aren't trapped)")
            .needs(Feature::NonMaskable, "there is no such mask"),
        clear(
            Hcrx,
            "all others",
            "whatever it would enable (TCR2, SCTLR2, permission indirection, MOPS, GCS, ...) is hidden",
        )
        .needs(Feature::MoreControl, "none of what it would enable is there"),
        clear(
            FineGrained,
            "all",
            "zero traps what is new (the n.. bits) and leaves the rest to the coarse traps",
        )
        .needs(Feature::FineGrained, "nothing that only they trap is there"),
        set(Mpam2, "TRAPMPAM0EL1, TRAPMPAM1EL1", 3 << 48, "partition ids are the hypervisor's")
            .needs(Feature::Partitions, "there are no partition ids"),
        set(IchHcr, "En", 1 << 0, "the virtual CPU interface is on").only(Emulated),
        set(
            IchHcr,
            "TC",
            1 << 10,
            "PMR, CTLR, RPR, DIR and the SGI registers are answered here. Emulated: with IMO and FMO they are virtual",
        )
        .only(Direct),
        clear(IchHcr, "TALL0, TALL1", "the registers of every interrupt: virtual, or the guest's"),
    ]
};

/// A state of a CPU that the table rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// MDSCR_EL1 is zero. With the OS lock closed that also clears what it holds of the external debug interface (EDSCR).
    DebugControlClear,
    /// OSDLR_EL1 is zero (FEAT_DoubleLock; else it is ignored).
    DoubleLockOpen,
    /// OSLAR_EL1 was written with zero.
    OsLockOpen,
    /// VSESR_EL2 and VDISR_EL2 are zero.
    NoVirtualError,
}

/// When a state is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, when the CPU has come up at EL2.
    CpuUp,
    /// Each time a vCPU starts.
    VcpuStart,
}

/// A state that has to be established first.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// What.
    pub state: State,
    /// When.
    pub when: When,
    /// For CPUs with a feature only.
    pub needs: Option<Needs>,
    /// Why.
    pub why: &'static str,
}

/// The states, in the order in which they are established.
pub const FIRST: &[First] = &[
    First {
        state: State::DebugControlClear,
        when: When::CpuUp,
        needs: None,
        why: "firmware may have left anything there, interrupts masked for the debugger (INTdis) among it; once the lock is open \
              those bits can't be written any more (D24.3, MDSCR_EL1)",
    },
    First {
        state: State::DoubleLockOpen,
        when: When::CpuUp,
        needs: None,
        why: "while it is closed no debug exception but that of BRK is generated (H6.2)",
    },
    First {
        state: State::OsLockOpen,
        when: When::CpuUp,
        needs: None,
        why: "it is closed at reset. While it is, MDSCR_EL1 writes through to EDSCR: a guest could mask interrupts at EL2, and halt \
              the core; and no breakpoint or watchpoint fires (D2.5, H9.2)",
    },
    First {
        state: State::NoVirtualError,
        when: When::VcpuStart,
        needs: Some(Needs {
            feature: Feature::Ras,
            without: "a virtual SError has no syndrome, and none is deferred",
        }),
        why: "the last guest's syndrome and deferred error are not this one's (it reads DISR_EL1 as VDISR_EL2)",
    },
];

/// The states without their reasons: what is left of [`FIRST`] at run time.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What.
    pub state: State,
    /// When.
    pub when: When,
    /// For CPUs with a feature only.
    pub needs: Option<Feature>,
}

/// What has to be done, in this order.
pub static STEPS: [Step; FIRST.len()] = {
    let mut steps = [Step { state: State::OsLockOpen, when: When::CpuUp, needs: None }; FIRST.len()];
    let mut index = 0;
    while index < FIRST.len() {
        let First { state, when, needs, .. } = FIRST[index];
        let needs = match needs {
            Some(needs) => Some(needs.feature),
            None => None,
        };
        steps[index] = Step { state, when, needs };
        index += 1;
    }
    steps
};

/// The value of a register, as the table has it for guests of a kind on a CPU with these features.
#[inline]
pub const fn value(register: Register, interrupts: Interrupts, features: Features) -> u64 {
    let mut value = widest(register, interrupts);
    let mut index = 0;
    while index < CONDITIONAL.len() {
        let row = &CONDITIONAL[index];
        if row.register as u8 == register as u8 && !features.has(row.feature) {
            value &= !row.bits;
        }
        index += 1;
    }
    value
}

/// The same on a CPU that has everything. It is the value on any CPU of a register none of whose rows needs a feature.
#[inline]
pub const fn widest(register: Register, interrupts: Interrupts) -> u64 {
    /// Summed up where it is compiled, whatever the level of optimisation.
    const VALUES: [[u64; REGISTERS]; 2] = [values(Interrupts::Emulated), values(Interrupts::Direct)];
    VALUES[interrupts as usize][register as usize]
}

/// How many [`Register`]s there are.
const REGISTERS: usize = Register::IchHcr as usize + 1;

/// The values of all registers.
const fn values(interrupts: Interrupts) -> [u64; REGISTERS] {
    let mut values = [0; REGISTERS];
    let mut index = 0;
    while index < CONTROLS.len() {
        let row = &CONTROLS[index];
        let applies = match row.only {
            None => true,
            Some(only) => only as u8 == interrupts as u8,
        };
        if applies {
            values[row.register as usize] |= row.bits;
        }
        index += 1;
    }
    values
}

/// Bits that need a feature: what is left of the table at run time.
#[derive(Clone, Copy)]
struct Conditional {
    bits: u64,
    register: Register,
    feature: Feature,
}

const CONDITIONAL: [Conditional; conditional_rows()] = {
    let none = Conditional { bits: 0, register: Register::Hcr, feature: Feature::Ras };
    let mut found = [none; conditional_rows()];
    let (mut index, mut next) = (0, 0);
    while index < CONTROLS.len() {
        let row = &CONTROLS[index];
        if let Some(needs) = row.needs
            && row.bits != 0
        {
            found[next] = Conditional { bits: row.bits, register: row.register, feature: needs.feature };
            next += 1;
        }
        index += 1;
    }
    found
};

const fn conditional_rows() -> usize {
    let (mut index, mut count) = (0, 0);
    while index < CONTROLS.len() {
        if CONTROLS[index].needs.is_some() && CONTROLS[index].bits != 0 {
            count += 1;
        }
        index += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Interrupts; 2] = [Interrupts::Emulated, Interrupts::Direct];

    fn all() -> Features {
        Feature::ALL.into_iter().fold(Features::default(), Features::and)
    }

    #[test]
    fn every_row_has_its_reasons() {
        for row in CONTROLS {
            assert!(!row.name.is_empty() && !row.why.is_empty());
            assert!(row.needs.is_none_or(|needs| !needs.without.is_empty()), "{}", row.name);
            for state in row.first {
                assert!(FIRST.iter().any(|first| first.state == *state), "{}: {state:?}", row.name);
            }
        }
    }

    #[test]
    fn no_bit_has_two_rows() {
        for (index, row) in CONTROLS.iter().enumerate() {
            for other in &CONTROLS[index + 1..] {
                let same = row.register == other.register && row.bits & other.bits != 0;
                assert!(!same, "{} and {} of {:?}", row.name, other.name, row.register);
            }
        }
    }

    #[test]
    fn a_bit_is_set_exactly_where_its_feature_is() {
        for row in CONTROLS {
            for interrupts in BOTH {
                let applies = row.only.is_none_or(|only| only == interrupts);
                let with = value(row.register, interrupts, all()) & row.bits;
                assert_eq!(with, if applies { row.bits } else { 0 }, "{}", row.name);
                let Some(needs) = row.needs else { continue };
                for absent in Feature::ALL {
                    let others = Feature::ALL.into_iter().filter(|&it| it != absent);
                    let features = others.fold(Features::default(), Features::and);
                    let there = value(row.register, interrupts, features) & row.bits != 0;
                    assert_eq!(
                        there,
                        with != 0 && absent != needs.feature,
                        "{} without {absent:?}",
                        row.name
                    );
                }
            }
        }
    }

    #[test]
    fn what_runs_on_any_cpu_is_closed_on_the_plainest() {
        const TDA: u64 = 1 << 9;
        const TDE: u64 = 1 << 8;
        const TDOSA: u64 = 1 << 10;
        for interrupts in BOTH {
            let mdcr = value(Register::Mdcr, interrupts, Features::default());
            // Without FEAT_FGT there is no TDCC: then TDA is what closes the debug channel, OSECCR and MDSCR_EL1.
            assert_eq!(mdcr & (TDA | TDOSA | TDE), TDA | TDOSA);
            let hcr = value(Register::Hcr, interrupts, Features::default());
            // VM, FMO, AMO, TSC, TIDCP, TID3.
            for bit in [0, 3, 5, 19, 20, 18] {
                assert_ne!(hcr >> bit & 1, 0, "bit {bit}");
            }
        }
    }

    #[test]
    fn the_os_lock_is_opened_after_what_it_opens_is_clear() {
        let position = |state| FIRST.iter().position(|first| first.state == state).unwrap();
        assert!(position(State::DebugControlClear) < position(State::OsLockOpen));
        assert!(FIRST.iter().take(position(State::OsLockOpen) + 1).all(|first| first.when == When::CpuUp));
    }

    #[test]
    fn what_is_loaded_at_each_entry_needs_no_feature() {
        for interrupts in BOTH {
            let plainest = value(Register::IchHcr, interrupts, Features::default());
            assert_eq!(plainest, widest(Register::IchHcr, interrupts));
        }
    }
}
