//! What of a host bridge is in the port space of a PC: its config mechanism, and I/O BARs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use axvm_addr::VcpuId;
use axvm_axdevice::{PortDevice, Width};

use crate::backend::Backend;
use crate::bridge::HostBridge;

/// PCI configuration mechanism 1 (PCI 3.2.2.3.2): eight ports, the first of which is 0xcf8. The registers below 256 of the same functions as in
/// the ECAM region.
///
/// An address is 32 bits written at once; narrower accesses to its ports aren't the mechanism's, and on PCs are other devices'.
pub struct ConfigPorts<B> {
    bridges: Vec<Arc<HostBridge<B>>>,
    address: AtomicU32,
}

/// In the address: the data ports are that register.
const ENABLED: u32 = 1 << 31;
/// What of it is kept.
const ADDRESS: u32 = ENABLED | 0x00ff_fffc;
/// The ports of the data.
const DATA: u16 = 4;

impl<B: Backend> ConfigPorts<B> {
    /// Those of segment 0: each bus is one bridge's.
    pub fn new(bridges: Vec<Arc<HostBridge<B>>>) -> Self {
        Self { bridges, address: AtomicU32::new(0) }
    }

    /// As after reset.
    pub fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    /// What an access to the data ports goes to: the bridge, the requester id and the register.
    fn target(&self, offset: u16) -> Option<(&HostBridge<B>, u16, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let id = (address >> 8) as u16;
        let bridge = self.bridges.iter().find(|bridge| bridge.has_bus((id >> 8) as u8))?;
        let register = address as u16 & 0xfc | (offset - DATA);
        (address & ENABLED != 0).then_some((&**bridge, id, register))
    }
}

impl<B: Backend> PortDevice for ConfigPorts<B> {
    fn name(&self) -> &str {
        "pci-config"
    }

    fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
        match (offset, width) {
            (0, Width::B4) => self.address.load(Ordering::Relaxed),
            (DATA.., _) => self
                .target(offset)
                .map_or(u32::MAX, |(bridge, id, register)| bridge.config_read(id, register, width) as u32),
            _ => u32::MAX,
        }
    }

    fn write(&self, _: VcpuId, offset: u16, width: Width, value: u32) {
        match (offset, width) {
            (0, Width::B4) => self.address.store(value & ADDRESS, Ordering::Relaxed),
            (DATA.., _) => {
                if let Some((bridge, id, register)) = self.target(offset) {
                    bridge.config_write(id, register, width, value);
                }
            }
            _ => {}
        }
    }
}

/// The ports of a bridge's I/O window, from `first` on: those of I/O BARs that the guest isn't let through to are forwarded. Where no function has any
/// nobody answers, as on a bus.
pub struct IoWindow<B> {
    bridge: Arc<HostBridge<B>>,
    first: u16,
}

impl<B: Backend> IoWindow<B> {
    /// The window that begins at the guest's port `first`.
    pub fn new(bridge: Arc<HostBridge<B>>, first: u16) -> Self {
        Self { bridge, first }
    }

    fn port(&self, offset: u16, width: Width) -> Option<u16> {
        self.bridge.port(self.first.checked_add(offset)?, width)
    }
}

impl<B: Backend> PortDevice for IoWindow<B> {
    fn name(&self) -> &str {
        "pci-io"
    }

    fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
        match self.port(offset, width) {
            Some(port) => self.bridge.backend().port_read(port, width),
            None => u32::MAX,
        }
    }

    fn write(&self, _: VcpuId, offset: u16, width: Width, value: u32) {
        if let Some(port) = self.port(offset, width) {
            self.bridge.backend().port_write(port, width, value);
        }
    }
}
