//! Platforms from files.

use std::fs;
use std::path::Path;

use axvm_platform::model::Platform;
use axvm_platform::{fdt, snapshot};

/// Reads a device tree or a saved platform.
///
/// # Errors
///
/// In words.
pub fn read(path: &Path) -> Result<Platform, String> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|error| format!("{shown}: the platform can't be read: {error}"))?;
    if snapshot::is_snapshot(&bytes) {
        return snapshot::load(&bytes).map_err(|error| format!("{shown}: {error}"));
    }
    fdt::read(&bytes).map_err(|error| format!("{shown}: neither a saved platform nor a device tree: {error}"))
}
