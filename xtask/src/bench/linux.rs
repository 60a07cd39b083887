//! Figures of a Linux host: what a disk and a card that a VM has by VFIO take of the host's processors, counted by the plugin of QEMU, with a
//! GIC that delivers messages itself (GICv4) and one that doesn't; what it takes from the command to the guest's first instruction; and the memory
//! that the tool takes beside the VM's RAM. Beside it QEMU runs the same guest with the same devices on the same host.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::count::{self, Moment, Work};
use super::goals::{self, Figures};
use crate::host::linux::Profile;
use crate::host::peers;
use crate::linux::{self, LinuxHost};
use crate::runner::Outcome;
use crate::{build, guest, paths, say};

mod kvm;

const TIMEOUT: Duration = Duration::from_secs(1200);
/// Reads, and echo requests, of one round, and how many of these. By GICv4 no more than a tick of the guest's or the host's is seen in some hundred reads.
const COUNT: u64 = 2000;
const ROUNDS: u64 = 3;
/// Without what loops that wait for a lock have executed, by their instructions that let others go on. On aarch64 such a loop of Linux's has ten, of which two
/// are WFE (arch/arm64/include/asm/cmpxchg.h, `__cmpwait`); on x86_64 four, with one PAUSE (kernel/locking/qspinlock.c). QEMU's processors are threads, and where the machine stops
/// one that holds a lock, others spin as long: that isn't what anybody's program takes.
fn without_spins(arch: &str, work: Work) -> Work {
    let spun = work.spins * if arch == "x86_64" { 4 } else { 5 };
    Work { all: work.all.saturating_sub(spun), el2: work.el2.saturating_sub(spun), ..work }
}

/// The mark before a program is started (`guests/linux/measure`).
const LAUNCH: u64 = 100;

/// A board, and what its kernel is told.
struct Board {
    name: &'static str,
    qemu: &'static [&'static str],
    kernel: &'static [&'static str],
    /// One thread of QEMU's executes all processors, and a guest isn't left for a wait ([`BY_INSTRUCTIONS`], [`WAITS`]).
    single: bool,
}

/// An instruction takes a nanosecond of the machine's time, and what is waited for takes as long as it does. Without it a nanosecond is what it is for this
/// machine, on which an emulated instruction takes some ten to thirty: as many more ticks of clocks would fall into a read than on any machine that
/// there is, and the more the busier this one is. x86_64's can't be counted so: see `xtask/plugin/count.c`.
const BY_INSTRUCTIONS: [&str; 2] = ["-icount", "shift=0"];
/// The timer isn't tried at the kernel's start, by counting its ticks in a loop: where QEMU's threads wait for a busy machine there are too few.
const TIMER: &str = "no_timer_check";
/// The guest waits for an interrupt without leaving (Linux 6.11): its processor is its own.
const WAITS: &str = "kvm-arm.wfi_trap_policy=notrap";

/// The boards of an architecture. The first is the one on which all is measured.
fn boards(arch: &str) -> &'static [Board] {
    match arch {
        "x86_64" => &[Board { name: goals::SVM, qemu: &[], kernel: &[TIMER], single: false }],
        _ => &[
            Board { name: goals::GICV3, qemu: &BY_INSTRUCTIONS, kernel: &[WAITS], single: true },
            Board {
                name: goals::GICV4,
                qemu: &["-M", "gic-version=4", BY_INSTRUCTIONS[0], BY_INSTRUCTIONS[1]],
                kernel: &["kvm-arm.vgic_v4_enable=1", WAITS],
                single: true,
            },
        ],
    }
}

/// Who runs the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Axvm,
    Qemu,
    /// The least that runs a guest: what a launch takes of any program.
    Least,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Axvm => "axvm",
            Self::Qemu => "qemu",
            Self::Least => "least",
        }
    }
}

/// What the VM has.
const DEVICES: [&str; 2] = ["without", "with"];

/// What can be measured, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What disk and card take.
    Work,
    /// The way to the guest's first instruction, and memory.
    Launch,
    /// What the guest that measures takes for its exits and interrupts: KVM's figures.
    Exits,
}

