//! What a write to ICC_SGI1R_EL1 asks for (IHI 0069, 12.2).

use super::AFFINITY_MASK;

/// A value written to ICC_SGI1R_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiRequest(pub u64);

impl SgiRequest {
    /// The SGI's INTID, 0 to 15.
    pub const fn intid(self) -> u32 {
        (self.0 >> 24 & 0xf) as u32
    }

    /// IRM: all processors but the sender's.
    pub const fn all_others(self) -> bool {
        self.0 >> 40 & 1 != 0
    }

    /// All of it but the INTID.
    pub const fn target(self) -> u64 {
        self.0 & !(0xf << 24)
    }

    /// The [`Self::target`] that names the processor of this affinity (in MPIDR_EL1's layout) and no other.
    pub const fn target_of(affinity: u64) -> u64 {
        let aff0 = affinity & 0xff;
        (affinity >> 32 & 0xff) << 48
            | (aff0 >> 4) << 44
            | (affinity >> 16 & 0xff) << 32
            | (affinity >> 8 & 0xff) << 16
            | 1 << (aff0 & 0xf)
    }

    /// Whether the target list names the processor of this affinity (in MPIDR_EL1's layout).
    pub const fn names(self, affinity: u64) -> bool {
        let affinity = affinity & AFFINITY_MASK;
        let cluster = (self.0 >> 48 & 0xff) << 32 | (self.0 >> 32 & 0xff) << 16 | (self.0 >> 16 & 0xff) << 8;
        let first = (self.0 >> 44 & 0xf) * 16;
        let aff0 = affinity & 0xff;
        affinity & !0xff == cluster && aff0 >= first && aff0 < first + 16 && self.0 >> (aff0 - first) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_processor_names_it_and_no_other() {
        for affinity in [0, 1, 0x12, 0x105, 0x12_0034_5612, 0xff_00ff_ffff] {
            let target = SgiRequest::target_of(affinity);
            let request = SgiRequest(target | 7 << 24);
            assert!(request.names(affinity) && request.intid() == 7 && request.target() == target);
            assert_eq!((0..=0xff).filter(|aff0| request.names(affinity & !0xff | aff0)).count(), 1);
        }
    }

    #[test]
    fn a_target_list_names_by_all_four_affinity_levels_and_range() {
        let request = SgiRequest(0x12 << 48 | 0x34 << 32 | 0x56 << 16 | 5 << 24 | 1 << 44 | 1 << 2);
        assert_eq!(request.intid(), 5);
        assert!(request.names(0x12_0034_5612));
        assert!(!request.names(0x12_0034_5602));
        assert!(!request.names(0x12_0034_5712));
        assert!(!request.names(0x34_5612));
        assert!(!request.all_others());
        assert!(SgiRequest(1 << 40).all_others());
    }
}
