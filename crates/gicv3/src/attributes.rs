//! The memory attributes of tables (IHI 0069, 12.11.26, 12.11.27, 12.19.1, 12.19.2): shareability in bits 11:10, inner
//! cacheability where the register has it.

use axvm_addr::Hpa;

use crate::Registers;

/// How the hardware accesses a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Write-back and inner shareable: it sees what is in the processors' caches.
    Coherent,
    /// Past all caches. Whoever writes the table has to clean it to memory.
    NonCacheable,
}

/// Where a register has its inner cacheability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Bits 61:59: GITS_BASER and GITS_CBASER.
    Its,
    /// Bits 9:7: GICR_PROPBASER, GICR_PENDBASER, GICR_VPROPBASER, GICR_VPENDBASER.
    Redistributor,
}

const SHAREABILITY: u64 = 3 << 10;
const INNER_SHAREABLE: u64 = 1 << 10;
/// Normal, non-cacheable.
const NON_CACHEABLE: u64 = 1;
/// Normal, read- and write-allocate, write-back.
const WRITE_BACK: u64 = 7;
/// From here on, encodings are cacheable.
const FIRST_CACHEABLE: u64 = 2;

impl Field {
    const fn shift(self) -> u32 {
        match self {
            Self::Its => 59,
            Self::Redistributor => 7,
        }
    }
}

impl Access {
    /// The register's bits for it.
    pub const fn bits(self, field: Field) -> u64 {
        match self {
            Self::Coherent => INNER_SHAREABLE | WRITE_BACK << field.shift(),
            // Not shareable: shareability says nothing of what isn't cached.
            Self::NonCacheable => NON_CACHEABLE << field.shift(),
        }
    }

    /// What a register that was written with it says that it is.
    const fn read_back(value: u64, field: Field) -> Self {
        let cacheable = value >> field.shift() & 7 >= FIRST_CACHEABLE;
        if value & SHAREABILITY == INNER_SHAREABLE && cacheable { Self::Coherent } else { Self::NonCacheable }
    }
}

/// A register that doesn't keep what it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the GIC's register {offset:#x} can't be given a table: {wanted:#x} written, {read:#x} read (in the bits {mask:#x})"
)]
pub struct Refused {
    /// The register.
    pub offset: u64,
    /// The bits that matter.
    pub mask: u64,
    /// What they were to be.
    pub wanted: u64,
    /// What they are.
    pub read: u64,
}

/// Writes a table's register: `value` (its address, its size and whatever else) with the attributes for `access`, or what the
/// hardware has instead. It answers how the table is accessed. `must` are the bits of `value` that have to be kept.
///
/// # Errors
///
/// [`Refused`]: an address bit that isn't there, a size that it hasn't.
pub fn install(
    registers: &(impl Registers + ?Sized),
    offset: u64,
    field: Field,
    access: Access,
    value: u64,
    must: u64,
) -> Result<Access, Refused> {
    registers.write64(offset, value | access.bits(field));
    let mut read = registers.read64(offset);
    let mut settled = access;
    if access == Access::Coherent && Access::read_back(read, field) == Access::NonCacheable {
        // Caches are of no use then, and what is half cached would be the worst.
        settled = Access::NonCacheable;
        registers.write64(offset, value | settled.bits(field));
        read = registers.read64(offset);
    }
    if (read ^ value) & must != 0 {
        return Err(Refused { offset, mask: must, wanted: value & must, read: read & must });
    }
    Ok(settled)
}

/// Whether all of a table lies where addresses of so many bits reach.
pub(crate) const fn is_below(start: Hpa, bytes: u64, bits: u32) -> bool {
    match start.0.checked_add(bytes) {
        Some(end) => bits >= 64 || end <= 1 << bits,
        None => false,
    }
}

#[cfg(test)]
pub(crate) mod fake {
    extern crate std;

    use core::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// Registers of which some bits are fixed.
    #[derive(Default)]
    pub struct Fake {
        pub values: RefCell<BTreeMap<u64, u64>>,
        /// By offset: which bits a write doesn't change.
        pub fixed: BTreeMap<u64, u64>,
    }

    impl Registers for Fake {
        fn read64(&self, offset: u64) -> u64 {
            self.values.borrow().get(&offset).copied().unwrap_or_default()
        }

        fn write64(&self, offset: u64, value: u64) {
            let fixed = self.fixed.get(&offset).copied().unwrap_or_default();
            let kept = self.read64(offset) & fixed;
            self.values.borrow_mut().insert(offset, kept | value & !fixed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;

    const OFFSET: u64 = 0x70;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    const TABLE: u64 = 0x8_1234_5000 | 14;

    fn try_it(fixed: u64, reads: u64, field: Field, access: Access) -> (Result<Access, Refused>, u64) {
        let fake = Fake { fixed: [(OFFSET, fixed)].into(), ..Fake::default() };
        fake.values.borrow_mut().insert(OFFSET, reads);
        (install(&fake, OFFSET, field, access, TABLE, ADDRESS), fake.read64(OFFSET))
    }

    #[test]
    fn attributes_have_the_bits_of_the_manual() {
        assert_eq!(Access::Coherent.bits(Field::Its), 7 << 59 | 1 << 10);
        assert_eq!(Access::Coherent.bits(Field::Redistributor), 7 << 7 | 1 << 10);
        assert_eq!(Access::NonCacheable.bits(Field::Its), 1 << 59);
        assert_eq!(Access::NonCacheable.bits(Field::Redistributor), 1 << 7);
    }

    #[test]
    fn a_register_that_keeps_all_is_coherent_where_nothing_says_otherwise() {
        for field in [Field::Its, Field::Redistributor] {
            let bits = |access: Access| TABLE | access.bits(field);
            let coherent = try_it(0, 0, field, Access::Coherent);
            assert_eq!(coherent, (Ok(Access::Coherent), bits(Access::Coherent)));
            let told = try_it(0, 0, field, Access::NonCacheable);
            assert_eq!(told, (Ok(Access::NonCacheable), bits(Access::NonCacheable)));
        }
    }

    #[test]
    fn one_whose_shareability_or_cacheability_is_fixed_is_not_cached() {
        for field in [Field::Its, Field::Redistributor] {
            // Non-shareable, outer shareable; inner cacheability non-cacheable, device.
            let cache = 7 << field.shift();
            for (fixed, reads) in [(3 << 10, 0), (3 << 10, 2 << 10), (cache, 1 << field.shift()), (cache, 0)]
            {
                let (access, left) = try_it(fixed, reads, field, Access::Coherent);
                assert_eq!(access, Ok(Access::NonCacheable));
                assert_eq!(left & !fixed, (TABLE | Access::NonCacheable.bits(field)) & !fixed);
            }
        }
    }

    #[test]
    fn an_address_that_is_not_kept_is_refused() {
        let (result, _) = try_it(0xf_0000_0000, 0, Field::Redistributor, Access::Coherent);
        let refused = Refused { offset: OFFSET, mask: ADDRESS, wanted: 0x8_1234_5000, read: 0x1234_5000 };
        assert_eq!(result, Err(refused));
    }

    #[test]
    fn a_table_ends_where_addresses_do() {
        assert!(is_below(Hpa(0xffff_0000), 0x1_0000, 32) && !is_below(Hpa(0xffff_0000), 0x1_0001, 32));
        assert!(is_below(Hpa(1 << 40), 8, 64) && !is_below(Hpa(u64::MAX), 2, 64));
    }
}
