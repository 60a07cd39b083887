//! Boards whose GIC isn't what its registers say.
//!
//! Most are chips that have Arm's GIC without some of its wires: the GIC doesn't know, and neither is there a register that
//! doesn't keep what was written. They are told by the identification registers (GICD_IIDR, GITS_IIDR) together with the
//! device tree's root `compatible`, as the same GIC is right elsewhere.

use axvm_addr::Hpa;

use crate::attributes::{Access, is_below};

/// What a GIC needs beyond the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// Its accesses aren't coherent with the processors' caches, whatever its registers keep.
    pub not_coherent: bool,
    /// The bits of the addresses that it reaches.
    pub address_bits: u32,
}

impl Quirks {
    /// None.
    pub const NONE: Self = Self { not_coherent: false, address_bits: 64 };

    /// How tables are to be accessed, at most; `told_not_coherent`: the tree says `dma-noncoherent`.
    pub const fn access(&self, told_not_coherent: bool) -> Access {
        if self.not_coherent || told_not_coherent { Access::NonCacheable } else { Access::Coherent }
    }

    /// Whether the GIC reaches all of a table.
    pub const fn reaches(&self, start: Hpa, bytes: u64) -> bool {
        is_below(start, bytes, self.address_bits)
    }
}

struct Erratum {
    iidr: u32,
    mask: u32,
    boards: &'static [&'static str],
    quirks: Quirks,
}

/// GIC-600 r1p6 (implementer Arm, 0x43b; product 2).
const GIC_600: u32 = 0x0201_743b;

const ERRATA: &[Erratum] = &[
    // Rockchip 3568002: the GIC's port has 32 address bits, and isn't coherent.
    Erratum {
        iidr: GIC_600,
        mask: u32::MAX,
        boards: &["rockchip,rk3566", "rockchip,rk3568"],
        quirks: Quirks { not_coherent: true, address_bits: 32 },
    },
    // Rockchip 3588001: shareability can be set, and isn't there.
    Erratum {
        iidr: GIC_600,
        mask: u32::MAX,
        boards: &["rockchip,rk3588", "rockchip,rk3588s"],
        quirks: Quirks { not_coherent: true, address_bits: 32 },
    },
];

impl Erratum {
    fn is_board(&self, name: &str) -> bool {
        self.boards.contains(&name)
    }
}

/// What a distributor or an ITS with this identification needs on a board of these names.
pub fn quirks(iidr: u32, compatible: &[impl AsRef<str>]) -> Quirks {
    let is_board = |it: &Erratum| compatible.iter().any(|name| it.is_board(name.as_ref()));
    let matching = ERRATA.iter().filter(|it| iidr & it.mask == it.iidr && is_board(it));
    matching.fold(Quirks::NONE, |all, it| Quirks {
        not_coherent: all.not_coherent | it.quirks.not_coherent,
        address_bits: all.address_bits.min(it.quirks.address_bits),
    })
}

/// Whether tables on a board of this name may have to lie below 4 GiB: to be known before the GIC can be asked.
pub fn may_need_low_memory(board: &str) -> bool {
    ERRATA.iter().any(|it| it.quirks.address_bits <= 32 && it.is_board(board))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erratum_is_that_of_a_chip_on_a_board() {
        for board in ["rockchip,rk3566", "rockchip,rk3568", "rockchip,rk3588", "rockchip,rk3588s"] {
            let compatible = ["vendor,some-board", board];
            let quirks = quirks(GIC_600, &compatible);
            assert_eq!(quirks, Quirks { not_coherent: true, address_bits: 32 }, "{board}");
            assert_eq!(quirks.access(false), Access::NonCacheable);
            assert!(quirks.reaches(Hpa(0xfff0_0000), 0x1_0000) && !quirks.reaches(Hpa(1 << 32), 0x1000));
            assert!(may_need_low_memory(board) && !may_need_low_memory("vendor,some-board"));
            assert_eq!(super::quirks(GIC_600 + (1 << 12), &compatible), Quirks::NONE, "another revision");
        }
        assert_eq!(quirks(GIC_600, &["arm,juno"]), Quirks::NONE);
    }

    #[test]
    fn the_tree_says_so_too() {
        assert_eq!(Quirks::NONE.access(false), Access::Coherent);
        assert_eq!(Quirks::NONE.access(true), Access::NonCacheable);
        assert!(Quirks::NONE.reaches(Hpa(1 << 51), 0x1000));
    }
}
