//! A Linux whose sysfs keeps its contract: writing an address to a driver's `bind` and `unbind`, and to `drivers_probe`, has the effects that
//! Documentation/ABI/testing/sysfs-bus-pci and sysfs-bus-pci-drivers state.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use axvm_platform::sysfs::Files;

use crate::{Sysfs, VFIO_PCI, WriteError};

/// A driver's faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It doesn't let go.
    Holds,
    /// It takes nothing.
    Refuses,
    /// The kernel doesn't come back from its `unbind` until [`Linux::let_go`]. Meanwhile it has the function locked, and shows no driver of it
    /// (drivers/base/dd.c, `__device_release_driver`).
    Hangs,
}

#[derive(Clone, Debug, Default)]
struct Function {
    driver: Option<String>,
    /// The driver that is made for it.
    own: Option<String>,
    only: Option<String>,
    group: Option<u32>,
    /// Its driver is being unbound, and the kernel isn't back from that.
    locked: bool,
}

/// The Linux.
#[derive(Debug, Default)]
pub struct Linux {
    functions: RefCell<BTreeMap<String, Function>>,
    drivers: Vec<(String, Option<Fault>)>,
    denied: Option<WriteError>,
    /// Other files.
    files: RefCell<BTreeMap<String, String>>,
    /// Where something is mounted that doesn't let itself be unmounted.
    held: Vec<String>,
    links: BTreeMap<String, String>,
    /// Functions that vfio-pci has get nodes of their own.
    gives_nodes: bool,
    /// All that was written: path and text.
    written: RefCell<Vec<(String, String)>>,
}

impl Linux {
    /// One without drivers and functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a driver.
    #[must_use]
    pub fn driver(mut self, name: &str) -> Self {
        self.drivers.push((name.into(), None));
        self
    }

    /// With a driver that has a fault.
    #[must_use]
    pub fn faulty(mut self, name: &str, fault: Fault) -> Self {
        self.drivers.push((name.into(), Some(fault)));
        self
    }

    /// With a function, which is in a group of its own number, and the driver that has it.
    #[must_use]
    pub fn function(self, address: &str, driver: Option<&str>) -> Self {
        let driver = driver.map(str::to_string);
        let mut functions = self.functions.take();
        let group = Some(functions.len() as u32);
        functions
            .insert(address.into(), Function { own: driver.clone(), driver, group, ..Default::default() });
        Self { functions: RefCell::new(functions), ..self }
    }

    /// With a function in this group, or in none.
    #[must_use]
    pub fn in_group(self, address: &str, group: Option<u32>) -> Self {
        if let Some(function) = self.functions.borrow_mut().get_mut(address) {
            function.group = group;
        }
        self
    }

    /// With a function that only this driver may have.
    #[must_use]
    pub fn only(self, address: &str, driver: &str) -> Self {
        if let Some(function) = self.functions.borrow_mut().get_mut(address) {
            function.only = Some(driver.into());
        }
        self
    }

    /// With another file.
    #[must_use]
    pub fn file(self, path: &str, text: &str) -> Self {
        self.files.borrow_mut().insert(path.into(), text.into());
        self
    }

    /// Without a file that it has.
    #[must_use]
    pub fn without(self, path: &str) -> Self {
        self.files.borrow_mut().remove(path);
        self
    }

    /// With something mounted there that doesn't let itself be unmounted.
    #[must_use]
    pub fn held(mut self, at: &str) -> Self {
        self.held.push(at.into());
        self
    }

    /// With another link.
    #[must_use]
    pub fn link_to(mut self, path: &str, target: &str) -> Self {
        self.links.insert(path.into(), target.into());
        self
    }

    /// Where functions that vfio-pci has get nodes of their own (Linux, Documentation/driver-api/vfio.rst), numbered by their addresses.
    #[must_use]
    pub fn gives_nodes(self) -> Self {
        Self {
            gives_nodes: true,
            ..self.file("proc/devices", "Character devices:\n  1 mem\n511 vfio-dev\n").file("dev/iommu", "")
        }
    }

    /// A function's own node, if there is one: its name in `/dev/vfio/devices`.
    fn node_of(&self, address: &str) -> Option<String> {
        let number = self.functions.borrow().keys().position(|it| it == address)?;
        (self.gives_nodes && is_taken(self, address)).then(|| format!("vfio{number}"))
    }

