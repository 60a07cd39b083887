//! What a device does for others, or could do to them, beside driving itself.

use alloc::vec::Vec;

use crate::model::{ChildNode, PlatformDevice};

/// Why a device's owner has power over more than the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Others live by it: it gives clocks, resets, power, pins, interrupts, memory, or registers that are shared (a syscon).
    Provider,
    /// Other devices are on it.
    Bus,
    /// It bounds the DMA of others.
    Iommu,
    /// It keeps what the board's next start reads: flash, or fuses that can't be unburned.
    Flash,
    /// It resets the board.
    Watchdog,
    /// It stops CPUs and reads their registers, from outside.
    Debug,
}

/// Words in node names and in `compatible` that say what a device is. There are hundreds of kinds; the words are few.
const WORDS: &[(&str, Role)] = &[
    ("wdt", Role::Watchdog),
    ("wdg", Role::Watchdog),
    ("wdog", Role::Watchdog),
    ("watchdog", Role::Watchdog),
    ("sp805", Role::Watchdog),
    ("flash", Role::Flash),
    ("nand", Role::Flash),
    ("-nor", Role::Flash),
    ("fuse", Role::Flash),
    ("-otp", Role::Flash),
    ("smmu", Role::Iommu),
    ("iommu", Role::Iommu),
    ("coresight", Role::Debug),
    ("syscon", Role::Provider),
    ("sysreg", Role::Provider),
    ("simple-mfd", Role::Provider),
    ("pinctrl", Role::Provider),
    ("pinmux", Role::Provider),
    ("iomux", Role::Provider),
    ("-controller@", Role::Provider),
    ("simple-bus", Role::Bus),
];

/// Controllers that control nothing but what is behind them, among the names of nodes that say `-controller`.
const HARMLESS: &[&str] = &["dma-controller@", "can-controller@", "usb-controller@", "lcd-controller@"];

impl PlatformDevice {
    /// Its roles, each once: as its node and those below it say, and those that refer to it.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        let mut add = |role| {
            if !roles.contains(&role) {
                roles.push(role);
            }
        };
        if self.referenced {
            add(Role::Provider);
        }
        if self.ranges {
            add(Role::Bus);
        }
        let name = self.path.rsplit('/').next().unwrap_or_default();
        of_node(name, &self.properties, &self.children, &mut add);
        roles
    }
}

fn of_node(
    name: &str,
    properties: &[(alloc::string::String, Vec<u8>)],
    children: &[ChildNode],
    add: &mut impl FnMut(Role),
) {
    if !HARMLESS.iter().any(|kind| name.starts_with(kind)) {
        of_words(name.as_bytes(), add);
    }
    for (property, value) in properties {
        match property.as_str() {
            "compatible" => of_words(value, add),
            "#address-cells" | "#size-cells" => {}
            "#iommu-cells" => add(Role::Iommu),
            "interrupt-controller" | "gpio-controller" | "msi-controller" => add(Role::Provider),
            // Whatever counts cells is referred to with so many.
            other if other.starts_with('#') && other.ends_with("-cells") => add(Role::Provider),
            _ => {}
        }
    }
    for child in children {
        of_node(&child.name, &child.properties, &child.children, add);
    }
}

fn of_words(text: &[u8], add: &mut impl FnMut(Role)) {
    for (word, role) in WORDS {
        if text.windows(word.len()).any(|part| part == word.as_bytes()) {
            add(*role);
        }
    }
}
