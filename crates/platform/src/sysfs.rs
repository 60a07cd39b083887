//! Reads what a running Linux tells of its machine, in `/proc` and `/sys`: the firmware's description, the PCI functions with their config
//! space, and who uses them.
//!
//! The [`Platform`] is what AxVM would find there without that Linux. PCI functions have the addresses that enumeration would give
//! them, which are Linux's own but where firmware has left out bus numbers ([`Function::address`] and [`Function::linux`]).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Hpa, PciAddress, Span};
use axvm_pci::recorded::Recorded;

use crate::acpi::dump::Dump;
use crate::acpi::{AcpiError, MemoryKind, MemoryRange};
use crate::fdt::{self, FdtError, blob};
use crate::memory;
use crate::model::Platform;

mod functions;
mod uses;

use functions::Asked;
pub use functions::{Function, Ids};
pub use uses::Use;

/// Files of a Linux, by their paths without the leading slash: `sys/firmware/fdt`.
pub trait Files {
    /// A file's content; `None`: there is none, or it can't be read.
    fn read(&self, path: &str) -> Option<Vec<u8>>;

    /// The first bytes of a file's content, or all, where it has fewer.
    fn read_front(&self, path: &str, bytes: usize) -> Option<Vec<u8>> {
        let mut content = self.read(path)?;
        content.truncate(bytes);
        Some(content)
    }

    /// The names in a folder, in any order; none if there is no such folder.
    fn list(&self, path: &str) -> Vec<String>;

    /// What a symbolic link says.
    fn link(&self, path: &str) -> Option<String>;

    /// Whether the kernel has a disk open for itself alone, or a part of it, as its file systems, arrays and targets have theirs: `nvme0n1`. Where that
    /// can't be asked nothing has.
    fn is_claimed(&self, _disk: &str) -> bool {
        false
    }

    /// A file's text, without white space around it.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    /// The name at the end of a symbolic link.
    fn link_name(&self, path: &str) -> Option<String> {
        Some(self.link(path)?.rsplit('/').next()?.to_string())
    }
}

/// A Linux that doesn't say what its machine is.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// Neither a device tree nor ACPI's tables can be read.
    #[error(
        "neither /sys/firmware/fdt nor /sys/firmware/acpi/tables can be read: as a rule only root may (run it with sudo)"
    )]
    NoDescription,
    /// The device tree is broken.
    #[error("/sys/firmware/fdt: {0}")]
    Fdt(#[from] FdtError),
    /// ACPI's tables are, or they aren't an x86 machine's.
    #[error("/sys/firmware/acpi/tables: {0}")]
    Acpi(#[from] AcpiError),
}

/// A machine that runs Linux.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What AxVM would find there.
    pub platform: Platform,
    /// What Linux knows of the PCI functions, in the order of their addresses there.
    pub functions: Vec<Function>,
}

/// Reads it.
///
/// # Errors
///
/// [`SysfsError`]. What is missing beside the firmware's description is in [`Platform::unclear`].
pub fn read(files: &impl Files) -> Result<Machine, SysfsError> {
    let mut functions = functions::all(files, Asked::All);
    let mut platform = firmware(files, &functions)?;
    if functions.iter().any(Function::is_cut_off) {
        platform.unclear.push(
            "only a part of PCI's config space can be read, which root sees whole (run it with sudo): what functions can do isn't known".into(),
        );
        platform.functions = None;
    } else {
        enumerate(&mut platform, &mut functions);
    }
    uses::find(files, &mut functions);
    Ok(Machine { platform, functions })
}

/// The PCI functions, in the order of their addresses, and what they are used for, whatever firmware says of the machine. None has an
/// address in a platform.
pub fn functions(files: &impl Files) -> Vec<Function> {
    let mut functions = functions::all(files, Asked::Names);
    uses::find(files, &mut functions);
    functions
}

