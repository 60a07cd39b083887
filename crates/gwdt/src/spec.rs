//! Registers of the generic watchdog as data (Arm DEN0094, "Generic Watchdog", watchdog version 1): two frames, of 4 KiB each, all
//! registers 32 bits wide.

/// Refresh frame: any write refreshes the watchdog; it reads as zero.
pub const WRR: u64 = 0x000;
/// Control frame: control and status. A write refreshes the watchdog.
pub const WCS: u64 = 0x000;
/// Control frame: how many ticks it runs, the lower half. A write refreshes the watchdog.
pub const WOR_LOW: u64 = 0x008;
/// [`WOR_LOW`], as which the whole is known.
pub const WOR: u64 = WOR_LOW;
/// The upper half, of which bits 15:0 are there.
pub const WOR_HIGH: u64 = 0x00c;
/// Control frame: the system counter's value after which the time is over, the lower half.
pub const WCV_LOW: u64 = 0x010;
/// The upper half.
pub const WCV_HIGH: u64 = 0x014;
/// Both frames: who made it.
pub const W_IIDR: u64 = 0xfcc;

/// WCS: it runs.
pub const WCS_EN: u32 = 1 << 0;
/// WCS: the time was over once (read only).
pub const WCS_WS0: u32 = 1 << 1;
/// WCS: it was over twice (read only).
pub const WCS_WS1: u32 = 1 << 2;

/// What is there of the upper half of the offset.
pub const WOR_HIGH_MASK: u32 = 0xffff;

/// W_IIDR: product 0 and revision 0 of Arm's (JEP106 code 0x43b), architecture version 1 (bits 19:16).
pub const IIDR: u32 = 1 << 16 | 0x43b;

/// The size of a frame.
pub const SIZE: u64 = 0x1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_manual_has_them() {
        assert_eq!(
            [WRR, WCS, WOR_LOW, WOR_HIGH, WCV_LOW, WCV_HIGH, W_IIDR],
            [0, 0, 8, 0xc, 0x10, 0x14, 0xfcc]
        );
        assert_eq!(WCS_EN | WCS_WS0 | WCS_WS1, 0b111);
        assert_eq!((IIDR >> 16 & 0xf, IIDR & 0xfff), (1, 0x43b));
    }
}
