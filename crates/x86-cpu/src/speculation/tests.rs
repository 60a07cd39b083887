//! Measures of processors that there are.

extern crate std;

use super::*;
use crate::features::Leaf;
use std::vec::Vec;

/// An AMD processor of a family with these leaves (0x8000_0008 EBX, 0x8000_0021 EAX and ECX).
fn amd(signature: u32, sizes: u32, further: u32, scheduler: u32) -> Features {
    Features::read(&move |leaf: u32, _: u32| match leaf {
        0 => Leaf { eax: 0xd, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
        1 => Leaf { eax: signature, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_0021, ..Leaf::default() },
        0x8000_0008 => Leaf { ebx: sizes, ..Leaf::default() },
        0x8000_0021 => Leaf { eax: further, ecx: scheduler, ..Leaf::default() },
        _ => Leaf::default(),
    })
}

fn all(features: &Features) -> [Vec<Measure>; 3] {
    [Moment::Entry, Moment::Exit, Moment::Change].map(|moment| measures(moment, features).collect())
}

#[test]
fn each_processor_gets_what_it_needs() {
    use Measure::{Barrier, FillReturns, Verw};
    const IBPB: u32 = 1 << 12;
    // QEMU's, family 15: no barrier, and nothing that would need one.
    assert_eq!(all(&amd(0x0006_0fb1, 0, 0, 0)), [Vec::new(), std::vec![FillReturns], Vec::new()]);
    // Zen 2.
    assert_eq!(
        all(&amd(0x0083_0f10, IBPB, 0, 0)),
        [Vec::new(), std::vec![Barrier, FillReturns], std::vec![Barrier]]
    );
    // Zen 3 with microcode that has VERW clear.
    assert_eq!(
        all(&amd(0x00a0_0f11, IBPB, 1 << 5, 0)),
        [std::vec![Verw], std::vec![Barrier, FillReturns], std::vec![Barrier]]
    );
    // Zen 4: automatic IBRS.
    assert_eq!(
        all(&amd(0x00a1_0f11, IBPB, 1 << 8 | 1 << 5, 0)),
        [std::vec![Verw], std::vec![Barrier], std::vec![Barrier]]
    );
    // One of either attack is enough.
    for one in [1 << 1, 1 << 2] {
        assert_eq!(all(&amd(0x00a1_0f11, IBPB, 1 << 5, one))[0], [Verw]);
    }
    // Zen 5: neither SRSO nor TSA.
    assert_eq!(
        all(&amd(0x00b0_0f21, IBPB, 1 << 8 | 1 << 29 | 1 << 5, 0b110)),
        [Vec::new(), Vec::new(), std::vec![Barrier]]
    );
    // By its family alone, and families before any of that.
    assert_eq!(all(&amd(0x00b0_0f21, IBPB, 1 << 8, 0))[1], []);
    assert_eq!(all(&amd(0x0060_0f12, IBPB, 0, 0))[1], [Barrier, FillReturns]);
    assert_eq!(all(&amd(0x0050_0f10, IBPB, 0, 0))[1], [FillReturns]);
    // A Zen that says that it doesn't need it.
    assert_eq!(all(&amd(0x00a1_0f11, IBPB, 1 << 29, 0))[1], [FillReturns]);
}
