//! Instructions that a Linux guest executes, counted by a plugin of QEMU (`xtask/plugin/count.c`) for each CPU and
//! exception level: natively and in each mode, with the same kernel, disk and card. QEMU runs as it always does, with
//! real time, so that two runs differ by how often a CPU idles or a tick comes: figures are medians of rounds, and of several ways
//! to user space the shortest is taken, native ones and those of each mode in turn.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use toml_edit::{DocumentMut, Item};

use super::Bench;
use super::goals::{self, Figures};
use crate::host::qemu;
use crate::variant::Change;
use crate::{guest, paths, process, say};

const TIMEOUT: Duration = Duration::from_secs(600);
/// What the guest says at its end.
pub const DONE: &str = "MEASURE done";
/// Reads, and echo requests, of one round.
const COUNT: u64 = 500;
const ROUNDS: u64 = 8;
/// Where the ways to user space aren't compared.
const FEW_ROUNDS: u64 = 3;
/// So many times each way to user space is gone, beside that of the run with work.
const STARTS: u64 = 3;
/// The marks of `guests/linux/measure`.
const USER_SPACE: u64 = 96;
const READS: u64 = 97;
const PINGS: u64 = 98;
/// Each kind of work, and the mark of its rounds.
pub const KINDS: &[(&str, u64)] = &[("nvme-read", READS), ("ping", PINGS)];

/// A line of the plugin's: what each CPU had executed at a moment.
#[derive(Deserialize)]
pub struct Moment {
    /// Its mark: a number, or a word of the plugin's.
    pub mark: Value,
    cpus: Vec<Cpu>,
}

impl Moment {
    /// What a CPU had executed, at all levels.
    pub fn of(&self, cpu: usize) -> u64 {
        self.cpus.get(cpu).map_or(0, |cpu| cpu.el.iter().sum())
    }
}

#[derive(Clone, Copy, Deserialize)]
struct Cpu {
    /// Instructions by exception level.
    el: [u64; 4],
    /// Returns from EL2.
    eret: u64,
    /// WFI at EL0 and EL1.
    wfi: u64,
    /// WFE, or PAUSE, at EL2.
    #[serde(default)]
    spin: u64,
}

/// What the guest's CPUs executed between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// At all levels.
    pub all: u64,
    /// At EL2.
    pub el2: u64,
    /// Returns from EL2.
    pub returns: u64,
    /// Of these, those that don't belong to a wait, where a guest is left for each.
    pub exits: u64,
    /// At EL2 the instructions by which loops let others go on that they wait for.
    pub spins: u64,
}

/// Measures natively and in each mode.
pub fn measure(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let plugin = build(bench.arch)?;
    guest::prepare_measuring(bench.arch)?;
    let file = file(bench);
    let append = format!("axvm.work=reads,pings axvm.count={COUNT} axvm.rounds={ROUNDS}");
    for start in 0..=STARTS {
        let (append, kind) = match start {
            0 => (append.as_str(), String::new()),
            _ => ("axvm.count=1", format!("-start-{start}")),
        };
        let counts = place(&format!("native{kind}"));
        native(bench, &file, append, &load(&plugin, &counts))?;
        keep(figures, goals::NATIVE, &counts, 0, start == 0)?;
        for mode in goals::LINUX_MODES {
            let (name, counts) = (format!("bench-count-{mode}{kind}"), place(&format!("{mode}{kind}")));
            let change = Change {
                append: Some(append.to_owned()),
                interrupts: Some((*mode).into()),
                ..Change::default()
            };
            bench.run(&file, &change, &name, &load(&plugin, &counts), TIMEOUT, DONE)?;
            // The first CPU is the hypervisor's.
            keep(figures, mode, &counts, 1, start == 0)?;
        }
    }
    Ok(())
}

/// Of x86_64, natively and in each mode, what disk and card take: exits, and instructions. Ways to user space aren't counted: in that one the
/// native kernel has no beginning that the plugin sees.
pub fn measure_work(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let plugin = build(bench.arch)?;
    guest::prepare_measuring(bench.arch)?;
    let file = file(bench);
    let append = format!("axvm.work=reads,pings axvm.count={COUNT} axvm.rounds={FEW_ROUNDS}");
    let mut keep = |kind: &str, counts: &Path, first| {
        let moments = read(counts)?;
        let of = figures.entry(kind.into()).or_default();
        of.extend(rounds(&moments, first).with_context(|| format!("in {}", paths::shown(counts)))?);
        anyhow::Ok(())
    };
    let counts = place(goals::NATIVE);
    native(bench, &file, &append, &load(&plugin, &counts))?;
    keep(goals::NATIVE, &counts, 0)?;
    for mode in goals::LINUX_MODES {
        let counts = place(mode);
        let change =
            Change { append: Some(append.clone()), interrupts: Some((*mode).into()), ..Change::default() };
        let name = format!("bench-count-{mode}");
        bench.run(&file, &change, &name, &load(&plugin, &counts), TIMEOUT, DONE)?;
        // The first CPU is the hypervisor's.
        keep(mode, &counts, 1)?;
    }
    Ok(())
}

