//! How accesses of any width reach registers of 32 and of 64 bits.
//!
//! A 64-bit register can be read and written as a whole or by halves (IHI 0069, 12.1.3). A 32-bit register
//! takes 32-bit accesses. Whatever else a guest tries reads as zero and is ignored.

use axvm_axdevice::Width;

/// An access to a 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide {
    /// The register's offset.
    pub(crate) register: u64,
    /// Which of its bits are accessed.
    pub(crate) mask: u64,
    shift: u32,
}

impl Wide {
    /// The access, if it is all or one half of a naturally aligned 64-bit register.
    pub(crate) fn new(offset: u64, width: Width) -> Option<Self> {
        let register = offset & !7;
        match (width, offset & 7) {
            (Width::B8, 0) => Some(Self { register, mask: u64::MAX, shift: 0 }),
            (Width::B4, 0) => Some(Self { register, mask: 0xffff_ffff, shift: 0 }),
            (Width::B4, 4) => Some(Self { register, mask: 0xffff_ffff << 32, shift: 32 }),
            _ => None,
        }
    }

    /// What a read returns if the register has `value`.
    pub(crate) fn read(self, value: u64) -> u64 {
        (value & self.mask) >> self.shift
    }

    /// The value written, in the register's place.
    pub(crate) fn place(self, value: u64) -> u64 {
        value << self.shift & self.mask
    }

    /// The register's value after the access, if it had `old`.
    pub(crate) fn merge(self, old: u64, value: u64) -> u64 {
        old & !self.mask | self.place(value)
    }
}

/// Whether it is an aligned access to a 32-bit register.
pub(crate) fn is_word(offset: u64, width: Width) -> bool {
    width == Width::B4 && offset & 3 == 0
}

/// Whether it is an access to byte-accessible registers: one, two or four bytes, aligned.
pub(crate) fn is_bytes(offset: u64, width: Width) -> bool {
    width != Width::B8 && offset & (width.bytes() - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_wide_register_are_accessed_apart() {
        let high = Wide::new(0x74, Width::B4).unwrap();
        assert_eq!(high.register, 0x70);
        assert_eq!(high.read(0x1122_3344_5566_7788), 0x1122_3344);
        assert_eq!(high.merge(0x1122_3344_5566_7788, 0xaabb_ccdd), 0xaabb_ccdd_5566_7788);
        let low = Wide::new(0x70, Width::B4).unwrap();
        assert_eq!(low.merge(0x1122_3344_5566_7788, 0xaabb_ccdd), 0x1122_3344_aabb_ccdd);
        assert_eq!(Wide::new(0x70, Width::B8).unwrap().merge(1, 2), 2);
        assert_eq!(Wide::new(0x74, Width::B8), None);
        assert_eq!(Wide::new(0x70, Width::B2), None);
    }
}
