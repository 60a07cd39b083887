//! A VM's life and its vCPUs', when several ask and answer at once.

extern crate std;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use axvm_addr::VcpuId;

use super::super::life::{Life, Stay};
use crate::vm::{Departure, NotOff, Power, Start, State, StopReason, Suspension, WrongState};

const START: Start = Start { entry: 0x4000_0000, argument: 7 };

#[test]
fn a_vcpu_is_started_once_and_begins_where_it_was_told() {
    let life = Life::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!(life.take_start(first), None);
    assert_eq!(life.start(START, 7), Ok(()));
    assert_eq!(life.power(first), Power::Starting);
    assert_eq!(life.start_vcpu(first, Start { entry: 1, argument: 1 }), Err(NotOff::Starting));
    assert_eq!(life.take_start(first), Some(START));
    assert_eq!(life.take_start(first), None);
    assert_eq!(life.start_vcpu(first, START), Err(NotOff::On));
    assert_eq!((life.power(first), life.power(second)), (Power::On, Power::Off));
    assert_eq!(life.start_vcpu(VcpuId(2), START), Err(NotOff::On), "there is no such vCPU");
}

#[test]
fn the_last_to_go_off_is_told_and_one_that_starts_counts() {
    let life = Life::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!(life.start(START, 7), Ok(()));
    assert!(life.take_start(first).is_some());
    assert_eq!(life.start_vcpu(second, START), Ok(()));
    assert!(!life.vcpu_off(first), "the second starts");
    assert!(life.take_start(second).is_some());
    assert_eq!(life.start_vcpu(first, START), Ok(()));
    assert!(!life.vcpu_off(second), "the first starts");
    assert!(life.take_start(first).is_some());
    assert!(life.vcpu_off(first));
}

#[test]
fn one_that_is_alone_may_begin_anew() {
    let life = Life::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!(life.start(START, 7), Ok(()));
    assert!(life.take_start(first).is_some() && life.is_alone(first));
    assert_eq!(life.start_vcpu(second, START), Ok(()));
    assert!(!life.is_alone(first), "the second starts");
    assert!(life.take_start(second).is_some() && !life.is_alone(first), "and is on");
    assert!(!life.vcpu_off(second) && life.is_alone(first));
    let again = Start { entry: 0x4000_1000, argument: 8 };
    life.begin_anew(first, again);
    assert!(!life.vcpu_off(first), "it comes back");
    assert_eq!(life.take_start(first), Some(again));
    assert!(life.vcpu_off(first), "once");
    life.begin_anew(first, again);
    assert_eq!(life.take_start(first), None, "one that is off doesn't");
}

