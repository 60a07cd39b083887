//! The tables of a virtual processor at a redistributor (IHI 0069, 12.11.42 and 12.11.43: GICR_VPROPBASER and GICR_VPENDBASER of
//! GICv4.0).

use axvm_addr::Hpa;

use crate::Registers;
use crate::attributes::{Access, Field, Refused, install};

/// In the third frame of a redistributor.
const VPROPBASER: u64 = 0x2_0070;
const VPENDBASER: u64 = 0x2_0078;

/// Bits 51:12 of the configuration table's address, in place; and IDbits, one less than INTIDs have.
const PROPERTIES: u64 = 0x000f_ffff_ffff_f000;
const ID_BITS: u64 = 0x1f;
/// Bits 51:16 of the pending table's address, in place.
const PENDING: u64 = 0x000f_ffff_ffff_0000;
/// The virtual processor is resident.
const VALID: u64 = 1 << 63;
/// The pending table isn't known to be empty.
const PENDING_LAST: u64 = 1 << 61;
/// The redistributor reads or writes the pending table just now.
const DIRTY: u64 = 1 << 60;

/// The tables of a virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualTables {
    /// Configuration of its virtual LPIs.
    pub properties: Hpa,
    /// Bits of their INTIDs.
    pub id_bits: u32,
    /// Which of them are pending.
    pub pending: Hpa,
}

/// Whether a virtual processor is resident.
pub fn is_resident(registers: &(impl Registers + ?Sized)) -> bool {
    registers.read64(VPENDBASER) & VALID != 0
}

/// Whether the redistributor is done with the pending table of whoever was resident.
pub fn is_settled(registers: &(impl Registers + ?Sized)) -> bool {
    registers.read64(VPENDBASER) & DIRTY == 0
}

/// Makes a virtual processor resident where none is, and [`is_settled`]. While it isn't yet, both registers are given their tables
/// and read back; the attributes of a resident one's may not change. It answers how the tables are accessed.
///
/// # Errors
///
/// [`Refused`]; then it isn't resident.
pub fn make_resident(
    registers: &(impl Registers + ?Sized),
    tables: &VirtualTables,
    access: Access,
) -> Result<Access, Refused> {
    let field = Field::Redistributor;
    let (properties, pending) =
        (tables.properties.0 | u64::from(tables.id_bits - 1) & ID_BITS, tables.pending.0);
    let of_pending = install(registers, VPENDBASER, field, access, pending, PENDING)?;
    let settled = install(registers, VPROPBASER, field, of_pending, properties, PROPERTIES | ID_BITS)?;
    // Pending bits may be waiting in the table, so it is to be read.
    registers.write64(VPENDBASER, VALID | PENDING_LAST | pending | settled.bits(field));
    Ok(settled)
}

/// Begins to make absent whoever is resident: it is, when it [`is_settled`].
pub fn make_absent(registers: &(impl Registers + ?Sized)) {
    let value = registers.read64(VPENDBASER);
    if value & VALID != 0 {
        registers.write64(VPENDBASER, value & !(VALID | PENDING_LAST));
    }
}

/// Of one that has just become absent: whether something is pending.
pub fn has_pending(registers: &(impl Registers + ?Sized)) -> bool {
    registers.read64(VPENDBASER) & PENDING_LAST != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::fake::Fake;

    const TABLES: VirtualTables =
        VirtualTables { properties: Hpa(0x8_4012_3000), id_bits: 16, pending: Hpa(0x8_4020_0000) };
    const COHERENT: u64 = 1 << 10 | 7 << 7;
    const NOT_CACHED: u64 = 1 << 7;

    fn with(fixed: &[(u64, u64)]) -> Fake {
        Fake { fixed: fixed.iter().copied().collect(), ..Fake::default() }
    }

    #[test]
    fn a_redistributor_that_keeps_all_has_coherent_tables() {
        let fake = with(&[]);
        assert_eq!(make_resident(&fake, &TABLES, Access::Coherent), Ok(Access::Coherent));
        assert_eq!(fake.read64(VPROPBASER), 0x8_4012_3000 | 15 | COHERENT);
        assert_eq!(fake.read64(VPENDBASER), 5 << 61 | 0x8_4020_0000 | COHERENT);
        assert!(is_resident(&fake));
        make_absent(&fake);
        assert!(!is_resident(&fake) && is_settled(&fake) && !has_pending(&fake));
        // One that goes without having been there leaves the register alone.
        make_absent(&fake);
        assert_eq!(fake.read64(VPENDBASER), 0x8_4020_0000 | COHERENT);
    }

    #[test]
    fn what_one_register_has_not_got_the_other_does_without() {
        for short_of_it in [VPROPBASER, VPENDBASER] {
            // Shareability, or cacheability, that is fixed to zero.
            for fixed in [3 << 10, 7 << 7] {
                let fake = with(&[(short_of_it, fixed)]);
                assert_eq!(make_resident(&fake, &TABLES, Access::Coherent), Ok(Access::NonCacheable));
                for register in [VPROPBASER, VPENDBASER] {
                    let kept = if register == short_of_it { NOT_CACHED & !fixed } else { NOT_CACHED };
                    assert_eq!(fake.read64(register) & (3 << 10 | 7 << 7), kept, "{register:#x}");
                }
            }
        }
    }

    #[test]
    fn addresses_and_sizes_that_are_not_kept_are_refused_before_anything_is_resident() {
        // 32 address bits; ids of 8 bits.
        for fixed in [(VPROPBASER, 0xf << 32), (VPENDBASER, 0xf << 32), (VPROPBASER, 0x18)] {
            let fake = with(&[fixed]);
            let refused = make_resident(&fake, &TABLES, Access::Coherent).unwrap_err();
            assert_eq!(refused.offset, fixed.0);
            assert!(!is_resident(&fake));
        }
    }
}
