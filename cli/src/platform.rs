//! Platforms from files.

use std::fs;
use std::path::Path;

use axvm_platform::model::{Cpu, Firmware, Platform, PsciConduit};
use axvm_platform::{fdt, memory, snapshot};

use crate::args::StandIn;

/// Reads a device tree or a saved platform, and puts in its place what is said in its stead.
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
    let bytes = fs::read(path).map_err(|error| format!("{shown}: the platform can't be read: {error}"))?;
    if snapshot::is_snapshot(&bytes) {
        return snapshot::load(&bytes).map_err(|error| format!("{shown}: {error}"));
    }
    fdt::read(&bytes).map_err(|error| format!("{shown}: neither a saved platform nor a device tree: {error}"))
}
