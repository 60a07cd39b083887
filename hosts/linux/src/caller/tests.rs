use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Caller, prepare};

/// Looks until it is so, but not for ever.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_call_wakes_who_waits_also_if_it_came_before() {
    let caller = Arc::new(Caller::default());
    caller.call();
    caller.wait();
    assert!(!caller.has_called());
    let woken = Arc::new(AtomicU32::new(0));
    let (of, count) = (caller.clone(), woken.clone());
    caller.is(thread::spawn(move || {
        for _ in 0..3 {
            of.wait();
            count.fetch_add(1, Ordering::SeqCst);
        }
    }));
    prepare().unwrap();
    for expected in 1..=3 {
        caller.call();
        until("it isn't woken", || woken.load(Ordering::SeqCst) == expected);
    }
    caller.join();
}

#[test]
fn a_call_is_repeated_until_it_is_heard() {
    prepare().unwrap();
    let caller = Arc::new(Caller::default());
    assert!(!caller.repeat());
    let of = caller.clone();
    // As a guest: it is left for a signal only, and the first may have come before.
    caller.is(thread::spawn(move || {
        let mut nobody = [];
        while !of.has_called() {
            let _ = rustix::event::poll(&mut nobody, None);
        }
        of.heard();
    }));
    caller.call();
    until("it isn't heard", || !caller.repeat());
    caller.join();
    assert!(!caller.has_called());
}
