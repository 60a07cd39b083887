//! What the virtual PCI host bridge of a VM has done in hardware.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::hal::Region;
use axvm::vm::Ground;
use axvm_addr::{Gpa, Hpa, PciAddress, PciSpace, PciWindow, Ports, Span};
use axvm_axdevice::Width;
use axvm_pci::{BarKind, Clock, ConfigSpace, Function};
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, PciPlan, VmPlan};
use axvm_vpci::{
    AssignedFunction, Backend, BarPart, BarPorts, BridgeConfig, BridgeError, HostBridge, Messages,
    MsiMessage, Refused,
};

use crate::arch;
use crate::hal::Hal;
use crate::log;
use crate::pci::Ticks;
use crate::protection::{self, Protection};

/// A VM's virtual host bridge.
pub type Bridge = HostBridge<PciBackend>;

/// The hypervisor's side of a virtual host bridge.
pub struct PciBackend {
    ground: Arc<Ground<Hal>>,
}

impl PciBackend {
    /// A function's position in the plan.
    fn position(&self, function: PciAddress) -> Result<u16, Refused> {
        let position = |device: &DevicePlan| device.pci == Some(function);
        Ok(self.ground.plan().devices.iter().position(position).ok_or(Refused)? as u16)
    }
}

/// Registers of a BAR that the bridge answers for: what is mapped already stays.
fn map_registers(at: Hpa, width: Width) {
    if let Ok(span) = Span::new(at, width.bytes()) {
        let _ = arch::add_device(span);
    }
}

impl Backend for PciBackend {
    fn config_read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        self.ground.hal().host().config.read(function, offset, width)
    }

    fn config_write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        self.ground.hal().host().config.write(function, offset, width, value);
    }

    fn map_bar(&self, function: PciAddress, part: &BarPart) -> Result<(), Refused> {
        let BarPart { bar, offset, gpa, size, prefetchable, .. } = *part;
        let device = self.position(function)?;
        // What may be prefetched may be combined, but a driver of a function whose BARs don't say so relies on order.
        let kind = if prefetchable { MappingFlags::UNCACHED } else { MappingFlags::DEVICE };
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::USER | kind;
        self.ground.map_registers(device, Region::Bar(bar), offset, gpa, size, flags).map_err(|error| {
            log::warn!("{function}: BAR {bar} can't be mapped at {gpa}: {error}");
            Refused
        })
    }

    fn unmap_bar(&self, function: PciAddress, part: &BarPart) {
        let BarPart { bar, gpa, size, .. } = *part;
        let Ok(span) = Span::new(gpa, size) else { return };
        if let Err(error) = self.ground.unmap_registers(span) {
            log::error!("{function}: BAR {bar} can't be unmapped at {gpa}: {error}");
        }
    }

    fn set_bus_master(&self, function: PciAddress, on: bool) -> Result<(), Refused> {
        if on && !self.ground.hal().host().may_master(self.ground.id(), function) {
            Err(Refused)
        } else {
            Ok(())
        }
    }

    fn is_stopping(&self) -> bool {
        self.ground.is_stopping()
    }

    fn messages(&self) -> Messages {
        arch::MESSAGES
    }

    fn route(&self, function: PciAddress, vector: u16, message: MsiMessage) -> Result<MsiMessage, Refused> {
        let MsiMessage { address, data } = message;
        let wanted = axvm::msi::MsiMessage { address, data };
        let position = self.position(function)?;
        self.ground.route_message(position, vector, Some(wanted)).map_err(|error| {
            log::warn!("{function}: vector {vector} leads nowhere: {error}");
            Refused
        })?;
        if protection::is_off(Protection::Messages) {
            return Ok(message);
        }
        let plan = self.ground.plan().devices.get(usize::from(position));
        plan.and_then(|plan| arch::hardware_message(plan, vector)).ok_or(Refused)
    }

    fn unroute(&self, function: PciAddress, vector: u16) {
        let unrouted = self.position(function).map(|device| self.ground.route_message(device, vector, None));
        if let Ok(Err(error)) = unrouted {
            log::error!("{function}: vector {vector} can't be taken away: {error}");
        }
    }

    fn bar_read(&self, _: PciAddress, _: u8, at: Hpa, width: Width) -> u64 {
        map_registers(at, width);
        // SAFETY: a BAR of a function that the VM has; an abort is caught.
        unsafe { arch::probe_read(at.0, width.bytes()) }.unwrap_or(width.mask())
    }

    fn bar_write(&self, _: PciAddress, _: u8, at: Hpa, width: Width, value: u64) {
        map_registers(at, width);
        // SAFETY: as for reads. What the function does in consequence is bounded by the IOMMU.
        let _ = unsafe { arch::probe_write(at.0, width.bytes(), value) };
    }

    fn map_ports(&self, _: PciAddress, ports: &BarPorts) -> Result<(), Refused> {
        // Where the machine has them the guest reaches them itself; anywhere else each access is trapped and forwarded.
        if let Some(own) = reached(ports) {
            self.ground.with_maps(|space, _| arch::open_ports(&space.0, own));
        }
        Ok(())
    }

    fn unmap_ports(&self, function: PciAddress, ports: &BarPorts) {
        let closed =
            reached(ports).map(|own| self.ground.with_maps(|space, _| arch::close_ports(&space.0, own)));
        if let Some(Err(error)) = closed {
            log::error!("{function}: a CPU may be at the ports of its BAR {} still: {error}", ports.bar);
        }
    }

    fn port_read(&self, port: u16, width: Width) -> u32 {
        arch::read_port(port, width)
    }

    fn port_write(&self, port: u16, width: Width, value: u32) {
        arch::write_port(port, width, value);
    }

    fn now_us(&self) -> u64 {
        Ticks.now_us()
    }

    fn delay_us(&self, microseconds: u64) {
        Ticks.delay_us(microseconds);
    }
}

