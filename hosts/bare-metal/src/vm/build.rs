//! Bringing a plan to life: memory loaded, what is emulated set up.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevices;
use axvm::hal::Equipment;
use axvm::irqchip::{Irqchip, Lines};
use axvm::vm::{AxVM, CreateError, Ground};
use axvm_addr::{Gpa, Hpa, Span};
use axvm_plan::VmPlan;
use axvm_plan::files::VmFiles;

use super::{Ends, VmRef};
use crate::arch::{self, GuestIrqchip, GuestIrqchipError};
use crate::hal::{Hal, HalError};
use crate::host::Host;
use crate::memory::GuestRam;
use crate::protection;
use crate::ring::Ring;
use crate::vpci_backend::new_bridge;
use crate::watchdogs;

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The core: RAM, mappings, devices.
    #[error(transparent)]
    Create(#[from] CreateError<HalError>),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}")]
    Image(Gpa),
}

/// Why a VM's own devices can't be made.
#[derive(Debug, thiserror::Error)]
pub enum EquipError {
    /// Its interrupt controller.
    #[error(transparent)]
    Irqchip(#[from] GuestIrqchipError),
    /// Two of its devices answer at one address.
    #[error(transparent)]
    Devices(#[from] axvm::devices::BuildError),
    /// There is no memory to map registers with.
    #[error("{0}: its registers can't be mapped for the hypervisor")]
    Registers(alloc::string::String),
    /// The virtual PCI bridge.
    #[error("virtual PCI bridge: {0}")]
    Pci(#[from] axvm_vpci::BridgeError),
}

/// Brings a plan to life, up to the point where the first vCPU can be started: memory loaded, devices reset and attached.
pub fn build(host: &'static Host, plan: Arc<VmPlan>, files: &VmFiles<'_>) -> Result<VmRef, BuildError> {
    let vm = AxVM::new(plan, Arc::new(Hal::new(host)), &host.registry)?;
    let put = |at: Gpa, bytes: &[u8]| vm.ends().ram.load(at, bytes).map_err(|_| BuildError::Image(at));
    if let Err(error) = files.load(vm.plan(), put) {
        let _ = vm.dispose(&host.registry);
        return Err(error);
    }
    Ok(VmRef::new(vm))
}

/// What the core leaves to its host: interrupt controller, console, PCI.
pub fn equip(ground: &Arc<Ground<Hal>>) -> Result<Equipment<Hal>, EquipError> {
    let (plan, host) = (ground.plan(), ground.hal().host());
    // SAFETY: the core has just been given this RAM: it is mapped, and nothing of the hypervisor's lies in it.
    let ram = unsafe { GuestRam::new(plan.ram.clone()) };
    let irqchip = Arc::new(GuestIrqchip::new(host, plan, &ram)?);
    match devices(ground, ram, &irqchip) {
        Ok((devices, ends)) => Ok(Equipment { irqchip, devices, ends }),
        Err(error) => {
            // What hardware has of it doesn't go by itself; nothing else refers to it any more.
            Arc::into_inner(irqchip).map(Irqchip::release);
            Err(error)
        }
    }
}

/// The devices that answer a VM's exits, and the host's own ends of them.
fn devices(
    ground: &Arc<Ground<Hal>>,
    ram: GuestRam,
    irqchip: &Arc<GuestIrqchip>,
) -> Result<(AxVmDevices<Hpa>, Ends), EquipError> {
    let (plan, host) = (ground.plan(), ground.hal().host());
    let mut devices = irqchip.add_to(AxVmDevices::builder(), &host.platform);
    let output = Arc::new(Ring::new(host));
    let mut console = None;
    if let Some(at) = plan.console {
        let lines = Arc::new(Lines::new(irqchip.clone()));
        let added = arch::add_console(devices, at, output.clone(), lines);
        (devices, console) = (added.devices, added.console);
    }
    let mut watchdog = None;
    if let Some(at) = &plan.watchdog {
        let new = watchdogs::new(host, at, Arc::new(Lines::new(irqchip.clone())));
        devices = devices.mmio(at.control, Arc::new(new.control_frame()));
        devices = devices.mmio(at.refresh, Arc::new(new.refresh_frame()));
        watchdog = Some(new);
    }
    let mut bridges = Vec::new();
    for pci in &plan.pci {
        let bridge = new_bridge(ground, pci)?;
        devices = match protection::real_config_space(&host.platform, pci) {
            Some(real) => devices.forwarded(pci.ecam, real, 0, "the machine's config space"),
            None => devices.mmio(pci.ecam, bridge.clone()),
        };
        devices = arch::add_bar_ports(devices, pci, &bridge);
        bridges.push(bridge);
    }
    if !bridges.is_empty() {
        devices = arch::add_config_ports(devices, &bridges);
    }
    for entry in plan.ports.iter().filter(|entry| !entry.direct) {
        let name = plan.devices.get(usize::from(entry.device)).map_or("", |device| device.name.as_str());
        let first = entry.ports.first();
        devices = devices.forwarded_ports(first, entry.ports.count() as u16, first, entry.device, name);
    }
    for block in plan.registers.iter().filter(|block| !block.direct) {
        let name = plan.devices.get(usize::from(block.device)).map_or("", |device| device.name.as_str());
        let registers = Span::new(block.hpa, block.gpa.size()).unwrap_or_default();
        arch::add_device(registers).map_err(|_| EquipError::Registers(name.into()))?;
        let (gpa, hpa) = protection::forwarded_block(block.gpa, block.hpa);
        devices = devices.forwarded(gpa, hpa, block.device, name);
    }
    let devices = devices.build()?;
    let space = ground.with_maps(|space, _| space.0.root());
    Ok((devices, Ends { bridges, console, output, watchdog, ram, space }))
}
