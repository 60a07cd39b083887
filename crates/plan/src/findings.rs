//! What planning turns up: problems and notes, and how they name what they are about.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_system::model::{Item, System};

use crate::problem::{Problem, Rule};

/// Problems and notes, as they are found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    /// A problem with the board, the hypervisor or the file.
    pub(super) fn general(&mut self, item: Item, rule: Rule, what: impl fmt::Display) {
        self.problems.push(Problem::new(item, rule, format!("{what}")));
    }

    /// A problem with a VM: `key` of it.
    pub(super) fn vm(&mut self, vm: VmRef<'_>, key: &str, rule: Rule, what: impl fmt::Display) {
        self.problems.push(Problem::new(Item::Vm(vm.index, key.into()), rule, format!("{vm}: {what}")));
    }

    /// A problem with the n-th CPU of a VM.
    pub(super) fn cpu(&mut self, vm: VmRef<'_>, position: u16, rule: Rule, what: impl fmt::Display) {
        self.problems.push(Problem::new(Item::Cpu(vm.index, position), rule, format!("{vm}: {what}")));
    }

    /// A problem with a device: `key` of it.
    pub(super) fn device(&mut self, device: DeviceRef<'_>, key: &str, rule: Rule, what: impl fmt::Display) {
        let DeviceRef { vm, index, name } = device;
        let item = Item::Device(vm.index, index, key.into());
        self.problems.push(Problem::new(item, rule, format!("{vm}: {name}: {what}")).about(name));
    }

    /// Something that a user should know and that prevents nothing.
    pub(super) fn note(&mut self, what: impl fmt::Display) {
        self.notes.push(format!("{what}"));
    }
}

/// A VM in messages: `vm "linux"`.
#[derive(Clone, Copy)]
pub(super) struct VmRef<'a> {
    pub(super) index: u16,
    pub(super) name: &'a str,
}

impl<'a> VmRef<'a> {
    pub(super) fn of(system: &'a System, index: u16) -> Self {
        Self { index, name: system.vms.get(usize::from(index)).map_or("", |vm| &vm.name) }
    }
}

impl fmt::Display for VmRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "the VM at position {}", u32::from(self.index) + 1)
        } else {
            write!(f, "vm \"{}\"", self.name)
        }
    }
}

/// A device in messages: its name behind its VM's.
#[derive(Clone, Copy)]
pub(super) struct DeviceRef<'a> {
    pub(super) vm: VmRef<'a>,
    pub(super) index: u16,
    pub(super) name: &'a str,
}

/// A number of bytes as people write it: `512M`, `6144K`, `100`.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        match bytes {
            0 => f.write_str("0"),
            _ if bytes.is_multiple_of(1 << 30) => write!(f, "{}G", bytes >> 30),
            _ if bytes.is_multiple_of(1 << 20) => write!(f, "{}M", bytes >> 20),
            _ if bytes.is_multiple_of(1 << 10) => write!(f, "{}K", bytes >> 10),
            _ => write!(f, "{bytes}"),
        }
    }
}

/// Names in a row: `a, b and c`.
pub(super) struct And<'a>(pub(super) &'a [String]);

impl fmt::Display for And<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, name) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(if position + 1 == self.0.len() { " and " } else { ", " })?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}
