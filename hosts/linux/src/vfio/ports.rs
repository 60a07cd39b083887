//! BARs of ports, which always trap: a guest has no port of the machine's by VFIO, but each is read and written by the file of its function.

use std::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, PortDevice, Width};
use axvm_plan::PciPlan;
use axvm_vpci::{Backend, HostBridge, IoWindow};

use crate::memory::Place;

/// Ports as memory, where no instruction reaches ports: a byte each.
struct PortMemory<W>(W);

impl<W: PortDevice> MmioDevice for PortMemory<W> {
    fn name(&self) -> &str {
        "pci-io"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        let port = u16::try_from(offset).ok().filter(|_| width != Width::B8);
        port.map_or(width.mask(), |port| u64::from(self.0.read(vcpu, port, width)) & width.mask())
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        if let (Ok(port), false) = (u16::try_from(offset), width == Width::B8) {
            self.0.write(vcpu, port, width, (value & width.mask()) as u32);
        }
    }
}

/// Adds the ports of a bridge's window, if a function has such.
pub fn add<B: Backend + 'static>(
    devices: AxVmDevicesBuilder<Place>,
    pci: &PciPlan,
    bridge: &Arc<HostBridge<B>>,
) -> AxVmDevicesBuilder<Place> {
    let Some(ports) = pci.ports else { return devices };
    let window = IoWindow::new(bridge.clone(), ports.first());
    match pci.port_memory {
        Some(memory) => devices.mmio(memory, Arc::new(PortMemory(window))),
        None => devices.ports(ports.first(), ports.count() as u16, Arc::new(window)),
    }
}

#[cfg(test)]
mod tests {
    use super::{MmioDevice, PortDevice, PortMemory, VcpuId, Width};
    use std::sync::Mutex;

    /// Ports that note what is asked of them.
    #[derive(Default)]
    struct Notes(Mutex<Vec<(u16, Width, Option<u32>)>>);

    impl PortDevice for Notes {
        fn name(&self) -> &str {
            "notes"
        }

        fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
            self.0.lock().unwrap().push((offset, width, None));
            0x1234_5678
        }

        fn write(&self, _: VcpuId, offset: u16, width: Width, value: u32) {
            self.0.lock().unwrap().push((offset, width, Some(value)));
        }
    }

    #[test]
    fn a_byte_of_memory_is_a_port() {
        let memory = PortMemory(Notes::default());
        assert_eq!(memory.read(VcpuId(0), 0x1040, Width::B2), 0x5678);
        memory.write(VcpuId(0), 0xffff, Width::B1, 0x1_02);
        assert_eq!(*memory.0.0.lock().unwrap(), [(0x1040, Width::B2, None), (0xffff, Width::B1, Some(2))]);
    }

    #[test]
    fn there_are_no_ports_of_eight_bytes_and_none_behind_the_last() {
        let memory = PortMemory(Notes::default());
        assert_eq!(memory.read(VcpuId(0), 0, Width::B8), u64::MAX);
        memory.write(VcpuId(0), 0, Width::B8, 0);
        assert_eq!(memory.read(VcpuId(0), 0x1_0000, Width::B1), 0xff);
        assert!(memory.0.0.lock().unwrap().is_empty());
    }
}