/// Those that are named; where none is, all that have goals.
pub fn chosen(names: &[String]) -> Result<Vec<Kind>> {
    if names.is_empty() {
        return Ok(vec![Kind::Work, Kind::Launch]);
    }
    let kind = |name: &String| match name.as_str() {
        "work" => Ok(Kind::Work),
        "launch" => Ok(Kind::Launch),
        "exits" => Ok(Kind::Exits),
        other => bail!("of a Linux host there are the figures work, launch and exits, not {other}"),
    };
    names.iter().map(kind).collect()
}

/// How it is said.
pub struct Options {
    /// For machines.
    pub json: bool,
    /// Fail where a goal is missed.
    pub check: bool,
    /// AxVM's figures only.
    pub short: bool,
}

/// Measures and prints.
pub fn run(arch: &str, kinds: &[Kind], options: &Options) -> Result<u8> {
    let Options { json: as_json, check, short } = *options;
    let kinds: &[Kind] = match (arch, kinds) {
        ("x86_64", [Kind::Launch]) => bail!(
            "of a Linux host of x86_64 the launch isn't counted: where a second guest begins, the plugin doesn't see"
        ),
        ("x86_64", _) => &[Kind::Work],
        _ => kinds,
    };
    if kinds.contains(&Kind::Exits) {
        if kinds.len() > 1 {
            bail!("exits are measured by themselves: they have no goals");
        }
        return kvm::run(arch, options);
    }
    let programs: &[Program] = if short { &[Program::Axvm] } else { &[Program::Axvm, Program::Qemu] };
    if !short {
        peers::ensure(arch)?;
    }
    let plugin = count::build(arch)?;
    build::guest(arch, "axvm-guest-measure")?;
    guest::prepare_measuring(arch)?;
    linux::prepare(arch, Profile::Tool)?;
    if kinds.contains(&Kind::Launch) {
        build::least_for_linux(arch)?;
    }
    let host = Host { arch, plugin: &plugin, is_quiet: as_json };
    let mut all = BTreeMap::new();
    for program in programs {
        if kinds.contains(&Kind::Work) {
            for board in boards(arch) {
                let of: &mut Figures = all.entry(program.name()).or_default();
                of.insert(board.name.to_owned(), host.work(board, *program)?);
            }
        }
    }
    if kinds.contains(&Kind::Launch) {
        for (program, figures) in host.launch(&[programs, &[Program::Least]].concat())? {
            all.entry(program.name()).or_default().insert(goals::ALL.to_owned(), figures);
        }
    }
    let table = goals::LINUX_HOST;
    let named = |goal: &goals::Goal| match goal.figure {
        figure if figure.starts_with("nvme-") || figure.starts_with("ping-") => kinds.contains(&Kind::Work),
        _ => kinds.contains(&Kind::Launch),
    };
    let (ours, theirs) = (all.get(Program::Axvm.name()), all.get(Program::Qemu.name()));
    let modes: Vec<&str> = boards(arch).iter().map(|board| board.name).collect();
    let mut judged_of = ours.cloned().unwrap_or_default();
    // What is a share of QEMU's, or as QEMU's, is held against that, and what a launch takes of anybody is in it.
    let beside = judged_of.entry(goals::NATIVE.to_owned()).or_default();
    for mode in [goals::ALL, boards(arch)[0].name] {
        beside.extend(theirs.and_then(|theirs| theirs.get(mode).cloned()).into_iter().flatten());
    }
    let least = all.get(Program::Least.name()).and_then(|least| least.get(goals::ALL));
    for (name, value) in least.into_iter().flatten() {
        beside.insert(format!("least-{name}"), *value);
    }
    let judged = goals::judge_in(&modes, table, &judged_of);
    let lines: Vec<goals::Line> = judged.into_iter().filter(|line| named(line.goal)).collect();
    if as_json {
        let verdicts: Vec<Value> = lines.iter().map(super::line_json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"figures": all, "goals": verdicts}))?);
    } else {
        print(&lines, theirs, least);
    }
    let failed = lines.iter().any(|line| line.verdict.fails());
    Ok(u8::from(check && failed))
}

/// A Linux host that is measured.
struct Host<'a> {
    arch: &'a str,
    plugin: &'a Path,
    is_quiet: bool,
}

