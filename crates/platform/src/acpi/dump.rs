//! Tables that were dumped to files: as `/sys/firmware/acpi/tables` has them, as `acpidump -b` or `acpixtract` leave them, or in the one
//! text that `acpidump` writes; beside them the memory map, as Linux says it when it boots or in `/proc/iomem`; and PCI's functions, as
//! `lspci -Dvvxxxx` prints them for root.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use axvm_acpi::{Table, Tables};
use axvm_addr::{Hpa, PciAddress, Span};
use axvm_pci::Width;
use axvm_pci::lspci::Lspci;
use axvm_pci::recorded::{Record, Recorded};

use super::{AcpiError, Asked, KnownWindow, MemoryKind, MemoryRange, NEEDED, assemble, is_needed};
use crate::model::Platform;

/// What was found in files.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    tables: Vec<Table>,
    map: Vec<MemoryRange>,
    windows: Vec<KnownWindow>,
    pci: Option<Lspci>,
    /// Whether the machine's functions are those.
    is_all: bool,
    damaged: Vec<axvm_acpi::Error>,
}

/// What begins like a table, and is none with a header and a sum.
const OTHERS: [&[u8]; 2] = [b"FACS", b"RSD PTR"];
/// What stands before each range of the memory map in Linux's log.
const LOG: &str = "BIOS-e820: [mem ";

impl Dump {
    /// Takes a file. Whether there is anything in it.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        if OTHERS.iter().any(|other| bytes.starts_with(other)) {
            return true;
        }
        let text = core::str::from_utf8(bytes).ok();
        if let Some(text) = text {
            if let Some(pci) = Lspci::read(text) {
                let all = self.pci.get_or_insert_default();
                all.records.extend(pci.records);
                all.lacks.extend(pci.lacks);
                self.is_all = true;
                return true;
            }
            let found = |it: &Self| (it.tables.len(), it.map.len(), it.windows.len(), it.damaged.len());
            let before = found(self);
            self.text(text);
            if before != found(self) {
                return true;
            }
        }
        // One of those that count isn't passed by because it is cut off.
        if !looks_like_a_table(bytes) && !NEEDED.iter().any(|needed| bytes.starts_with(*needed)) {
            return false;
        }
        self.table(bytes);
        true
    }

    /// Adds a range of the memory map, which was read elsewhere.
    pub fn add_range(&mut self, range: MemoryRange) {
        self.map.push(range);
    }

    /// Adds what Linux says of the windows of host bridges in `/proc/iomem`: they count where AML asks for what isn't among the files.
    pub fn add_windows(&mut self, resources: &str) {
        self.windows.extend(resources.lines().filter_map(window));
    }

    /// Adds config space, which was read elsewhere, for AML to ask; functions aren't looked for in it.
    pub fn add_config(&mut self, records: Vec<Record>) {
        self.pci.get_or_insert_default().records.extend(records);
    }

    /// The platform that they describe.
    ///
    /// # Errors
    ///
    /// [`AcpiError`] names the table that can't be used.
    pub fn platform(self) -> Result<Platform, AcpiError> {
        if let Some(damaged) = self.damaged.iter().find(|damaged| is_needed(damaged)) {
            return Err((*damaged).into());
        }
        let Lspci { records, lacks } = self.pci.unwrap_or_default();
        let recorded = Recorded::new(records);
        let ask =
            |function: PciAddress, offset: u16, bytes: u8| as_recorded(&recorded, function, offset, bytes);
        let tables = Tables::of(self.tables);
        let asked = Asked { memory: None, chipset: &ask, is_here: false, windows: &self.windows };
        let mut platform = assemble(&tables, tables.find(b"DSDT"), &self.map, asked)?;
        platform.unclear.extend(self.damaged.iter().map(ToString::to_string));
        if self.is_all && !recorded.is_empty() {
            platform.unclear.extend(lacks);
            platform.add_recorded(&recorded, &|_| None);
            let functions = platform.functions.iter().flatten().map(|it| it.function.address);
            let others = functions.filter_map(|address| {
                let was = recorded.recorded_at(address).filter(|was| *was != address)?;
                Some(format!("{address} is what was recorded as {was}"))
            });
            let others: Vec<_> = others.collect();
            platform.unclear.extend(others);
        }
        if self.map.is_empty() {
            platform.unclear.push(
                "the memory map isn't among the files (Linux's boot log has it, and /proc/iomem): there is no memory".into(),
            );
        }
        Ok(platform)
    }

    fn table(&mut self, bytes: &[u8]) {
        match Table::new(bytes) {
            // Several names lead to one table at times.
            Ok(table) if self.tables.contains(&table) => {}
            Ok(table) => self.tables.push(table),
            Err(error) => self.damaged.push(error),
        }
    }

    fn text(&mut self, text: &str) {
        let mut bytes: Option<Vec<u8>> = None;
        for line in text.lines() {
            self.map.extend(logged(line).or_else(|| resource(line)));
            self.windows.extend(window(line));
            if is_heading(line) {
                self.end(bytes.replace(Vec::new()));
            } else if let Some(bytes) = &mut bytes {
                row(line, bytes);
            }
        }
        self.end(bytes);
    }

    /// The end of a table in acpidump's text.
    fn end(&mut self, bytes: Option<Vec<u8>>) {
        let Some(bytes) = bytes else { return };
        if !OTHERS.iter().any(|other| bytes.starts_with(other)) {
            self.table(&bytes);
        }
    }
}

