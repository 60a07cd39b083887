//! What a CPU has, as far as the control of a guest depends on it (Arm ARM, DDI 0487, D24.2: the ID_AA64 registers).

/// An extension of the architecture that brings a trap, or something to be trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Feature {
    /// FEAT_LOR: limited ordering regions.
    LimitedOrdering,
    /// FEAT_RAS: error records, ESB, VSESR_EL2 and VDISR_EL2.
    Ras,
    /// FEAT_PAuth: pointer authentication.
    PointerAuthentication,
    /// FEAT_PMUv3: performance counters.
    Counters,
    /// FEAT_PMUv3p1: counting can be prohibited at EL2 (MDCR_EL2.HPMD).
    CountersOffAtEl2,
    /// FEAT_PMUv3p5: so can the count of cycles (MDCR_EL2.HCCD).
    CyclesOffAtEl2,
    /// FEAT_SPE: statistical profiling.
    Profiling,
    /// FEAT_TRF: trace filters.
    TraceFilter,
    /// FEAT_AMUv1: activity monitors.
    ActivityMonitors,
    /// FEAT_MPAM: partition ids.
    Partitions,
    /// FEAT_FGT: fine-grained traps.
    FineGrained,
    /// FEAT_FGT2: a second set of them.
    FineGrained2,
    /// FEAT_HCX: HCRX_EL2.
    MoreControl,
    /// FEAT_NMI: interrupts that only PSTATE.ALLINT masks.
    NonMaskable,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::LimitedOrdering,
        Self::Ras,
        Self::PointerAuthentication,
        Self::Counters,
        Self::CountersOffAtEl2,
        Self::CyclesOffAtEl2,
        Self::Profiling,
        Self::TraceFilter,
        Self::ActivityMonitors,
        Self::Partitions,
        Self::FineGrained,
        Self::FineGrained2,
        Self::MoreControl,
        Self::NonMaskable,
    ];
}

/// The identification registers that say it, as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
}

/// What a CPU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

impl Features {
    /// What the registers say.
    pub fn of(id: &IdRegisters) -> Self {
        // PMUVer: 0 none, 0xf counters of another kind, without these registers.
        let counters = match field(id.dfr0, 8) {
            0xf => 0,
            version => version,
        };
        let fine_grained = field(id.mmfr0, 56);
        let mut features = Self::default();
        for (feature, there) in [
            (Feature::LimitedOrdering, field(id.mmfr1, 16) != 0),
            (Feature::Ras, field(id.pfr0, 28) != 0),
            (
                Feature::PointerAuthentication,
                // APA, API; APA3.
                field(id.isar1, 4) != 0 || field(id.isar1, 8) != 0 || field(id.isar2, 12) != 0,
            ),
            (Feature::Counters, counters != 0),
            (Feature::CountersOffAtEl2, counters >= 4),
            (Feature::CyclesOffAtEl2, counters >= 6),
            (Feature::Profiling, field(id.dfr0, 32) != 0),
            (Feature::TraceFilter, field(id.dfr0, 40) != 0),
            (Feature::ActivityMonitors, field(id.pfr0, 44) != 0),
            // The version's whole part, its fraction (MPAM_frac): 0.1 is one too.
            (Feature::Partitions, field(id.pfr0, 40) != 0 || field(id.pfr1, 16) != 0),
            (Feature::FineGrained, fine_grained != 0),
            (Feature::FineGrained2, fine_grained >= 2),
            (Feature::MoreControl, field(id.mmfr1, 40) != 0),
            (Feature::NonMaskable, field(id.pfr1, 36) != 0),
        ] {
            if there {
                features = features.and(feature);
            }
        }
        features
    }

    /// These, and one more.
    #[must_use]
    pub const fn and(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u8)
    }

    /// Whether it is there.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 >> feature as u8 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_where_the_registers_are_zero() {
        let features = Features::of(&IdRegisters::default());
        assert_eq!(features, Features::default());
    }

    #[test]
    fn fields_are_where_the_manual_has_them() {
        let id = IdRegisters {
            pfr0: 1 << 28,
            dfr0: 6 << 8,
            isar2: 1 << 12,
            mmfr0: 1 << 56,
            ..IdRegisters::default()
        };
        let features = Features::of(&id);
        for feature in Feature::ALL {
            let there = matches!(
                feature,
                Feature::Ras
                    | Feature::Counters
                    | Feature::CountersOffAtEl2
                    | Feature::CyclesOffAtEl2
                    | Feature::PointerAuthentication
                    | Feature::FineGrained
            );
            assert_eq!(features.has(feature), there, "{feature:?}");
        }
    }

    #[test]
    fn counters_of_another_kind_are_none() {
        let id = IdRegisters { dfr0: 0xf << 8, ..IdRegisters::default() };
        assert!(!Features::of(&id).has(Feature::Counters));
    }

    #[test]
    fn partitions_of_version_0_1_count() {
        let id = IdRegisters { pfr1: 1 << 16, ..IdRegisters::default() };
        assert!(Features::of(&id).has(Feature::Partitions));
    }
}
