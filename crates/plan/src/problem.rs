//! What keeps a system from being started, one problem a line.

use alloc::string::String;
use core::fmt;

use axvm_system::model::Item;
use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The rule that something breaks. The names only grow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name under which reports and the manual know it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    /// The file can't be read, or something in it isn't what it must be: found while reading it.
    File = "file",
    /// The board lacks what AxVM can't do without: GIC, IOMMU, PSCI, timer, memory.
    Platform = "platform",
    /// The file is for another architecture than the platform's, or for one that isn't served yet.
    Architecture = "architecture",
    /// The hypervisor's own CPU or console isn't there.
    Hypervisor = "hypervisor",
    /// A VM without a name, or two of the same name.
    VmName = "vm-name",
    /// A VM without CPUs, a CPU that isn't there, or one that can't be started.
    CpuAbsent = "cpu-absent",
    /// A CPU given twice.
    CpuTwice = "cpu-twice",
    /// Two VMs that start by themselves and have the same CPU or device.
    Autostart = "autostart",
    /// The hypervisor's own CPU.
    CpuReserved = "cpu-reserved",
    /// A size or an address that isn't a multiple of what it must be.
    Alignment = "alignment",
    /// RAM that isn't there in host-physical terms.
    MemoryFit = "memory-fit",
    /// RAM that collides with something else in guest-physical terms, or passes the address bits.
    MemoryPlace = "memory-place",
    /// The kernel is missing or can't be started.
    Kernel = "kernel",
    /// A command line that kernels can't take.
    CommandLine = "command-line",
    /// The guest's device tree can't say what the VM is given.
    Description = "description",
    /// Kernel, initial RAM disk and device tree don't fit into RAM.
    ImageFit = "image-fit",
    /// An interrupt mode that wouldn't be closed.
    InterruptMode = "interrupt-mode",
    /// A device that isn't there.
    DeviceAbsent = "device-absent",
    /// A device whose `status` in the device tree isn't okay.
    DeviceDisabled = "device-disabled",
    /// A device given twice.
    DeviceTwice = "device-twice",
    /// The hypervisor's own device.
    DeviceReserved = "device-reserved",
    /// A kind of device that isn't served yet.
    DeviceUnsupported = "device-unsupported",
    /// A device that masters the bus outside every IOMMU, or may do so.
    Dma = "dma",
    /// A device that can't be reset.
    Reset = "reset",
    /// A device that shares its isolation group with one that another has.
    Group = "group",
    /// A device that shares its interrupt line with one that another has.
    InterruptShared = "interrupt-shared",
    /// A line that can't be given: another controller's, not an SPI, the hypervisor's.
    Interrupt = "interrupt",
    /// A device that shares a page with something that another has.
    PageShared = "page-shared",
    /// A device that needs another one to work.
    Provider = "provider",
    /// Registers over what no guest may reach directly: RAM, config space, PCI windows, GIC, SMMU.
    RegisterPlace = "register-place",
    /// Registers that collide with something else in guest-physical terms.
    RegisterOverlap = "register-overlap",
    /// The address space has no room for something.
    NoRoom = "no-room",
    /// More than whoever carries it out can hold: VMs, stream ids, MSIs, memory for tables.
    Limit = "limit",
    /// Something of another architecture (ports).
    Ports = "ports",
    /// A device with power over others, or over the board, which the file doesn't accept.
    Hazard = "hazard",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that keeps a system from being started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where in the file, for people: `system.toml:12`. Filled in by whoever has the file.
    pub place: Option<String>,
    /// What in the file.
    pub item: Item,
    /// The device, where it is about one: PCI address, path or name.
    pub device: Option<String>,
    /// The rule.
    pub rule: Rule,
    /// One line: the item, the rule, both parties and what to do.
    pub message: String,
}

impl Problem {
    /// A problem that isn't about a device.
    pub fn new(item: Item, rule: Rule, message: impl Into<String>) -> Self {
        Self { place: None, item, device: None, rule, message: message.into() }
    }

    /// The same, about this device.
    #[must_use]
    pub fn about(self, device: impl Into<String>) -> Self {
        Self { device: Some(device.into()), ..self }
    }

    /// The same, at this place in the file.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }
}

impl fmt::Display for Problem {
    /// One line, as compilers write them: `system.toml:12: vm "linux": ... [cpu-twice]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{} [{}]", self.message, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_rule_is_called_the_same_in_text_and_in_json() {
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        }
    }

    #[test]
    fn a_problem_is_one_line_with_its_place_first() {
        let problem = Problem::new(Item::Cpu(0, 1), Rule::CpuTwice, "vm \"a\": CPU 1 is given twice");
        assert_eq!(problem.to_string(), "vm \"a\": CPU 1 is given twice [cpu-twice]");
        assert_eq!(
            problem.at("s.toml:3").to_string(),
            "s.toml:3: vm \"a\": CPU 1 is given twice [cpu-twice]"
        );
    }
}
