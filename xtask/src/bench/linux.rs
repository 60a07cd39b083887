//! Figures of a Linux host: what a disk and a card that a VM has by VFIO take of the host's processors, counted by the plugin of QEMU, with a
//! GIC that delivers messages itself (GICv4) and one that doesn't; and the memory that the tool takes beside the VM's RAM.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::count::{self, Work};
use crate::linux::{self, LinuxHost};
use crate::runner::Outcome;
use crate::variant::{self, Change};
use crate::{guest, paths, say};

const TIMEOUT: Duration = Duration::from_secs(900);
/// Reads, and echo requests, of one round, and how many of these.
const COUNT: u64 = 500;
const ROUNDS: u64 = 3;
/// The VM's RAM, in KiB: as `systems/measure-aarch64` has it.
const RAM_KIB: u64 = 512 << 10;

/// A board, and what its kernel is told.
struct Board {
    name: &'static str,
    qemu: &'static [&'static str],
    kernel: &'static [&'static str],
}

const BOARDS: &[Board] = &[
    Board { name: "gicv3", qemu: &[], kernel: &[] },
    Board { name: "gicv4", qemu: &["-M", "gic-version=4"], kernel: &["kvm-arm.vgic_v4_enable=1"] },
];

/// Measures and prints.
pub fn run(arch: &str, as_json: bool) -> Result<u8> {
    if arch != "aarch64" {
        bail!("there are figures of a Linux host on aarch64 only");
    }
    let plugin = count::build(arch)?;
    guest::prepare_measuring(arch)?;
    linux::prepare(arch)?;
    let mut result = Map::new();
    for board in BOARDS {
        result.insert(board.name.into(), work(arch, board, &plugin, as_json)?);
    }
    result.insert("memory".into(), memory(arch, as_json)?);
    let result = Value::Object(result);
    if as_json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        print(&result);
    }
    Ok(0)
}

fn file(arch: &str, append: String, name: &str) -> Result<PathBuf> {
    let file = paths::root().join(format!("systems/measure-{arch}/system.toml"));
    variant::of(&file, &Change { append: Some(append), ..Change::default() }, name)
}

/// The medians of rounds on one board.
fn work(arch: &str, board: &Board, plugin: &Path, is_quiet: bool) -> Result<Value> {
    let name = format!("bench-linux-{}", board.name);
    let append = format!("axvm.work=reads,pings axvm.count={COUNT} axvm.rounds={ROUNDS}");
    let system = file(arch, append, &name)?;
    let counts = count::place(&format!("linux-{}", board.name));
    let mut qemu: Vec<String> = board.qemu.iter().map(|word| (*word).to_owned()).collect();
    qemu.extend(count::load(plugin, &counts));
    let host = LinuxHost {
        kernel: board.kernel.iter().map(|word| (*word).to_owned()).collect(),
        ..LinuxHost::default()
    };
    let outcome = on_host(arch, &system, &name, &host, &qemu, is_quiet)?;
    if outcome.status != Some(0) || !outcome.says(count::DONE) {
        bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
    }
    let moments = count::read(&counts)?;
    let mut figures = Map::new();
    for (kind, mark) in count::KINDS {
        // All CPUs: what the host does for the VM it does on any of them.
        let work = count::median(&moments, *mark, 0).with_context(|| format!("of {kind}"))?;
        let Work { all, el2, exits } = work;
        let each = |value: u64| value as f64 / COUNT as f64;
        figures.insert((*kind).into(), json!({"all": each(all), "host": each(el2), "returns": each(exits)}));
    }
    Ok(Value::Object(figures))
}

fn on_host(
    arch: &str,
    system: &Path,
    name: &str,
    host: &LinuxHost,
    qemu: &[String],
    is_quiet: bool,
) -> Result<Outcome> {
    if !is_quiet {
        say::step(format_args!("running {} on a Linux host as {name}", paths::shown(system)));
    }
    linux::run(&linux::Request {
        system,
        arch,
        name,
        host,
        arguments: &[],
        qemu,
        types: None,
        timeout: TIMEOUT,
        show: false,
    })
}

/// What the tool's processes take beside the VM's RAM.
fn memory(arch: &str, is_quiet: bool) -> Result<Value> {
    const NAME: &str = "bench-linux-memory";
    let append = format!("axvm.work=reads,pings axvm.count={COUNT} axvm.rounds=100");
    let system = file(arch, append, NAME)?;
    let weigh = format!("sh /axvm/guests/linux/weigh SYSTEM {RAM_KIB} 'MEASURE reads ok'");
    let host = LinuxHost { commands: vec![weigh], ..LinuxHost::default() };
    let outcome = on_host(arch, &system, NAME, &host, &[], is_quiet)?;
    let said = outcome.lines.iter().find_map(|line| line.split_once("WEIGH "));
    let (_, said) =
        said.with_context(|| format!("nothing was weighed; see {}", paths::shown(&outcome.log)))?;
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [own, guest, processes] = numbers[..] else { bail!("`{said}` is no weight") };
    Ok(json!({"own_kib": own, "guest_kib": guest, "processes": processes}))
}

fn print(result: &Value) {
    say::step("of one operation, on all of the host's processors");
    say::note(format_args!("{:<8} {:<10} {:>12} {:>12} {:>10}", "board", "", "all", "the host's", "returns"));
    for board in BOARDS {
        for (kind, _) in count::KINDS {
            let row = &result[board.name][*kind];
            let number = |key: &str| row[key].as_f64().unwrap_or_default();
            say::note(format_args!(
                "{:<8} {kind:<10} {:>12.1} {:>12.1} {:>10.2}",
                board.name,
                number("all"),
                number("host"),
                number("returns"),
            ));
        }
    }
    let memory = &result["memory"];
    say::step(format_args!(
        "memory beside the VM's RAM: {} KiB, of {} processes",
        memory["own_kib"], memory["processes"]
    ));
}
