//! Which redistributors a region has, and whose they are (IHI 0069, 12.10 and 12.11.38, GICR_TYPER).

/// GICR_TYPER, in a redistributor's first frame.
const TYPER: u64 = 0x8;
/// Bytes of the two frames that each has, and of the four with virtual LPIs.
const FRAMES: u64 = 0x2_0000;
const FRAMES_WITH_VIRTUAL: u64 = 0x4_0000;
/// Virtual LPIs.
const VLPIS: u64 = 1 << 1;
/// The last of its region.
const LAST: u64 = 1 << 4;

/// A redistributor in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redistributor {
    /// Where in the region it begins.
    pub offset: u64,
    /// Bytes of its frames, as far as they are in the region.
    pub size: u64,
    /// GICR_TYPER.
    pub typer: u64,
}

impl Redistributor {
    /// The affinity fields of its CPU's MPIDR_EL1.
    pub const fn mpidr(&self) -> u64 {
        let affinity = self.typer >> 32;
        affinity & 0xff_ffff | (affinity >> 24 & 0xff) << 32
    }

    /// Its number (GICR_TYPER.Processor_Number).
    pub const fn number(&self) -> u16 {
        (self.typer >> 8) as u16
    }
}

/// The redistributors of a region of `bytes`, of which `read64` reads a register. `stride`: from one to the next, where the device tree
/// says so; 0 if it doesn't.
pub fn redistributors(
    bytes: u64,
    stride: u64,
    read64: impl Fn(u64) -> u64,
) -> impl Iterator<Item = Redistributor> {
    let mut next = Some(0);
    core::iter::from_fn(move || {
        let offset: u64 = next?;
        let left = bytes.checked_sub(offset).filter(|&left| left >= FRAMES)?;
        let typer = read64(offset + TYPER);
        let size = if typer & VLPIS != 0 { FRAMES_WITH_VIRTUAL } else { FRAMES };
        let is_last = typer & LAST != 0 && stride == 0;
        next = offset.checked_add(if stride == 0 { size } else { stride }).filter(|_| !is_last);
        Some(Redistributor { offset, size: if size <= left { size } else { FRAMES }, typer })
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn typer(affinity: u64, flags: u64) -> u64 {
        affinity << 32 | flags
    }

    fn found(bytes: u64, stride: u64, typers: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let read = |offset| typers.iter().find(|it| it.0 + TYPER == offset).map_or(0, |it| it.1);
        redistributors(bytes, stride, read).map(|it| (it.offset, it.size, it.mpidr())).collect()
    }

    #[test]
    fn a_region_ends_with_the_last_one_or_with_its_bytes() {
        let two = [(0, typer(0, 0)), (0x2_0000, typer(1, LAST)), (0x4_0000, typer(2, 0))];
        assert_eq!(found(0x10_0000, 0, &two), [(0, 0x2_0000, 0), (0x2_0000, 0x2_0000, 1)]);
        assert_eq!(found(0x3_ffff, 0, &two), [(0, 0x2_0000, 0)]);
        assert_eq!(found(0x1_ffff, 0, &two), []);
    }

    #[test]
    fn with_virtual_lpis_each_has_four_frames() {
        let two = [(0, typer(0, VLPIS)), (0x4_0000, typer(0x0203_0405, VLPIS))];
        assert_eq!(found(0x8_0000, 0, &two), [(0, 0x4_0000, 0), (0x4_0000, 0x4_0000, 0x2_0003_0405)]);
        // The second one's further frames aren't in the region.
        assert_eq!(found(0x6_0000, 0, &two)[1].1, 0x2_0000);
    }

    #[test]
    fn where_the_tree_has_a_stride_that_counts_and_not_the_mark_of_the_last() {
        let two = [(0, typer(0, LAST)), (0x8_0000, typer(1, LAST))];
        assert_eq!(found(0x10_0000, 0x8_0000, &two), [(0, 0x2_0000, 0), (0x8_0000, 0x2_0000, 1)]);
    }
}
