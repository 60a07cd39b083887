//! `cargo xtask boards`: what AxVM says of boards that nobody here has. The device trees that Debian's kernels bring are read and
//! planned by the tool, one VM without devices and then each device alone, and `docs/boards.md` says what came of it.
//!
//! The tool must have an answer to every tree. One that it dies of fails the command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guest::debian::{self, DeviceTree};
use crate::{build, paths, process, say};

mod page;

/// RAM that stands in for what a boot loader would fill in: far from where boards have registers.
const MEMORY: &str = "0x10_0000_0000:2G";

/// How many trees are looked at at the same time.
const WORKERS: usize = 2;

/// One VM without devices. Two CPUs are the least: one is the hypervisor's.
const SYSTEM: &str = r#"[board]
arch = "aarch64"

[[vm]]
name = "vm"
cpus = [1]
memory = "256M"
kernel = "Image"
"#;

/// What came of a board.
struct Board {
    /// As `qcom/qcs404-evb-1000`.
    name: String,
    /// Whether its memory was made up, since the boot loader fills it in.
    memory: bool,
    /// What keeps AxVM from it; empty: it can start.
    reasons: Vec<String>,
    /// Whether PCI functions can be given there.
    pci: Pci,
    console: Console,
    devices: Vec<Device>,
}

/// What AxVM makes of a board's console.
#[derive(Default)]
struct Console {
    /// Its kind, the first of `compatible`; `None`: the tree names none that it has.
    kind: Option<String>,
    driven: bool,
    /// Another stands in.
    replaced: bool,
}

/// What a board has for PCI functions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pci {
    /// No host bridge with a generic config space.
    Absent,
    /// None of its host bridges' functions is behind an SMMUv3.
    Unconfined,
    /// Some are.
    Confined,
}

/// A device that is in use.
struct Device {
    /// The first of `compatible`.
    kind: String,
    verdict: Verdict,
    /// The rules that it breaks, each once.
    rules: Vec<String>,
}

/// Whether a device can be given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// As it is.
    Yes,
    /// With the author's word that it doesn't master the bus.
    Word,
    /// With `accept`, and perhaps that word.
    Accept,
    No,
}

impl Board {
    fn starts(&self) -> bool {
        self.reasons.is_empty()
    }

    fn vendor(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// Reads and plans all, and writes the page.
pub fn run(arch: &str) -> Result<u8> {
    let trees = debian::device_trees(arch)?;
    let tool = build::tool()?;
    let folder = paths::target().join("boards");
    std::fs::create_dir_all(&folder)?;
    let system = folder.join("system.toml");
    std::fs::write(&system, SYSTEM)?;
    std::fs::write(folder.join("Image"), image())?;
    say::step(format_args!("reading and planning {} device trees", trees.len()));
    let (next, done) = (AtomicUsize::new(0), Mutex::new((Vec::new(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(tree) = trees.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let looked = look(&tool, &system, tree);
                    let mut done = done.lock().unwrap_or_else(|poison| poison.into_inner());
                    match looked {
                        Ok(board) => done.0.push(board),
                        Err(error) => done.1.push(format!("{}: {error:#}", tree.name)),
                    }
                }
            });
        }
    });
    let (mut boards, failures) = done.into_inner().unwrap_or_else(|poison| poison.into_inner());
    boards.sort_by(|a, b| a.name.cmp(&b.name));
    for failure in &failures {
        say::note(format_args!("no answer: {failure}"));
    }
    let page = paths::root().join("docs").join("boards.md");
    paths::write_atomically(&page, page::page(&boards, &packages(&trees)).as_bytes())?;
    let starts = boards.iter().filter(|board| board.starts()).count();
    say::note(format_args!("AxVM can start on {starts} of {}: {}", boards.len(), paths::shown(&page)));
    if !failures.is_empty() {
        bail!("{} device trees were too much for the tool", failures.len());
    }
    Ok(0)
}

/// The packages, and how many trees are of each.
fn packages(trees: &[DeviceTree]) -> BTreeMap<String, usize> {
    let mut packages = BTreeMap::new();
    for tree in trees {
        *packages.entry(tree.package.clone()).or_default() += 1;
    }
    packages
}

