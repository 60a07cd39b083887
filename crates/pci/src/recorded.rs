//! Config space as somebody has recorded it, on a machine that needn't be here: what enumeration would find there.
//!
//! Registers hold what is written to them, as control registers do; ids, BARs' sizes and what tells where capabilities are stay. What a
//! device would do by itself doesn't happen.

use alloc::vec::Vec;
use core::cell::RefCell;

use axvm_addr::PciAddress;

use crate::config::{ConfigSpace, Width};
use crate::spec::header;

/// Bridges on bridges, of which more would be a loop.
const MOST_DEEP: usize = 256;

/// One function's recorded config space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was.
    pub address: PciAddress,
    /// Its bytes, as many of them as were read.
    pub config: Vec<u8>,
    /// The size in bytes of what each BAR decodes; 0: it decodes nothing, or nobody knows how much, and it is
    /// taken not to be there. A 64-bit BAR's second register has none.
    pub bars: [u64; header::BARS as usize],
}

impl Record {
    fn byte(&self, offset: u16) -> u8 {
        self.config.get(usize::from(offset)).copied().unwrap_or(0)
    }

    fn read(&self, offset: u16, width: Width) -> Option<u32> {
        let start = usize::from(offset);
        let bytes = self.config.get(start..start + width.bytes() as usize)?;
        Some(bytes.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn is_bridge(&self) -> bool {
        self.byte(header::HEADER_TYPE) & header::LAYOUT == header::LAYOUT_BRIDGE
    }

    fn bus(&self) -> BusOf {
        BusOf { segment: self.address.segment, bus: self.address.bus }
    }

    /// The bus that was behind it.
    fn behind(&self) -> Option<BusOf> {
        let bus = self.byte(header::SECONDARY_BUS);
        (self.is_bridge() && bus != 0).then_some(BusOf { bus, ..self.bus() })
    }

    /// The bits of a byte in the header that a write changes. Behind the header it is all of them but what a list of capabilities has.
    fn writable(&self, offset: u16) -> u8 {
        let bars = if self.is_bridge() { header::BRIDGE_BARS } else { header::BARS };
        let bridge = |bits| if self.is_bridge() { bits } else { 0 };
        match offset {
            header::COMMAND => 0x47,
            0x05 => 0x05,
            header::CACHE_LINE | header::LATENCY | header::INTERRUPT_LINE => 0xff,
            at if (header::BAR0..header::bar(bars)).contains(&at) => {
                let index = ((at - header::BAR0) / 4) as u8;
                (self.bar_mask(index) >> (8 * (at & 3))) as u8
            }
            0x18..=0x1b => bridge(0xff),
            0x1c | 0x1d => bridge(0xf0),
            0x20 | 0x22 | 0x24 | 0x26 => bridge(0xf0),
            0x21 | 0x23 | 0x25 | 0x27 => bridge(0xff),
            0x28..=0x33 => bridge(0xff),
            0x3e => bridge(0x7f),
            0x3f => bridge(0x0f),
            0x40.. => 0xff,
            _ => 0,
        }
    }

    /// The bits of a BAR's register that a write changes.
    fn bar_mask(&self, index: u8) -> u32 {
        let size = |index: u8| self.bars.get(usize::from(index)).copied().unwrap_or(0);
        let mask = |size: u64| {
            size.checked_next_power_of_two().map_or(0, |size| if size == 1 { 0 } else { !(size - 1) })
        };
        let low = |index: u8| self.byte(header::bar(index));
        let is_wide =
            |index: u8| u32::from(low(index)) & (header::BAR_IO | header::BAR_TYPE) == header::BAR_TYPE_64;
        match index.checked_sub(1) {
            Some(below) if size(index) == 0 && size(below) != 0 && is_wide(below) => {
                (mask(size(below)) >> 32) as u32
            }
            _ => mask(size(index)) as u32,
        }
    }
}

/// A bus of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BusOf {
    segment: u16,
    bus: u8,
}

/// The recorded functions of a machine, as bridges lead to them: those have the numbers that they were recorded with until they are given
/// others.
///
/// ```
/// use axvm_pci::recorded::{Record, Recorded};
/// use axvm_addr::PciAddress;
/// use axvm_pci::{ConfigSpace, Width};
///
/// let mut config = vec![0; 256];
/// config[..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
/// let address = PciAddress::new(0, 0, 2, 0).unwrap();
/// let machine = Recorded::new(vec![Record { address, config, bars: [0x2_0000, 0, 0, 0, 0, 0] }]);
/// machine.write(address, 0x10, Width::B4, u32::MAX);
/// assert_eq!(machine.read(address, 0x10, Width::B4), 0xfffe_0000);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    records: Vec<Record>,
    now: RefCell<Vec<Record>>,
}

