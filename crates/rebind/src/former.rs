//! What a function had.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use axvm_addr::PciAddress;
use axvm_platform::sysfs::Files;

use crate::{driver_now, file};

/// What sysfs says where `driver_override` names no driver.
const NONE: &str = "(null)";

/// What a function had before it was taken. As text it is one line, which [`Former::from_str`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// The function, as Linux calls it.
    pub function: PciAddress,
    /// The driver that had it.
    pub driver: Option<String>,
    /// The only driver that might have it (`driver_override`).
    pub only: Option<String>,
}

impl Former {
    /// What it has now; `None`: there is no such function.
    pub fn of(files: &impl Files, function: PciAddress) -> Option<Self> {
        // Every function has an id.
        files.text(&file(function, "vendor"))?;
        let only = files.text(&file(function, "driver_override")).filter(|it| !it.is_empty() && it != NONE);
        Some(Self { function, driver: driver_now(files, function), only })
    }
}

/// The address, the driver and the override, with tabs between: a driver's name may have spaces.
impl fmt::Display for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |it: &'_ Option<String>| it.clone().unwrap_or_default();
        write!(f, "{}\t{}\t{}", self.function, word(&self.driver), word(&self.only))
    }
}

/// A line that isn't a [`Former`]'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" doesn't say what a PCI function had")]
pub struct BrokenLine(pub String);

impl FromStr for Former {
    type Err = BrokenLine;

    fn from_str(line: &str) -> Result<Self, BrokenLine> {
        let broken = || BrokenLine(line.to_string());
        let mut fields = line.split('\t');
        let mut next = || fields.next().ok_or_else(broken);
        let function = next()?.parse().map_err(|_| broken())?;
        // These become parts of paths and what root writes there.
        let word = |text: &str| match text {
            "" => Ok(None),
            _ if text.contains(['/', '\n']) || text.starts_with('.') => Err(broken()),
            _ => Ok(Some(text.to_string())),
        };
        let (driver, only) = (word(next()?)?, word(next()?)?);
        if fields.next().is_some() { Err(broken()) } else { Ok(Self { function, driver, only }) }
    }
}
