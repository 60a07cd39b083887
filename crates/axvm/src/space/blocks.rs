//! Cutting a linear mapping into blocks of the sizes that page tables have.

use axvm_addr::{Gpa, Hpa, PAGE_SIZE};

/// What one entry of a page table maps (4 KiB granule: Arm DDI 0487, D8.2.1; the same on x86 and RISC-V).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockSize {
    /// 4 KiB.
    Page,
    /// 2 MiB.
    Mib2,
    /// 1 GiB.
    Gib1,
}

impl BlockSize {
    /// The sizes, largest first.
    pub const ALL: [Self; 3] = [Self::Gib1, Self::Mib2, Self::Page];

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Page => PAGE_SIZE,
            Self::Mib2 => 2 << 20,
            Self::Gib1 => 1 << 30,
        }
    }
}

/// One entry's worth of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where the guest sees it.
    pub gpa: Gpa,
    /// Where it is.
    pub hpa: Hpa,
    /// How large it is.
    pub size: BlockSize,
}

/// The fewest blocks that map `length` bytes from `gpa` to `hpa`: at each place the largest that is aligned on both sides
/// and doesn't reach past the end. What isn't a whole page at the end is left out, and everything where `gpa` and `hpa`
/// aren't pages.
pub fn blocks(gpa: Gpa, hpa: Hpa, length: u64) -> impl Iterator<Item = Block> {
    let mut done = 0u64;
    core::iter::from_fn(move || {
        let left = length.checked_sub(done)?;
        let (at, from) = (gpa.0.checked_add(done)?, hpa.0.checked_add(done)?);
        let fits = |size: &BlockSize| {
            let bytes = size.bytes();
            at.is_multiple_of(bytes) && from.is_multiple_of(bytes) && bytes <= left
        };
        let size = BlockSize::ALL.into_iter().find(fits)?;
        done = done.checked_add(size.bytes())?;
        Some(Block { gpa: Gpa(at), hpa: Hpa(from), size })
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn sizes(gpa: u64, hpa: u64, length: u64) -> Vec<BlockSize> {
        blocks(Gpa(gpa), Hpa(hpa), length).map(|block| block.size).collect()
    }

    #[test]
    fn a_gibibyte_aligned_on_both_sides_is_one_entry() {
        assert_eq!(sizes(1 << 30, 5 << 30, 1 << 30), [BlockSize::Gib1]);
    }

    #[test]
    fn what_is_aligned_on_one_side_only_is_cut_to_what_both_allow() {
        assert_eq!(sizes(1 << 30, 2 << 20, 4 << 20), [BlockSize::Mib2; 2]);
        assert_eq!(sizes(0, 0x1000, 0x2000), [BlockSize::Page; 2]);
    }

    #[test]
    fn a_mapping_at_the_top_of_the_address_space_ends() {
        assert_eq!(sizes(!0xfff, !0xfff, u64::MAX), [BlockSize::Page]);
        assert_eq!(sizes(0x800, 0x800, 0x2000), []);
    }

    proptest! {
        #[test]
        fn blocks_cover_everything_once_in_order_and_no_larger_one_would_fit(
            gpa in 0u64..1 << 20, shift in prop::sample::select(std_shifts()), pages in 0u64..600_000,
        ) {
            let (gpa, length) = (gpa << 12, pages << 12);
            let hpa = gpa.wrapping_add(shift);
            let mut at = 0;
            for block in blocks(Gpa(gpa), Hpa(hpa), length) {
                prop_assert_eq!((block.gpa.0, block.hpa.0), (gpa + at, hpa + at));
                let larger = BlockSize::ALL.into_iter().filter(|size| *size > block.size);
                for size in larger {
                    let bytes = size.bytes();
                    let fits = (gpa + at) % bytes == 0 && (hpa + at) % bytes == 0 && at + bytes <= length;
                    prop_assert!(!fits, "{size:?} would fit at {at:#x}");
                }
                at += block.size.bytes();
            }
            prop_assert_eq!(at, length);
        }
    }

    fn std_shifts() -> Vec<u64> {
        alloc::vec![0, 0x1000, 2 << 20, 1 << 30, (1 << 30) + 0x1000, 7 << 21]
    }
}
