//! Ending what Linux uses a function for, where the author of the system file says so.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_platform::sysfs::{Files, Function, Use, functions};

use crate::check::list;
use crate::{Sysfs, WriteError};

/// So many uses of a function are ended at the most: a disk that is mounted again and again is never free.
const MOST: usize = 256;

/// What keeps a use from being ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// Nobody has said that its uses are to be ended.
    #[error("{function} is in use: {}", list(uses))]
    InUse {
        /// The function.
        function: PciAddress,
        /// What for.
        uses: Vec<Use>,
    },
    /// Some uses can't be ended without harm.
    #[error("{function} isn't taken: {}: end that first", list(uses))]
    Stays {
        /// The function.
        function: PciAddress,
        /// These.
        uses: Vec<Use>,
    },
    /// Linux doesn't end it.
    #[error("{function} isn't taken: {of}, and that can't be ended: {error}")]
    Failed {
        /// The function.
        function: PciAddress,
        /// What it is used for.
        of: String,
        /// Why not.
        error: WriteError,
    },
    /// It is used again whenever that was ended.
    #[error("{function} isn't taken: it is used again and again: {of}")]
    Again {
        /// The function.
        function: PciAddress,
        /// What for.
        of: String,
    },
}

/// Whether a use can be ended in an orderly way: Linux itself lives by the file system at `/`, and what is made of a disk, perhaps with others,
/// would miss it.
pub(crate) fn can_end(it: &Use) -> bool {
    match it {
        Use::Mounted { at, .. } => at != "/",
        Use::Part { .. } => false,
        Use::Swap { .. } | Use::Console { .. } | Use::Disk { .. } | Use::Network { .. } => true,
    }
}

/// What becomes of a use when the function is taken, and when it is given back.
pub fn fate(it: &Use) -> String {
    match it {
        Use::Mounted { disk, at } => alloc::format!("{disk} is unmounted from {at}, and not mounted again"),
        Use::Swap { disk } => alloc::format!("{disk} is swapped to no more"),
        Use::Part { disk, of } => alloc::format!("{disk} stays a part of {of}"),
        Use::Console { name } => alloc::format!("the kernel's console {name} is gone"),
        Use::Disk { disk } => alloc::format!("disk {disk} is gone"),
        Use::Network { interface, .. } => {
            alloc::format!("the network interface {interface} is gone, and what goes by it")
        }
    }
}

fn uses_now(files: &impl Files, function: PciAddress) -> Vec<Use> {
    let mut all = functions(files);
    let found = all.iter_mut().find(|it: &&mut Function| it.linux == function);
    found
        .map_or_else(Vec::new, |it| core::mem::take(&mut it.uses))
        .into_iter()
        .filter(Use::is_in_use)
        .collect()
}

/// Sees to it that Linux uses a function for nothing.
///
/// # Errors
///
/// It is in use.
pub fn see_unused(files: &impl Files, function: PciAddress) -> Result<(), EndError> {
    let uses = uses_now(files, function);
    if uses.is_empty() { Ok(()) } else { Err(EndError::InUse { function, uses }) }
}

/// Ends what Linux uses a function for, as far as that has to be done before its driver lets go of it: file systems are unmounted, so that all that
/// was written to them is on the disk, and memory that was swapped there is read back. An interface, or a console, goes with its driver.
///
/// # Errors
///
/// [`EndError`]: what was ended before stays so.
pub fn end_uses(sysfs: &impl Sysfs, function: PciAddress) -> Result<(), EndError> {
    let uses = uses_now(sysfs, function);
    let stays: Vec<Use> = uses.into_iter().filter(|it| !can_end(it)).collect();
    if !stays.is_empty() {
        return Err(EndError::Stays { function, uses: stays });
    }
    let mut left = MOST;
    loop {
        // Looked for anew each time: below a mount there may be another one. The last that was mounted comes first.
        let uses = uses_now(sysfs, function);
        let next = uses.into_iter().rev().find(|it| matches!(it, Use::Mounted { .. } | Use::Swap { .. }));
        let Some(next) = next else { return Ok(()) };
        let of = next.to_string();
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Err(EndError::Again { function, of }),
        };
        let ended = match &next {
            Use::Mounted { at, .. } if at == "/" => {
                return Err(EndError::Stays { function, uses: alloc::vec![next] });
            }
            Use::Mounted { at, .. } => sysfs.unmount(at),
            Use::Swap { disk } => sysfs.swap_off(disk),
            _ => Ok(()),
        };
        ended.map_err(|error| EndError::Failed { function, of, error })?;
    }
}