impl Recorded {
    /// A machine with these functions.
    pub fn new(records: Vec<Record>) -> Self {
        let now = records.iter().cloned().map(|mut record| {
            // An expansion ROM isn't looked at.
            let rom = usize::from(if record.is_bridge() { header::BRIDGE_ROM } else { header::ROM });
            if let Some(rom) = record.config.get_mut(rom..rom + 4) {
                rom.fill(0);
            }
            record
        });
        let now = RefCell::new(now.collect());
        Self { records, now }
    }

    /// Whether there are no functions.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a function was recorded at an address.
    pub fn has(&self, address: PciAddress) -> bool {
        self.records.iter().any(|record| record.address == address)
    }

    /// Whether any function of a function's bus was recorded.
    pub fn has_bus(&self, address: PciAddress) -> bool {
        let bus = BusOf { segment: address.segment, bus: address.bus };
        self.records.iter().any(|record| record.bus() == bus)
    }

    /// Where a function was recorded that is at `address` by the numbers that bridges have now.
    pub fn recorded_at(&self, address: PciAddress) -> Option<PciAddress> {
        let now = self.now.borrow();
        self.find(&now, address).map(|record| record.address)
    }

    /// What was read at an offset when the function was recorded; `None`: that wasn't.
    pub fn as_recorded(&self, address: PciAddress, offset: u16, width: Width) -> Option<u32> {
        self.records.iter().find(|record| record.address == address)?.read(offset, width)
    }

    fn find<'a>(&self, now: &'a [Record], address: PciAddress) -> Option<&'a Record> {
        let position = self.position(now, address)?;
        now.get(position)
    }

    /// As bridges pass it on, from the root bus on (PCI-to-PCI Bridge Architecture 1.2, 3.2.5.2 to 3.2.5.4).
    fn position(&self, now: &[Record], address: PciAddress) -> Option<usize> {
        let is_root = |bus: BusOf| !self.records.iter().any(|record| record.behind() == Some(bus));
        let wanted = BusOf { segment: address.segment, bus: address.bus };
        let mut here = wanted;
        if !is_root(wanted) || !now.iter().any(|record| record.bus() == wanted) {
            here = self.descend(now, wanted, &is_root)?;
        }
        now.iter().position(|record| {
            let at = record.address;
            record.bus() == here && (at.device(), at.function()) == (address.device(), address.function())
        })
    }

    /// The number with which a bus was recorded that has another one now.
    fn descend(&self, now: &[Record], wanted: BusOf, is_root: &dyn Fn(BusOf) -> bool) -> Option<BusOf> {
        let passes_on = |record: &&Record| {
            let range = record.byte(header::SECONDARY_BUS)..=record.byte(header::SUBORDINATE_BUS);
            record.is_bridge() && *range.start() != 0 && range.contains(&wanted.bus)
        };
        let of_segment = || now.iter().filter(|record| record.address.segment == wanted.segment);
        let mut at = of_segment().find(|record| is_root(record.bus()) && passes_on(record))?;
        for _ in 0..MOST_DEEP {
            let recorded = self.records.iter().find(|record| record.address == at.address)?.behind()?;
            if at.byte(header::SECONDARY_BUS) == wanted.bus {
                return Some(recorded);
            }
            at = of_segment().find(|record| record.bus() == recorded && passes_on(record))?;
        }
        None
    }
}

impl ConfigSpace for Recorded {
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        let now = self.now.borrow();
        let found = self.find(&now, function).and_then(|record| record.read(offset, width));
        found.unwrap_or(width.mask() as u32)
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        let mut now = self.now.borrow_mut();
        let Some(record) = self.position(&now, function).and_then(|position| now.get_mut(position)) else {
            return;
        };
        for (at, new) in (offset..=u16::MAX).zip(value.to_le_bytes()).take(width.bytes() as usize) {
            let mask = record.writable(at);
            if let Some(byte) = record.config.get_mut(usize::from(at)) {
                *byte = *byte & !mask | new & mask;
            }
        }
    }
}
