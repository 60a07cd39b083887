//! Taking a function and giving it back, step by step. After each step it is looked at what Linux made of it: a write that succeeds says
//! little.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use axvm_addr::PciAddress;

use crate::{Former, Sysfs, VFIO_PCI, driver_folder, driver_now, file};

/// What asks for a driver, whichever may have the function.
const PROBE: &str = "sys/bus/pci/drivers_probe";

/// Why something couldn't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Only root may.
    #[error("only root may write there (run it with sudo)")]
    Denied,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// The kernel hasn't come back in time: the driver is still at it.
    #[error("the kernel is still at it")]
    Unfinished,
    /// All of sysfs can only be read.
    #[error("sysfs is read-only here (in a container: have vfio-pci take the function before, outside)")]
    ReadOnly,
    /// Another error of Linux's, by its number.
    #[error("Linux's error {0}")]
    Other(i32),
}

/// A function that isn't taken. It has what it had, but where [`TakeError::leaves_changed`] says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// There is no vfio-pci.
    #[error("the kernel has no vfio-pci: load it (modprobe vfio-pci)")]
    NoVfioPci,
    /// Its driver can't be told.
    #[error("{function}: {path} can't be written: {error}")]
    Write {
        /// The function.
        function: PciAddress,
        /// What was written.
        path: String,
        /// Why not.
        error: WriteError,
    },
    /// Its driver doesn't let go.
    #[error("{function}: the driver {driver} doesn't let go of it: something uses it")]
    Held {
        /// The function.
        function: PciAddress,
        /// The driver.
        driver: String,
    },
    /// Its driver was told and hasn't let go in time, which nobody can break off. The function is the driver's still, and will be nobody's as
    /// soon as the driver is done: then it has to be given back.
    #[error(
        "{function}: the driver {driver} doesn't let go of it: something uses it: end that; as soon as the driver has let go the function is given back to it"
    )]
    Holds {
        /// The function.
        function: PciAddress,
        /// The driver.
        driver: String,
    },
    /// vfio-pci hasn't taken it.
    #[error("{function}: vfio-pci doesn't take it ({}): the kernel's log says why", now.as_ref().map_or_else(|| "it has no driver now".to_string(), |it| alloc::format!("{it} has it")))]
    Refused {
        /// The function.
        function: PciAddress,
        /// Who has it.
        now: Option<String>,
    },
    /// It isn't taken, and hasn't got back what it had.
    #[error("{why}; and {and}")]
    Lost {
        /// Why it isn't taken.
        why: Box<TakeError>,
        /// Why it isn't back.
        and: GiveBackError,
    },
}

/// A function that hasn't got back what it had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveBackError {
    /// Something can't be written.
    #[error("{function} isn't given back: {path} can't be written: {error}")]
    Write {
        /// The function.
        function: PciAddress,
        /// What was written.
        path: String,
        /// Why not.
        error: WriteError,
    },
    /// Its driver doesn't have it again.
    #[error(
        "{function} isn't given back: {driver} doesn't take it again; as root: echo {function} > /sys/bus/pci/drivers/{driver}/bind"
    )]
    Refused {
        /// The function.
        function: PciAddress,
        /// The driver.
        driver: String,
    },
}

/// Has vfio-pci have a function that had this. On failure it is given back.
///
/// # Errors
///
/// [`TakeError`].
pub fn take(sysfs: &impl Sysfs, former: &Former) -> Result<(), TakeError> {
    if sysfs.list(&driver_folder(VFIO_PCI)).is_empty() {
        return Err(TakeError::NoVfioPci);
    }
    if former.driver.as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    // First, so that no other driver gets it in between.
    write(sysfs, former.function, file(former.function, "driver_override"), VFIO_PCI)?;
    rebind(sysfs, former).map_err(|why| match why {
        // The kernel has the function locked: giving it back would take as long.
        TakeError::Holds { .. } => why,
        why => match give_back(sysfs, former) {
            Ok(()) => why,
            Err(and) => TakeError::Lost { why: Box::new(why), and },
        },
    })
}

impl TakeError {
    /// Whether the function has something else than it had, so that it has to be given back yet.
    pub const fn leaves_changed(&self) -> bool {
        matches!(self, Self::Holds { .. } | Self::Lost { .. })
    }
}

fn write(sysfs: &impl Sysfs, function: PciAddress, path: String, text: &str) -> Result<(), TakeError> {
    sysfs.write(&path, text).map_err(|error| TakeError::Write { function, path, error })
}

fn rebind(sysfs: &impl Sysfs, former: &Former) -> Result<(), TakeError> {
    let function = former.function;
    let write = |path: String, text: &str| write(sysfs, function, path, text);
    if let Some(driver) = driver_now(sysfs, function) {
        let told = write(alloc::format!("{}/unbind", driver_folder(&driver)), &function.to_string());
        // While the kernel is at it, sysfs has no driver for the function any more, and the driver has it all the same.
        if matches!(told, Err(TakeError::Write { error: WriteError::Unfinished, .. })) {
            return Err(TakeError::Holds { function, driver });
        }
        if driver_now(sysfs, function).is_some() {
            return Err(match told {
                Err(other @ TakeError::Write { error: WriteError::Denied | WriteError::ReadOnly, .. }) => {
                    other
                }
                _ => TakeError::Held { function, driver },
            });
        }
    }
    // What the probe says isn't what came of it.
    let probed = write(PROBE.to_string(), &function.to_string());
    match driver_now(sysfs, function) {
        Some(now) if now == VFIO_PCI => Ok(()),
        now => Err(probed.err().unwrap_or(TakeError::Refused { function, now })),
    }
}

/// Gives a function back what it had. Doing it again does no harm; a function that is gone needs nothing.
///
/// # Errors
///
/// [`GiveBackError`]. What could be done is done.
pub fn give_back(sysfs: &impl Sysfs, former: &Former) -> Result<(), GiveBackError> {
    let function = former.function;
    if sysfs.text(&file(function, "vendor")).is_none() {
        return Ok(());
    }
    let write = |path: String, text: &str| {
        sysfs.write(&path, text).map_err(|error| GiveBackError::Write { function, path, error })
    };
    // An empty line names no driver.
    let only = former.only.as_deref().unwrap_or("\n");
    write(file(function, "driver_override"), only)?;
    let now = driver_now(sysfs, function);
    if now == former.driver {
        return Ok(());
    }
    if let Some(now) = now {
        write(alloc::format!("{}/unbind", driver_folder(&now)), &function.to_string())?;
    }
    let Some(driver) = &former.driver else { return Ok(()) };
    // By its name; a driver that has been loaded anew may want to be asked.
    let bound = write(alloc::format!("{}/bind", driver_folder(driver)), &function.to_string());
    let is_back = || driver_now(sysfs, function).as_ref() == Some(driver);
    if !is_back() {
        write(PROBE.to_string(), &function.to_string())?;
    }
    match bound {
        _ if is_back() => Ok(()),
        Err(error @ GiveBackError::Write { error: WriteError::Denied | WriteError::ReadOnly, .. }) => {
            Err(error)
        }
        _ => Err(GiveBackError::Refused { function, driver: driver.clone() }),
    }
}
