//! KVM's paravirtual clock (Linux: Documentation/virt/kvm/x86/msr.rst): how time follows from the time-stamp counter, so that a guest need not find
//! out by timers that aren't there.

/// MSR_KVM_WALL_CLOCK_NEW.
pub const WALL_CLOCK: u32 = 0x4b56_4d00;
/// MSR_KVM_SYSTEM_TIME_NEW.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// Bit 0 of what is written to [`SYSTEM_TIME`]: the clock is on.
pub const ENABLED: u64 = 1;

/// How nanoseconds follow from ticks: `(ticks << shift) * multiplier >> 32`, or `>> -shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The multiplier.
    pub multiplier: u32,
    /// The shift.
    pub shift: i8,
}

impl Scale {
    /// Of a counter of so many ticks per second. Of none there is no clock.
    pub const fn of(hertz: u64) -> Option<Self> {
        if hertz == 0 {
            return None;
        }
        // The multiplier is 1e9 * 2^32 / (hertz << shift), and at its most exact with bit 31 set.
        let mut shift: i8 = 0;
        let mut numerator = 1_000_000_000u128 << 32;
        let mut denominator = hertz as u128;
        while numerator / denominator > u32::MAX as u128 {
            denominator <<= 1;
            shift += 1;
        }
        while numerator / denominator <= u32::MAX as u128 / 2 {
            numerator <<= 1;
            shift -= 1;
        }
        Some(Self { multiplier: (numerator / denominator) as u32, shift })
    }

    /// The nanoseconds of so many ticks, as the guest computes them.
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let ticks = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((ticks as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// `pvclock_vcpu_time_info`: at the guest's time-stamp `ticks` it was `nanoseconds` since it began. `version` is even; while a later one is
/// written the first four bytes are made odd first.
pub fn time_info(version: u32, ticks: u64, nanoseconds: u64, scale: Scale) -> [u8; 32] {
    /// All vCPUs' counters are one: no vCPU needs to look at another's (PVCLOCK_TSC_STABLE_BIT).
    const STABLE: u8 = 1;
    let mut info = [0; 32];
    info[0..4].copy_from_slice(&version.to_le_bytes());
    info[8..16].copy_from_slice(&ticks.to_le_bytes());
    info[16..24].copy_from_slice(&nanoseconds.to_le_bytes());
    info[24..28].copy_from_slice(&scale.multiplier.to_le_bytes());
    info[28] = scale.shift as u8;
    info[29] = STABLE;
    info
}

/// `pvclock_wall_clock`: the time of day at which the guest's clock was 0, in seconds and nanoseconds since 1970.
pub fn wall_clock(version: u32, seconds: u32, nanoseconds: u32) -> [u8; 12] {
    let mut wall = [0; 12];
    wall[0..4].copy_from_slice(&version.to_le_bytes());
    wall[4..8].copy_from_slice(&seconds.to_le_bytes());
    wall[8..12].copy_from_slice(&nanoseconds.to_le_bytes());
    wall
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_hour_is_an_hour_at_any_rate(hertz in 1_000_000u64..10_000_000_000) {
            let scale = Scale::of(hertz).unwrap();
            let hour = scale.nanoseconds(hertz * 3600);
            // A multiplier of 31 bits errs by less than a billionth, ticks that are shifted out by less than a microsecond.
            prop_assert!(hour.abs_diff(3_600_000_000_000) < 4_000, "{hour}");
        }
    }

    #[test]
    fn no_rate_no_clock_and_extremes_end() {
        assert_eq!(Scale::of(0), None);
        for hertz in [1, 999_999_999, 1_000_000_000, 1_000_000_001, u64::MAX] {
            let scale = Scale::of(hertz).unwrap();
            assert!(scale.multiplier >= 1 << 31, "{hertz}: {scale:?}");
        }
        assert_eq!(Scale::of(1_000_000_000), Some(Scale { multiplier: 1 << 31, shift: 1 }));
    }

    #[test]
    fn layouts_are_linux_s() {
        let info = time_info(2, 0x1122_3344_5566_7788, 0x99aa, Scale { multiplier: 0x8000_0001, shift: -3 });
        assert_eq!(info[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(info[8..16], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(info[16..24], [0xaa, 0x99, 0, 0, 0, 0, 0, 0]);
        assert_eq!(info[24..], [1, 0, 0, 0x80, 0xfd, 1, 0, 0]);
        assert_eq!(wall_clock(4, 0x0102_0304, 5), [4, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0]);
    }
}
