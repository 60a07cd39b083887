//! The distributor's registers (IHI 0069, 12.9), as one security state with affinity routing sees them.

/// GICD_CTLR.
pub const CTLR: u64 = 0x0;
/// GICD_TYPER.
pub const TYPER: u64 = 0x4;
/// GICD_IIDR.
pub const IIDR: u64 = 0x8;
/// The first GICD_IGROUPR.
pub const IGROUPR: u64 = 0x80;
/// The first GICD_ISENABLER.
pub const ISENABLER: u64 = 0x100;
/// The first GICD_ICENABLER.
pub const ICENABLER: u64 = 0x180;
/// The first GICD_ISPENDR.
pub const ISPENDR: u64 = 0x200;
/// The first GICD_ICPENDR.
pub const ICPENDR: u64 = 0x280;
/// The first GICD_ISACTIVER.
pub const ISACTIVER: u64 = 0x300;
/// The first GICD_ICACTIVER.
pub const ICACTIVER: u64 = 0x380;
/// The first GICD_IPRIORITYR.
pub const IPRIORITYR: u64 = 0x400;
/// One past the last GICD_IPRIORITYR.
pub const IPRIORITYR_END: u64 = 0x800;
/// The first GICD_ICFGR.
pub const ICFGR: u64 = 0xc00;
/// One past the last GICD_ICFGR.
pub const ICFGR_END: u64 = 0xd00;
/// GICD_IROUTER of INTID 0; those below 32 don't exist.
pub const IROUTER: u64 = 0x6000;
/// One past the last GICD_IROUTER.
pub const IROUTER_END: u64 = 0x8000;

/// GICD_CTLR.EnableGrp0.
pub const CTLR_ENABLE_GROUP0: u32 = 1 << 0;
/// GICD_CTLR.EnableGrp1.
pub const CTLR_ENABLE_GROUP1: u32 = 1 << 1;
/// GICD_CTLR.ARE: affinity routing. Always on here.
pub const CTLR_ARE: u32 = 1 << 4;
/// GICD_CTLR.DS: one security state. Always on here.
pub const CTLR_DS: u32 = 1 << 6;

/// GICD_TYPER.LPIS.
pub const TYPER_LPIS: u32 = 1 << 17;
/// GICD_TYPER.A3V: affinity 3 may be non-zero.
pub const TYPER_A3V: u32 = 1 << 24;
/// GICD_TYPER.No1N: no interrupt goes to "any one of N" processors.
pub const TYPER_NO1N: u32 = 1 << 25;
/// GICD_TYPER.RSS: SGIs reach affinity 0 from 16 up.
pub const TYPER_RSS: u32 = 1 << 26;

/// GICD_TYPER of a distributor with `spis` lines (a multiple of 32) and INTIDs of `id_bits` bits.
pub const fn typer(spis: u32, id_bits: u32, lpis: bool, range_select: bool) -> u32 {
    (spis / 32) & 0x1f
        | if lpis { TYPER_LPIS } else { 0 }
        | (id_bits.saturating_sub(1) & 0x1f) << 19
        | TYPER_A3V
        | TYPER_NO1N
        | if range_select { TYPER_RSS } else { 0 }
}

/// One of the register arrays that have a bit for each interrupt, at the same offsets in the distributor and
/// in the redistributor's SGI frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// IGROUPR.
    Group,
    /// ISENABLER.
    SetEnable,
    /// ICENABLER.
    ClearEnable,
    /// ISPENDR.
    SetPending,
    /// ICPENDR.
    ClearPending,
    /// ISACTIVER.
    SetActive,
    /// ICACTIVER.
    ClearActive,
}

impl Bank {
    /// Which array, and which word of it, lies at `offset` (a multiple of 4).
    pub const fn at(offset: u64) -> Option<(Self, u32)> {
        let bank = match offset & !0x7f {
            IGROUPR => Self::Group,
            ISENABLER => Self::SetEnable,
            ICENABLER => Self::ClearEnable,
            ISPENDR => Self::SetPending,
            ICPENDR => Self::ClearPending,
            ISACTIVER => Self::SetActive,
            ICACTIVER => Self::ClearActive,
            _ => return None,
        };
        Some((bank, (offset as u32 & 0x7f) / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typer_has_its_fields_where_the_manual_says() {
        assert_eq!(typer(32, 16, true, false), 1 | 1 << 17 | 15 << 19 | 1 << 24 | 1 << 25);
        assert_eq!(typer(988 / 32 * 32, 10, false, true) & 0x1f, 30);
        assert_eq!(typer(32, 10, false, true) >> 26 & 1, 1);
    }

    #[test]
    fn a_bank_is_known_by_its_offset() {
        assert_eq!(Bank::at(0x104), Some((Bank::SetEnable, 1)));
        assert_eq!(Bank::at(0x3fc), Some((Bank::ClearActive, 31)));
        assert_eq!(Bank::at(0x400), None);
        assert_eq!(Bank::at(0x7c), None);
    }
}
