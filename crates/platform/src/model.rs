//! What hardware there is: the plan's view of a machine.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Address, DmaSource, Hpa, IommuId, MsiSource, PciAddress, PciBuses, PciWindow, Span};
pub use axvm_addr::{Interrupt, Trigger};
use axvm_pci::{Function, Reach};
use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// A machine, as the device tree (later: ACPI) and PCI describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The root's `model`, or empty.
    pub model: String,
    /// The root's `compatible`: which board and which chip it is.
    pub compatible: Vec<String>,
    /// The CPUs, in the order of the device tree's cpu nodes: the position is the `CpuId`.
    pub cpus: Vec<Cpu>,
    /// RAM, in order, not overlapping.
    pub memory: Vec<Span<Hpa>>,
    /// What of RAM is not for guests: the hypervisor's image, heap and bundle, firmware's reservations.
    pub reserved: Vec<Reserved>,
    /// What else of the address space has an owner that AxVM doesn't drive.
    pub kept: Vec<Kept>,
    /// The device-tree path of the console (`/chosen/stdout-path`, alias resolved).
    pub console: Option<String>,
    /// The interrupt controller.
    pub irqchip: Option<Irqchip>,
    /// The interrupts of the CPUs' own timers. aarch64: secure, non-secure physical, virtual, hypervisor.
    pub timer: Vec<Interrupt>,
    /// Whom to ask for CPUs and power.
    pub firmware: Option<Firmware>,
    /// The IOMMUs: the position is the `IommuId`.
    pub iommus: Vec<Iommu>,
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
}

impl Platform {
    /// The GIC, on a machine that has one.
    pub fn gic(&self) -> Option<&Gic> {
        let Irqchip::Gic(gic) = self.irqchip.as_ref()?;
        Some(gic)
    }

    /// The GIC, to be changed.
    pub fn gic_mut(&mut self) -> Option<&mut Gic> {
        let Irqchip::Gic(gic) = self.irqchip.as_mut()?;
        Some(gic)
    }

    /// How PSCI is called, on a machine that has it.
    pub fn psci(&self) -> Option<PsciConduit> {
        let Firmware::Psci(conduit) = self.firmware?;
        Some(conduit)
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
    /// Its device-tree path.
    pub path: String,
    /// What the hardware knows it by. aarch64: MPIDR_EL1's affinity fields (`reg`).
    pub hardware_id: u64,
    /// Whether it can be started (`enable-method` is PSCI and `status` is okay).
    pub usable: bool,
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

/// Addresses that are neither memory nor registers of a device that the platform lists, and of which no guest gets any: the windows
/// of PCI hosts that AxVM doesn't drive, behind which there are devices that nobody has looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where.
    pub span: Span<Hpa>,
    /// Who has it, for messages: a device-tree path.
    pub owner: String,
}

/// Addresses on a bus that need not be the CPU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusSpan {
    /// The first.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
}

/// The firmware that starts CPUs and switches the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// PSCI, and how it is called.
    Psci(PsciConduit),
}

/// How PSCI is called (Arm DEN 0022, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PsciConduit {
    /// `smc`.
    Smc,
    /// `hvc`.
    Hvc,
}

/// A wired interrupt that isn't one of the interrupt controller's, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignInterrupt {
    /// It goes to another controller: its path.
    Elsewhere(String),
    /// It goes to the interrupt controller, but is none that its binding has.
    NoSuchLine,
    /// Where it goes can't be read: the property, or why.
    Unclear(String),
}

/// An interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Irqchip {
    /// A GICv3.
    Gic(Gic),
}

/// A GICv3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gic {
    /// Its device-tree path.
    pub path: String,
    /// The distributor's registers.
    pub distributor: Span<Hpa>,
    /// The redistributor regions.
    pub redistributors: Vec<Span<Hpa>>,
    /// `redistributor-stride`, or 0: as GICR_TYPER says.
    pub redistributor_stride: u64,
    /// GICC, GICH and GICV of a legacy-compatible GIC, to keep from guests.
    pub legacy: Vec<Span<Hpa>>,
    /// The maintenance interrupt.
    pub maintenance: Option<Interrupt>,
    /// `dma-noncoherent`: its redistributors' tables are accessed past the processors' caches.
    pub not_coherent: bool,
    /// Its ITSs.
    pub its: Vec<Its>,
    /// Whether it delivers LPIs to a virtual processor that runs, by GICv4.0: an ITS that maps events to virtual LPIs, and
    /// redistributors and CPU interfaces that take them. No device tree says it: `None` until the hardware has been asked.
    pub virtual_lpis: Option<bool>,
}

/// An ITS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Its {
    /// Its device-tree path.
    pub path: String,
    /// Its registers: the control frame and, 64 KiB on, the page with the doorbell GITS_TRANSLATER, whatever `reg` says of
    /// its size.
    pub registers: Span<Hpa>,
    /// `dma-noncoherent`: its tables are accessed past the processors' caches.
    pub not_coherent: bool,
    /// `socionext,synquacer-pre-its`: the window through which devices write to it. What stands before it takes a device's id
    /// from the address that the device has written to, so that each could send in the name of any other: such an ITS isn't
    /// used.
    pub pre_its: Option<Span<Hpa>>,
}

impl Its {
    /// The page with GITS_TRANSLATER, the second of its two frames (Arm IHI 0069, 12.18).
    pub fn doorbell(&self) -> Option<Hpa> {
        self.registers.start().checked_add(0x1_0000)
    }
}

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// Its device-tree path.
    pub path: String,
    /// Its registers.
    pub registers: Span<Hpa>,
    /// Whether its table walks are coherent (`dma-coherent`).
    pub coherent: bool,
    /// What it is, and what only such a one has.
    pub kind: IommuKind,
}

