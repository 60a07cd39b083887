//! Exit statistics: how often each vCPU left its guest, and why.
//!
//! A vCPU counts in its own [`ExitCounters`], which share no cache line with another vCPU's; whoever writes the report
//! adds them up. Counting is one relaxed load and store: only the vCPU itself writes.

use core::ops::Add;
use core::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $field:ident,)*) => {
        /// Why a vCPU left its guest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ExitReason {
            $($(#[$doc])* $reason,)*
        }

        impl ExitReason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// Its name in the report.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($field),)*
                }
            }
        }

        /// Exits by reason: a copy of counters, or a sum of copies.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct ExitCounts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl ExitCounts {
            /// All exits.
            pub const fn total(&self) -> u64 {
                0u64 $(.saturating_add(self.$field))*
            }

            /// Each reason's name in the report, and how often it was.
            pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }

        impl Add for ExitCounts {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($field: self.$field.saturating_add(other.$field),)* }
            }
        }

        /// One vCPU's counters, on cache lines of their own (128 bytes: some cores fetch lines in pairs).
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ExitCounters {
            $($field: AtomicU64,)*
            injected: AtomicU64,
        }

        impl ExitCounters {
            /// Counts an exit. Only the vCPU whose counters they are may call it.
            #[inline(always)]
            pub fn count(&self, reason: ExitReason) {
                increment(match reason {
                    $(ExitReason::$reason => &self.$field,)*
                });
            }

            /// What has been counted so far.
            pub fn read(&self) -> ExitCounts {
                ExitCounts { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

reasons! {
    /// An access to an emulated device.
    MmioEmulated mmio_emulated,
    /// An access to a passthrough device's trapped registers.
    MmioForwarded mmio_forwarded,
    /// A port (x86).
    Port port,
    /// A system register.
    Sysreg sysreg,
    /// An interrupt that the guest sends to its own CPUs.
    Ipi sgi,
    /// A call of firmware or hypervisor.
    Hypercall hypercall,
    /// A physical interrupt.
    Interrupt interrupt,
    /// The guest waits for an interrupt.
    Wfi wfi,
    /// An access to what isn't mapped and isn't a device's.
    Stage2Fault stage2_fault,
    /// Anything else.
    Other other,
}

impl ExitCounters {
    /// Counts an interrupt that was injected. Only the vCPU whose counters they are may call it.
    pub fn count_injected(&self) {
        increment(&self.injected);
    }

    /// Interrupts injected so far.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }
}

/// Not a read-modify-write: there is one writer, and the hot path has no use for the bus lock.
#[inline(always)]
fn increment(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// A counter that anyone may add to, for what is rare: refusals, events.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline(always)]
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        for &reason in ExitReason::ALL {
            let counters = ExitCounters::default();
            counters.count(reason);
            counters.count(reason);
            let json = serde_json::to_value(counters.read()).unwrap();
            for (name, count) in json.as_object().unwrap() {
                assert_eq!(count, if name == reason.name() { 2 } else { 0 }, "{name}");
            }
            assert_eq!(counters.read().total(), 2);
        }
    }

    #[test]
    fn the_counters_of_two_vcpus_share_no_cache_line() {
        let pair = [ExitCounters::default(), ExitCounters::default()];
        let distance = core::ptr::from_ref(&pair[1]).addr() - core::ptr::from_ref(&pair[0]).addr();
        assert!(distance >= 128 && distance % 128 == 0);
    }

    #[test]
    fn counts_of_several_vcpus_add_up() {
        let (a, b) = (
            ExitCounts { wfi: 1, ..Default::default() },
            ExitCounts { wfi: 2, sgi: 5, ..Default::default() },
        );
        assert_eq!((a + b).total(), 8);
    }
}
