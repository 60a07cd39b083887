//! Which functions an entry of one of the lists is about.

use core::ops::RangeInclusive;

/// Functions by the numbers that their maker gave them (PCI 3.0, 6.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The vendor's number.
    pub vendor: u16,
    /// The functions' numbers, first and last.
    pub devices: RangeInclusive<u16>,
}

impl Ids {
    /// Whether a function with these two numbers is one of them.
    pub fn contain(&self, vendor: u16, device: u16) -> bool {
        self.vendor == vendor && self.devices.contains(&device)
    }
}

/// Vendors that several lists name.
pub(crate) const BROADCOM: u16 = 0x14e4;
pub(crate) const CAVIUM: u16 = 0x177d;
pub(crate) const INTEL: u16 = 0x8086;
