//! Bits against the manual's pictures.

use super::*;
use proptest::prelude::*;

fn bytes(map: &IoPermissions) -> [u8; 0x3000] {
    core::array::from_fn(|at| map.0[at].load(Ordering::SeqCst))
}

#[test]
fn closed_is_closed_to_the_last_bit() {
    assert!(bytes(&IoPermissions::closed()).iter().all(|byte| *byte == 0xff));
    assert!(MsrPermissions::closed().0.iter().all(|byte| *byte == 0xff));
}

#[test]
fn ports_have_a_bit_each() {
    let map = IoPermissions::closed();
    map.open_port(0x3f8);
    assert_eq!(bytes(&map)[0x7f], 0xfe);
    assert_eq!(bytes(&map).iter().map(|byte| byte.count_zeros()).sum::<u32>(), 1);
    assert!(map.is_open(0x3f8, 1) && !map.is_open(0x3f8, 2) && !map.is_open(0x3f7, 2));
    map.open_port(0x3f9);
    assert!(map.is_open(0x3f8, 2));
    map.close_port(0x3f8);
    map.close_port(0x3f9);
    assert_eq!(bytes(&map), bytes(&IoPermissions::closed()));
    // What reaches beyond the last port isn't open.
    map.open_port(0xffff);
    assert!(map.is_open(0xffff, 1) && !map.is_open(0xffff, 2) && !map.is_open(0xffff, 4));
    map.open_port(0);
    map.close_all();
    assert_eq!(bytes(&map), bytes(&IoPermissions::closed()));
}

/// 15.11: 2 bits each, from byte 0 MSRs from 0, from byte 0x800 those from 0xc0000000, from byte 0x1000 those from 0xc0010000.
#[test]
fn msrs_have_two_bits_each() {
    for (msr, byte, bit) in [
        (0x0, 0, 0),
        (0x174, 0x5d, 0),
        (0x1fff, 0x7ff, 6),
        (0xc000_0000, 0x800, 0),
        (0xc000_0081, 0x820, 2),
        (0xc000_1fff, 0xfff, 6),
        (0xc001_0000, 0x1000, 0),
        (0xc001_1fff, 0x17ff, 6),
    ] {
        let mut map = MsrPermissions::closed();
        map.open_read(msr).unwrap();
        assert_eq!(
            (map.0[byte], map.may_read(msr), map.may_write(msr)),
            (!(1 << bit), true, false),
            "{msr:#x}"
        );
        let mut map = MsrPermissions::closed();
        map.open_write(msr).unwrap();
        assert_eq!(
            (map.0[byte], map.may_read(msr), map.may_write(msr)),
            (!(2 << bit), false, true),
            "{msr:#x}"
        );
    }
    let mut map = MsrPermissions::closed();
    map.open_write(0x80b).and_then(|()| map.open_write(0x80a)).unwrap();
    map.close_write(0x80b).unwrap();
    assert_eq!((map.may_write(0x80b), map.may_write(0x80a), map.may_read(0x80b)), (false, true, false));
    assert_eq!(map.close_write(0x2000), Err(NotCovered(0x2000)));
    for msr in [0x2000, 0xbfff_ffff, 0xc000_2000, 0xc000_ffff, 0xc001_2000, 0x4b56_4d00, u32::MAX] {
        let mut map = MsrPermissions::closed();
        assert_eq!((map.open_read(msr), map.open_write(msr)), (Err(NotCovered(msr)), Err(NotCovered(msr))));
        assert_eq!((map.may_read(msr), map.may_write(msr)), (false, false));
        assert_eq!(map.0, MsrPermissions::closed().0);
    }
}

proptest! {
    #[test]
    fn opening_one_opens_no_other(port: u16, other: u16, msr: u32, another: u32) {
        let map = IoPermissions::closed();
        map.open_port(port);
        prop_assert_eq!(map.is_open(other, 1), other == port);
        let covered = [msr & 0x1fff, 0xc000_0000 | msr & 0x1fff, 0xc001_0000 | msr & 0x1fff];
        for msr in covered {
            let mut map = MsrPermissions::closed();
            map.open_read(msr).unwrap();
            for other in covered.into_iter().chain([another]) {
                prop_assert_eq!((map.may_read(other), map.may_write(other)), (other == msr, false));
            }
        }
    }
}
