//! Records of the event log (2.5): two words each.

use axvm_addr::Iova;

use crate::id::DeviceId;

/// Bytes of a record.
pub const BYTES: u64 = 16;

/// What the record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// ILLEGAL_DEV_TABLE_ENTRY (2.5.2): the device's entry is malformed.
    IllegalEntry,
    /// IO_PAGE_FAULT (2.5.3): the device reached for what it hasn't got.
    PageFault,
    /// DEV_TAB_HARDWARE_ERROR (2.5.4): the device table couldn't be read.
    DeviceTableError,
    /// PAGE_TAB_HARDWARE_ERROR (2.5.5): a page table couldn't be read.
    PageTableError,
    /// ILLEGAL_COMMAND_ERROR (2.5.6).
    IllegalCommand,
    /// COMMAND_HARDWARE_ERROR (2.5.7): the command buffer couldn't be read.
    CommandError,
    /// IOTLB_INV_TIMEOUT (2.5.8).
    InvalidationTimeout,
    /// INVALID_DEVICE_REQUEST (2.5.9): a request of a kind that the device may not make.
    InvalidRequest,
    /// Another code.
    Other(u8),
}

impl Kind {
    /// The kind that a code stands for.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::IllegalEntry,
            2 => Self::PageFault,
            3 => Self::DeviceTableError,
            4 => Self::PageTableError,
            5 => Self::IllegalCommand,
            6 => Self::CommandError,
            7 => Self::InvalidationTimeout,
            8 => Self::InvalidRequest,
            other => Self::Other(other),
        }
    }

    /// Whether it is about a device, rather than about the IOMMU's own buffers.
    pub const fn names_device(self) -> bool {
        !matches!(self, Self::IllegalCommand | Self::CommandError)
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: Kind,
    /// The device, where it is about one.
    pub device: Option<DeviceId>,
    /// Whether it was an interrupt rather than an access to memory (flag I).
    pub interrupt: bool,
    /// Whether it was a write (flag RW). Of an interrupt nothing is said.
    pub write: bool,
    /// The address, as the record has it.
    pub address: Iova,
}

/// Bits of word 0 (2.5.3).
const CODE_SHIFT: u32 = 60;
const INTERRUPT: u64 = 1 << (32 + 19);
const WRITE: u64 = 1 << (32 + 21);

impl Event {
    /// The record that two words stand for; `None`: nothing was written there yet (code 0 is no event, 2.5.1).
    pub const fn decode([first, second]: [u64; 2]) -> Option<Self> {
        let code = (first >> CODE_SHIFT) as u8;
        if code == 0 {
            return None;
        }
        let kind = Kind::from_code(code);
        let device = if kind.names_device() { Some(DeviceId(first as u16)) } else { None };
        Some(Self {
            kind,
            device,
            interrupt: first & INTERRUPT != 0,
            write: first & WRITE != 0,
            address: Iova(second),
        })
    }

    /// The words of a page fault.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) const fn page_fault(device: u16, interrupt: bool, write: bool, address: u64) -> [u64; 2] {
        let flags = if interrupt { INTERRUPT } else { 0 } | if write { WRITE } else { 0 };
        [2 << CODE_SHIFT | flags | device as u64, address]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fault_says_who_and_where() {
        // Code 2, RW and PR set, domain 7, device 0x0310.
        let event = Event::decode([0x2030_0007_0000_0310, 0x1234_5678]).unwrap();
        assert_eq!((event.kind, event.device), (Kind::PageFault, Some(DeviceId(0x310))));
        assert!(event.write && !event.interrupt);
        assert_eq!(event.address, Iova(0x1234_5678));
        let event = Event::decode([0x2008_0000_0000_0010, 0]).unwrap();
        assert!(event.interrupt && !event.write);
        assert_eq!(
            Event::decode(Event::page_fault(0x310, true, false, 5)).unwrap().device,
            Some(DeviceId(0x310))
        );
    }

    #[test]
    fn what_is_no_device_s_names_none() {
        assert_eq!(Event::decode([0x5000_0000_0000_1234, 0]).unwrap().device, None);
        assert_eq!(Event::decode([0xb000_0000_0000_0001, 0]).unwrap().kind, Kind::Other(0xb));
        assert_eq!(Event::decode([0xffff, 3]), None, "nothing was recorded there");
    }
}
