//! The redistributor's registers (IHI 0069, 12.11): an RD frame and an SGI frame of 64 KiB each.

/// GICR_CTLR.
pub const CTLR: u64 = 0x0;
/// GICR_IIDR.
pub const IIDR: u64 = 0x4;
/// GICR_TYPER, 64 bits.
pub const TYPER: u64 = 0x8;
/// GICR_WAKER.
pub const WAKER: u64 = 0x14;
/// GICR_PROPBASER, 64 bits.
pub const PROPBASER: u64 = 0x70;
/// GICR_PENDBASER, 64 bits.
pub const PENDBASER: u64 = 0x78;
/// Where the SGI frame starts.
pub const SGI_FRAME: u64 = 0x1_0000;
/// Both frames: how far the next processor's redistributor lies.
pub const STRIDE: u64 = 0x2_0000;

/// GICR_CTLR.EnableLPIs.
pub const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// GICR_CTLR.CES: EnableLPIs can be cleared again.
pub const CTLR_CES: u32 = 1 << 1;
/// GICR_TYPER.PLPIS: physical LPIs are supported.
pub const TYPER_PLPIS: u64 = 1 << 0;
/// GICR_TYPER.Last: the last of a row of redistributors.
pub const TYPER_LAST: u64 = 1 << 4;
/// GICR_WAKER.ProcessorSleep.
pub const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
pub const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// What can be written of GICR_PROPBASER: cacheability, shareability, address 51:12, IDbits.
pub const PROPBASER_WRITABLE: u64 = 7 << 56 | 0x000f_ffff_ffff_f000 | 3 << 10 | 7 << 7 | 0x1f;
/// GICR_PENDBASER.PTZ, which can be written and reads as zero: the LPI pending table is zero.
pub const PENDBASER_PTZ: u64 = 1 << 62;
/// What can be read back of GICR_PENDBASER: cacheability, shareability, address 51:16.
pub const PENDBASER_WRITABLE: u64 = 7 << 56 | 0x000f_ffff_ffff_0000 | 3 << 10 | 7 << 7;

/// GICR_TYPER of the redistributor of processor `number` with this affinity (in MPIDR_EL1's layout). All
/// redistributors share one LPI configuration table (CommonLPIAff 0).
pub const fn typer(affinity: u64, number: u16, last: bool, lpis: bool) -> u64 {
    let packed = (affinity >> 32 & 0xff) << 24 | affinity & 0xff_ffff;
    packed << 32
        | (number as u64) << 8
        | if last { TYPER_LAST } else { 0 }
        | if lpis { TYPER_PLPIS } else { 0 }
}

/// The address of the LPI configuration table.
pub const fn propbaser_address(propbaser: u64) -> u64 {
    propbaser & 0x000f_ffff_ffff_f000
}

/// The address of the LPI pending table: a bit for each INTID, from 0 (IHI 0069, 5.1.2).
pub const fn pendbaser_address(pendbaser: u64) -> u64 {
    pendbaser & 0x000f_ffff_ffff_0000
}

/// The number of INTID bits that the LPI configuration table covers.
pub const fn propbaser_id_bits(propbaser: u64) -> u32 {
    (propbaser & 0x1f) as u32 + 1
}

/// What one byte of the LPI configuration table says (IHI 0069, 5.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LpiProperty {
    /// Whether the LPI is enabled.
    pub enabled: bool,
    /// Its priority: bits 7:2 count.
    pub priority: u8,
}

impl LpiProperty {
    /// Reads the byte.
    pub const fn from_byte(byte: u8) -> Self {
        Self { enabled: byte & 1 != 0, priority: byte & 0xfc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typer_packs_the_affinity_above_bit_32() {
        let typer = typer(0x12_0034_5678, 3, true, true);
        assert_eq!(typer >> 32, 0x1234_5678);
        assert_eq!(typer >> 8 & 0xffff, 3);
        assert_eq!(typer & 0xff, 0x11);
    }

    #[test]
    fn a_property_byte_is_priority_and_enable() {
        assert_eq!(LpiProperty::from_byte(0xa1), LpiProperty { enabled: true, priority: 0xa0 });
        assert_eq!(LpiProperty::from_byte(0xa2), LpiProperty { enabled: false, priority: 0xa0 });
    }
}
