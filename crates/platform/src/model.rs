//! What hardware there is: the plan's view of a machine.

mod device;
mod firmware;
mod iommu;
mod irqchip;
mod pci;

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, IommuId, Ports, Span};
pub use axvm_addr::{Interrupt, Trigger};
use serde::{Deserialize, Serialize};

pub use device::{BusSpan, ChildNode, FixedClock, ForeignInterrupt, PlatformDevice, Provider};
pub use firmware::{
    AcpiFirmware, AcpiReset, Firmware, Place, PowerOff, PsciConduit, Register, SleepRegister,
};
pub use iommu::{FirmwareDma, IdMapping, Iommu, IommuKind, IommuScope, PciScope, PciStep};
pub use irqchip::{Apic, ApicLine, Gic, IoApic, Irqchip, IsaInterrupt, Its, Polarity};
pub use pci::{BridgeLines, PciDevice, PciHost, PinRoute};

use crate::limits::Limits;

/// A machine, as its device tree or ACPI, and PCI, describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The root's `model`, or empty. With ACPI: who made its tables, and what they call the machine.
    pub model: String,
    /// The root's `compatible`: which board and which chip it is.
    pub compatible: Vec<String>,
    /// The CPUs, in the order of the device tree's cpu nodes, or of the MADT's entries in use: the position is the `CpuId`.
    pub cpus: Vec<Cpu>,
    /// RAM, in order, not overlapping.
    pub memory: Vec<Span<Hpa>>,
    /// Which CPUs and which memory are near each other; empty where all are, or nobody says. With ACPI: what the SRAT says.
    pub proximity: Vec<Proximity>,
    /// What of RAM is not for guests: the hypervisor's image, heap and bundle, firmware's reservations.
    pub reserved: Vec<Reserved>,
    /// What else of the address space has an owner that AxVM doesn't drive.
    pub kept: Vec<Kept>,
    /// I/O ports that no guest gets: what is behind them moves the whole machine.
    pub kept_ports: Vec<KeptPorts>,
    /// Memory that firmware has devices reach by DMA.
    pub firmware_dma: Vec<FirmwareDma>,
    /// The path of the console among [`Platform::devices`] (`/chosen/stdout-path`, alias resolved; or what SPCR names, else the first
    /// serial port of a PC).
    pub console: Option<String>,
    /// The interrupt controller.
    pub irqchip: Option<Irqchip>,
    /// The interrupts of the CPUs' own timers. aarch64: secure, non-secure physical, virtual, hypervisor.
    pub timer: Vec<Interrupt>,
    /// Whom to ask for CPUs and power.
    pub firmware: Option<Firmware>,
    /// The IOMMUs: the position is the `IommuId`.
    pub iommus: Vec<Iommu>,
    /// What they serve that only enumeration finds.
    pub iommu_scopes: Vec<IommuScope>,
    /// PCI host bridges with a generic config space (ECAM).
    pub pci_hosts: Vec<PciHost>,
    /// PCI functions; `None` where nothing has enumerated them (a device tree alone doesn't tell).
    pub functions: Option<Vec<PciDevice>>,
    /// All other devices with registers.
    pub devices: Vec<PlatformDevice>,
    /// Physical address bits that every CPU and IOMMU reaches; 0: not known.
    pub address_bits: u8,
    /// What the host that carries plans out can't go beyond.
    pub limits: Limits,
    /// What of the description isn't understood, or contradicts itself, and what is done about it: for people.
    pub unclear: Vec<String>,
}

impl Platform {
    /// The GIC, on a machine that has one.
    pub fn gic(&self) -> Option<&Gic> {
        match self.irqchip.as_ref()? {
            Irqchip::Gic(gic) => Some(gic),
            Irqchip::Apic(_) => None,
        }
    }

    /// The GIC, to be changed.
    pub fn gic_mut(&mut self) -> Option<&mut Gic> {
        match self.irqchip.as_mut()? {
            Irqchip::Gic(gic) => Some(gic),
            Irqchip::Apic(_) => None,
        }
    }

    /// The APICs, on a machine that has such.
    pub fn apic(&self) -> Option<&Apic> {
        match self.irqchip.as_ref()? {
            Irqchip::Apic(apic) => Some(apic),
            Irqchip::Gic(_) => None,
        }
    }

    /// How PSCI is called, on a machine that has it.
    pub fn psci(&self) -> Option<PsciConduit> {
        match self.firmware? {
            Firmware::Psci(conduit) => Some(conduit),
            Firmware::Acpi(_) => None,
        }
    }

    /// ACPI's registers, on a machine that has such.
    pub fn acpi(&self) -> Option<AcpiFirmware> {
        match self.firmware? {
            Firmware::Acpi(firmware) => Some(firmware),
            Firmware::Psci(_) => None,
        }
    }

    /// The page to which devices send their MSIs, of each controller of message interrupts.
    pub fn doorbells(&self) -> impl Iterator<Item = Hpa> {
        self.gic().into_iter().flat_map(|gic| &gic.its).filter_map(Its::doorbell)
    }

    /// An IOMMU.
    pub fn iommu(&self, id: IommuId) -> Option<&Iommu> {
        self.iommus.get(usize::from(id.0))
    }
}

/// A CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its device-tree path. With ACPI: `apic`, and its local APIC's id.
    pub path: String,
    /// What the hardware knows it by. aarch64: MPIDR_EL1's affinity fields (`reg`). x86_64: its local APIC's id.
    pub hardware_id: u64,
    /// Whether it can be started (`enable-method` is PSCI and `status` is okay; the MADT calls it enabled).
    pub usable: bool,
}

/// CPUs and memory that are nearer to each other than to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proximity {
    /// Its number.
    pub domain: u32,
    /// The CPUs.
    pub cpus: Vec<CpuId>,
    /// Where its memory is. Not all of that need be memory.
    pub memory: Vec<Span<Hpa>>,
}

/// A part of RAM that no guest gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// Where.
    pub span: Span<Hpa>,
    /// Who has it, for messages.
    pub owner: String,
    /// Whether the hypervisor doesn't map it either: `no-map` (Devicetree Specification 0.4, 3.5.4), and memory whose node is
    /// disabled. A mapping as normal memory is enough for the CPU to read there by itself, which a carve-out of the firmware's
    /// can answer with an abort.
    pub no_map: bool,
}

/// Addresses that are neither memory nor registers of a device that the platform lists, and of which no guest gets any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where.
    pub span: Span<Hpa>,
    /// Why.
    pub what: KeptWhat,
    /// Who has it, for messages: a device-tree path, or a name with its article.
    pub owner: String,
}

/// Why addresses are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptWhat {
    /// A window of a PCI host that AxVM doesn't drive: behind it there are devices that nobody has looked at.
    PciWindow,
    /// The machine's own: firmware's, or of nobody that is known.
    Machine,
}

/// Ports that no guest gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPorts {
    /// Which.
    pub ports: Ports,
    /// What they are, with its article.
    pub owner: String,
}