/// What AML is told of config space: what was recorded, and all ones of a function that wasn't there, on a bus of which others were.
fn as_recorded(recorded: &Recorded, function: PciAddress, offset: u16, bytes: u8) -> Option<u64> {
    let width = Width::from_bytes(bytes.into()).filter(|width| *width != Width::B8)?;
    if recorded.has(function) {
        return recorded.as_recorded(function, offset, width).map(u64::from);
    }
    recorded.has_bus(function).then_some(width.mask())
}

/// A name, and a length that isn't longer than there is.
fn looks_like_a_table(bytes: &[u8]) -> bool {
    let name = bytes.get(..4).is_some_and(|name| {
        name.iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_' || *byte == b'!')
    });
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    name && length.is_some_and(|length| (36..=bytes.len() as u64).contains(&length.into()))
}

/// `APIC @ 0x000000007FFE27E0`.
fn is_heading(line: &str) -> bool {
    let rest = line.split_once(" @ ");
    rest.is_some_and(|(name, at)| name.len() <= 8 && at.trim().starts_with("0x"))
}

/// `  0010: 42 4F 43 48 ...  BOCH...`: sixteen bytes at most, which text follows.
fn row(line: &str, bytes: &mut Vec<u8>) {
    let Some((offset, rest)) = line.trim_start().split_once(": ") else { return };
    if u32::from_str_radix(offset, 16).is_err() {
        return;
    }
    let words = rest.split(' ').take(16);
    bytes.extend(words.map_while(|word| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2)));
}

/// From the first to the last, in hexadecimal.
fn range(text: &str) -> Option<Span<Hpa>> {
    let (first, last) = text.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = text.trim().trim_start_matches("0x");
        u64::from_str_radix(digits, 16).ok()
    };
    let (first, last) = (number(first)?, number(last)?);
    Span::new(Hpa(first), last.checked_sub(first)?.checked_add(1)?).ok()
}

/// `[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable`.
fn logged(line: &str) -> Option<MemoryRange> {
    let (_, rest) = line.split_once(LOG)?;
    let (span, kind) = rest.split_once(']')?;
    let kind = match kind.trim() {
        "usable" => MemoryKind::Usable,
        "ACPI data" => MemoryKind::AcpiTables,
        "ACPI NVS" => MemoryKind::AcpiNvs,
        "unusable" => MemoryKind::Bad,
        _ => MemoryKind::Reserved,
    };
    Some(MemoryRange { span: range(span)?, kind })
}

/// `00100000-7ffdefff : System RAM`: a line of `/proc/iomem` that is within no other.
pub(crate) fn resource(line: &str) -> Option<MemoryRange> {
    let (span, kind) = line.split_once(" : ")?;
    let kind = match kind.trim() {
        "System RAM" => MemoryKind::Usable,
        "ACPI Tables" => MemoryKind::AcpiTables,
        "ACPI Non-volatile Storage" => MemoryKind::AcpiNvs,
        "Unusable memory" => MemoryKind::Bad,
        "Reserved" | "reserved" => MemoryKind::Reserved,
        _ => return None,
    };
    if span.starts_with(' ') {
        return None;
    }
    // Without the right to see addresses Linux shows zeros.
    Some(MemoryRange { span: range(span)?, kind }).filter(|range| range.span.end() > Hpa(1))
}

/// `c0000000-febfffff : PCI Bus 0000:00`: the same of a host bridge's window.
fn window(line: &str) -> Option<KnownWindow> {
    let (span, what) = line.split_once(" : ")?;
    let (segment, bus) = what.trim().strip_prefix("PCI Bus ")?.split_once(':')?;
    if span.starts_with(' ') {
        return None;
    }
    let (segment, bus) = (u16::from_str_radix(segment, 16).ok()?, u8::from_str_radix(bus, 16).ok()?);
    Some(KnownWindow { segment, bus, span: range(span)? }).filter(|window| window.span.end() > Hpa(1))
}
