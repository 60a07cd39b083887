//! Devices beside PCI, by AML; and what is the machine's own among them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Hpa, Ports, Span};
use axvm_aml::resource::{Range, Resource};

use super::names::{Named, Names, Presence, Said};
use super::pci::{HOST_BRIDGES, Notes, lines};
use crate::model::{Apic, ForeignInterrupt, Kept, KeptPorts, KeptWhat, PlatformDevice};

/// What isn't a device to be given: links, processors and what holds them, buttons, sleep.
const NOT_DEVICES: [&str; 7] =
    ["PNP0C0F", "ACPI0007", "ACPI0010", "PNP0C0C", "PNP0C0D", "PNP0C0E", "PNP0C80"];
/// What moves the whole machine: the mainboard's own, containers of them, interrupt controllers, timers, DMA controllers, the bus itself,
/// the embedded controller, the keyboard controller's kin aside.
const MACHINE: [&str; 17] = [
    "PNP0C01", "PNP0C02", "PNP0A05", "PNP0A06", "ACPI0006", "PNP0000", "PNP0001", "PNP0003", "PNP0100",
    "PNP0102", "PNP0103", "PNP0200", "PNP0800", "PNP0C04", "PNP0C08", "PNP0C09", "PNP0A00",
];
/// Those that are known not to master the bus: serial ports, clocks, keyboard and mouse.
const NO_MASTERS: [&str; 9] =
    ["PNP0500", "PNP0501", "PNP0B00", "PNP0B01", "PNP0B02", "PNP0303", "PNP030B", "PNP0F03", "PNP0F13"];
/// Those that are known to: QEMU's fw_cfg.
const MASTERS: [&str; 1] = ["QEMU0002"];

/// What a PC calls a device: by its hardware ids, and by its first port, unless that doesn't matter.
const LEGACY: [(&[&str], Option<u16>, &str); 9] = [
    (&["PNP0500", "PNP0501"], Some(0x3f8), "com1"),
    (&["PNP0500", "PNP0501"], Some(0x2f8), "com2"),
    (&["PNP0500", "PNP0501"], Some(0x3e8), "com3"),
    (&["PNP0500", "PNP0501"], Some(0x2e8), "com4"),
    (&["PNP0B00", "PNP0B01", "PNP0B02"], Some(0x70), "rtc"),
    (&["PNP0303", "PNP030B"], Some(0x60), "keyboard"),
    (&["PNP0F03", "PNP0F13"], None, "mouse"),
    (&["PNP0400", "PNP0401"], Some(0x378), "lpt1"),
    (&["PNP0700", "PNP0604"], Some(0x3f0), "floppy"),
];

/// What `_CRS` says of places.
#[derive(Default)]
struct Places {
    registers: Vec<Span<Hpa>>,
    ports: Vec<Ports>,
    /// Something of it isn't understood.
    lost: Vec<String>,
}

impl Places {
    /// What a device has; of the mainboard's own what it hands on too.
    fn read(resources: &[Resource], is_machine: bool) -> Self {
        let mut places = Self::default();
        for resource in resources {
            match resource {
                // What it hands on is for what is below.
                Resource::Memory { range, .. } | Resource::PortRange { range, .. }
                    if range.produced && !is_machine => {}
                Resource::Memory { range, .. } => places.memory(range),
                Resource::Ports { count: 0, .. } => {}
                Resource::Ports { first, last, count } => match Ports::of(*first, (*count).into()) {
                    // Where it can begin at several ports, which it is isn't said.
                    Some(ports) if first == last => places.ports.push(ports),
                    _ => places.lost.push("its ports can be moved".to_string()),
                },
                Resource::PortRange { range, translated } => {
                    let ports = u16::try_from(range.first).ok().zip(u32::try_from(range.length).ok());
                    match ports.and_then(|(first, count)| Ports::of(first, count)) {
                        Some(ports) if !translated => places.ports.push(ports),
                        _ => places.lost.push("its ports aren't the CPU's".to_string()),
                    }
                }
                Resource::Irq { .. } | Resource::Interrupt { .. } | Resource::Buses(_) => {}
                // ISA's DMA, vendors' own.
                Resource::Other(0x05 | 0x0e | 0x84) => {}
                Resource::Other(tag) => {
                    places.lost.push(format!("a resource of a kind that isn't known ({tag:#x})"))
                }
            }
        }
        places
    }

    fn memory(&mut self, range: &Range) {
        let start = range.first.checked_add(range.translation);
        match start.and_then(|start| Span::new(Hpa(start), range.length).ok()) {
            Some(span) if span.is_empty() => {}
            Some(span) => self.registers.push(span),
            None => self.lost.push("registers past the end of all addresses".to_string()),
        }
    }
}

/// The devices, and the ports of what isn't one.
pub(super) fn devices(
    all: &[Named],
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> (Vec<PlatformDevice>, Vec<KeptPorts>) {
    let (mut devices, mut kept_ports): (Vec<PlatformDevice>, Vec<KeptPorts>) = (Vec::new(), Vec::new());
    for named in all {
        let Presence::Present { enabled } = named.presence else { continue };
        if named.ids.is_empty() || named.is(&HOST_BRIDGES) || named.is(&NOT_DEVICES) {
            continue;
        }
        let is_machine = named.is(&MACHINE);
        let (resources, unclear) = match names.resources(named.id, b"_CRS") {
            Said::Nothing => continue,
            Said::Sure(resources) => (resources, None),
            Said::Unclear(why) => (Vec::new(), Some(why)),
        };
        let places = Places::read(&resources, is_machine);
        let unclear = unclear.or_else(|| places.lost.first().cloned());
        if is_machine {
            let owner = format!("the mainboard's own ({})", named.path);
            if let Some(why) = unclear {
                notes.unclear.push(format!("{}, which is the mainboard's own: {why}", named.path));
            }
            let keep = |span| Kept { span, what: KeptWhat::Machine, owner: owner.clone() };
            notes.kept.extend(places.registers.into_iter().map(keep));
            let keep = |ports| KeptPorts { ports, owner: owner.clone() };
            kept_ports.extend(places.ports.into_iter().map(keep));
            continue;
        }
        let mut interrupts = Vec::new();
        for line in resources.iter().flat_map(|resource| lines(resource, apic)) {
            interrupts.push(line.line);
            let known = notes.lines.iter().any(|it| it.line.irq == line.line.irq);
            if !known && resources.iter().any(|it| matches!(it, Resource::Interrupt { .. })) {
                notes.lines.push(line);
            }
        }
        let path =
            legacy_name(named, &places.ports).filter(|name| !devices.iter().any(|it| it.path == *name));
        devices.push(PlatformDevice {
            path: path.map_or_else(|| named.path.clone(), ToString::to_string),
            compatible: named.ids.clone(),
            enabled,
            registers: places.registers,
            ports: places.ports,
            interrupts,
            // What isn't known of it can't be given away with it.
            foreign_interrupts: unclear.map(ForeignInterrupt::Unclear).into_iter().collect(),
            bus_master: if named.is(&NO_MASTERS) {
                Some(false)
            } else if named.is(&MASTERS) {
                Some(true)
            } else {
                None
            },
            coherent: true,
            ..PlatformDevice::default()
        });
    }
    (devices, kept_ports)
}

fn legacy_name(named: &Named, ports: &[Ports]) -> Option<&'static str> {
    let found = LEGACY.iter().find(|(ids, port, _)| {
        let at = port.is_none_or(|port| ports.first().is_some_and(|ports| ports.first() == port));
        at && named.is(ids)
    });
    found.map(|&(_, _, name)| name)
}
