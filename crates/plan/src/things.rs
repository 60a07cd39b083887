//! What one VM has at a time, and what of it a VM has: with its CPUs and RAM, and with each of its devices.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use axvm_addr::{CpuId, DmaSource, Hpa, Irq, MsiSource, Ports, Span};
use serde::{Deserialize, Serialize};

use crate::model::{DeviceId, DevicePlan, LineNumbers, VmPlan};

/// Something that one VM has at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thing {
    /// A CPU.
    Cpu(CpuId),
    /// RAM.
    Ram(Span<Hpa>),
    /// A device.
    Device(DeviceId),
    /// Registers of a device.
    Registers(Span<Hpa>),
    /// Ports of a device.
    Ports(Ports),
    /// An isolation group.
    Group(u32),
    /// An id of a DMA master.
    Source(DmaSource),
    /// An id of who sends MSIs.
    Sender(MsiSource),
    /// A wired interrupt.
    Line(Irq),
    /// Message interrupts of the host's choice.
    Messages(Range<u32>),
}

impl Thing {
    /// Whether two are the same, or have something of each other.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ram(a) | Self::Registers(a), Self::Ram(b) | Self::Registers(b)) => a.overlaps(b),
            (Self::Ports(a), Self::Ports(b)) => a.overlaps(b),
            (Self::Messages(a), Self::Messages(b)) => a.start.max(b.start) < a.end.min(b.end),
            (a, b) => a == b,
        }
    }

    /// Whether it is what users name: the rest comes with that.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self, Self::Cpu(_) | Self::Ram(_) | Self::Device(_))
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(f, "CPU {cpu}"),
            Self::Ram(span) => write!(f, "RAM {span}"),
            Self::Device(DeviceId::Function(address)) => write!(f, "{address}"),
            Self::Device(DeviceId::Node(path)) => f.write_str(path),
            Self::Device(DeviceId::Registers(span)) | Self::Registers(span) => {
                write!(f, "the registers {span}")
            }
            Self::Device(DeviceId::Ports(ports)) | Self::Ports(ports) => write!(f, "the ports {ports}"),
            Self::Group(group) => write!(f, "a device of isolation group {group}"),
            Self::Source(source) => {
                write!(f, "a device with DMA id {:#x} of IOMMU {}", source.id.0, source.iommu)
            }
            Self::Sender(sender) => write!(f, "a device with MSI id {:#x}", sender.id.0),
            Self::Line(line) => write!(f, "interrupt {line}"),
            Self::Messages(_) => f.write_str("the message interrupts kept for it"),
        }
    }
}

/// What a VM has whatever devices it has.
pub fn things_of_vm(vm: &VmPlan) -> Vec<Thing> {
    let mut things: Vec<Thing> = vm.cpus.iter().map(|vcpu| Thing::Cpu(vcpu.cpu)).collect();
    let ram = vm.ram.iter().filter_map(|piece| Span::new(piece.hpa, piece.gpa.size()).ok());
    things.extend(ram.map(Thing::Ram));
    if !vm.messages.is_empty() {
        things.push(Thing::Messages(vm.messages.clone()));
    }
    let physical = vm.console.filter(|_| vm.machine.console_has_a_line(vm.mode));
    let physical = physical.filter(|_| vm.line_numbers == LineNumbers::Board);
    things.extend(physical.map(|console| Thing::Line(console.irq)));
    things
}

/// What a VM has with these of its devices, by their positions.
pub fn things_of_devices(vm: &VmPlan, devices: &[u16]) -> Vec<Thing> {
    let mut things = Vec::new();
    for (position, device) in held(vm, devices) {
        things.push(Thing::Device(device.id.clone()));
        things.extend(device.group.map(Thing::Group));
        things.extend(device.sources.iter().copied().map(Thing::Source));
        things.extend(device.msi.map(|msi| Thing::Sender(msi.source)));
        for block in vm.registers.iter().filter(|block| block.device == position) {
            let span = Span::new(block.hpa, block.gpa.size()).unwrap_or_default();
            things.push(Thing::Registers(if block.direct { span.to_pages() } else { span }));
        }
        let ports = vm.ports.iter().filter(|block| block.device == position);
        things.extend(ports.map(|block| Thing::Ports(block.ports)));
    }
    if vm.line_numbers == LineNumbers::Board {
        let lines =
            vm.lines.iter().filter(|route| holder_of_line(vm, devices, route.irq, route.device).is_some());
        things.extend(lines.map(|route| Thing::Line(route.irq)));
    }
    things
}

/// These devices of a VM, with their positions.
pub(crate) fn held<'a>(vm: &'a VmPlan, devices: &'a [u16]) -> impl Iterator<Item = (u16, &'a DevicePlan)> {
    (0..).zip(&vm.devices).filter(|(position, _)| devices.contains(position))
}

/// Which of these devices of a VM has a line; `None`, if none of them has. The description says which have it; of registers that the
/// platform doesn't know it isn't known of each, so that a VM with any has all lines.
pub(crate) fn holder_of_line(vm: &VmPlan, devices: &[u16], irq: Irq, first: u16) -> Option<u16> {
    if devices.contains(&first) {
        return Some(first);
    }
    let pins = || vm.description.pci.iter().flat_map(|bridge| &bridge.lines);
    let mut nodes = vm.description.devices.iter();
    let has_it = (0..).zip(&vm.devices).filter(|(_, device)| match device.id {
        DeviceId::Function(_) => pins().any(|pin| Some(pin.function) == device.shown && pin.line.irq == irq),
        DeviceId::Node(_) => {
            nodes.next().is_some_and(|node| node.interrupts.iter().any(|line| line.irq == irq))
        }
        DeviceId::Registers(_) | DeviceId::Ports(_) => true,
    });
    let has_it: Vec<u16> = has_it.map(|(position, _)| position).collect();
    has_it.into_iter().find(|position| devices.contains(position))
}