/// The smallest thing that is an arm64 kernel (Documentation/arch/arm64/booting.rst): it is placed, not run.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[16..24].copy_from_slice(&0x1_0000u64.to_le_bytes());
    // Little-endian, pages of 4 KiB, anywhere.
    image[24..32].copy_from_slice(&0xau64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn look(tool: &Path, system: &Path, tree: &DeviceTree) -> Result<Board> {
    let check = |more: &[&str]| -> Result<Vec<Value>> {
        let system = [Path::new("check"), system, Path::new("--json")];
        let result = ask(tool, &system, &tree.file, more)?;
        Ok(result["problems"].as_array().context("no list of problems")?.clone())
    };
    let mut problems = check(&[])?;
    let message = |problem: &Value| problem["message"].as_str().unwrap_or_default().to_string();
    let memory = problems.iter().any(|problem| message(problem).contains("no memory in its device tree"));
    let stand_in: &[&str] = if memory { &["--memory", MEMORY] } else { &[] };
    if memory {
        problems = check(stand_in)?;
    }
    let mut board = Board {
        name: tree.name.clone(),
        memory,
        reasons: problems.iter().map(|problem| reason(&rule(problem), &message(problem))).collect(),
        pci: Pci::Absent,
        console: Console::default(),
        devices: Vec::new(),
    };
    board.reasons.sort();
    board.reasons.dedup();
    if problems.iter().any(|problem| message(problem).contains(UNREADABLE)) {
        return Ok(board);
    }
    let inspect = [Path::new("inspect"), Path::new("--json")];
    let found = ask(tool, &inspect, &tree.file, stand_in)?;
    let hosts = found["pci_hosts"].as_array().context("no list of host bridges")?;
    board.pci = match hosts.iter().any(|host| host["confined"] == true) {
        _ if hosts.is_empty() => Pci::Absent,
        true => Pci::Confined,
        false => Pci::Unconfined,
    };
    let console = &found["console"];
    board.console = Console {
        kind: console["name"][0].as_str().map(str::to_string),
        driven: console["driven"] == true,
        replaced: console["driven"] != true && console["used"].is_string(),
    };
    board.devices =
        found["devices"].as_array().context("no list of devices")?.iter().filter_map(device).collect();
    Ok(board)
}

/// What the tool says of a device tree, as JSON. A refusal is an answer, dying isn't.
fn ask(tool: &Path, words: &[&Path], tree: &PathBuf, more: &[&str]) -> Result<Value> {
    let mut command = process::command(tool);
    command.args(words).arg("--platform").arg(tree).args(more);
    let output = command.output().context("the tool can't be started")?;
    match output.status.code() {
        Some(0 | 2) => serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "no JSON but: {}",
                String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
            )
        }),
        _ => bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// What the tool says before the reason why a tree can't be read.
const UNREADABLE: &str = "neither a saved platform nor a device tree: ";

fn rule(problem: &Value) -> String {
    problem["rule"].as_str().unwrap_or_default().to_string()
}

/// A problem as boards have it in common: without names and numbers of the one.
fn reason(rule: &str, message: &str) -> String {
    if let Some((_, why)) = message.split_once(UNREADABLE) {
        let why = why.rsplit_once(": ").map_or(why, |(_, why)| why);
        return format!("its device tree can't be used: {why}");
    }
    let message = message.strip_prefix("vm \"vm\": ").unwrap_or(message);
    let head = message.split([':', '(']).next().unwrap_or(message).trim_end();
    match rule {
        "platform" => head.to_string(),
        "cpu-absent" | "hypervisor" if message.contains("isn't there") => "it has one CPU".to_string(),
        "cpu-absent" | "hypervisor" => "a CPU that its device tree doesn't let PSCI start".to_string(),
        "memory-fit" => "less memory in its device tree than the VM asks for (256M)".to_string(),
        "memory-place" => {
            "the RAM that is said, or stood in for, lies where the board has something else".to_string()
        }
        _ => format!("rule `{rule}`"),
    }
}

/// A device that isn't switched off.
fn device(found: &Value) -> Option<Device> {
    let why: Vec<&str> = found["why_not"].as_array()?.iter().filter_map(Value::as_str).collect();
    let mut rules: Vec<String> = Vec::new();
    let mut verdict = Verdict::Yes;
    for why in why {
        let rule = why.rsplit_once('[').map_or("", |(_, rule)| rule.trim_end_matches(']'));
        if rule == "device-disabled" {
            return None;
        }
        verdict = verdict.max(match rule {
            "dma" if why.contains("isn't known") => Verdict::Word,
            "hazard" | "provider" => Verdict::Accept,
            _ => Verdict::No,
        });
        if !rules.iter().any(|known| known == rule) {
            rules.push(rule.to_string());
        }
    }
    let kind = found["name"].as_str().unwrap_or_default().to_string();
    Some(Device { kind, verdict, rules })
}
