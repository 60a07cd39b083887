//! Which vCPUs are on, when several ask and answer at once.

extern crate std;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use axvm_addr::VcpuId;

use crate::vm::{NotOff, Power, PowerStates, Start};

const START: Start = Start { entry: 0x4000_0000, argument: 7 };

#[test]
fn a_vcpu_is_started_once_and_begins_where_it_was_told() {
    let power = PowerStates::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!(power.take_start(first), None);
    assert_eq!(power.start(first, START), Ok(()));
    assert_eq!(power.of(first), Power::Starting);
    assert_eq!(power.start(first, Start { entry: 1, argument: 1 }), Err(NotOff::Starting));
    assert_eq!(power.take_start(first), Some(START));
    assert_eq!(power.take_start(first), None);
    assert_eq!(power.start(first, START), Err(NotOff::On));
    assert_eq!((power.of(first), power.of(second)), (Power::On, Power::Off));
    assert_eq!(power.start(VcpuId(2), START), Err(NotOff::On), "there is no such vCPU");
}

#[test]
fn the_last_to_go_off_is_told_and_one_that_starts_counts() {
    let power = PowerStates::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!(power.start(first, START), Ok(()));
    assert!(power.take_start(first).is_some());
    assert_eq!(power.start(second, START), Ok(()));
    assert!(!power.off(first), "the second starts");
    assert!(power.take_start(second).is_some());
    assert_eq!(power.start(first, START), Ok(()));
    assert!(!power.off(second), "the first starts");
    assert!(power.take_start(first).is_some());
    assert!(power.off(first));
}

/// Two vCPUs start each other and go off, over and over: there is always one that is on or starts, and nobody may be told that it was
/// the last. Where each of the others is asked by itself, a CPU that is slow between two questions is told so.
#[test]
fn handing_over_is_never_the_end() {
    const ROUNDS: usize = 20_000;
    let power = PowerStates::new(2);
    let ends = AtomicUsize::new(0);
    assert_eq!(power.start(VcpuId(0), START), Ok(()));
    let live = |own: VcpuId, other: VcpuId| {
        for _ in 0..ROUNDS {
            while power.take_start(own).is_none() {
                thread::yield_now();
            }
            while power.start(other, START).is_err() {
                thread::yield_now();
            }
            if power.off(own) {
                ends.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| live(VcpuId(0), VcpuId(1)));
        scope.spawn(|| live(VcpuId(1), VcpuId(0)));
    });
    assert_eq!(ends.load(Ordering::Relaxed), 0);
}
