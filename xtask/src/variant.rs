//! A system file with some words changed: another kernel, network card, CPU model or kernel argument. The changed file
//! lies in `target/systems/`, as deep as `systems/NAME/`, so its relative paths hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

use crate::guest::Series;
use crate::paths;

/// What is different from the file in the repository.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// QEMU's CPU model.
    pub cpu: Option<String>,
    /// The series of the demo's kernel.
    pub kernel: Option<String>,
    /// The network card's model.
    pub nic: Option<String>,
    /// The IOMMU's model with its options, where that is a device.
    pub iommu: Option<String>,
    /// Every VM's kernel command line.
    pub cmdline: Option<String>,
    /// Words after every VM's kernel command line.
    pub append: Option<String>,
    /// How VMs get interrupts.
    pub interrupts: Option<Interrupts>,
    /// Every VM's RAM.
    pub memory: Option<String>,
    /// What a violation leads to, for every VM.
    pub on_violation: Option<String>,
}

/// How VMs get interrupts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Interrupts {
    /// All of them in one way.
    All(String),
    /// By their names; others as the file has it.
    Of(BTreeMap<String, String>),
}

impl From<&str> for Interrupts {
    fn from(mode: &str) -> Self {
        Self::All(mode.into())
    }
}

/// Network cards that may stand for each other.
const CARDS: &[&str] = &["e1000e", "igb"];

/// IOMMUs that may stand for each other.
const IOMMUS: &[&str] = &["amd-iommu", "intel-iommu"];

/// The system file with the change: itself where nothing changes.
pub fn of(system: &Path, change: &Change, name: &str) -> Result<PathBuf> {
    if *change == Change::default() {
        return Ok(system.to_path_buf());
    }
    let text =
        std::fs::read_to_string(system).with_context(|| format!("cannot read {}", system.display()))?;
    let changed = apply(&text, change).with_context(|| format!("in {}", paths::shown(system)))?;
    let place = paths::target().join("systems").join(format!("{name}.toml"));
    paths::write_atomically(&place, changed.as_bytes())?;
    Ok(place)
}

fn apply(text: &str, change: &Change) -> Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let arch = document["board"].get("arch").and_then(Item::as_str).unwrap_or("aarch64").to_owned();
    let qemu = document["board"]["qemu"].as_array_mut().context("it has no board.qemu")?;
    if let Some(cpu) = &change.cpu {
        replace_after(qemu, "-cpu", |_| Some(cpu.clone()))?;
    }
    if let Some(card) = &change.nic {
        replace_after(qemu, "-device", |word| {
            let (model, rest) = word.split_once(',').unwrap_or((word, ""));
            CARDS.contains(&model).then(|| format!("{card},{rest}"))
        })?;
    }
    if let Some(iommu) = &change.iommu {
        replace_after(qemu, "-device", |word| {
            let model = word.split(',').next().unwrap_or(word);
            IOMMUS.contains(&model).then(|| iommu.clone())
        })?;
    }
    let machines = document["vm"].as_array_of_tables_mut().context("it has no vm")?;
    if let Some(series) = &change.kernel {
        let (old, new) = (Series::DEFAULT.folder(&arch), Series::named(series)?.folder(&arch));
        let mut replaced = false;
        for machine in machines.iter_mut() {
            for key in ["kernel", "initrd"] {
                let Some(file) = machine.get(key).and_then(Item::as_str) else { continue };
                // As the system file has it: from its own folder, two below the repository's.
                let Some(name) = Path::new(file).strip_prefix(from_system(&old)).ok() else { continue };
                machine[key] = toml_edit::value(from_system(&new).join(name).display().to_string());
                replaced = true;
            }
        }
        if !replaced {
            bail!("no VM has the demo's kernel");
        }
    }
    if let Some(cmdline) = &change.cmdline {
        machines.iter_mut().for_each(|machine| machine["cmdline"] = toml_edit::value(cmdline));
    }
    if let Some(more) = &change.append {
        for machine in machines.iter_mut() {
            let old = machine.get("cmdline").and_then(Item::as_str).unwrap_or_default();
            machine["cmdline"] = toml_edit::value(format!("{old} {more}").trim());
        }
    }
    for machine in machines.iter_mut() {
        if let Some(memory) = &change.memory {
            machine["memory"] = toml_edit::value(memory);
        }
        if let Some(policy) = &change.on_violation {
            machine["on_violation"] = toml_edit::value(policy);
        }
    }
    match &change.interrupts {
        None => {}
        Some(Interrupts::All(mode)) => {
            machines.iter_mut().for_each(|machine| machine["interrupts"] = toml_edit::value(mode));
        }
        Some(Interrupts::Of(modes)) => {
            for (name, mode) in modes {
                let named = |machine: &&mut Table| machine.get("name").and_then(Item::as_str) == Some(name);
                let machine = machines.iter_mut().find(named);
                machine.with_context(|| format!("no VM is called {name}"))?["interrupts"] =
                    toml_edit::value(mode);
            }
        }
    }
    Ok(document.to_string())
}

