//! Bringing a plan to life: memory loaded, what is emulated set up.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevices;
use axvm::vm::{AxVM, CreateError};
use axvm_addr::{Address, Gpa, Span};
use axvm_guest::image::Kernel;
use axvm_pl011::Pl011;
use axvm_plan::config::VMInterruptMode;
use axvm_plan::{GicPlan, VcpuPlan, VmPlan};
use axvm_vgic::ItsDeviceId;
use axvm_vgic::{Distributor, Its, ItsConfig, LineConfig, LineDelivery, Redistributors, Vgic, VgicConfig};

use super::{Vcpu, Vm};
use crate::arch::its::ItsError;
use crate::arch::lpis::GUEST_LPI_ID_BITS;
use crate::arch::{self, direct, gic};
use crate::hal::{Hal, HalError};
use crate::host::Host;
use crate::memory::GuestRam;
use crate::protection::{self, Protection};
use crate::ring::Ring;
use crate::vgic_backend::GicBackend;
use crate::vpci_backend::new_bridge;

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The core: RAM, mappings, devices.
    #[error(transparent)]
    Create(#[from] CreateError<HalError>),
    /// The virtual GIC.
    #[error("virtual GIC: {0}")]
    Gic(#[from] axvm_vgic::ConfigError),
    /// The ITS.
    #[error(transparent)]
    Its(#[from] ItsError),
    /// Two of its devices answer at one address.
    #[error(transparent)]
    Devices(#[from] axvm::devices::BuildError),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}")]
    Image(Gpa),
    /// The plan has no GIC for it.
    #[error("the plan has no GIC")]
    NoGic,
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

        let gic = plan.gic.ok_or(BuildError::NoGic)?;
        let backend =
            Arc::new(GicBackend::new(host, plan, ram.clone(), gic.its.map(|its| usize::from(its.host.0)))?);
        let vgic = Vgic::new(vgic_config(host, plan, &gic), backend.clone())?;
        let mut devices = AxVmDevices::builder();
        devices = match protection::real_distributor(&host.platform) {
            Some(real) => devices.forwarded(gic.distributor, real, 0, "the machine's distributor"),
            None => devices.mmio(gic.distributor, Arc::new(Distributor::new(vgic.clone()))),
        };
        devices = devices.mmio(gic.redistributors, Arc::new(Redistributors::new(vgic.clone())));
        if let (Some(planned), Some(its)) = (gic.its, Its::new(vgic.clone())) {
            devices = devices.mmio(planned.registers, Arc::new(its));
        }
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
            arch::stage1::add_device(registers).map_err(|_| BuildError::Registers(name.into()))?;
            let (gpa, hpa) = protection::forwarded_block(block.gpa, block.hpa);
            devices = devices.forwarded(gpa, hpa, block.device, name);
        }
        let devices = devices.build()?;
        let vcpu = |planned: &VcpuPlan| Vcpu { cpu: planned.cpu, mpidr: planned.hardware_id };
        let vcpus: Vec<Vcpu> = plan.cpus.iter().map(vcpu).collect();
        let direct = core.plan().mode == VMInterruptMode::Passthrough;
        let (vttbr, vtcr) = core.with_maps(|space, _| (space.0.vttbr(), space.0.vtcr()));
        Ok(Self { core, devices, bridges, vgic, backend, console, output, ram, vcpus, vttbr, vtcr, direct })
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

fn vgic_config(host: &Host, plan: &VmPlan, shown: &GicPlan) -> VgicConfig {
    let direct = plan.mode == VMInterruptMode::Passthrough;
    let mut lines: Vec<LineConfig> = plan
        .lines
        .iter()
        .map(|line| LineConfig {
            guest: line.irq.into(),
            host: Some(line.irq.into()),
            trigger: line.trigger,
            delivery: match line.masked && !protection::is_off(Protection::LineEnd) {
                true => LineDelivery::MaskUntilEnd,
                false => LineDelivery::Hardware,
            },
        })
        .collect();
    if let Some(console) = plan.console {
        lines.push(LineConfig {
            guest: console.irq.into(),
            host: None,
            trigger: axvm_addr::Trigger::Level,
            delivery: LineDelivery::default(),
        });
    }
    let devices: Vec<_> = plan.devices.iter().filter_map(|device| device.msi).collect();
    let most = devices.iter().map(|msi| msi.messages).max().unwrap_or(1);
    // Functions behind a bridge to conventional PCI have one id together.
    let mut ids: Vec<ItsDeviceId> = devices.iter().map(|msi| msi.source.into()).collect();
    ids.sort_unstable();
    ids.dedup();
    VgicConfig {
        vcpus: plan.cpus.iter().map(|vcpu| vcpu.hardware_id).collect(),
        spis: u32::from(shown.spis),
        lines,
        hardware_ppis: host.guest_timers(),
        list_registers: arch::list_registers(),
        priority_bits: if direct { direct::priority_bits().max(4) } else { arch::priority_bits() },
        its: shown.its.map(|_| ItsConfig {
            devices: match protection::is_off(Protection::Its) {
                true => (0..256).map(ItsDeviceId).collect(),
                false => ids,
            },
            event_bits: u32::from(most.max(2)).next_power_of_two().trailing_zeros(),
            // LPIs delivered by the hardware have the guest's numbers there, and these are set apart for them.
            lpi_id_bits: if direct || plan.virtual_lpis { GUEST_LPI_ID_BITS } else { 16 },
            virtual_lpis: plan.virtual_lpis,
            lpis_stay_enabled: direct && host.gic.lpis_stay_enabled(),
        }),
        direct: direct.then_some(axvm_vgic::Direct { reserved_sgis: gic::reserved_sgis() }),
    }
}