/// Two vCPUs start each other and go off, over and over: there is always one that is on or starts, and nobody may be told that it was
/// the last. Where each of the others is asked by itself, a CPU that is slow between two questions is told so.
#[test]
fn handing_over_is_never_the_end() {
    const ROUNDS: usize = 20_000;
    let life = Life::new(2);
    let ends = AtomicUsize::new(0);
    assert_eq!(life.start(START, 7), Ok(()));
    let live = |own: VcpuId, other: VcpuId| {
        for _ in 0..ROUNDS {
            while life.take_start(own).is_none() {
                thread::yield_now();
            }
            while life.start_vcpu(other, START).is_err() {
                thread::yield_now();
            }
            if life.vcpu_off(own) {
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

#[test]
fn a_vm_has_stopped_when_every_cpu_has_left_it() {
    let life = Life::new(2);
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!((life.state(), life.departure(0, 10)), (State::Built, Departure::NotAsked));
    assert_eq!(life.start(START, 7), Ok(()));
    assert!(life.start(START, 7).is_err() && !life.is_stopping());
    assert!(!life.vcpu_gone(second, 120), "it isn't told to go");
    let reason = StopReason::GuestFault;
    assert!(life.stop(reason, 100));
    assert!(!life.stop(StopReason::RunEnded, 105), "the first reason stays, and its time");
    assert_eq!((life.state(), life.is_stopping()), (State::Stopping { reason, since_ns: 100 }, true));
    assert_eq!(life.take_start(first), None, "nothing is started any more");
    assert!(!life.vcpu_gone(second, 120));
    assert_eq!(life.departure(110, 10), Departure::Underway);
    assert_eq!(life.departure(111, 10), Departure::Overdue(std::vec![first]));
    assert!(!life.vcpu_gone(second, 120), "the same one again is no other");
    assert!(life.vcpu_gone(first, 120));
    assert_eq!((life.state(), life.departure(1000, 10)), (State::Stopped { reason }, Departure::Complete));
    assert_eq!(life.start_vcpu(first, START), Err(NotOff::On));
    assert!(life.start(START, 7).is_err());
    let times = life.times();
    assert_eq!((times.started_ns, times.asked_ns, times.stopped_ns), (Some(7), 100, 120));
}

#[test]
fn a_vm_that_never_ran_has_stopped_at_once() {
    let life = Life::new(1);
    assert!(life.stop(StopReason::RunEnded, 0));
    assert_eq!(life.departure(0, 0), Departure::Complete);
}

/// One whose first vCPU is on and whose second is off.
fn running() -> Life {
    let life = Life::new(2);
    assert_eq!(life.start(START, 7), Ok(()));
    assert!(life.take_start(VcpuId(0)).is_some());
    life
}

#[test]
fn a_vm_is_suspended_when_no_vcpu_is_in_its_guest_and_goes_on_once() {
    let life = running();
    let (first, second) = (VcpuId(0), VcpuId(1));
    let called = Mutex::new(std::vec![]);
    let call = |vcpu| called.lock().unwrap().push(vcpu);
    assert_eq!((life.suspension(0, 10), life.stay(first)), (Suspension::NotAsked, Stay::Inside));
    assert_eq!(life.resume(call), Err(WrongState(State::Running)));
    assert!(!life.must_leave() && !life.is_moot(first));
    assert_eq!(life.suspend(100), Ok(()));
    assert_eq!(life.suspend(105), Err(WrongState(State::Suspending { since_ns: 100 })));
    assert!(life.must_leave() && life.is_moot(first) && !life.is_stopping());
    // It was in the middle of starting the other, which waits with that.
    assert_eq!(life.start_vcpu(second, START), Ok(()));
    assert_eq!((life.take_start(second), life.suspension(110, 10)), (None, Suspension::Underway));
    assert_eq!((life.stay(first), life.power(first)), (Stay::Outside, Power::On));
    assert_eq!(life.start_vcpu(first, START), Err(NotOff::On));
    assert_eq!(life.suspension(200, 10), Suspension::Complete, "late, but there");
    assert_eq!((life.state(), life.suspension(300, 10)), (State::Suspended, Suspension::NotAsked));
    assert_eq!(life.suspend(400), Err(WrongState(State::Suspended)));
    assert_eq!((life.departure(500, 10), life.stay(first)), (Departure::NotAsked, Stay::Outside));
    assert_eq!(life.resume(call), Ok(()));
    assert_eq!(*called.lock().unwrap(), [first, second], "who waits, and who is to start");
    assert!(!life.must_leave() && !life.is_moot(first));
    // At once again: it is where it was.
    assert_eq!((life.suspend(600), life.suspension(600, 10)), (Ok(()), Suspension::Complete));
    assert_eq!(life.resume(call), Ok(()));
    assert_eq!((life.stay(first), life.take_start(second)), (Stay::Inside, Some(START)));
    assert!(!life.vcpu_off(second) && life.vcpu_off(first));
}

#[test]
fn a_vcpu_that_does_not_come_is_named_and_what_it_comes_for_later_is_moot_still() {
    let life = running();
    let (first, second) = (VcpuId(0), VcpuId(1));
    assert_eq!((life.start_vcpu(second, START), life.take_start(second)), (Ok(()), Some(START)));
    assert_eq!((life.suspend(100), life.stay(second)), (Ok(()), Stay::Outside));
    assert_eq!(life.suspension(111, 10), Suspension::Overdue(std::vec![first]));
    assert_eq!(life.resume(|vcpu| assert_eq!(vcpu, second)), Ok(()));
    assert_eq!(life.state(), State::Running);
    assert!(life.must_leave() && life.is_moot(first) && !life.is_moot(second));
    assert_eq!(life.stay(second), Stay::Inside);
    // It is as much on as before.
    assert_eq!((life.power(first), life.is_alone(second)), (Power::On, false));
    assert_eq!((life.suspend(200), life.stay(second)), (Ok(()), Stay::Outside));
    assert_eq!(life.suspension(211, 10), Suspension::Overdue(std::vec![first]));
    assert_eq!(life.resume(|_| ()), Ok(()));
    assert_eq!(life.stay(first), Stay::Inside);
    assert!(!life.must_leave() && !life.is_moot(first));
}

#[test]
fn a_suspended_vm_is_stopped_as_others_are() {
    for whole in [false, true] {
        let life = running();
        assert_eq!((life.suspend(100), life.stay(VcpuId(0))), (Ok(()), Stay::Outside));
        if whole {
            assert_eq!(life.suspension(101, 10), Suspension::Complete);
        }
        assert!(life.stop(StopReason::Stopped, 200) && life.is_stopping() && life.must_leave());
        assert_eq!((life.stay(VcpuId(0)), life.suspension(300, 10)), (Stay::Away, Suspension::NotAsked));
        assert!(life.resume(|_| ()).is_err() && life.suspend(300).is_err());
        assert!(!life.vcpu_off(VcpuId(0)));
        assert!(!life.vcpu_gone(VcpuId(1), 300) && life.vcpu_gone(VcpuId(0), 300));
    }
    let life = Life::new(1);
    assert_eq!(life.suspend(0), Err(WrongState(State::Built)));
}
