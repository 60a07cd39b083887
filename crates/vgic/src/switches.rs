//! The switches of SPIs (GICD_ISENABLER, IHI 0069, 12.9.24), kept a second time, to be read without the lock.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::id::Intid;
use crate::spec::SPI_FIRST;

/// Words of GICD_ISENABLER (12.9.24). The first has no SPIs, and stays zero.
const WORDS: usize = 32;

/// What is looked at without the lock, and written with it held.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// Which SPIs are enabled, a bit each.
    enabled: [AtomicU32; WORDS],
    /// With direct delivery: how many lines of emulated devices are high.
    high: AtomicU32,
}

impl Switches {
    #[inline(always)]
    pub(crate) fn word(&self, word: u32) -> Option<&AtomicU32> {
        self.enabled.get(word as usize)
    }

    /// Notes what an SPI's switch is now; of others nothing is kept.
    pub(crate) fn note(&self, intid: Intid, enabled: bool) {
        if intid.0 >= SPI_FIRST
            && let Some(word) = self.word(intid.0 / SPI_FIRST)
        {
            let others = word.load(Ordering::Relaxed) & !(1 << (intid.0 % SPI_FIRST));
            word.store(others | u32::from(enabled) << (intid.0 % SPI_FIRST), Ordering::Relaxed);
        }
    }

    /// An emulated device's line has gone up or down.
    pub(crate) fn count_level(&self, high: bool) {
        let now = self.high.load(Ordering::Relaxed);
        self.high.store(if high { now.saturating_add(1) } else { now.saturating_sub(1) }, Ordering::Release);
    }

    /// Whether one is high.
    pub(crate) fn any_level_is_high(&self) -> bool {
        self.high.load(Ordering::Acquire) != 0
    }

    /// All off.
    pub(crate) fn clear(&self) {
        self.enabled.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.high.store(0, Ordering::Relaxed);
    }
}