/// What firmware says.
fn firmware(files: &impl Files, functions: &[Function]) -> Result<Platform, SysfsError> {
    if let Some(tree) = device_tree(files) {
        let mut platform = fdt::read(&tree)?;
        if platform.memory.is_empty() {
            // A boot loader that is EFI's takes the memory nodes away.
            let usable = ranges(files).into_iter().filter(|range| range.kind == MemoryKind::Usable);
            platform.memory = memory::merge(usable.map(|range| range.span).collect());
        }
        return Ok(platform);
    }
    let mut dump = Dump::default();
    let mut any = false;
    for folder in ["sys/firmware/acpi/tables", "sys/firmware/acpi/tables/dynamic"] {
        for name in sorted(files.list(folder)) {
            if let Some(table) = files.read(&format!("{folder}/{name}")) {
                any |= dump.add(&table);
            }
        }
    }
    if !any {
        return Err(SysfsError::NoDescription);
    }
    ranges(files).into_iter().for_each(|range| dump.add_range(range));
    dump.add_windows(&files.text("proc/iomem").unwrap_or_default());
    dump.add_config(functions.iter().map(|function| function.record.clone()).collect());
    Ok(dump.platform()?)
}

/// The device tree. Firmware may leave most of a mebibyte free behind what it says, which Linux gives page by page: that isn't read.
fn device_tree(files: &impl Files) -> Option<Vec<u8>> {
    const TREE: &str = "sys/firmware/fdt";
    let header = files.read_front(TREE, blob::HEADER)?;
    let front = blob::front(&header).and_then(|bytes| blob::cut(files.read_front(TREE, bytes)?));
    front.or_else(|| files.read(TREE))
}

/// In the order of their numbers, where there are several of a name: Linux numbers tables as firmware lists them, and a later one names what
/// an earlier one defines.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_cached_key(|name| {
        let stem = name.trim_end_matches(|it: char| it.is_ascii_digit());
        (stem.to_string(), name.strip_prefix(stem).and_then(|number| number.parse::<u32>().ok()))
    });
    names
}

/// The memory map: as firmware gave it, else what Linux made of it.
fn ranges(files: &impl Files) -> Vec<MemoryRange> {
    let of_firmware: Vec<MemoryRange> = files
        .list("sys/firmware/memmap")
        .iter()
        .filter_map(|entry| {
            let field = |name| files.text(&format!("sys/firmware/memmap/{entry}/{name}"));
            let (first, last) = (number(&field("start")?)?, number(&field("end")?)?);
            let kind = match field("type")?.as_str() {
                "System RAM" => MemoryKind::Usable,
                "ACPI Tables" => MemoryKind::AcpiTables,
                "ACPI Non-volatile Storage" => MemoryKind::AcpiNvs,
                "Unusable memory" => MemoryKind::Bad,
                _ => MemoryKind::Reserved,
            };
            let size = last.checked_sub(first)?.checked_add(1)?;
            Some(MemoryRange { span: Span::new(Hpa(first), size).ok()?, kind })
        })
        .collect();
    if !of_firmware.is_empty() {
        return of_firmware;
    }
    let text = files.text("proc/iomem").unwrap_or_default();
    text.lines().filter_map(crate::acpi::dump::resource).collect()
}

/// A number as sysfs has them: hexadecimal.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// Finds the functions as AxVM would.
fn enumerate(platform: &mut Platform, functions: &mut [Function]) {
    if platform.pci_hosts.is_empty() && !functions.is_empty() {
        return;
    }
    let recorded = Recorded::new(functions.iter().map(|function| function.record.clone()).collect());
    // What a device would answer isn't recorded.
    let told = |linux| functions.iter().find(|function| function.linux == linux).and_then(Function::virtio);
    platform.add_recorded(&recorded, &told);
    let found = platform.functions.as_deref().unwrap_or_default();
    for function in functions.iter_mut() {
        let is_it = |address: &PciAddress| recorded.recorded_at(*address) == Some(function.linux);
        function.address = found.iter().map(|it| it.function.address).find(is_it);
    }
}

#[cfg(test)]
mod tests;
