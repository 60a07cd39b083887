//! Reads ACPI's tables and what AML says besides into a [`Platform`]: an x86 machine.
//!
//! What isn't understood is never taken for absent. A table that the hypervisor rests on (CPUs and interrupt controllers, IOMMUs, PCI's
//! config space, power) makes all of it unusable if it is damaged. What AML computes from registers, which it can't read here, isn't
//! known: a window or a line like that isn't used, a device whose resources come of it can't be given away, and
//! [`Platform::unclear`] says so.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_acpi::dmar::Dmar;
use axvm_acpi::fadt::Fadt;
use axvm_acpi::hpet::Hpet;
use axvm_acpi::ivrs::Ivrs;
use axvm_acpi::madt::Madt;
use axvm_acpi::spcr::Spcr;
use axvm_acpi::srat::Srat;
use axvm_acpi::{Error, Space, mcfg};
pub use axvm_acpi::{Memory, Signature, Table, Tables};
use axvm_addr::{Hpa, PciAddress, Ports, Span};

mod cpus;
mod devices;
pub mod dump;
mod firmware;
pub mod handed;
mod iommu;
mod memory_map;
mod names;
pub mod outline;
mod pci;
mod routing;

pub use memory_map::{MemoryKind, MemoryMap, MemoryRange};
pub use routing::Lead;

use names::Names;
use pci::Notes;

use crate::limits::Limits;
use crate::model::{Firmware, IdMapping, Iommu, Irqchip, Kept, KeptWhat, Platform, PlatformDevice, Reserved};

/// ACPI's tables that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// A table that can't be read.
    #[error(transparent)]
    Table(#[from] Error),
    /// A table without which there is no machine.
    #[error("there is no ACPI table {0}, which says {1}")]
    Missing(&'static str, &'static str),
    /// Both AMD's and Intel's IOMMUs.
    #[error("there are both an IVRS and a DMAR: whose IOMMUs the machine has isn't clear")]
    TwoMakers,
}

/// Tables that must be whole, if they are there.
const NEEDED: [&[u8; 4]; 6] = [b"APIC", b"FACP", b"IVRS", b"DMAR", b"MCFG", b"DSDT"];
/// Where the MSIs of all devices go, and each CPU sees its local APIC.
const MESSAGES: (u64, u64) = (0xfee0_0000, 0x10_0000);
/// Bytes of an HPET's registers.
const HPET_SIZE: u64 = 1 << 10;
/// Interrupt vectors' and firmware's own data, of before there was ACPI.
const LOWEST: (u64, u64) = (0, 0x1000);

/// Who answers when AML asks PCI's config space: so many bytes (1, 2 or 4, at a multiple of them) of a function's, by its address at the
/// time. All ones where there is no such function; `None`: there is no answer.
pub type AskConfig<'a> = &'a dyn Fn(PciAddress, u16, u8) -> Option<u64>;

/// Config space of which nothing is known.
pub fn no_config(_: PciAddress, _: u16, _: u8) -> Option<u64> {
    None
}

/// The chipset of the machine that this runs on. Whatever answers for config space is one on which nothing can be written.
pub trait Chipset {
    /// Bytes of config space, as of [`AskConfig`].
    fn config(&self, function: PciAddress, offset: u16, bytes: u8) -> Option<u64>;

    /// Writes a register that leads PCI's lines to I/O APICs. Gives whether it is done.
    fn lead(&self, lead: Lead) -> bool {
        let _ = lead;
        false
    }
}

impl<T: Fn(PciAddress, u16, u8) -> Option<u64>> Chipset for T {
    fn config(&self, function: PciAddress, offset: u16, bytes: u8) -> Option<u64> {
        self(function, offset, bytes)
    }
}

/// What AML asks is answered from these.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Memory, as far as it is firmware's own.
    memory: Option<&'a dyn Memory>,
    chipset: &'a dyn Chipset,
    /// Whether it is this machine's, not another's that was recorded.
    is_here: bool,
    /// Windows of host bridges, for those whose AML doesn't say them without firmware's memory.
    windows: &'a [KnownWindow],
}

/// A window of a host bridge that somebody else has found out: Linux, which could ask for all that AML asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownWindow {
    /// The bridge's segment, and its root bus.
    segment: u16,
    bus: u8,
    span: Span<Hpa>,
}

