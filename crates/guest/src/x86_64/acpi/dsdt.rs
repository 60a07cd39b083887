//! The DSDT: devices, and what switches the machine off.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, CreateDWordField, Device, EISAName, Else, Equal, If, Method, Name, NotEqual, Or, Package,
    PackageBuilder, Path, Return, Scope, Uuid, ZERO,
};
use axvm_addr::{Interrupt, PciSpace, Ports, Trigger};

use super::resources::{Done, Resources};
use super::{AcpiWriteError, aml, table};
use crate::description::{
    AcpiDescription, ConsoleDescription, Description, DeviceDescription, PciDescription,
};

/// What kinds of devices are called.
const PCIE_HOST: &str = "PNP0A08";
const PCI_HOST: &str = "PNP0A03";
const BOARD: &str = "PNP0C02";
const UART: &str = "PNP0501";

/// The way to config space by ports (PCI 3.0, 3.2.2.3.2), which the first host bridge has.
const CONFIG_PORTS: (u16, u32) = (0xcf8, 8);

pub(super) fn write(description: &Description, acpi: &AcpiDescription) -> Result<Vec<u8>, AcpiWriteError> {
    let mut devices: Vec<Done> = Vec::new();
    devices.push(board(description, acpi)?);
    for (number, host) in (0..).zip(&description.pci) {
        devices.push(pci_host(number, host)?);
    }
    if let Some(console) = &description.console
        && let Some(ports) = console.at.ports()
    {
        devices.push(uart(console, ports));
    }
    for (number, device) in (0..).zip(&description.devices) {
        devices.push(given(number, device)?);
    }
    let inside = devices.iter().map(|device| device as &dyn Aml).collect();
    let mut dsdt = table(*b"DSDT", 2);
    // In one piece: each piece has the checksum computed anew.
    let mut code = aml(&Scope::new(Path::new("\\_SB_"), inside));
    code.extend(off(acpi));
    dsdt.append_slice(&code);
    Ok(dsdt.as_slice().to_vec())
}

/// `\_S5`: what is written to PM1a_CNT so that the power goes off (7.4.2.6).
fn off(acpi: &AcpiDescription) -> Vec<u8> {
    let state = acpi.power.s5;
    aml(&Name::new(Path::new("_S5_"), &Package::new(alloc::vec![&state, &state, &ZERO, &ZERO])))
}

/// A device of this name, with what it has.
fn device(name: &str, parts: &[&dyn Aml]) -> Done {
    Done(aml(&Device::new(Path::new(name), parts.to_vec())))
}

fn named(name: &str, value: &dyn Aml) -> Done {
    Done(aml(&Name::new(Path::new(name), value)))
}

/// What the machine has that no driver asks for: config space, of which Linux uses none that isn't kept here, and the ports of power.
fn board(description: &Description, acpi: &AcpiDescription) -> Result<Done, AcpiWriteError> {
    let mut resources = Resources::default();
    for host in &description.pci {
        resources.registers(host.ecam)?;
    }
    let power = &acpi.power;
    for ports in [power.event, power.control, power.timer, Ports::one(power.reset)] {
        resources.ports(ports);
    }
    let (id, uid) = (named("_HID", &EISAName::new(BOARD)), named("_UID", &ZERO));
    Ok(device("MBRD", &[&id, &uid, &named("_CRS", &resources.template())]))
}

fn uart(console: &ConsoleDescription, ports: Ports) -> Done {
    let mut resources = Resources::default();
    resources.ports(ports);
    resources.line(Interrupt { irq: console.irq, trigger: Trigger::Edge });
    let (id, uid) = (named("_HID", &EISAName::new(UART)), named("_UID", &ZERO));
    device("CON0", &[&id, &uid, &named("_CRS", &resources.template())])
}

fn pci_host(number: u16, host: &PciDescription) -> Result<Done, AcpiWriteError> {
    let mut resources = Resources::default();
    resources.buses(host.buses);
    if number == 0 {
        let (first, count) = CONFIG_PORTS;
        Ports::of(first, count).into_iter().for_each(|ports| resources.ports(ports));
    }
    host.ports.into_iter().for_each(|ports| resources.port_window(ports));
    for window in host.windows.iter().filter(|window| window.space != PciSpace::Io) {
        resources.memory_window(window.cpu, window.pci, window.prefetchable)?;
    }
    let names = [
        named("_HID", &EISAName::new(PCIE_HOST)),
        named("_CID", &EISAName::new(PCI_HOST)),
        named("_UID", &number),
        named("_SEG", &host.segment),
        named("_BBN", &host.buses.first),
        // All that is below it is at DMA as coherent as it is.
        named("_CCA", &u8::from(host.coherent)),
        named("_CRS", &resources.template()),
        named("_PRT", &pins(host)?),
        control(),
    ];
    let parts: Vec<&dyn Aml> = names.iter().map(|name| name as &dyn Aml).collect();
    Ok(device(&format!("PC{number:02X}"), &parts))
}

