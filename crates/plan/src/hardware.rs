//! What the devices that the file gives to VMs are on this platform: what [`super::given`] and [`super::pci`] find, and what all later
//! stages go by.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{DmaSource, Gpa, Hpa, Irq, PAGE_SIZE, PciAddress, Ports, Span};
use axvm_pci::ResetMethod;
use axvm_platform::model::{Interrupt, PciDevice, PlatformDevice};

use super::findings::{DeviceRef, Findings, VmRef};
use super::machine::Machine;
use super::model::{DeviceId, MsiPlan};
use crate::problem::Rule;

/// A physical thing that can be given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Function(PciAddress),
    /// The position in `Platform::devices`.
    Device(usize),
}

/// A block of registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) gpa: Span<Gpa>,
    pub(super) hpa: Span<Hpa>,
    /// Whether the file asks for it to be mapped.
    pub(super) direct: bool,
}

impl Block {
    /// Whether it can be mapped: whole pages on both sides. What can't be is trapped, or neighbours would be handed over
    /// with it.
    pub(super) fn mappable(&self) -> bool {
        self.hpa.is_aligned(PAGE_SIZE) && self.gpa.is_aligned(PAGE_SIZE)
    }
}

/// What the later stages need to know beside what all kinds have.
pub(super) enum Kind<'a> {
    /// A PCI function at a host bridge (position), if the platform lists functions with its record.
    Pci {
        address: PciAddress,
        host: usize,
        /// Where its VM sees it: on the root bus.
        shown: PciAddress,
        function: Option<&'a PciDevice>,
        reset: Option<ResetMethod>,
    },
    Node(&'a PlatformDevice),
    Region,
    Ports,
}

/// Ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortBlock {
    pub(super) ports: Ports,
    /// Whether the guest is to reach them itself.
    pub(super) direct: bool,
}

/// What a device is on this platform.
pub(super) struct Hardware<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) things: Vec<Thing>,
    pub(super) blocks: Vec<Block>,
    pub(super) ports: Vec<PortBlock>,
    pub(super) lines: Vec<Interrupt>,
    pub(super) group: Option<u32>,
    pub(super) sources: Vec<DmaSource>,
    pub(super) msi: Option<MsiPlan>,
}

/// A device that a VM is given.
pub(super) struct Given<'a> {
    pub(super) vm: VmRef<'a>,
    pub(super) index: u16,
    pub(super) name: String,
    pub(super) hardware: Hardware<'a>,
    /// Whether it can't be given at all, whatever else is changed: what would follow from giving it isn't worth a line.
    pub(super) refused: bool,
}

impl Given<'_> {
    /// Whether it is a PCI function.
    pub(super) fn is_pci(&self) -> bool {
        matches!(self.hardware.kind, Kind::Pci { .. })
    }

    /// The physical thing that it is.
    pub(super) fn id(&self) -> DeviceId {
        match &self.hardware.kind {
            Kind::Pci { address, .. } => DeviceId::Function(*address),
            Kind::Node(node) => DeviceId::Node(node.path.clone()),
            Kind::Region | Kind::Ports => match self.hardware.ports.first() {
                Some(block) => DeviceId::Ports(block.ports),
                None => DeviceId::Registers(
                    self.hardware.blocks.first().map(|block| block.hpa).unwrap_or_default(),
                ),
            },
        }
    }

    /// How messages name it.
    pub(super) fn reference(&self) -> DeviceRef<'_> {
        DeviceRef { vm: self.vm, index: self.index, name: &self.name }
    }
}

/// Whether a line is one that can be routed to a guest.
pub(super) fn check_line(
    reference: DeviceRef<'_>,
    irq: Irq,
    key: &str,
    machine: Machine,
    findings: &mut Findings,
) -> bool {
    let is_routable = machine.lines().contains(&irq.0);
    if !is_routable {
        findings.device(
            reference,
            key,
            Rule::Interrupt,
            format_args!("its interrupt {irq} isn't {}: it can't be routed", machine.words().routable),
        );
    }
    is_routable
}
