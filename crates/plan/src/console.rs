//! The hypervisor's console where the file names none: what the board names, and what is used.

use core::fmt;

use axvm_addr::{Ports, Span};
use axvm_platform::model::{Platform, PlatformDevice};
use axvm_system::model::{Device, System};

/// The console that a board names, and the one at which the hypervisor speaks there.
#[derive(Clone, Copy, Debug)]
pub struct Console<'a> {
    /// What the board names (`/chosen/stdout-path`).
    pub named: Option<&'a str>,
    /// The device there, if the board's description has one with registers.
    pub own: Option<&'a PlatformDevice>,
    /// Where the hypervisor speaks: at the board's own, else at another that can be driven at once and that no VM has. `None`: what
    /// it says is kept in memory only.
    pub used: Option<&'a PlatformDevice>,
}

impl<'a> Console<'a> {
    /// That of a board for these VMs.
    pub fn of(system: &System, platform: &'a Platform) -> Self {
        let named = platform.console.as_deref();
        let own = named.and_then(|path| platform.devices.iter().find(|device| device.path == path));
        let driven = own.filter(|device| device.uart().is_some());
        let other = || platform.devices.iter().find(|device| at_once(system, device));
        Self { named, own, used: driven.or_else(other) }
    }

    /// Whether the hypervisor speaks at the console that the board names.
    pub fn is_driven(&self) -> bool {
        self.own.zip(self.used).is_some_and(|(own, used)| own.path == used.path)
    }
}

/// Why the board's own isn't used, and what is instead; of one that is used, its path.
impl fmt::Display for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.named, self.own) {
            (None, _) => write!(f, "the board names no console (/chosen/stdout-path)")?,
            (Some(path), None) => write!(f, "the board's console {path} has no node with registers")?,
            (Some(path), Some(device)) if self.is_driven() => {
                return write!(f, "the board's console {path} is driven ({})", shown(device));
            }
            (Some(path), Some(device)) => {
                write!(f, "the board's console {path} is no UART that AxVM can drive ({})", shown(device))?;
            }
        }
        match self.used {
            Some(other) => write!(f, ": the hypervisor speaks at {} instead", other.path),
            None => write!(
                f,
                ", and there is no other: what the hypervisor says is kept in memory only (manual, \"Without a console\")"
            ),
        }
    }
}

/// Of the hypervisor's console, what follows where a VM names it: the VM has it for as long as it is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent<'a> {
    /// The console.
    pub(super) device: &'a PlatformDevice,
    /// The VM that names it first.
    pub(super) vm: &'a str,
    /// Where the hypervisor speaks meanwhile: at another that can be driven at once and that no VM has. `None`: what it says is kept in
    /// memory.
    pub(super) aside: Option<&'a PlatformDevice>,
}

impl<'a> Lent<'a> {
    /// Whether it is named by a VM, as a node of the device tree, and is one that can be taken back.
    pub(super) fn of(
        system: &'a System,
        platform: &'a Platform,
        console: &'a PlatformDevice,
    ) -> Option<Self> {
        let names = |device: &Device| matches!(device, Device::Node { path, .. } if *path == console.path);
        let vm = system.vms.iter().find(|vm| vm.devices.iter().any(names))?;
        console.uart().filter(|uart| uart.can_be_restored())?;
        let mut others = platform.devices.iter().filter(|device| device.path != console.path);
        Some(Self { device: console, vm: &vm.name, aside: others.find(|device| at_once(system, device)) })
    }
}

impl fmt::Display for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, vm, aside } = self;
        write!(f, "vm \"{vm}\" has the hypervisor's console {} while it is there: meanwhile ", device.path)?;
        match aside {
            Some(other) => write!(f, "the hypervisor speaks at {}", other.path),
            None => write!(
                f,
                "what the hypervisor says is kept in memory, and comes with the report (manual, \"A console that is given away\")"
            ),
        }
    }
}

/// Whether the hypervisor can speak there without more ado. One whose clock may be off can't be touched before its clock's driver has been:
/// reading it can hang the machine.
fn at_once(system: &System, device: &PlatformDevice) -> bool {
    let on = device.providers.iter().all(|provider| provider.fixed_clock.is_some());
    device.uart().is_some() && on && !is_given(system, device)
}

/// What a device is, for people.
pub(super) fn shown(device: &PlatformDevice) -> alloc::string::String {
    device.compatible.join(", ")
}

/// Whether a VM has the device, or some of its registers.
fn is_given(system: &System, uart: &PlatformDevice) -> bool {
    let mut devices = system.vms.iter().flat_map(|vm| &vm.devices);
    devices.any(|device| match device {
        Device::Node { path, .. } => *path == uart.path,
        Device::Region { base_hpa, length, .. } => Span::new(*base_hpa, *length)
            .is_ok_and(|region| uart.registers.iter().any(|span| span.overlaps(&region))),
        Device::Ports { base, count, .. } => Ports::of(*base, (*count).into())
            .is_some_and(|given| uart.ports.iter().any(|ports| ports.overlaps(&given))),
        Device::Pci { .. } => false,
    })
}