impl Host<'_> {
    /// Runs what `guests/linux/beside` is told, line by line, and reads what the plugin has counted.
    fn run(&self, board: &Board, name: &str, lines: &[String]) -> Result<(Outcome, Vec<Moment>)> {
        if !self.is_quiet {
            say::step(format_args!("running the guest that measures on a Linux host as {name}"));
        }
        let counts = count::place(name);
        let mut qemu: Vec<String> = board.qemu.iter().map(|word| (*word).to_owned()).collect();
        let [word, plugin] = count::load(self.plugin, &counts);
        qemu.extend([word, plugin + if board.single { ",single=on" } else { "" }]);
        let beside = |line: &str| format!("sh /axvm/guests/linux/beside {line}");
        let prepare = beside(&format!("prepare {}", self.arch));
        let host = LinuxHost {
            kernel: board.kernel.iter().map(|word| (*word).to_owned()).collect(),
            commands: std::iter::once(prepare).chain(lines.iter().map(|line| beside(line))).collect(),
            ..LinuxHost::default()
        };
        let system = paths::root().join(format!("systems/measure-{}/system.toml", self.arch));
        let outcome = linux::run(&linux::Request {
            system: &system,
            arch: self.arch,
            name,
            host: &host,
            arguments: &[],
            qemu: &qemu,
            types: None,
            timeout: TIMEOUT,
            show: false,
        })?;
        if outcome.status != Some(0) {
            bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
        }
        Ok((outcome, count::read(&counts)?))
    }

    /// The medians of rounds on one board, for one operation.
    fn work(&self, board: &Board, program: Program) -> Result<BTreeMap<String, u64>> {
        let name = format!("bench-linux-{}-{}-{}", self.arch, board.name, program.name());
        let words = format!("axvm.work=reads,pings axvm.count={COUNT} axvm.rounds={ROUNDS}");
        let line = format!("work {} '{words}'", program.name());
        let (outcome, moments) = self.run(board, &name, &[line])?;
        if !outcome.says(count::DONE) {
            bail!("the guest of {name} doesn't come to its end; see {}", paths::shown(&outcome.log));
        }
        let mut figures = BTreeMap::new();
        for (kind, mark) in count::KINDS {
            // All CPUs: what the host does for the VM it does on any of them.
            let rounds = count::rounds_of(&moments, *mark, 0).with_context(|| format!("of {kind}"))?;
            let rounds: Vec<Work> = rounds.into_iter().map(|work| without_spins(self.arch, work)).collect();
            let of = |of| count::median_of(&rounds, of);
            figures.insert(format!("{kind}-all"), of(|work| work.all) / COUNT);
            figures.insert(format!("{kind}-host"), of(|work| work.el2) / COUNT);
            let returns = of(if board.single { |work| work.returns } else { |work| work.exits });
            figures.insert(format!("{kind}-returns"), returns * 100 / COUNT);
        }
        Ok(figures)
    }

    /// The way to the guest's first instruction, and what is taken of memory once it is there.
    fn launch(&self, programs: &[Program]) -> Result<Vec<(Program, BTreeMap<String, u64>)>> {
        let name = format!("bench-linux-{}-launch", self.arch);
        let cases: Vec<(&str, Program)> = DEVICES
            .iter()
            .flat_map(|devices| programs.iter().map(move |program| (*devices, *program)))
            .collect();
        let lines: Vec<String> =
            cases.iter().map(|(devices, program)| format!("launch {} {devices}", program.name())).collect();
        let (outcome, moments) = self.run(&boards(self.arch)[0], &name, &lines)?;
        let ways = launches(&moments)?;
        if ways.len() != cases.len() {
            bail!(
                "{} guests were started, of {}; see {}",
                ways.len(),
                cases.len(),
                paths::shown(&outcome.log)
            );
        }
        let mut found: Vec<(Program, BTreeMap<String, u64>)> =
            programs.iter().map(|program| (*program, BTreeMap::new())).collect();
        for ((devices, program), way) in cases.into_iter().zip(ways) {
            let Some((_, figures)) = found.iter_mut().find(|(of, _)| *of == program) else { continue };
            let way = without_spins(self.arch, way);
            figures.insert(format!("launch-{devices}"), way.all);
            figures.insert(format!("launch-user-{devices}"), way.all - way.el2);
            if program == Program::Least {
                continue;
            }
            let prefix = format!("WEIGH {} {devices} ", program.name());
            let said = outcome.lines.iter().find_map(|line| line.split_once(&prefix));
            let (_, said) = said.with_context(|| {
                format!("{} wasn't weighed; see {}", program.name(), paths::shown(&outcome.log))
            })?;
            figures.extend(weights(said, devices));
        }
        Ok(found)
    }
}

