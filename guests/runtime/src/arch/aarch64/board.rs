//! What the guest was given: its device tree and its command line.

use alloc::string::String;

use axvm_addr::Address;
use axvm_platform::fdt;
use axvm_platform::model::{Platform, PsciConduit};

use crate::edu::Pci;
use crate::{cmdline, machine};

/// How much RAM beside the image the attacks may use.
const SCRATCH: u64 = 1 << 20;

/// The VM as the guest sees it.
pub struct Board {
    /// What the device tree says.
    pub platform: Platform,
    /// The command line.
    pub cmdline: String,
    /// The PL011's registers.
    pub console: u64,
    /// How to call PSCI.
    pub conduit: Option<PsciConduit>,
    /// A megabyte of RAM, page-aligned, that nothing else uses.
    pub scratch: u64,
}

impl Board {
    /// Reads the device tree; `None` if it can't be read or has no console.
    pub fn find(device_tree: u64, image_start: u64, image_end: u64) -> Option<Self> {
        machine::set_image(image_start, image_end);
        // Header: magic, then totalsize, both big-endian.
        let size = u64::from(machine::load32(device_tree + 4).ok()?.swap_bytes());
        let blob = machine::copy(device_tree, usize::try_from(size).ok().filter(|&size| size <= 1 << 20)?)?;
        let platform = fdt::read(&blob).ok()?;
        let path = platform.console.as_deref()?;
        let console =
            platform.devices.iter().find(|device| device.path == path)?.registers.first()?.start().get();
        let mut scratch = image_end.next_multiple_of(0x1000);
        if device_tree < scratch + SCRATCH && scratch < device_tree + size {
            scratch = (device_tree + size).next_multiple_of(0x1000);
        }
        Some(Self {
            conduit: platform.psci(),
            cmdline: fdt::bootargs(&blob).ok()?.unwrap_or_default(),
            platform,
            console,
            scratch,
        })
    }

    /// The number of a word `name=number` of the command line: decimal, or hexadecimal after `0x`. The last one counts.
    pub fn number(&self, name: &str) -> Option<u64> {
        cmdline::number(&self.cmdline, name)
    }

    /// Where PCI functions are.
    pub fn pci(&self) -> Option<Pci> {
        Pci::of(&self.platform)
    }

    /// Where PCI functions have their config spaces.
    pub fn ecam(&self) -> Option<u64> {
        Some(self.platform.pci_hosts.first()?.ecam.start().get())
    }

    /// How many CPUs it has.
    pub fn cpu_count(&self) -> usize {
        self.platform.cpus.len()
    }

    /// The end of its RAM.
    pub fn memory_end(&self) -> u64 {
        self.platform.memory.iter().map(|bank| bank.end().get()).max().unwrap_or(0)
    }

    /// How it is powered off.
    pub(crate) fn power(&self) -> Option<PsciConduit> {
        self.conduit
    }

    /// Where to read and write: what the command line says, else the first page past the VM's RAM.
    pub fn target(&self) -> Option<u64> {
        let past = || self.platform.memory.iter().map(|bank| bank.end().get()).max();
        self.number("axvm.target").or_else(past)
    }
}
