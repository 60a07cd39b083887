//! The config space of physical PCI functions, by ECAM (PCI Express Base 5.0, 7.2.2).

use alloc::vec::Vec;

use axvm_addr::{Hpa, PciAddress, PciBuses, Span};
use axvm_axdevice::Width;
use axvm_pci::{Clock, ConfigSpace};
use axvm_platform::model::Platform;

use crate::arch;

/// The generic timer, as the clock of waits.
#[derive(Clone, Copy, Debug)]
pub struct Ticks;

impl Clock for Ticks {
    fn now_us(&self) -> u64 {
        arch::now_us()
    }

    fn delay_us(&self, microseconds: u64) {
        arch::delay_us(microseconds);
    }
}

/// Where a host bridge's config space is.
#[derive(Clone, Copy, Debug)]
struct Ecam {
    segment: u16,
    buses: PciBuses,
    span: Span<Hpa>,
}

/// The config spaces of all host bridges.
#[derive(Clone, Debug)]
pub struct Config {
    ecams: Vec<Ecam>,
}

impl Config {
    /// # Safety
    ///
    /// The config spaces must be mapped as the platform describes them, and accessed only through this.
    pub unsafe fn new(platform: &Platform) -> Self {
        let ecams = platform
            .pci_hosts
            .iter()
            .map(|host| Ecam { segment: host.segment, buses: host.buses, span: host.ecam })
            .collect();
        Self { ecams }
    }

    /// For slow work: one copy of the code for this and for what virtual host bridges do.
    pub fn shared(&self) -> &dyn ConfigSpace {
        self
    }

    /// The address of a register, if there is such a function's config space and the access stays in it.
    fn locate(&self, function: PciAddress, offset: u16, width: Width) -> Option<u64> {
        if offset >= 4096 || u64::from(offset) % width.bytes() != 0 {
            return None;
        }
        let ecam = self
            .ecams
            .iter()
            .find(|ecam| ecam.segment == function.segment && ecam.buses.contains(function.bus))?;
        let bus = u64::from(function.bus - ecam.buses.first);
        let place = bus << 20
            | u64::from(function.device()) << 15
            | u64::from(function.function()) << 12
            | u64::from(offset);
        (place + width.bytes() <= ecam.span.size()).then(|| ecam.span.start().0 + place)
    }
}

impl Config {
    /// The devices that there are on a bus: those whose first function answers. Most places of most buses are empty.
    #[cfg_attr(
        target_arch = "aarch64",
        expect(dead_code, reason = "nothing of a bus that isn't enumerated is asked for there")
    )]
    pub fn devices(&self, segment: u16, bus: u8) -> impl Iterator<Item = u8> {
        let first = PciAddress::new(segment, bus, 0, 0).and_then(|first| self.locate(first, 0, Width::B2));
        let has = |ecam: &&Ecam| ecam.segment == segment && ecam.buses.contains(bus);
        let end = self.ecams.iter().find(has).map_or(0, |ecam| ecam.span.end().0);
        (0..32u8).filter(move |&device| {
            let Some(at) = first.map(|first| first + (u64::from(device) << 15)) else { return false };
            // SAFETY: inside a config space that is mapped, aligned; an abort is caught.
            at + 2 <= end && unsafe { arch::probe_read(at, 2) }.is_ok_and(|vendor| vendor & 0xffff != 0xffff)
        })
    }
}

impl ConfigSpace for Config {
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        let value = self.locate(function, offset, width).and_then(|address| {
            // SAFETY: inside a config space that is mapped, aligned; an abort is caught.
            unsafe { arch::probe_read(address, width.bytes()) }.ok()
        });
        (value.unwrap_or(u64::MAX) & width.mask()) as u32
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        if let Some(address) = self.locate(function, offset, width) {
            // SAFETY: as for reads. What a function does in consequence is bounded by the IOMMU.
            let _ = unsafe { arch::probe_write(address, width.bytes(), u64::from(value)) };
        }
    }
}
