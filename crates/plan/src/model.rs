//! What a plan says: everything that the later stages carry out, and nothing that they have to decide.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{
    CpuId, DmaSource, Gpa, Hpa, Iova, Irq, MsiSource, PciAddress, PciBuses, PciWindow, Ports, Span, VcpuId,
    VmId,
};
use axvm_guest::{Description, Place};
use axvm_pci::ResetMethod;
use axvm_platform::model::Trigger;
use axvm_system::model::{AfterEnd, ViolationPolicy};
use serde::{Deserialize, Serialize};

use crate::config::{AxVMConfig, MappingFlags, PassThroughDeviceConfig, VMInterruptMode};
use crate::machine::MachinePlan;
use crate::machine::aarch64::Aarch64Plan;
use crate::machine::x86_64::X86_64Plan;

/// The whole plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The hypervisor's own CPU; none where a Linux has the machine.
    pub hypervisor_cpu: Option<CpuId>,
    /// The device-tree path of the hypervisor's console.
    pub console: Option<String>,
    /// Whether VMs are given it, and what the hypervisor has meanwhile.
    pub console_lent: Option<ConsoleLent>,
    /// The VMs, by id.
    pub vms: Vec<VmPlan>,
    /// What a user should know of it: which interrupt mode was chosen and why, ...
    pub notes: Vec<String>,
    /// Whether the platform lists no PCI functions, so that those of the file are planned without having been seen: for a look
    /// on a desk, not to be run.
    pub incomplete: bool,
}

/// The hypervisor's console, given to VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleLent {
    /// The device-tree path of the UART at which the hypervisor speaks while a VM has its console. `None`: what it says is kept in memory.
    pub aside: Option<String>,
}

/// What one VM gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPlan {
    /// Its id: its position in the system file.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Whether it starts at boot.
    pub autostart: bool,
    /// What a violation leads to.
    pub on_violation: ViolationPolicy,
    /// What follows when its guest resets itself.
    pub on_reset: AfterEnd,
    /// What follows when it ends otherwise than by powering itself off.
    pub on_crash: AfterEnd,
    /// Its emulated watchdog.
    pub watchdog: Option<WatchdogPlan>,
    /// How interrupts reach it.
    pub mode: VMInterruptMode,
    /// The message interrupts of the host's choice that are kept for its MSIs, of those that the host has for VMs: which, from 0 on.
    /// None where the hypervisor doesn't deliver them.
    pub messages: Range<u32>,
    /// Bytes that the host's tables for it take at most, for as long as it is there.
    pub table_bytes: u64,
    /// The vCPUs: the position is the `VcpuId`.
    pub cpus: Vec<VcpuPlan>,
    /// Guest-physical address bits of its second stage.
    pub address_bits: u8,
    /// RAM, in the guest's order.
    pub ram: Vec<RamPiece>,
    /// Registers that are mapped into the second stage from the start (BARs are not among them: the virtual host bridge maps
    /// them as the guest enables them).
    pub registers: Vec<RegisterPlan>,
    /// Ports that reach devices. Where a machine has ports, all others answer with ones, and take what is written to them.
    pub ports: Vec<PortPlan>,
    /// Devices, in the order of the system file. Each has its place whether the VM has it or not.
    pub devices: Vec<DevicePlan>,
    /// Where DMA may go beside RAM: doorbell pages.
    pub doorbells: Vec<Doorbell>,
    /// Wired interrupts.
    pub lines: Vec<LineRoute>,
    /// Whose numbers these, and the console's, have.
    pub line_numbers: LineNumbers,
    /// What only machines of this architecture have.
    pub machine: MachinePlan,
    /// The emulated console.
    pub console: Option<ConsolePlan>,
    /// The virtual host bridges.
    pub pci: Vec<PciPlan>,
    /// Where the images go.
    pub load: LoadPlan,
    /// What the guest is told of its machine (unless the file brings its own device tree).
    pub description: Description,
    /// What is copied into RAM beside the images: the same in bytes, and what else a kernel of this architecture is handed. Empty where the
    /// file brings its own device tree.
    #[serde(skip)]
    pub blobs: Vec<Blob>,
}

