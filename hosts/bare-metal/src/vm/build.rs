//! Bringing a plan to life: memory loaded, what is emulated set up.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevices;
use axvm::vm::{AxVM, CreateError};
use axvm_addr::{Address, Gpa, Span};
use axvm_guest::image::Kernel;
use axvm_pl011::Pl011;
use axvm_plan::{VcpuPlan, VmPlan};

use super::{Vcpu, Vm};
use crate::arch::{self, GuestIrqchip, GuestIrqchipError};
use crate::hal::{Hal, HalError};
use crate::host::Host;
use crate::memory::GuestRam;
use crate::protection;
use crate::ring::Ring;
use crate::vpci_backend::new_bridge;

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The core: RAM, mappings, devices.
    #[error(transparent)]
    Create(#[from] CreateError<HalError>),
    /// Its interrupt controller.
    #[error(transparent)]
    Irqchip(#[from] GuestIrqchipError),
    /// Two of its devices answer at one address.
    #[error(transparent)]
    Devices(#[from] axvm::devices::BuildError),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}")]
    Image(Gpa),
    /// There is no memory to map registers with.
    #[error("{0}: its registers can't be mapped for the hypervisor")]
    Registers(alloc::string::String),
    /// The virtual PCI bridge.
    #[error("virtual PCI bridge: {0}")]
    Pci(#[from] axvm_vpci::BridgeError),
}

/// The images of a VM.
pub struct VmFiles<'a> {
    /// The kernel.
    pub kernel: Kernel<'a>,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Its own device tree.
    pub device_tree: Option<&'a [u8]>,
}

impl Vm {
    /// Brings a plan to life, up to the point where the first vCPU can be started: memory loaded, devices reset and attached.
    pub fn build(
        host: &'static Host,
        plan: Arc<VmPlan>,
        files: &VmFiles<'_>,
    ) -> Result<Arc<Self>, BuildError> {
        let core = Arc::new(AxVM::new(plan, Arc::new(Hal::new(host)), &host.registry)?);
        match Self::around(core.clone(), files) {
            Ok(vm) => Ok(Arc::new(vm)),
            Err(error) => {
                // Nothing else has it: `around` has dropped what it made.
                if let Some(core) = Arc::into_inner(core) {
                    let _ = core.dispose(&host.registry);
                }
                Err(error)
            }
        }
    }

    /// What the core leaves to its host: images, interrupt controller, console, PCI.
    fn around(core: Arc<AxVM<Hal>>, files: &VmFiles<'_>) -> Result<Self, BuildError> {
        let (plan, host) = (core.plan(), core.hal().host());
        // SAFETY: the core has just been given this RAM: it is mapped, and nothing of the hypervisor's lies in it.
        let ram = unsafe { GuestRam::new(plan.ram.clone()) };
        load(plan, files, &ram)?;

        let irqchip = GuestIrqchip::new(host, plan, &ram)?;
        let mut devices = irqchip.add_to(AxVmDevices::builder(), &host.platform);
        let output = Arc::new(Ring::new(host));
        let mut console = None;
        if let Some(at) = plan.console {
            let uart = Arc::new(Pl011::new(output.clone(), core.clone(), at.irq));
            devices = devices.mmio(at.registers, uart.clone());
            console = Some(uart);
        }
        let mut bridges = Vec::new();
        for pci in &plan.pci {
            let bridge = new_bridge(&core, pci)?;
            devices = match protection::real_config_space(&host.platform, pci) {
                Some(real) => devices.forwarded(pci.ecam, real, 0, "the machine's config space"),
                None => devices.mmio(pci.ecam, bridge.clone()),
            };
            bridges.push(bridge);
        }
        for block in plan.registers.iter().filter(|block| !block.direct) {
            let name = plan.devices.get(usize::from(block.device)).map_or("", |device| device.name.as_str());
            let registers = Span::new(block.hpa, block.gpa.size()).unwrap_or_default();
            arch::add_device(registers).map_err(|_| BuildError::Registers(name.into()))?;
            let (gpa, hpa) = protection::forwarded_block(block.gpa, block.hpa);
            devices = devices.forwarded(gpa, hpa, block.device, name);
        }
        let devices = devices.build()?;
        let vcpu = |planned: &VcpuPlan| Vcpu { cpu: planned.cpu, hardware_id: planned.hardware_id };
        let vcpus: Vec<Vcpu> = plan.cpus.iter().map(vcpu).collect();
        let space = core.with_maps(|space, _| space.0.root());
        Ok(Self { core, devices, bridges, irqchip, console, output, ram, vcpus, space })
    }
}

/// Copies the images into RAM.
fn load(plan: &VmPlan, files: &VmFiles<'_>, ram: &GuestRam) -> Result<(), BuildError> {
    let put = |at: Gpa, bytes: &[u8]| ram.load(at, bytes).map_err(|_| BuildError::Image(at));
    for segment in files.kernel.segments() {
        // The rest of the segment is zero, as all of RAM is.
        let at = plan.load.kernel.checked_add(segment.offset).ok_or(BuildError::Image(plan.load.kernel))?;
        put(at, segment.data)?;
    }
    if let (Some(span), Some(bytes)) = (plan.load.initrd, files.initrd) {
        put(span.start(), bytes)?;
    }
    match files.device_tree {
        Some(bytes) => put(plan.load.device_tree.start(), bytes),
        None => put(plan.load.device_tree.start(), &plan.tree),
    }
}
