#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};

/// What is behind the lock, and who waits for it.
#[derive(Debug)]
pub struct Lock<T> {
    /// The number that is given to whoever comes next.
    next: AtomicU32,
    /// The number whose turn it is.
    turn: AtomicU32,
    /// Who had the last turn.
    holder: AtomicU64,
    /// Locked only by whose turn it is: nobody waits here.
    value: Mutex<T>,
}

/// The deadline has passed. The lock is never free again for whoever comes behind: the caller gives up, with all that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub by: u64,
}

/// Access to what is behind the lock.
#[derive(Debug)]
pub struct Guard<'a, T> {
    // In this order: the value is let go before the next one's turn begins.
    value: MutexGuard<'a, T>,
    _turn: Turn<'a>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
struct Turn<'a>(&'a AtomicU32);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl<T> Lock<T> {
    /// An open lock.
    pub const fn new(value: T) -> Self {
        Self {
            next: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            holder: AtomicU64::new(0),
            value: Mutex::new(value),
        }
    }

    /// Waits for its turn, at most for so long by `clock`, which isn't asked where nobody is before it. `who`: by what others know
    /// the caller.
    ///
    /// # Errors
    ///
    /// [`Held`].
    pub fn lock(&self, who: u64, most: u64, clock: impl Fn() -> u64) -> Result<Guard<'_, T>, Held> {
        let own = self.next.fetch_add(1, Ordering::Relaxed);
        if self.turn.load(Ordering::Acquire) != own {
            self.wait(own, most, clock)?;
        }
        self.holder.store(who, Ordering::Relaxed);
        Ok(Guard { value: self.value.lock(), _turn: Turn(&self.turn) })
    }

    /// Takes it if nobody has it or waits for it.
    pub fn try_lock(&self, who: u64) -> Option<Guard<'_, T>> {
        let turn = self.turn.load(Ordering::Acquire);
        let taken =
            self.next.compare_exchange(turn, turn.wrapping_add(1), Ordering::Acquire, Ordering::Relaxed);
        taken.ok()?;
        self.holder.store(who, Ordering::Relaxed);
        Some(Guard { value: self.value.lock(), _turn: Turn(&self.turn) })
    }

    #[cold]
    fn wait(&self, own: u32, most: u64, clock: impl Fn() -> u64) -> Result<(), Held> {
        let start = clock();
        loop {
            // The clock first: whoever was kept from looking in between doesn't take that for a deadline.
            let waited = clock().saturating_sub(start);
            if self.turn.load(Ordering::Acquire) == own {
                return Ok(());
            }
            if waited > most {
                return Err(Held { by: self.holder.load(Ordering::Relaxed) });
            }
            core::hint::spin_loop();
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::vec::Vec;

    use super::*;

    /// A clock that goes on by so much each time it is asked.
    fn clock(step: u64) -> impl Fn() -> u64 {
        let now = Cell::new(0u64);
        move || now.replace(now.get() + step)
    }

    #[test]
    fn whoever_is_first_asks_no_clock() {
        let lock = Lock::new(1);
        *lock.lock(1, 0, || panic!("nobody is before it")).unwrap() += 1;
        assert_eq!(*lock.lock(2, 0, || panic!("nobody is before it")).unwrap(), 2);
    }

    #[test]
    fn whoever_can_do_without_takes_it_only_if_it_is_free() {
        let lock = Lock::new(1);
        let first = lock.try_lock(1).unwrap();
        assert!(lock.try_lock(2).is_none());
        drop(first);
        *lock.try_lock(2).unwrap() += 1;
        assert_eq!(*lock.lock(3, 0, || panic!("nobody is before it")).unwrap(), 2, "no turn was left behind");
    }

    #[test]
    fn a_holder_that_is_lost_is_named_to_all_who_wait() {
        let lock = Lock::new(());
        let lost = lock.lock(3, 10, clock(1)).unwrap();
        for who in 4..8 {
            assert_eq!(lock.lock(who, 10, clock(1)).err(), Some(Held { by: 3 }));
        }
        drop(lost);
        // Those before have given up, and their turns don't come to an end: nor does the lock open.
        assert_eq!(lock.lock(9, 10, clock(1)).err(), Some(Held { by: 3 }));
    }

    #[test]
    fn a_wait_that_was_long_because_nobody_looked_is_no_deadline() {
        let lock = Lock::new(());
        let first = Cell::new(Some(lock.lock(1, 10, clock(1)).unwrap()));
        // While the clock is read the third time, long after the deadline, the holder lets go.
        let reads = Cell::new(0);
        let late = || {
            reads.set(reads.get() + 1);
            if reads.get() == 3 {
                first.set(None);
            }
            if reads.get() < 3 { 0 } else { 1000 }
        };
        assert!(lock.lock(2, 10, late).is_ok());
    }

    #[test]
    fn one_at_a_time() {
        let (lock, inside) = (Lock::new(0u32), AtomicUsize::new(0));
        thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|who| {
                    let (lock, inside) = (&lock, &inside);
                    scope.spawn(move || {
                        for _ in 0..500 {
                            let mut guard = lock.lock(who, u64::MAX, || 0).unwrap();
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            *guard += 1;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(guard);
                            thread::yield_now();
                        }
                    })
                })
                .collect();
            all.into_iter().for_each(|it| it.join().unwrap());
        });
        assert_eq!(*lock.lock(0, 0, || 0).unwrap(), 2000);
    }
}