/// Reads the tables of the machine that this runs on, and tells firmware that its I/O APICs are used: what that has to write for it goes to
/// the chipset.
///
/// # Errors
///
/// [`AcpiError`] names the table that can't be used.
pub fn read(
    memory: &impl Memory,
    rsdp: Hpa,
    map: &MemoryMap<'_>,
    chipset: &dyn Chipset,
) -> Result<Platform, AcpiError> {
    let tables = Tables::read(memory, rsdp)?;
    let dsdt = match tables.find(b"FACP") {
        Some(fadt) => Some(Fadt::read(fadt)?.dsdt(memory)?),
        None => None,
    };
    let mut places = Vec::new();
    outline::tables(memory, rsdp, &mut |span| places.push(span))?;
    let mut platform = assemble(
        &tables,
        dsdt.as_ref(),
        &map.ranges(),
        Asked { memory: Some(memory), chipset, is_here: true, windows: &[] },
    )?;
    let in_ram = |span: &Span<Hpa>| platform.memory.iter().any(|memory| memory.overlaps(span));
    let tables = places.into_iter().filter(in_ram).map(|span| reserved(span, "ACPI's tables"));
    let tables: Vec<Reserved> = tables.collect();
    platform.reserved.extend(tables);
    Ok(platform)
}

/// Reads tables that were dumped: those, the DSDT among them, the memory map, and PCI's config space, as far as these are known.
///
/// # Errors
///
/// [`AcpiError`] names the table that can't be used.
pub fn read_dump(tables: &Tables, map: &[MemoryRange], config: AskConfig<'_>) -> Result<Platform, AcpiError> {
    let asked = Asked { memory: None, chipset: &config, is_here: false, windows: &[] };
    assemble(tables, tables.find(b"DSDT"), map, asked)
}

/// Whether a damaged table is one that must be whole.
fn is_needed(damaged: &Error) -> bool {
    let table = match damaged {
        Error::Checksum { table, .. } | Error::Short { table, .. } => table,
        _ => return false,
    };
    NEEDED.iter().any(|needed| table.0 == **needed)
}

fn reserved(span: Span<Hpa>, owner: &str) -> Reserved {
    Reserved { span, owner: owner.to_string(), no_map: false }
}

fn assemble(
    tables: &Tables,
    dsdt: Option<&Table>,
    ranges: &[MemoryRange],
    asked: Asked<'_>,
) -> Result<Platform, AcpiError> {
    let mut unclear: Vec<String> = Vec::new();
    for damaged in tables.damaged() {
        match is_needed(damaged) {
            true => return Err((*damaged).into()),
            false => unclear.push(damaged.to_string()),
        }
    }
    let madt = tables
        .find(b"APIC")
        .ok_or(AcpiError::Missing("APIC", "which CPUs and interrupt controllers there are"))?;
    let fadt = tables.find(b"FACP").ok_or(AcpiError::Missing("FACP", "how the machine is switched off"))?;
    let (model, compatible) = model(fadt);
    let (madt, fadt) = (Madt::read(madt)?, Fadt::read(fadt)?);
    let mut found = match (tables.find(b"IVRS"), tables.find(b"DMAR")) {
        (Some(_), Some(_)) => return Err(AcpiError::TwoMakers),
        (Some(ivrs), None) => iommu::amd(&Ivrs::read(ivrs)?),
        (None, Some(dmar)) => iommu::intel(&Dmar::read(dmar)?),
        (None, None) => iommu::Found::default(),
    };
    let allocations = match tables.find(b"MCFG") {
        Some(table) => mcfg::read(table)?,
        None => {
            unclear.push(
                "there is no MCFG: PCI's config space isn't known, and no function can be given".into(),
            );
            Vec::new()
        }
    };
    let mut apic = cpus::apic(&madt);
    apic.no_x2apic = found.no_x2apic;
    for io_apic in &mut apic.io_apics {
        let source = found.io_apics.iter().find(|(id, _)| *id == io_apic.id);
        io_apic.source = source.map(|(_, source)| *source);
    }
    found.distrust_remapping(&apic);
    unclear.append(&mut found.unclear);
    let ssdts: Vec<&Table> =
        tables.all().iter().filter(|table| matches!(&table.signature().0, b"SSDT" | b"PSDT")).collect();
    let mut names = Names::load(dsdt, &ssdts, ranges, asked, &allocations, &mut unclear);
    let named = names.devices();
    let ram = memory_map::memory(ranges);
    let mut notes = Notes { memory: &ram, kept: memory_map::kept(ranges), lines: Vec::new(), unclear };
    let mut pci_hosts = pci::hosts(&allocations, &named, &mut names, &apic, &mut notes);
    let (mut devices, machine_ports) = devices::devices(&named, &mut names, &apic, &mut notes);
    let Notes { mut kept, lines, mut unclear, .. } = notes;
    apic.lines = lines;
    for host in &mut pci_hosts {
        let of_it = found.mappings.iter().filter(|it| it.segment == host.segment);
        host.iommu_map = of_it.map(|it| it.ids).collect();
        host.msi_map = host.iommu_map.iter().map(|ids| messages(*ids, &found.iommus)).collect();
    }

    let (block_ports, blocks) = firmware::blocks(&fadt);
    let mut kept_ports = firmware::pc_ports();
    kept_ports.extend(block_ports);
    kept_ports.extend(machine_ports);
    kept.extend(blocks);
    let mut keep = |at: u64, size: u64, owner: &str| {
        let span = Span::new(Hpa(at), size).ok();
        kept.extend(span.map(|span| Kept { span, what: KeptWhat::Machine, owner: owner.to_string() }));
    };
    keep(MESSAGES.0, MESSAGES.1, "the local APICs and the messages to them");
    if let Some(hpet) = tables.find(b"HPET")
        && let Some(at) = Hpet::read(hpet)?.registers.filter(|at| at.space == Space::Memory)
    {
        keep(at.address, HPET_SIZE, "the HPET");
    }
    let mut taken = Vec::new();
    taken.extend(Span::new(Hpa(LOWEST.0), LOWEST.1).map(|span| reserved(span, "firmware's data")));
    for region in &found.firmware_dma {
        taken.push(reserved(region.span, "memory that firmware has devices reach"));
    }
    let s5 = names.s5(&mut unclear);
    let power = firmware::firmware(&fadt, s5, &apic);
    let console = console(tables, &mut devices, &mut unclear);
    let cpus = cpus::cpus(&madt);
    let srat = tables.find(b"SRAT").map(Srat::read).unwrap_or_else(|| Ok(Srat::default()));
    let proximity = match srat {
        Ok(srat) => cpus::proximity(&srat, &cpus),
        Err(error) => {
            unclear.push(error.to_string());
            Vec::new()
        }
    };
    Ok(Platform {
        model,
        compatible,
        cpus,
        memory: ram,
        proximity,
        reserved: taken,
        kept,
        kept_ports,
        firmware_dma: found.firmware_dma,
        console,
        irqchip: Some(Irqchip::Apic(apic)),
        timer: Vec::new(),
        firmware: Some(Firmware::Acpi(power)),
        iommus: found.iommus,
        iommu_scopes: found.scopes,
        pci_hosts,
        functions: None,
        devices,
        address_bits: 0,
        // As many as the I/O APIC of a PC, and that of guests, has. What the board's have, their registers say.
        limits: Limits { lines: 0..24, ..Limits::default() },
        unclear,
    })
}

