//! `[[vm]]`.

use alloc::format;
use alloc::string::ToString;

use axvm_addr::{CpuId, Gpa};
use toml::de::DeTable;

use super::section::Section;
use super::{Reader, text};
use crate::model::{AfterEnd, Arch, InterruptChoice, Item, ViolationPolicy, Vm};

const KEYS: [&str; 19] = [
    "name",
    "cpus",
    "memory",
    "memory_base",
    "kernel",
    "initrd",
    "dtb",
    "cmdline",
    "load",
    "entry",
    "device_tree",
    "interrupts",
    "trusted",
    "on_violation",
    "on_reset",
    "on_crash",
    "watchdog",
    "autostart",
    "device",
];

const AFTER_END: [(&str, AfterEnd); 2] = [("restart", AfterEnd::Restart), ("stop", AfterEnd::Stop)];

/// What stands in for a size that couldn't be read.
const SOME_MEMORY: u64 = 64 << 20;

impl Reader {
    /// Reads one VM; what can't be read has a stand-in.
    pub(super) fn vm(&mut self, id: u16, table: &DeTable<'_>, place: usize, arch: Option<Arch>) -> Vm {
        let mut section = Section::new(self, table, place, |key| Item::Vm(id, key), "[[vm]]");
        section.known(&KEYS);
        let name = section.string("name");
        match &name {
            None if !section.has("name") => section.missing("name", "what the VM is called"),
            Some(name) if !text::is_name(name) => {
                let message =
                    format!("`name` can't be {name:?}: letters, digits, `-`, `_` and `.`, 64 at most");
                section.wrong("name", message);
            }
            _ => {}
        }
        let memory = section.size("memory");
        match memory {
            None if !section.has("memory") => section.missing("memory", "how much RAM, as \"512M\""),
            Some(0) => section.wrong("memory", "`memory` can't be 0".to_string()),
            _ => {}
        }
        let kernel = section.string("kernel");
        if kernel.is_none() && !section.has("kernel") {
            section.missing("kernel", "the path of the guest's kernel");
        }
        let cpus = section.numbers::<u16>("cpus");
        if !section.has("cpus") {
            section.missing("cpus", "the physical CPU of each vCPU, as [1, 2]");
        } else if cpus.as_ref().is_some_and(|cpus| cpus.is_empty()) {
            section.wrong("cpus", "`cpus` is empty: a VM has one CPU at least".to_string());
        }
        let cpus = cpus.unwrap_or_default();
        let load = section.address("load").map(Gpa);
        let entry = section.address("entry").map(Gpa);
        for (key, other, missing) in [("entry", "load", load.is_none()), ("load", "entry", entry.is_none())] {
            if section.has(key) && !section.has(other) && missing {
                section.wrong(key, format!("`{key}` needs `{other}` too: a raw binary has both"));
            }
        }
        let interrupts = section.choice(
            "interrupts",
            &[
                ("auto", InterruptChoice::Auto),
                ("passthrough", InterruptChoice::Passthrough),
                ("emulated", InterruptChoice::Emulated),
                ("none", InterruptChoice::None),
            ],
        );
        let on_violation = section.choice(
            "on_violation",
            &[
                ("quarantine-device", ViolationPolicy::QuarantineDevice),
                ("report", ViolationPolicy::Report),
                ("stop-vm", ViolationPolicy::StopVm),
            ],
        );
        let vm = Vm {
            name: name.filter(|name| text::is_name(name)).unwrap_or_else(|| format!("vm{id}")),
            cpus: cpus.iter().map(|(cpu, _)| CpuId(*cpu)).collect(),
            memory: memory.filter(|bytes| *bytes != 0).unwrap_or(SOME_MEMORY),
            memory_base: section.address("memory_base").map(Gpa),
            kernel: kernel.unwrap_or_default(),
            initrd: section.string("initrd"),
            dtb: section.string("dtb"),
            cmdline: section.string("cmdline").unwrap_or_default(),
            load,
            entry,
            device_tree: section.address("device_tree").map(Gpa),
            interrupts: interrupts.unwrap_or_default(),
            trusted: section.boolean("trusted").unwrap_or(false),
            on_violation: on_violation.unwrap_or_default(),
            on_reset: section.choice("on_reset", &AFTER_END).unwrap_or(AfterEnd::Restart),
            on_crash: section.choice("on_crash", &AFTER_END).unwrap_or(AfterEnd::Stop),
            watchdog: section.choice("watchdog", &AFTER_END),
            autostart: section.boolean("autostart").unwrap_or(true),
            devices: Default::default(),
        };
        let tables = section.tables("device");
        for (position, (_, place)) in (0u16..).zip(&cpus) {
            self.spans.insert(Item::Cpu(id, position), *place);
        }
        let mut devices = alloc::vec::Vec::new();
        for (table, place) in tables {
            // A device that can't be read is left out: the next one takes its position, and its place in the spans.
            devices.extend(self.device(id, devices.len() as u16, table, place, arch));
        }
        Vm { devices, ..vm }
    }
}
