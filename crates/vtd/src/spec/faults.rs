//! Fault records (11.4.12): two words each, in registers.

use axvm_addr::Iova;

use crate::id::DeviceId;

/// Bytes of a record.
pub const BYTES: usize = 16;

/// F in the second word: there is a record. It is cleared by writing a one.
pub const PRESENT: u64 = 1 << 63;
/// T1: a read; else a write, or with an interrupt's reason nothing.
const READ: u64 = 1 << 62;
/// FR.
const REASON_SHIFT: u32 = 32;

/// The first reason of interrupts' (7.2, table 26).
const FIRST_OF_INTERRUPTS: u8 = 0x20;
/// The last.
const LAST_OF_INTERRUPTS: u8 = 0x2f;

/// What was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose it was.
    pub device: DeviceId,
    /// Why (7.2): 1 no root entry, 2 no context entry, 5 no right to write, 6 no right to read, 0x22 no interrupt entry, 0x26 of another
    /// device's.
    pub reason: u8,
    /// Whether it was a write rather than a read. Of an interrupt nothing is said.
    pub write: bool,
    /// The page. Of an interrupt: nothing.
    pub address: Option<Iova>,
    /// The entry that an interrupt named.
    pub interrupt: Option<u16>,
}

impl Fault {
    /// The record that two words stand for, if there is one.
    pub const fn decode([first, second]: [u64; 2]) -> Option<Self> {
        if second & PRESENT == 0 {
            return None;
        }
        let reason = (second >> REASON_SHIFT) as u8;
        let of_interrupt = FIRST_OF_INTERRUPTS <= reason && reason <= LAST_OF_INTERRUPTS;
        Some(Self {
            device: DeviceId(second as u16),
            reason,
            write: second & READ == 0 && !of_interrupt,
            address: if of_interrupt { None } else { Some(Iova(first & !0xfff)) },
            interrupt: if of_interrupt { Some((first >> 48) as u16) } else { None },
        })
    }

    /// The words of a record.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) const fn encode(device: u16, reason: u8, read: bool, address: u64) -> [u64; 2] {
        let read = if read { READ } else { 0 };
        [address, PRESENT | read | (reason as u64) << REASON_SHIFT | device as u64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_why_and_where() {
        let fault = Fault::decode([0x8_1234_5000, 0xc000_0006_0000_0310]).unwrap();
        assert_eq!((fault.device, fault.reason, fault.write), (DeviceId(0x310), 6, false));
        assert_eq!((fault.address, fault.interrupt), (Some(Iova(0x8_1234_5000)), None));
        assert!(Fault::decode([0, 0x8000_0005_0000_0310]).unwrap().write);
        let fault = Fault::decode([0x1234_0000_0000_0000, 0x8000_0026_0000_0010]).unwrap();
        assert_eq!((fault.address, fault.interrupt, fault.write), (None, Some(0x1234), false));
        assert_eq!(Fault::decode([1, 0x4000_0006_0000_0310]), None);
    }
}
