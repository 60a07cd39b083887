//! Writes the description of a guest's machine as ACPI tables (ACPI 6.5).
//!
//! Everything they say comes from the [`Description`]; nothing is decided here but names and where in their room the tables lie.

mod dsdt;
mod fixed;
mod resources;
mod watchdog;

use alloc::string::String;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use axvm_addr::{Gpa, Irq, PciAddress};

use crate::description::{AcpiDescription, Description};

pub use watchdog::HZ as WATCHDOG_HZ;

/// Who made the tables, and what they call themselves.
const OEM: [u8; 6] = *b"AXVM  ";
const TABLE: [u8; 8] = *b"AXVMVIRT";
const OEM_REVISION: u32 = 1;

/// The FACS begins at a multiple of 64 (5.2.10); the RSDP at one of 16, as the others here (5.2.5.1).
const FACS_ALIGNMENT: u64 = 64;
const ALIGNMENT: u64 = 16;

/// A description that no tables can say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiWriteError {
    /// The machine isn't one that ACPI describes.
    #[error("it has no ACPI")]
    NoAcpi,
    /// The tables don't fit into their room.
    #[error("its ACPI tables take {needed} bytes, but there is room for {room}")]
    Room {
        /// What they take.
        needed: u64,
        /// What there is.
        room: u64,
    },
    /// They can't lie there: all but the newest systems look for them below 4 GiB.
    #[error("its ACPI tables can't lie at {0}")]
    Place(Gpa),
    /// A device's id is none.
    #[error(
        "{device}: \"{id}\" is no id of a device in ACPI: three or four capital letters or digits, then four hexadecimal digits"
    )]
    Id {
        /// The device.
        device: String,
        /// The id.
        id: String,
    },
    /// Two functions in one slot have the same pin, which leads to two lines.
    #[error("pin {pin} of the slot of {function} leads to lines {} and {}: say `intx = \"none\"` for one of its functions", .lines[0], .lines[1])]
    Pin {
        /// The later function.
        function: PciAddress,
        /// The pin, from 1.
        pin: u8,
        /// Where it leads.
        lines: [Irq; 2],
    },
    /// More than a table, a device or a field of it can say.
    #[error("{0}")]
    TooMuch(&'static str),
}

/// The tables of a guest, which lie at `at` and have so many bytes of room. They begin with the RSDP.
///
/// # Errors
///
/// [`AcpiWriteError`] names what can't be said.
pub fn write(description: &Description, at: Gpa, room: u64) -> Result<Vec<u8>, AcpiWriteError> {
    let acpi = description.acpi.as_ref().ok_or(AcpiWriteError::NoAcpi)?;
    let end = at.0.checked_add(room).filter(|&end| end <= 1 << 32 && at.0.is_multiple_of(FACS_ALIGNMENT));
    end.ok_or(AcpiWriteError::Place(at))?;
    let mut bytes = alloc::vec![0; Rsdp::len()];
    let mut put = |table: &[u8], alignment: u64| {
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        let place = at.0 + bytes.len() as u64;
        bytes.extend_from_slice(table);
        place
    };
    let facs = put(&aml(&FACS::new()), FACS_ALIGNMENT);
    let dsdt = put(&dsdt::write(description, acpi)?, ALIGNMENT);
    let mut root = XSDT::new(OEM, TABLE, OEM_REVISION);
    root.add_entry(put(&fixed::fadt(description, acpi, facs, dsdt), ALIGNMENT));
    root.add_entry(put(fixed::madt(description, acpi)?.as_slice(), ALIGNMENT));
    if !description.pci.is_empty() {
        root.add_entry(put(&fixed::mcfg(description), ALIGNMENT));
    }
    if let Some(table) = fixed::spcr(description) {
        root.add_entry(put(table.as_slice(), ALIGNMENT));
    }
    if let Some(watchdog) = &description.watchdog {
        root.add_entry(put(watchdog::write(watchdog).as_slice(), ALIGNMENT));
    }
    let root = put(&aml(&root), ALIGNMENT);
    let rsdp = aml(&Rsdp::new(OEM, root));
    if let Some(first) = bytes.get_mut(..rsdp.len()) {
        first.copy_from_slice(&rsdp);
    }
    let needed = bytes.len() as u64;
    if needed > room { Err(AcpiWriteError::Room { needed, room }) } else { Ok(bytes) }
}

/// What something is in bytes.
fn aml(what: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    what.to_aml_bytes(&mut bytes);
    bytes
}

/// A table that is but for its records.
fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM, TABLE, OEM_REVISION)
}

/// The lines below 16 that signal by their level: those of ISA, of which it is taken for granted that they signal on edges.
fn level_lines(description: &Description, acpi: &AcpiDescription) -> Vec<(Irq, Polarity)> {
    use axvm_addr::Trigger;
    let mut lines = alloc::vec![(acpi.power.sci, Polarity::High)];
    let devices = description.devices.iter().flat_map(|device| &device.interrupts);
    let pins = description.pci.iter().flat_map(|host| host.lines.iter().map(|pin| &pin.line));
    for line in devices.chain(pins).filter(|line| line.trigger == Trigger::Level) {
        if !lines.iter().any(|(irq, _)| *irq == line.irq) {
            lines.push((line.irq, Polarity::Low));
        }
    }
    lines.retain(|(irq, _)| irq.0 < 16);
    lines
}

/// Which level is the active one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Polarity {
    High,
    Low,
}