/// `_PRT` (6.2.13): the line of each pin. All functions in a slot share its pins.
fn pins(host: &PciDescription) -> Result<PackageBuilder, AcpiWriteError> {
    let mut all = PackageBuilder::new();
    let mut said: Vec<(u8, u8, axvm_addr::Irq)> = Vec::new();
    for pin in &host.lines {
        let (slot, irq) = (pin.function.device(), pin.line.irq);
        match said.iter().find(|(other, number, _)| (*other, *number) == (slot, pin.pin)) {
            Some((.., first)) if *first == irq => continue,
            Some(&(.., first)) => {
                return Err(AcpiWriteError::Pin {
                    function: pin.function,
                    pin: pin.pin,
                    lines: [first, irq],
                });
            }
            None => said.push((slot, pin.pin, irq)),
        }
        // The package counts its elements by a byte, which 32 slots of four pins never fill.
        let slot = u32::from(slot) << 16 | 0xffff;
        all.add_element(&Package::new(alloc::vec![&slot, &pin.pin.saturating_sub(1), &ZERO, &irq.0]));
    }
    Ok(all)
}

/// `_OSC` (6.2.11) of a PCI host bridge: the operating system has the PCI Express capabilities to itself, and nothing else, of which the bridge
/// has nothing.
fn control() -> Done {
    let (one, three) = (Path::new("CDW1"), Path::new("CDW3"));
    let answer = Arg(3);
    let first = CreateDWordField::new(&one, &answer, &ZERO);
    let third = CreateDWordField::new(&three, &answer, &8u8);
    let pci = Uuid::new("33DB4D5B-1FF7-401C-9657-7441C03DD766");
    let (ours, version) = (Equal::new(&Arg(0), &pci), NotEqual::new(&Arg(1), &1u8));
    // "Unrecognized revision", "capabilities masked", "unrecognized UUID".
    let unknown_revision = Or::new(&one, &one, &8u8);
    let revision = If::new(&version, alloc::vec![&unknown_revision]);
    let granted = And::new(&three, &three, &CAPABILITIES);
    let beyond = And::new(&ZERO, &three, &!CAPABILITIES);
    let masked = Or::new(&one, &one, &0x10u8);
    let has_beyond = If::new(&beyond, alloc::vec![&masked]);
    let yes = If::new(&ours, alloc::vec![&third, &revision, &has_beyond, &granted]);
    let unknown = Or::new(&one, &one, &4u8);
    let no = Else::new(alloc::vec![&unknown]);
    let back = Return::new(&answer);
    Done(aml(&Method::new(Path::new("_OSC"), 4, true, alloc::vec![&first, &yes, &no, &back])))
}

/// PCI Express capability structure control (PCI Firmware 3.3, table 4-6).
const CAPABILITIES: u32 = 1 << 4;

/// A device that the guest is given.
fn given(number: u16, description: &DeviceDescription) -> Result<Done, AcpiWriteError> {
    let mut resources = Resources::default();
    description.ports.iter().for_each(|&ports| resources.ports(ports));
    for &span in &description.registers {
        resources.registers(span)?;
    }
    description.interrupts.iter().for_each(|&line| resources.line(line));
    let mut names = Vec::new();
    let mut ids = description.ids.iter();
    if let Some(id) = ids.next() {
        names.push(named("_HID", &*hardware_id(&description.name, id)?));
    }
    if let Some(id) = ids.next() {
        names.push(named("_CID", &*hardware_id(&description.name, id)?));
    }
    if number > 0xfff {
        return Err(AcpiWriteError::TooMuch("it has more platform devices than there are names for"));
    }
    // 0 is the emulated console's.
    names.push(named("_UID", &(number + 1)));
    names.push(named("_CRS", &resources.template()));
    let parts: Vec<&dyn Aml> = names.iter().map(|name| name as &dyn Aml).collect();
    Ok(device(&format!("D{number:03X}"), &parts))
}

/// An id as AML has it (6.1.5): those of seven characters are packed.
fn hardware_id(device: &str, id: &str) -> Result<alloc::boxed::Box<dyn Aml>, AcpiWriteError> {
    let (maker, product) = id.split_at_checked(id.len().saturating_sub(4)).unwrap_or(("", ""));
    let is_product =
        product.len() == 4 && product.bytes().all(|it| it.is_ascii_digit() || (b'A'..=b'F').contains(&it));
    let is_letter = |it: u8| it.is_ascii_uppercase();
    match maker.len() {
        3 if is_product && maker.bytes().all(is_letter) => Ok(alloc::boxed::Box::new(EISAName::new(id))),
        4 if is_product && maker.bytes().all(|it| is_letter(it) || it.is_ascii_digit()) => {
            Ok(alloc::boxed::Box::new(String::from(id)))
        }
        _ => Err(AcpiWriteError::Id { device: device.to_string(), id: id.to_string() }),
    }
}