impl VmPlan {
    /// The devices that it has, with their positions.
    pub fn present(&self) -> impl Iterator<Item = (u16, &DevicePlan)> {
        (0..).zip(&self.devices).filter(|(_, device)| device.presence == Presence::Here)
    }

    /// What only aarch64 has.
    pub fn aarch64(&self) -> Option<&Aarch64Plan> {
        match &self.machine {
            MachinePlan::Aarch64(plan) => Some(plan),
            MachinePlan::X86_64(_) => None,
        }
    }

    /// What only x86_64 has.
    pub fn x86_64(&self) -> Option<&X86_64Plan> {
        match &self.machine {
            MachinePlan::X86_64(plan) => Some(plan),
            MachinePlan::Aarch64(_) => None,
        }
    }

    /// All registers that the hypervisor emulates for it, but for those of its devices.
    pub fn emulated(&self) -> Vec<Span<Gpa>> {
        let mut spans: Vec<Span<Gpa>> = self.machine.registers().into_iter().map(|one| one.span).collect();
        spans.extend(self.console.and_then(|console| console.at.registers()));
        spans.extend(self.watchdog.into_iter().flat_map(|watchdog| [watchdog.control, watchdog.refresh]));
        spans.extend(self.pci.iter().map(|bridge| bridge.ecam));
        spans.extend(self.pci.iter().filter_map(|bridge| bridge.port_memory));
        spans
    }

    /// The part that the core carries out, in the vocabulary of the AxVM family.
    pub fn config(&self) -> AxVMConfig {
        let line = |device| self.lines.iter().find(|line| line.device == device).map(|line| line.irq);
        let region = |block: &RegisterPlan| PassThroughDeviceConfig {
            name: self
                .devices
                .get(usize::from(block.device))
                .map_or_else(String::new, |device| device.name.clone()),
            base_gpa: block.gpa.start(),
            base_hpa: block.hpa,
            length: block.gpa.size(),
            irq: line(block.device),
        };
        AxVMConfig {
            name: self.name.clone(),
            cpus: self.cpus.iter().map(|vcpu| vcpu.cpu).collect(),
            interrupt_mode: self.mode,
            pass_through_devices: self.registers.iter().map(region).collect(),
        }
    }
}

/// A vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuPlan {
    /// The physical CPU that it has for itself.
    pub cpu: CpuId,
    /// What the guest knows it by.
    pub hardware_id: u64,
}

/// A piece of RAM, 2 MiB aligned on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamPiece {
    /// Where the guest sees it.
    pub gpa: Span<Gpa>,
    /// Where it is.
    pub hpa: Hpa,
}

/// A device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterPlan {
    /// The position in [`VmPlan::devices`].
    pub device: u16,
    /// Where the guest sees them.
    pub gpa: Span<Gpa>,
    /// Where they are.
    pub hpa: Hpa,
    /// Whether they are mapped (`true`) or each access exits and is forwarded.
    pub direct: bool,
    /// The access rights.
    pub flags: MappingFlags,
}

/// A device's ports. The guest sees them by the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// The position in [`VmPlan::devices`].
    pub device: u16,
    /// Which.
    pub ports: Ports,
    /// Whether the guest reaches them itself (`true`) or each access exits and is forwarded.
    pub direct: bool,
}

/// The physical thing that a device is. Names are for people: two VMs may call two regions the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceId {
    /// A PCI function.
    Function(PciAddress),
    /// A platform device, by its device-tree path.
    Node(String),
    /// Registers that the platform doesn't describe. No two devices' registers overlap, so that where they are says which.
    Registers(Span<Hpa>),
    /// The same, of ports.
    Ports(Ports),
}

/// Whether a VM has a device that its file names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It has.
    #[default]
    Here,
    /// It starts without: the device is another VM's, or nobody's.
    Away,
}