/// Where the messages arrive of those whose DMA arrives at an IOMMU.
fn messages(ids: IdMapping, iommus: &[Iommu]) -> IdMapping {
    let remaps = |target: &u16| iommus.get(usize::from(*target)).is_some_and(Iommu::remaps_messages);
    IdMapping { target: ids.target.filter(remaps), ..ids }
}

/// Who made the machine's tables, and what they call it.
fn model(fadt: &Table) -> (String, Vec<String>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_string();
    let (maker, machine) = fadt.maker();
    let (maker, machine) = (text(maker), text(machine));
    let model = alloc::format!("{maker} {machine}").trim().to_string();
    (model, alloc::vec![maker])
}

/// What SPCR calls the console, else the first serial port of a PC. One that AML doesn't know is added.
fn console(tables: &Tables, devices: &mut Vec<PlatformDevice>, unclear: &mut Vec<String>) -> Option<String> {
    let first = devices.iter().find(|device| device.path == "com1").map(|device| device.path.clone());
    let Some(table) = tables.find(b"SPCR") else { return first };
    let spcr = match Spcr::read(table) {
        Ok(spcr) => spcr,
        Err(error) => {
            unclear.push(error.to_string());
            return first;
        }
    };
    let at = spcr.registers?;
    let is_it = |device: &PlatformDevice| match at.space {
        Space::Port => device.ports.first().is_some_and(|ports| u64::from(ports.first()) == at.address),
        Space::Memory => device.registers.first().is_some_and(|span| span.start().0 == at.address),
        Space::PciConfig | Space::Other(_) => false,
    };
    if let Some(device) = devices.iter().find(|device| is_it(device)) {
        return Some(device.path.clone());
    }
    let ports = outline::spcr_ports(&spcr)?;
    devices.push(PlatformDevice {
        path: "console".to_string(),
        compatible: alloc::vec!["PNP0501".to_string()],
        enabled: true,
        ports: alloc::vec![ports],
        bus_master: Some(false),
        coherent: true,
        ..PlatformDevice::default()
    });
    Some("console".to_string())
}

/// The ports of a 16550.
const UART_PORTS: u32 = 8;

/// Those of the first serial port of a PC.
fn com1() -> Option<Ports> {
    Ports::of(0x3f8, UART_PORTS)
}
