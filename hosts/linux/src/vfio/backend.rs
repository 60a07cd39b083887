//! What the virtual PCI host bridge of a VM has done, by VFIO.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axvm::hal::Region;
use axvm::vm::Ground;
use axvm_addr::{Gpa, Hpa, PciAddress, PciSpace, PciWindow, Ports, Span};
use axvm_axdevice::Width;
use axvm_pci::{BarKind, Function};
use axvm_plan::config::MappingFlags;
use axvm_plan::{PciPlan, Presence, VmPlan};
use axvm_vpci::{
    AssignedFunction, Backend, BarPart, BarPorts, BridgeConfig, BridgeError, HostBridge, Messages,
    MsiMessage, Refused,
};

use super::{Opened, device};
use crate::hal::Hal;

/// A VM's virtual host bridge.
pub type Bridge = HostBridge<VfioBackend>;

/// The process's side of a virtual host bridge.
pub struct VfioBackend {
    ground: Arc<Ground<Hal>>,
    /// Where the machine has BARs of memory: by function and register.
    bars: Vec<(PciAddress, u8, Hpa)>,
    /// Those of ports.
    ports: Vec<PortBar>,
    start: Instant,
}

/// A BAR of ports, as the machine has it.
struct PortBar {
    function: PciAddress,
    bar: u8,
    ports: Ports,
}

impl VfioBackend {
    /// The function that has a port of the machine's, its BAR, and how far in that it is.
    fn at_port(&self, port: u16) -> Option<(Arc<Opened>, u8, u64)> {
        let it = self.ports.iter().find(|it| it.ports.contains(port))?;
        Some((self.opened(it.function)?, it.bar, (port - it.ports.first()).into()))
    }

    fn position(&self, function: PciAddress) -> Result<u16, Refused> {
        let mut devices = (0..).zip(&self.ground.plan().devices);
        let found = devices.find(|(_, device)| device.pci == Some(function));
        found.map(|(position, _)| position).ok_or(Refused)
    }

    fn opened(&self, function: PciAddress) -> Option<Arc<Opened>> {
        self.ground.hal().host().vfio.opened(self.ground.id(), function)
    }

    /// How far in a BAR an address of the machine is.
    fn offset(&self, function: PciAddress, bar: u8, at: Hpa) -> Option<u64> {
        let (.., start) = self.bars.iter().find(|(known, index, _)| (*known, *index) == (function, bar))?;
        at.0.checked_sub(start.0)
    }

    fn warn(&self, function: PciAddress, what: &str, error: &dyn std::fmt::Display) {
        self.ground.hal().host().link.warn(format_args!("{function}: {what}: {error}"));
    }
}

impl Backend for VfioBackend {
    fn config_read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        let all_ones = width.mask() as u32;
        self.opened(function).map_or(all_ones, |opened| opened.config_read(offset, width))
    }

    fn config_write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        let Some(opened) = self.opened(function) else { return };
        match opened.config_write(offset, width, value) {
            Ok(device::Messages::AsBefore) => {}
            Ok(device::Messages::TurnedOn) => {
                let host = self.ground.hal().host();
                host.vfio.note_messages(function, host.processors(self.ground.plan()));
                host.bell.ring();
            }
            Err(error) => self.warn(function, "its messages", &error),
        }
    }

    fn map_bar(&self, function: PciAddress, part: &BarPart) -> Result<(), Refused> {
        let BarPart { bar, offset, gpa, size, .. } = *part;
        let device = self.position(function)?;
        // How a guest's accesses to it are ordered Linux decides, by what the mapping is.
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::USER | MappingFlags::DEVICE;
        self.ground.map_registers(device, Region::Bar(bar), offset, gpa, size, flags).map_err(|error| {
            self.warn(function, &format!("BAR {bar} can't be mapped at {gpa}"), &error);
            Refused
        })
    }

    fn unmap_bar(&self, function: PciAddress, part: &BarPart) {
        let BarPart { bar, gpa, size, .. } = *part;
        let Ok(span) = Span::new(gpa, size) else { return };
        if let Err(error) = self.ground.unmap_registers(span) {
            self.warn(function, &format!("BAR {bar} can't be unmapped at {gpa}"), &error);
        }
    }

    fn set_bus_master(&self, function: PciAddress, on: bool) -> Result<(), Refused> {
        let may = self.opened(function).is_some_and(|opened| opened.may_master());
        if on && !may { Err(Refused) } else { Ok(()) }
    }

    fn is_stopping(&self) -> bool {
        self.ground.is_stopping()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn delay_us(&self, microseconds: u64) {
        std::thread::sleep(Duration::from_micros(microseconds));
    }

    /// VFIO has the functions' own, and makes of each vector what it is told.
    fn messages(&self) -> Messages {
        Messages::Bridge
    }

    /// Linux lets whole pages be mapped that have nothing else in them.
    fn is_mappable(&self, function: PciAddress, bar: u8) -> bool {
        let whole = self.bars.iter().any(|(known, index, at)| {
            (*known, *index) == (function, bar) && at.0.is_multiple_of(rustix::param::page_size() as u64)
        });
        whole && self.opened(function).is_some_and(|opened| opened.is_mappable(bar))
    }

    fn route(&self, function: PciAddress, vector: u16, message: MsiMessage) -> Result<MsiMessage, Refused> {
        let MsiMessage { address, data } = message;
        let wanted = axvm::msi::MsiMessage { address, data };
        let position = self.position(function)?;
        self.ground.route_message(position, vector, Some(wanted)).map_err(|error| {
            self.warn(function, &format!("vector {vector} leads nowhere"), &error);
            Refused
        })?;
        // What the function sends is between it and Linux. VFIO takes note of this, and shows it when it is read.
        Ok(MsiMessage { address: 0, data: vector.into() })
    }

    fn unroute(&self, function: PciAddress, vector: u16) {
        let Ok(device) = self.position(function) else { return };
        if let Err(error) = self.ground.route_message(device, vector, None) {
            self.warn(function, &format!("vector {vector} can't be taken away"), &error);
        }
    }

    /// Never those of the machine: each access is one to a file.
    fn map_ports(&self, _: PciAddress, _: &BarPorts) -> Result<(), Refused> {
        Ok(())
    }

    fn port_read(&self, port: u16, width: Width) -> u32 {
        let read = self.at_port(port).map(|(opened, bar, offset)| opened.bar_read(bar, offset, width));
        read.unwrap_or(width.mask()) as u32
    }

    fn port_write(&self, port: u16, width: Width, value: u32) {
        let Some((opened, bar, offset)) = self.at_port(port) else { return };
        // No table of messages is at ports.
        let _ = opened.bar_write(bar, offset, width, value.into());
    }

    fn bar_read(&self, function: PciAddress, bar: u8, at: Hpa, width: Width) -> u64 {
        let opened = self.opened(function).zip(self.offset(function, bar, at));
        opened.map_or(width.mask(), |(opened, offset)| opened.bar_read(bar, offset, width))
    }

    fn bar_write(&self, function: PciAddress, bar: u8, at: Hpa, width: Width, value: u64) {
        let Some((opened, offset)) = self.opened(function).zip(self.offset(function, bar, at)) else {
            return;
        };
        if let Err(error) = opened.bar_write(bar, offset, width, value) {
            self.warn(function, "a vector can't be masked", &error);
        }
    }
}