/// What all processors executed from each mark before a program's start to the next guest's first instruction.
fn launches(moments: &[Moment]) -> Result<Vec<Work>> {
    let mut ways = Vec::new();
    let mut from = None;
    for moment in moments {
        if moment.mark == LAUNCH {
            from = Some(moment);
        } else if moment.mark == *"guest"
            && let Some(from) = from.take()
        {
            ways.push(count::between(from, moment, 0));
        }
    }
    if from.is_some() {
        bail!("a program was started, and no guest came of it");
    }
    Ok(ways)
}

/// `own 12 shared 34 ...`, in KiB: memory of the program's own, with the files that it has left in memory, and all of it.
fn weights(said: &str, devices: &str) -> Vec<(String, u64)> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let of = |name: &str| {
        let pair = words.windows(2).find(|pair| pair[0] == name);
        pair.and_then(|pair| pair[1].parse::<u64>().ok())
    };
    let mut weights = Vec::new();
    for name in ["own", "shared", "files", "tables", "processes"] {
        weights.extend(of(name).map(|value| (format!("memory-{name}-{devices}"), value)));
    }
    let all = ["own", "shared", "files"].map(of);
    if let [Some(own), Some(shared), Some(files)] = all {
        weights.push((format!("memory-{devices}"), own + shared + files));
    }
    weights
}

fn print(lines: &[goals::Line<'_>], theirs: Option<&Figures>, least: Option<&BTreeMap<String, u64>>) {
    say::step(
        "a Linux host: instructions of all its processors, or KiB; \"floor\": the least that any program takes",
    );
    say::note(format_args!(
        "{:<8} {:<24} {:<58} {:>13} {:>13} {:>13} {:>13}  verdict",
        "board", "figure", "", "AxVM", "QEMU", "floor", "goal"
    ));
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    for line in lines {
        let other = theirs.and_then(|theirs| theirs.get(line.mode)?.get(line.goal.figure).copied());
        say::note(format_args!(
            "{:<8} {:<24} {:<58} {:>13} {:>13} {:>13} {:>13}  {}",
            line.mode,
            line.goal.figure,
            line.goal.what,
            number(line.value),
            number(other),
            number(least.and_then(|least| least.get(line.goal.figure)).copied()),
            number(line.limit),
            line.verdict
        ));
        super::say_floor(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_lasts_from_its_mark_to_the_next_guest() {
        let line = |mark: &str, n: u64| -> Moment {
            let text = format!(
                "{{\"mark\": {mark}, \"cpu\": 1, \"cpus\": [{{\"el\": [{n}, 0, {n}, 0], \"eret\": 0, \"wfi\": 0}}, \
                 {{\"el\": [0, 0, {n}, 0], \"eret\": 0, \"wfi\": 0}}]}}"
            );
            serde_json::from_str(&text).unwrap()
        };
        let moments =
            [("\"guest\"", 1), ("100", 10), ("\"guest\"", 30), ("97", 50), ("100", 100), ("\"guest\"", 101)];
        let moments: Vec<Moment> = moments.into_iter().map(|(mark, n)| line(mark, n)).collect();
        let ways: Vec<u64> = launches(&moments).unwrap().iter().map(|way| way.all).collect();
        assert_eq!(ways, [60, 3]);
        assert!(launches(&moments[..2]).is_err());
    }

    #[test]
    fn weights_are_read_and_added() {
        let seen: BTreeMap<String, u64> =
            weights("own 10 shared 20 files 300 tables 4 guest 9 processes 3", "with").into_iter().collect();
        assert_eq!(
            (seen["memory-with"], seen["memory-own-with"], seen["memory-processes-with"]),
            (330, 10, 3)
        );
        assert!(!weights("own 10", "with").iter().any(|(name, _)| name == "memory-with"));
    }
}