impl Iommu {
    /// Its lines, which are for whoever drives it.
    pub fn lines(&self) -> impl Iterator<Item = Interrupt> {
        let IommuKind::SmmuV3 { event_queue, global_error } = self.kind;
        event_queue.into_iter().chain(global_error)
    }

    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            IommuKind::SmmuV3 { .. } => "SMMU",
        }
    }
}

/// The kinds of IOMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IommuKind {
    /// An SMMUv3.
    SmmuV3 {
        /// The event queue's line (`eventq`).
        event_queue: Option<Interrupt>,
        /// The global error line (`gerror`).
        global_error: Option<Interrupt>,
    },
}

/// One entry of `iommu-map` or `msi-map`: requester ids from `first`, `count` of them, become ids from
/// `base` at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first requester id (after the map's mask).
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The position in [`Platform::iommus`] or [`Gic::its`]; `None`: it is none that the platform lists.
    pub target: Option<u16>,
    /// What `first` becomes.
    pub base: u32,
}

/// A PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciHost {
    /// Its device-tree path.
    pub path: String,
    /// Its segment (`linux,pci-domain`, else its position).
    pub segment: u16,
    /// The config space.
    pub ecam: Span<Hpa>,
    /// Its bus numbers.
    pub buses: PciBuses,
    /// Its windows.
    pub windows: Vec<PciWindow<Hpa>>,
    /// `dma-coherent`.
    pub coherent: bool,
    /// `iommu-map-mask`: what of a requester id `iommu_map` looks at.
    pub iommu_map_mask: u32,
    /// `iommu-map`.
    pub iommu_map: Vec<IdMapping>,
    /// `msi-map-mask`: what of a requester id `msi_map` looks at.
    pub msi_map_mask: u32,
    /// `msi-map`.
    pub msi_map: Vec<IdMapping>,
    /// `interrupt-map`, resolved.
    pub lines: Vec<PinRoute>,
}

/// Where the pin of a device on a root bus leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRoute {
    /// The device (slot) number.
    pub device: u8,
    /// The pin: 1 (INTA#) to 4 (INTD#).
    pub pin: u8,
    /// The line.
    pub line: Interrupt,
}

/// A PCI function with what the platform adds to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// The function itself.
    pub function: Function,
    /// The isolation group: functions with the same number can reach each other without passing the IOMMU.
    pub group: u32,
    /// Ways from it to others that made them its group.
    pub reaches: Vec<Reach>,
    /// The bridges above it, the nearest first.
    pub bridges: Vec<PciAddress>,
    /// Where its DMA arrives: one for each requester id that its requests may have, its own first. Empty: at least one of them
    /// passes no IOMMU.
    pub sources: Vec<DmaSource>,
    /// Where its MSIs arrive.
    pub msi: Option<MsiSource>,
    /// The line of its interrupt pin.
    pub line: Option<Interrupt>,
}

/// What a platform device needs from another one (`clocks`, `resets`, `*-supply`, `pinctrl-*`,
/// `power-domains`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The property that asks for it.
    pub property: String,
    /// The provider's device-tree path.
    pub path: String,
    /// Whether it is a fixed clock, which a guest's device tree can simply repeat.
    pub fixed_clock: Option<FixedClock>,
}

/// A `fixed-clock` node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedClock {
    /// Hz.
    pub frequency: u32,
    /// `clock-output-names`, the first, or empty.
    pub output_name: String,
}

/// A device of the platform, by its device-tree node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformDevice {
    /// Its device-tree path.
    pub path: String,
    /// `compatible`.
    pub compatible: Vec<String>,
    /// Whether `status` is okay or absent.
    pub enabled: bool,
    /// `reg`, translated to CPU addresses.
    pub registers: Vec<Span<Hpa>>,
    /// Entries of `reg`, on its own bus, that no CPU address leads to, or not to all in one piece. What of them the CPU
    /// reaches is among `registers`. Such a device can't be assigned: its guest would take one entry for another.
    pub lost: Vec<BusSpan>,
    /// Its lines.
    pub interrupts: Vec<Interrupt>,
    /// Lines that aren't the interrupt controller's. Such a device can't be assigned.
    pub foreign_interrupts: Vec<ForeignInterrupt>,
    /// `iommus`: where its DMA arrives.
    pub sources: Vec<DmaSource>,
    /// Whether it masters the bus: its node or one below says so, or it is of a kind of which that is known (virtio-mmio,
    /// fw_cfg); `None`: not known.
    pub bus_master: Option<bool>,
    /// `dma-coherent`.
    pub coherent: bool,
    /// What it depends on: it itself, the nodes below it, and the buses above.
    pub providers: Vec<Provider>,
    /// Whether nodes of other devices refer to it or to a node below it.
    pub referenced: bool,
    /// Whether it has `ranges`: its registers' addresses lead on to other devices.
    pub ranges: bool,
    /// Its other properties, as they are, for the guest's own node: without `reg`, `interrupts*`, `status`, `iommus` and
    /// references to providers. Phandles in them are those of nodes that are here too.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below it that are in use and aren't devices with registers of their own.
    pub children: Vec<ChildNode>,
}

/// A node below a device's: a part of that device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildNode {
    /// Its name, with the unit address.
    pub name: String,
    /// Its properties, as they are.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below it.
    pub children: Vec<ChildNode>,
}