fn file(bench: &Bench) -> PathBuf {
    paths::root().join(format!("systems/measure-{}/system.toml", bench.arch))
}

/// Where the counts of a run are left.
pub fn place(kind: &str) -> PathBuf {
    paths::logs().join("runs").join(format!("bench-count-{kind}.counts"))
}

/// QEMU's words for a plugin, and where it leaves its counts.
pub fn load(plugin: &Path, counts: &Path) -> [String; 2] {
    ["-plugin".into(), format!("{},out={}", plugin.display(), counts.display())]
}

/// Compiles the plugin for this machine, and the QEMU of an architecture.
pub fn build(arch: &str) -> Result<PathBuf> {
    let interface = qemu::plugin_interface(arch);
    let plugin = paths::target().join("plugin").join(format!("count-{interface}.so"));
    let source = paths::root().join("xtask/plugin/count.c");
    if process::find("cc").is_none() {
        return say::missing(
            "the instruction counter needs a C compiler; as root:  apt-get install gcc libc6-dev",
        );
    }
    paths::make_with(&plugin, |partial| {
        let mut cc = process::command("cc");
        cc.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O2", "-pthread"]);
        cc.arg(format!("-DINTERFACE={interface}")).arg("-o");
        process::output(cc.arg(partial).arg(&source)).map(drop)
    })?;
    Ok(plugin)
}

/// Runs the VM's kernel without a hypervisor: on the file's board, but without EL2 and IOMMU, with as many CPUs and as
/// much memory as the VM has.
fn native(bench: &Bench, system: &Path, append: &str, plugin: &[String]) -> Result<()> {
    if !bench.quiet {
        say::step(format_args!("running {} natively", paths::shown(system)));
    }
    let text = std::fs::read_to_string(system)?;
    let document: DocumentMut = text.parse().with_context(|| format!("in {}", paths::shown(system)))?;
    let vm = document["vm"].as_array_of_tables().and_then(|list| list.get(0)).context("it has no VM")?;
    let text = |key: &str| vm.get(key).and_then(Item::as_str).with_context(|| format!("its VM has no {key}"));
    let cpus = vm.get("cpus").and_then(Item::as_array).context("its VM has no CPUs")?.len();
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let mut command = process::command(qemu::program(bench.arch));
    let folder = system.parent().context("a file lies in a folder")?;
    command.current_dir(folder);
    let words: Vec<&str> = words.iter().filter_map(|word| word.as_str()).collect();
    command.args(bare(&words));
    command.args(["-smp", &cpus.to_string(), "-m", text("memory")?]);
    command.args(["-kernel", text("kernel")?, "-initrd", text("initrd")?]);
    command.args(["-append", &format!("{} {append}", text("cmdline")?)]);
    command.args(["-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio"]).args(plugin);
    let log = paths::logs().join("runs").join("bench-count-native.log");
    std::fs::create_dir_all(paths::logs().join("runs"))?;
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    let end = Instant::now() + TIMEOUT;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = std::fs::read(&log)?;
    if !String::from_utf8_lossy(&said).contains(DONE) {
        bail!("the guest doesn't come to its end natively; see {}", paths::shown(&log));
    }
    Ok(())
}

/// The board's words without what is there for a hypervisor.
fn bare(words: &[&str]) -> Vec<String> {
    let mut bare = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "-smp" | "-m" => drop(rest.next()),
            "-device" => {
                let device = rest.next().copied().unwrap_or_default();
                if !device.starts_with("amd-iommu") && !device.starts_with("intel-iommu") {
                    bare.extend([(*word).to_owned(), device.to_owned()]);
                }
            }
            "-M" => {
                let machine = rest.next().copied().unwrap_or_default();
                let kept = machine
                    .split(',')
                    .filter(|part| !part.starts_with("virtualization=") && !part.starts_with("iommu="));
                bare.extend(["-M".to_owned(), kept.collect::<Vec<_>>().join(",")]);
            }
            _ => bare.push((*word).to_owned()),
        }
    }
    bare
}

/// Puts the figures of one run into the table: the way to user space, if it is the shortest so far, and those of the work that was
/// done, if any. `first`: the guest's first CPU.
fn keep(figures: &mut Figures, kind: &str, counts: &Path, first: usize, work: bool) -> Result<()> {
    let moments = read(counts)?;
    let of = figures.entry(kind.into()).or_default();
    let boot = way(&moments, first).with_context(|| format!("in {}", paths::shown(counts)))?;
    if of.get("user-space").is_none_or(|shortest| boot.all < *shortest) {
        of.extend([("user-space".to_owned(), boot.all), ("user-space-el2".to_owned(), boot.el2)]);
    }
    if work {
        of.extend(rounds(&moments, first).with_context(|| format!("in {}", paths::shown(counts)))?);
    }
    Ok(())
}

