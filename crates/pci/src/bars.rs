//! BARs: sizing and writing (PCI 6.2.5.1).

use alloc::vec::Vec;

use crate::config::{ConfigSpace, Registers};
use crate::function::{Bar, BarKind};
use crate::spec::header::{self, bar};

/// Sizes the BARs of a function whose decoding is off. They keep their values.
pub(crate) fn size<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, bridge: bool) -> Vec<Bar> {
    let count = if bridge { header::BRIDGE_BARS } else { header::BARS };
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let this = index;
        index += 1;
        // A device that has stopped answering, not a BAR: its flag bits are never all ones.
        let Some(low) = probe(registers, bar(this)).filter(|&low| low != u32::MAX) else { continue };
        if low & header::BAR_IO != 0 {
            // The upper half may be wired to zero: ports then are 16 bits.
            let mask = low & !header::BAR_IO_FLAGS;
            let mask = if mask >> 16 == 0 { mask | 0xffff_0000 } else { mask };
            if low & !header::BAR_IO_FLAGS != 0 {
                bars.push(Bar {
                    index: this,
                    kind: BarKind::Io,
                    size: lowest_bit(mask.into()),
                    address: None,
                });
            }
            continue;
        }
        let prefetchable = low & header::BAR_PREFETCH != 0;
        let mask = low & !header::BAR_MEMORY_FLAGS;
        match low & header::BAR_TYPE {
            header::BAR_TYPE_RESERVED => {}
            header::BAR_TYPE_64 if index < count => {
                let high = probe(registers, bar(index));
                index += 1;
                let Some(high) = high else { continue };
                let mask = u64::from(high) << 32 | u64::from(mask);
                if mask != 0 {
                    let kind = BarKind::Memory64 { prefetchable };
                    bars.push(Bar { index: this, kind, size: lowest_bit(mask), address: None });
                }
            }
            // The last register can't be the lower half of anything.
            header::BAR_TYPE_64 => {}
            _ if mask != 0 => {
                let kind = BarKind::Memory32 { prefetchable };
                bars.push(Bar { index: this, kind, size: lowest_bit(mask.into()), address: None });
            }
            _ => {}
        }
    }
    bars
}

/// Reads which bits of the BAR at `offset` can be written, flags included. `None`: it isn't told what is there, which so couldn't be
/// put back; neither half of an address is all ones.
fn probe<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, offset: u16) -> Option<u32> {
    let before = registers.read32(offset);
    if before == u32::MAX {
        return None;
    }
    registers.write32(offset, u32::MAX);
    let mask = registers.read32(offset);
    registers.write32(offset, before);
    Some(mask)
}

fn lowest_bit(mask: u64) -> u64 {
    mask & mask.wrapping_neg()
}

/// Writes the address of each BAR that has one into the hardware, and zero into the others.
pub(crate) fn write<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, bars: &[Bar]) {
    for entry in bars {
        let address = entry.address.unwrap_or(0);
        registers.write32(bar(entry.index), address as u32);
        if matches!(entry.kind, BarKind::Memory64 { .. }) {
            registers.write32(bar(entry.index + 1), (address >> 32) as u32);
        }
    }
}