/// A path of the repository as a system file names it, which lies two folders deep.
fn from_system(path: &Path) -> PathBuf {
    Path::new("../..").join(paths::shown(path))
}

/// Replaces the words after each `flag` for which there is a replacement; there must be one.
fn replace_after(words: &mut Array, flag: &str, new: impl Fn(&str) -> Option<String>) -> Result<()> {
    let mut replaced = false;
    for at in 1..words.len() {
        if words.get(at - 1).and_then(Value::as_str) != Some(flag) {
            continue;
        }
        if let Some(word) = words.get(at).and_then(Value::as_str).and_then(&new) {
            words.replace(at, word);
            replaced = true;
        }
    }
    if replaced { Ok(()) } else { bail!("board.qemu has no `{flag}` that could be changed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[board]\nqemu = [\"-cpu\", \"max\", \"-device\", \"nvme,addr=2\",\n  # the card\n  \
                        \"-device\", \"e1000e,netdev=n0\"]\n[[vm]]\ncmdline = \"a\"\n[[vm]]\nname = \"b\"\n";

    #[test]
    fn only_what_is_named_changes() {
        let change = Change {
            cpu: Some("cortex-a76".into()),
            nic: Some("igb".into()),
            append: Some("x=1".into()),
            interrupts: Some("none".into()),
            ..Change::default()
        };
        let changed = apply(FILE, &change).unwrap();
        assert!(changed.contains("\"cortex-a76\"") && !changed.contains("\"max\""));
        assert!(changed.contains("\"igb,netdev=n0\"") && changed.contains("\"nvme,addr=2\""));
        assert!(changed.contains("cmdline = \"a x=1\"") && changed.contains("cmdline = \"x=1\""));
        assert!(changed.matches("interrupts = \"none\"").count() == 2 && !changed.contains("memory"));
    }

    #[test]
    fn a_command_line_is_replaced_before_more_is_added_to_it() {
        let change = Change { cmdline: Some("c".into()), append: Some("d".into()), ..Change::default() };
        let changed = apply(FILE, &change).unwrap();
        assert!(changed.matches("cmdline = \"c d\"").count() == 2, "{changed}");
    }

    #[test]
    fn vms_get_interrupts_each_in_its_own_way() {
        let of = |name: &str| Change {
            interrupts: Some(Interrupts::Of(BTreeMap::from([(name.into(), "passthrough".into())]))),
            ..Change::default()
        };
        let changed = apply(FILE, &of("b")).unwrap();
        assert!(changed.ends_with("name = \"b\"\ninterrupts = \"passthrough\"\n"), "{changed}");
        assert!(apply(FILE, &of("c")).is_err(), "there is none");
    }

    #[test]
    fn a_kernel_comes_with_its_initramfs_and_other_guests_keep_theirs() {
        let file = "[board]\narch = \"aarch64\"\nqemu = []\n[[vm]]\n\
                    kernel = \"../../target/guest/aarch64/Image\"\n\
                    initrd = \"../../target/guest/aarch64/initrd.cpio.gz\"\n[[vm]]\nkernel = \"own\"\n";
        let change = |name: &str| Change { kernel: Some(name.into()), ..Change::default() };
        let changed = apply(file, &change("6.1")).unwrap();
        assert!(changed.contains("kernel = \"../../target/guest/aarch64/6.1/Image\""));
        assert!(changed.contains("initrd = \"../../target/guest/aarch64/6.1/initrd.cpio.gz\""));
        assert!(changed.contains("kernel = \"own\""));
        assert!(apply(file, &change("5.10")).is_err());
        assert!(apply("[board]\nqemu = []\n[[vm]]\nkernel = \"own\"\n", &change("6.1")).is_err());
    }

    #[test]
    fn an_iommu_is_replaced_with_its_options() {
        let file =
            "[board]\nqemu = [\"-device\", \"amd-iommu,dma-remap=on\", \"-device\", \"nvme\"]\n[[vm]]\n";
        let change = Change { iommu: Some("intel-iommu,eim=on".into()), ..Change::default() };
        let changed = apply(file, &change).unwrap();
        assert!(
            changed.contains("[\"-device\", \"intel-iommu,eim=on\", \"-device\", \"nvme\"]"),
            "{changed}"
        );
        assert!(apply(FILE, &change).is_err(), "it has none");
    }

    #[test]
    fn a_change_that_finds_nothing_is_an_error() {
        let change = Change { nic: Some("igb".into()), ..Change::default() };
        assert!(apply("[board]\nqemu = [\"-cpu\", \"max\"]\n", &change).is_err());
    }
}