/// What the plugin has left.
pub fn read(counts: &Path) -> Result<Vec<Moment>> {
    let text = std::fs::read_to_string(counts)
        .with_context(|| format!("the plugin left no {}", paths::shown(counts)))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The way to user space.
fn way(moments: &[Moment], first: usize) -> Result<Work> {
    let at = |mark: &Value| moments.iter().find(|moment| moment.mark == *mark);
    let (Some(start), Some(user_space)) = (at(&"guest".into()), at(&USER_SPACE.into())) else {
        bail!("the guest didn't reach its user space");
    };
    Ok(between(start, user_space, first))
}

/// What the rounds of a kind of work took, on the CPUs from `first` on.
pub fn rounds_of(moments: &[Moment], mark: u64, first: usize) -> Result<Vec<Work>> {
    let marked: Vec<&Moment> = moments.iter().filter(|moment| moment.mark == mark).collect();
    let rounds: Vec<Work> = marked.windows(2).map(|pair| between(pair[0], pair[1], first)).collect();
    if rounds.is_empty() {
        bail!("there are no rounds");
    }
    Ok(rounds)
}

/// The median of something of rounds.
pub fn median_of(rounds: &[Work], of: fn(&Work) -> u64) -> u64 {
    let mut values: Vec<u64> = rounds.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// The figures of each kind of work.
fn rounds(moments: &[Moment], first: usize) -> Result<Vec<(String, u64)>> {
    let mut figures = Vec::new();
    for (name, mark) in KINDS {
        let rounds = rounds_of(moments, *mark, first).with_context(|| format!("of {name}"))?;
        figures.push(((*name).to_owned(), median_of(&rounds, |work| work.all) / COUNT));
        figures.push((format!("{name}-el2"), median_of(&rounds, |work| work.el2) / COUNT));
        let exits: u64 = rounds.iter().map(|work| work.exits).sum();
        figures.push((format!("{name}-exits"), exits * 100 / (COUNT * rounds.len() as u64)));
    }
    Ok(figures)
}

/// What CPUs from `first` on executed between two moments.
pub fn between(from: &Moment, to: &Moment, first: usize) -> Work {
    let mut work = Work::default();
    for (before, after) in from.cpus.iter().zip(&to.cpus).skip(first) {
        work.all += after.el.iter().sum::<u64>() - before.el.iter().sum::<u64>();
        work.el2 += after.el[2] - before.el[2];
        work.spins += after.spin - before.spin;
        work.returns += after.eret - before.eret;
        work.exits += (after.eret - before.eret).saturating_sub(after.wfi - before.wfi);
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_cpus_are_counted_between_its_marks() {
        let line = |mark: &str, n: u64| {
            format!(
                "{{\"mark\": {mark}, \"cpu\": 1, \"cpus\": [{{\"el\": [9, 9, {n}, 0], \"eret\": 9, \"wfi\": 0}}, \
                 {{\"el\": [{n}, {n}, {}, 0], \"eret\": {}, \"wfi\": {}}}]}}\n",
                n / 2,
                n / 5,
                n / 10
            )
        };
        let text = [
            line("\"guest\"", 0),
            line("96", 10),
            line("97", 1000),
            line("97", 2000),
            line("98", 3000),
            line("98", 5000),
            line("\"end\"", 9000),
        ];
        let moments: Vec<Moment> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let boot = way(&moments, 1).unwrap();
        assert_eq!((boot.all, boot.el2), (25, 5));
        let figures: std::collections::BTreeMap<_, _> = rounds(&moments, 1).unwrap().into_iter().collect();
        assert_eq!((figures["nvme-read"], figures["nvme-read-el2"]), (2500 / COUNT, 500 / COUNT));
        // 100 returns that are no waits, in 500 reads; 200 in as many pings.
        assert_eq!((figures["nvme-read-exits"], figures["ping-exits"]), (20, 40));
        assert!(way(&[], 1).is_err() && rounds(&[], 1).is_err());
    }

    #[test]
    fn the_bare_board_has_no_el2_and_no_iommu() {
        let words = [
            "-M",
            "virt,virtualization=on,gic-version=3,iommu=smmuv3",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2G",
        ];
        assert_eq!(bare(&words), ["-M", "virt,gic-version=3", "-cpu", "max"]);
        let words = ["-M", "q35", "-device", "amd-iommu,intremap=on", "-device", "nvme,drive=d0"];
        assert_eq!(bare(&words), ["-M", "q35", "-device", "nvme,drive=d0"]);
    }
}
