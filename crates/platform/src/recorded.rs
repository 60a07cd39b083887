//! The PCI functions of a machine whose config space somebody has recorded.

use alloc::vec::Vec;
use core::cell::Cell;

use axvm_addr::PciAddress;
use axvm_pci::recorded::Recorded;
use axvm_pci::{Clock, Function, HostBridge, Virtio, enumerate, groups};

use crate::model::Platform;

/// A clock that goes on by being waited for: what was recorded doesn't change.
struct Still(Cell<u64>);

impl Clock for Still {
    fn now_us(&self) -> u64 {
        self.0.get()
    }

    fn delay_us(&self, microseconds: u64) {
        self.0.set(self.0.get().saturating_add(microseconds.max(1)));
    }
}

impl Platform {
    /// Finds the functions below the host bridges, as the hypervisor does where they are: it numbers buses by itself. `told`: what is known of a
    /// virtio function's DMA, by the address that it was recorded with; config space doesn't say it.
    pub fn add_recorded(&mut self, recorded: &Recorded, told: &dyn Fn(PciAddress) -> Option<Virtio>) {
        let mut functions: Vec<Function> = Vec::new();
        for host in &self.pci_hosts {
            let windows = self.bus_windows(host);
            let bridge = HostBridge { segment: host.segment, buses: host.buses, windows };
            functions.extend(enumerate(recorded, &bridge, &Still(Cell::new(0))));
        }
        let groups = groups(&functions, recorded);
        for function in &mut functions {
            let known = recorded.recorded_at(function.address).and_then(told);
            function.virtio = function.virtio.map(|_| known.unwrap_or(Virtio::Unknown));
        }
        self.add_functions(functions, &groups);
    }
}