    /// Where nothing may be written, for this reason.
    #[must_use]
    pub fn denied(self, why: WriteError) -> Self {
        Self { denied: Some(why), ..self }
    }

    /// The driver that has a function.
    pub fn driver_of(&self, address: &str) -> Option<String> {
        self.functions.borrow().get(address)?.driver.clone()
    }

    /// The only driver that may have a function.
    pub fn only_of(&self, address: &str) -> Option<String> {
        self.functions.borrow().get(address)?.only.clone()
    }

    /// The paths that were written to, in order.
    pub fn written(&self) -> Vec<String> {
        self.written.borrow().iter().map(|(path, _)| path.clone()).collect()
    }

    /// A driver that didn't has let go of a function in the end.
    pub fn let_go(&self, address: &str) {
        if let Some(function) = self.functions.borrow_mut().get_mut(address) {
            function.locked = false;
        }
    }

    /// What was written, in order.
    pub fn texts_written(&self) -> Vec<String> {
        self.written.borrow().iter().map(|(_, text)| text.clone()).collect()
    }

    /// What a file has.
    pub fn text_of(&self, path: &str) -> String {
        self.files.borrow().get(path).cloned().unwrap_or_default()
    }

    /// Takes a function out of its slot.
    pub fn unplug(&self, address: &str) {
        self.functions.borrow_mut().remove(address);
    }

    fn fault(&self, driver: &str) -> Option<Fault> {
        self.drivers.iter().find(|(name, _)| name == driver)?.1
    }

    /// Whether a driver would have a function: the one that the override names, else the one that is made for it.
    fn matches(function: &Function, driver: &str) -> bool {
        match &function.only {
            Some(only) => only == driver,
            None => function.own.as_deref() == Some(driver),
        }
    }

    fn bind(&self, function: &mut Function, driver: &str) -> Result<(), WriteError> {
        /// ENODEV.
        const NO_DEVICE: i32 = 19;
        let refuses = self.fault(driver) == Some(Fault::Refuses);
        if function.driver.is_some() || !Self::matches(function, driver) || refuses {
            return Err(WriteError::Other(NO_DEVICE));
        }
        function.driver = Some(driver.into());
        Ok(())
    }
}

impl Files for Linux {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        if let Some(rest) = path.strip_prefix("sys/bus/pci/devices/") {
            let (address, name) = rest.split_once('/')?;
            let functions = self.functions.borrow();
            let function = functions.get(address)?;
            match name {
                "vendor" => return Some(b"0x1b36\n".to_vec()),
                "driver_override" => {
                    let only = function.only.as_deref().unwrap_or("(null)");
                    return Some(format!("{only}\n").into_bytes());
                }
                "config" => return Some(vec![0; 256]),
                _ => {}
            }
        }
        self.files.borrow().get(path).map(|text| text.as_bytes().to_vec())
    }

    fn list(&self, path: &str) -> Vec<String> {
        if let Some(driver) = path.strip_prefix("sys/bus/pci/drivers/") {
            let is_there = self.drivers.iter().any(|(name, _)| name == driver);
            return if is_there { vec!["bind".into(), "unbind".into()] } else { Vec::new() };
        }
        if path == "sys/bus/pci/devices" {
            return self.functions.borrow().keys().cloned().collect();
        }
        if path == "dev/vfio/devices" {
            let all: Vec<String> = self.functions.borrow().keys().cloned().collect();
            return all.iter().filter_map(|address| self.node_of(address)).collect();
        }
        let prefix = format!("{path}/");
        let files = self.files.borrow();
        let all = files.keys().chain(self.links.keys());
        let mut names: Vec<String> =
            all.filter_map(|it| Some(it.strip_prefix(&prefix)?.split('/').next()?.to_string())).collect();
        names.dedup();
        names
    }

    fn link(&self, path: &str) -> Option<String> {
        if let Some(rest) = path.strip_prefix("sys/bus/pci/devices/") {
            let (address, name) = rest.split_once('/')?;
            let functions = self.functions.borrow();
            let function = functions.get(address)?;
            return match name {
                "driver" => Some(format!("../../../bus/pci/drivers/{}", function.driver.as_ref()?)),
                "iommu_group" => Some(format!("../../../kernel/iommu_groups/{}", function.group?)),
                _ => None,
            };
        }
        if let Some(name) = path.strip_prefix("sys/class/vfio-dev/").and_then(|it| it.strip_suffix("/device"))
        {
            let all: Vec<String> = self.functions.borrow().keys().cloned().collect();
            let its = all.into_iter().find(|address| self.node_of(address).as_deref() == Some(name))?;
            return Some(format!("../../../{its}"));
        }
        self.links.get(path).cloned()
    }
}

