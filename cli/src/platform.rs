//! Platforms from files.

use std::path::{Path, PathBuf};
use std::{fs, io};

use axvm_platform::acpi::dump::Dump;
use axvm_platform::model::{Cpu, Firmware, Platform, PsciConduit};
use axvm_platform::{fdt, memory, snapshot};

use crate::args::StandIn;

/// Reads a device tree, a saved platform or a dump of ACPI's tables, and puts in its place what is said in its stead.
///
/// # Errors
///
/// In words.
pub fn read(path: &Path, said: &StandIn) -> Result<Platform, String> {
    let mut platform = read_file(path)?;
    if !said.memory.is_empty() {
        platform.memory = memory::merge(said.memory.clone());
    }
    if let Some(count) = said.cpu {
        let count = usize::from(count);
        for number in platform.cpus.len()..count {
            // Nothing is known of it but that it is there.
            platform.cpus.push(Cpu {
                path: format!("/cpus/cpu@{number:x}"),
                hardware_id: number as u64,
                usable: true,
            });
        }
        platform.cpus.iter_mut().take(count).for_each(|cpu| cpu.usable = true);
        // That is what starts them.
        platform.firmware.get_or_insert(Firmware::Psci(PsciConduit::Smc));
    }
    Ok(platform)
}

fn read_file(path: &Path) -> Result<Platform, String> {
    let shown = path.display();
    let unreadable = |error| format!("{shown}: the platform can't be read: {error}");
    if path.is_dir() {
        return read_dump(&files(path).map_err(unreadable)?).map_err(|error| format!("{shown}: {error}"));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    if snapshot::is_snapshot(&bytes) {
        return snapshot::load(&bytes).map_err(|error| format!("{shown}: {error}"));
    }
    let error = match fdt::read(&bytes) {
        Ok(platform) => return Ok(platform),
        Err(error) => error,
    };
    let mut dump = Dump::default();
    if dump.add(&bytes) {
        return dump.platform().map_err(|error| format!("{shown}: {error}"));
    }
    Err(format!("{shown}: neither a saved platform nor a device tree, nor ACPI's tables: {error}"))
}

/// The files of a folder, and of those in it, as `/sys/firmware/acpi/tables` has some for tables that come later; in the order of their
/// names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => {
                let inner = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
                let mut inner = inner.collect::<io::Result<Vec<_>>>()?;
                inner.sort();
                found.extend(inner.into_iter().filter(|path| path.is_file()));
            }
            false => found.push(path),
        }
    }
    Ok(found)
}

/// What ACPI's tables among files describe.
fn read_dump(files: &[PathBuf]) -> Result<Platform, String> {
    let mut dump = Dump::default();
    let mut any = false;
    for path in files {
        any |= dump.add(&fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    if !any {
        return Err("none of the files there is an ACPI table".into());
    }
    dump.platform().map_err(|error| error.to_string())
}
