//! Walks of the capability lists. A device may lie: each walk visits an offset once, so it ends.

use alloc::vec::Vec;

use crate::config::{ConfigSpace, Registers};
use crate::function::MsiX;
use crate::spec::capability::{self, ExtendedHeader};
use crate::spec::{CONVENTIONAL_SIZE, EXTENDED_SIZE, header, msi};

/// The capabilities in the standard list, in its order: id and offset.
pub(crate) fn standard<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>) -> Vec<(u8, u16)> {
    let mut found: Vec<(u8, u16)> = Vec::new();
    if registers.read16(header::STATUS) & header::STATUS_CAPABILITIES == 0 {
        return found;
    }
    let mut next = u16::from(registers.read8(header::CAPABILITIES)) & 0xfc;
    while next >= capability::FIRST && !found.iter().any(|&(_, offset)| offset == next) {
        let entry = registers.read16(next);
        if entry == u16::MAX {
            break;
        }
        found.push((entry as u8, next));
        next = (entry >> 8) & 0xfc;
    }
    // A capability that runs past the conventional part isn't one.
    found.retain(|&(id, offset)| offset + least_size(id) <= CONVENTIONAL_SIZE);
    found
}

/// The least number of bytes that a capability with this id has.
fn least_size(id: u8) -> u16 {
    match id {
        capability::POWER => crate::spec::power::SIZE,
        capability::MSI => 12,
        capability::MSIX => msi::MSIX_SIZE,
        capability::EXPRESS => crate::spec::express::SIZE_V1,
        capability::ADVANCED => capability::AF_SIZE,
        _ => 4,
    }
}

/// The capabilities in the extended list, in its order: id and offset.
pub(crate) fn extended<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>) -> Vec<(u16, u16)> {
    let mut found: Vec<(u16, u16)> = Vec::new();
    let mut next = capability::EXTENDED_FIRST;
    while (capability::EXTENDED_FIRST..EXTENDED_SIZE).contains(&next)
        && !found.iter().any(|&(_, offset)| offset == next)
    {
        let Some(header) = ExtendedHeader::from_bits(registers.read32(next)) else { break };
        // A list may start with an empty entry that only points on (PCIe 7.6.3).
        found.push((header.id, next));
        next = header.next;
    }
    found.retain(|&(id, _)| id != 0 && id != u16::MAX);
    found
}

/// What the MSI-X capability at `offset` says.
pub(crate) fn msix<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, offset: u16) -> MsiX {
    let place = |at: u16| {
        let bits = registers.read32(offset + at);
        ((bits & 7) as u8, bits & !7)
    };
    MsiX {
        offset,
        vectors: (registers.read16(offset + msi::CONTROL) & msi::MSIX_SIZE_MASK) + 1,
        table: place(msi::MSIX_TABLE),
        pending: place(msi::MSIX_PENDING),
    }
}

/// How many vectors the MSI capability at `offset` can send. Values above 32 are reserved and count as 32.
pub(crate) fn msi_vectors<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, offset: u16) -> u8 {
    let log = (registers.read16(offset + msi::CONTROL) & msi::MSI_CAPABLE) >> 1;
    1 << log.min(5)
}