/// The ports of a BAR that the guest reaches itself.
fn reached(ports: &BarPorts) -> Option<Ports> {
    let BarPorts { guest, count, .. } = *ports;
    Ports::of(guest, count.into()).filter(|_| ports.is_in_place() || protection::is_off(Protection::BarPorts))
}

/// The machine's first port of each of a function's I/O BARs, where the guest has ports at all.
fn first_ports(pci: &PciPlan, function: &Function) -> Vec<(u8, u16)> {
    let io = function.bars.iter().filter(|bar| bar.kind == BarKind::Io && pci.ports.is_some());
    io.filter_map(|bar| Some((bar.index, u16::try_from(bar.address?).ok()?))).collect()
}

/// What firmware would leave in a function's interrupt line register: the number of its line, if that fits.
fn line_of(plan: &VmPlan, function: PciAddress) -> u8 {
    let position = plan.devices.iter().position(|device| device.pci == Some(function));
    let line = plan.lines.iter().find(|line| Some(usize::from(line.device)) == position);
    line.and_then(|line| u8::try_from(line.irq.0).ok()).unwrap_or(0)
}

/// The virtual host bridge that a plan asks for.
///
/// # Errors
///
/// A plan that doesn't fit the platform.
pub fn new_bridge(ground: &Arc<Ground<Hal>>, pci: &PciPlan) -> Result<Arc<Bridge>, BridgeError> {
    let host = ground.hal().host();
    let plan = ground.plan();
    let functions = pci
        .functions
        .iter()
        .filter_map(|&index| plan.devices.get(usize::from(index)))
        .filter_map(|device| Some((device.pci?, device.shown?, device.intx)))
        // The bridge lives between assignment and disposal, so that asking once is enough.
        .filter(|&(address, ..)| host.is_assigned(plan.id, address))
        .filter_map(|(address, shown, intx)| Some((host.function(address)?, shown, intx)))
        .map(|(function, shown, intx)| AssignedFunction {
            function: function.clone(),
            shown,
            intx,
            ports: first_ports(pci, function),
            line: line_of(plan, function.address),
            bars: function
                .bars
                .iter()
                .filter_map(|bar| {
                    Some((bar.index, host.platform.pci_to_cpu(pci.host, bar.address?, bar.size)?))
                })
                .collect(),
        })
        .collect();
    let segment = host.platform.pci_hosts.get(pci.host).map_or(0, |it| it.segment);
    let mut windows = pci.windows.clone();
    if let Some(ports) = pci.ports {
        let cpu = Span::new(Gpa(ports.first().into()), ports.count().into()).unwrap_or_default();
        windows.push(PciWindow { space: PciSpace::Io, prefetchable: false, pci: ports.first().into(), cpu });
    }
    let config = BridgeConfig { segment, buses: pci.buses, windows, functions };
    Ok(Arc::new(HostBridge::new(config, PciBackend { ground: ground.clone() })?))
}