/// One assigned device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// The physical thing: what ownership goes by.
    pub id: DeviceId,
    /// What users know it by: a PCI address, a device-tree path or the name of a raw region. One in its VM, but not among all VMs.
    pub name: String,
    /// The PCI function, if it is one.
    pub pci: Option<PciAddress>,
    /// Where its VM sees the PCI function: on the root bus, at the same address if it is there.
    pub shown: Option<PciAddress>,
    /// Its isolation group, if it is a PCI function.
    pub group: Option<u32>,
    /// How it is reset before it changes hands; `None`: it isn't.
    pub reset: Option<ResetMethod>,
    /// Where its DMA arrives.
    pub sources: Vec<DmaSource>,
    /// Its MSIs.
    pub msi: Option<MsiPlan>,
    /// Whether it is a PCI function that may raise the line of its pin. If not, the line is kept turned off at the function.
    pub intx: bool,
    /// Whether the VM has it. Of one that is away nothing is said above but what it is.
    pub presence: Presence,
}

impl DevicePlan {
    /// Makes it one that its VM starts without: nothing is left that would reach it.
    pub(crate) fn leave(&mut self) {
        *self = Self {
            id: self.id.clone(),
            name: core::mem::take(&mut self.name),
            pci: None,
            shown: None,
            group: None,
            reset: None,
            sources: Vec::new(),
            msi: None,
            intx: false,
            presence: Presence::Away,
        };
    }
}

/// A device's MSIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiPlan {
    /// Where they arrive. The guest's own controller knows it by the same id.
    pub source: MsiSource,
    /// How many different ones it can send, at most.
    pub messages: u16,
}

/// A doorbell page in the DMA map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doorbell {
    /// The page where the guest's MSIs are sent.
    pub iova: Iova,
    /// The page of the host's that they reach there.
    pub hpa: Hpa,
}

/// Whose numbers a VM's lines have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineNumbers {
    /// The board's: a line that one VM has is no other's.
    #[default]
    Board,
    /// The guest's own, which say nothing of the board: each VM may have the same.
    Guest,
}

/// A wired interrupt. The guest sees the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRoute {
    /// The position in [`VmPlan::devices`].
    pub device: u16,
    /// Its number.
    pub irq: Irq,
    /// How it signals.
    pub trigger: Trigger,
    /// The vCPU that gets it until the guest routes it.
    pub vcpu: VcpuId,
    /// Whether it is masked while the guest serves it, in place of physically active: another VM could end an active state.
    pub masked: bool,
}

/// The emulated console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePlan {
    /// Where it answers.
    pub at: Place,
    /// Its line.
    pub irq: Irq,
}

/// An emulated watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogPlan {
    /// The page with its settings.
    pub control: Span<Gpa>,
    /// The page by which it is refreshed.
    pub refresh: Span<Gpa>,
    /// The line that says that half its time is over. None where lines are the board's own, as there would have to be one for it, and where
    /// guests aren't told of it.
    pub irq: Option<Irq>,
    /// What follows when its guest lets it expire.
    pub then: AfterEnd,
}

/// A virtual host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciPlan {
    /// The position in `Platform::pci_hosts`.
    pub host: usize,
    /// The config space.
    pub ecam: Span<Gpa>,
    /// The bus numbers shown.
    pub buses: PciBuses,
    /// Where BARs may be put.
    pub windows: Vec<PciWindow<Gpa>>,
    /// Where BARs of ports may be put, if a function has such: ports of the VM's by the same numbers.
    pub ports: Option<Ports>,
    /// In a machine that reaches no ports by instructions: where in memory these are, one after the other.
    pub port_memory: Option<Span<Gpa>>,
    /// The functions shown: positions in [`VmPlan::devices`].
    pub functions: Vec<u16>,
}

/// Bytes that are in a VM's RAM when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Where they begin.
    pub at: Gpa,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Where the images of a VM go, all in its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPlan {
    /// The kernel's first byte.
    pub kernel: Gpa,
    /// The first instruction.
    pub entry: Gpa,
    /// What the first vCPU is handed: where what it is told of its machine lies.
    pub argument: Gpa,
    /// The initial RAM disk.
    pub initrd: Option<Span<Gpa>>,
    /// The description of the machine, a device tree or ACPI's tables: where, and the most bytes it may have.
    pub description: Span<Gpa>,
}