/// What firmware would leave in a function's interrupt line register: the number of its line, if that fits.
fn line_of(plan: &VmPlan, function: PciAddress) -> u8 {
    let position = plan.devices.iter().position(|device| device.pci == Some(function));
    let line = plan.lines.iter().find(|line| Some(usize::from(line.device)) == position);
    line.and_then(|line| u8::try_from(line.irq.0).ok()).unwrap_or(0)
}

/// The BARs of ports of a function, each with the machine's first port.
fn port_bars(function: &Function) -> Vec<(u8, Ports)> {
    let bars = function.bars.iter().filter(|bar| bar.kind == BarKind::Io);
    bars.filter_map(|bar| {
        let first = u16::try_from(bar.address?).ok()?;
        Some((bar.index, Ports::of(first, u32::try_from(bar.size).ok()?)?))
    })
    .collect()
}

/// The virtual host bridge that a plan asks for.
///
/// # Errors
///
/// A plan that doesn't fit the platform.
pub fn new_bridge(ground: &Arc<Ground<Hal>>, pci: &PciPlan) -> Result<Arc<Bridge>, BridgeError> {
    let platform = &ground.hal().host().platform;
    let plan = ground.plan();
    let known = |address| {
        let mut functions = platform.functions.iter().flatten();
        functions.find(|device| device.function.address == address).map(|device| &device.function)
    };
    let memory = |function: &Function| -> Vec<(u8, Hpa)> {
        let bars = function.bars.iter().filter(|bar| bar.kind != BarKind::Io);
        bars.filter_map(|bar| Some((bar.index, platform.pci_to_cpu(pci.host, bar.address?, bar.size)?)))
            .collect()
    };
    let functions: Vec<AssignedFunction> = pci
        .functions
        .iter()
        .filter_map(|&index| plan.devices.get(usize::from(index)))
        .filter(|device| device.presence == Presence::Here)
        .filter_map(|device| Some((known(device.pci?)?, device.shown?, device.intx)))
        .map(|(function, shown, intx)| AssignedFunction {
            shown,
            intx,
            ports: port_bars(function).into_iter().map(|(bar, ports)| (bar, ports.first())).collect(),
            line: line_of(plan, function.address),
            bars: memory(function),
            function: function.clone(),
        })
        .collect();
    let of = |it: &AssignedFunction| it.function.address;
    let bars =
        functions.iter().flat_map(|it| it.bars.iter().map(move |(bar, at)| (of(it), *bar, *at))).collect();
    let ports = functions
        .iter()
        .flat_map(|it| port_bars(&it.function).into_iter().map(move |(bar, ports)| (of(it), bar, ports)))
        .map(|(function, bar, ports)| PortBar { function, bar, ports })
        .collect();
    // Of a window of ports the addresses are the guest's ports.
    let port_window = pci.ports.and_then(|ports| {
        let cpu = Span::new(Gpa(ports.first().into()), ports.count().into()).ok()?;
        Some(PciWindow { space: PciSpace::Io, prefetchable: false, pci: ports.first().into(), cpu })
    });
    let windows = pci.windows.iter().copied().chain(port_window).collect();
    let segment = platform.pci_hosts.get(pci.host).map_or(0, |it| it.segment);
    let config = BridgeConfig { segment, buses: pci.buses, windows, functions };
    let backend = VfioBackend { ground: ground.clone(), bars, ports, start: Instant::now() };
    Ok(Arc::new(HostBridge::new(config, backend)?))
}