impl Sysfs for Linux {
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError> {
        if let Some(why) = self.denied {
            return Err(why);
        }
        self.written.borrow_mut().push((path.into(), text.into()));
        if let Some(there) = self.files.borrow_mut().get_mut(path) {
            *there = text.into();
            return Ok(());
        }
        let mut functions = self.functions.borrow_mut();
        if let Some(address) =
            path.strip_prefix("sys/bus/pci/devices/").and_then(|it| it.strip_suffix("/driver_override"))
        {
            let function = functions.get_mut(address).ok_or(WriteError::Missing)?;
            if function.locked {
                return Err(WriteError::Unfinished);
            }
            let name = text.trim_end_matches('\n');
            function.only = (!name.is_empty()).then(|| name.to_string());
            return Ok(());
        }
        let function = functions.get_mut(text).ok_or(WriteError::Other(19))?;
        if function.locked {
            return Err(WriteError::Unfinished);
        }
        if path == "sys/bus/pci/drivers_probe" {
            let found = self.drivers.iter().find(|(name, _)| Self::matches(function, name));
            // It says nothing of what came of it.
            if let Some((name, _)) = found {
                let _ = self.bind(function, name);
            }
            return Ok(());
        }
        let rest = path.strip_prefix("sys/bus/pci/drivers/").ok_or(WriteError::Missing)?;
        let (driver, what) = rest.split_once('/').ok_or(WriteError::Missing)?;
        if !self.drivers.iter().any(|(name, _)| name == driver) {
            return Err(WriteError::Missing);
        }
        match what {
            "bind" => self.bind(function, driver),
            "unbind" if function.driver.as_deref() != Some(driver) => Err(WriteError::Other(19)),
            "unbind" => match self.fault(driver) {
                Some(Fault::Hangs) => {
                    (function.locked, function.driver) = (true, None);
                    Err(WriteError::Unfinished)
                }
                Some(Fault::Holds) => Ok(()),
                _ => {
                    function.driver = None;
                    Ok(())
                }
            },
            _ => Err(WriteError::Missing),
        }
    }

    /// The last that was mounted there goes, as by umount(2).
    fn unmount(&self, at: &str) -> Result<(), WriteError> {
        /// EBUSY.
        const BUSY: i32 = 16;
        self.written.borrow_mut().push(("unmount".into(), at.into()));
        if self.held.iter().any(|held| held == at) {
            return Err(WriteError::Other(BUSY));
        }
        let mut files = self.files.borrow_mut();
        let mounts = files.get_mut("proc/self/mountinfo").ok_or(WriteError::Missing)?;
        let mut lines: Vec<&str> = mounts.lines().collect();
        let there = lines.iter().rposition(|line| line.split_whitespace().nth(4) == Some(at));
        lines.remove(there.ok_or(WriteError::Missing)?);
        *mounts = lines.join("\n");
        Ok(())
    }

    fn swap_off(&self, disk: &str) -> Result<(), WriteError> {
        self.written.borrow_mut().push(("swapoff".into(), disk.into()));
        let mut files = self.files.borrow_mut();
        let swaps = files.get_mut("proc/swaps").ok_or(WriteError::Missing)?;
        let path = if disk.starts_with('/') { disk.to_string() } else { format!("/dev/{disk}") };
        let is_it = |line: &&str| line.split_whitespace().next() == Some(&path);
        *swaps = swaps.lines().filter(|line| !is_it(line)).collect::<Vec<_>>().join("\n");
        Ok(())
    }
}

/// Whether vfio-pci has a function.
pub fn is_taken(linux: &Linux, address: &str) -> bool {
    linux.driver_of(address).as_deref() == Some(VFIO_PCI)
}
