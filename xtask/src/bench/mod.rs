//! Figures: what exits and interrupts cost by the guest that measures, how long it takes to the first guest instruction,
//! how big the image is, how much memory the hypervisor holds, and what an NVMe read of 4 KiB costs in exits (the
//! difference of two runs). Goals stand beside them ([`goals`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::runner::{self, Outcome, Request};
use crate::variant::{self, Change};
use crate::{build, demo, guest, image, paths, say};

mod count;
mod goals;
pub mod linux;
mod probe;
mod storm;

use goals::{Figures, Line};

/// With these, QEMU counts one instruction as one tick of its clock: with `-cpu max` a tick of the counter.
const COUNTING: &[&str] = &["-icount", "shift=0,sleep=off"];

/// So many reads, or echo requests, and twice as many are compared.
const MORE: u64 = 100;

/// What to measure and how to say it.
pub struct Options {
    /// Reads of the first NVMe run.
    pub reads: u64,
    /// For machines.
    pub json: bool,
    /// Fail where a goal is missed.
    pub check: bool,
    /// Without the runs of Linux.
    pub short: bool,
}

/// Where the programs are.
pub struct Bench<'a> {
    arch: &'a str,
    tool: PathBuf,
    image: PathBuf,
    /// In JSON mode nothing else goes to the standard output.
    quiet: bool,
}

/// Measures and prints; the exit status.
pub fn run(arch: &str, options: &Options) -> Result<u8> {
    if options.reads == 0 {
        bail!("--reads must be 1 or more");
    }
    if !options.short {
        guest::prepare(arch)?;
    }
    let image = build::hypervisor(arch, &[])?;
    build::guests(arch)?;
    let bench = Bench { arch, tool: build::tool()?, image, quiet: options.json };
    let mut figures = bench.figures()?;
    let counts = !options.short && bench.counts();
    if counts {
        count::measure(&bench, &mut figures)?;
    } else if !options.short {
        count::measure_work(&bench, &mut figures)?;
    }
    let more = match options.short {
        true => Value::Null,
        false => bench.more(&mut figures)?,
    };
    let mut lines = bench.judge(&mut figures)?;
    if !options.short {
        let linux = if counts { goals::LINUX } else { goals::X86_64_LINUX };
        lines.extend(goals::judge_in(goals::LINUX_MODES, linux, &figures));
        lines.extend(goals::judge_in(goals::LINUX_MODES, goals::MORE, &figures));
    }
    let mut result = json!({
        "arch": arch,
        "figures": figures,
        "goals": lines.iter().map(line_json).collect::<Vec<_>>(),
    });
    if !options.short {
        result["more"] = more;
        if counts {
            bench.linux(options.reads, &mut result)?;
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        print_more(&result);
        if counts {
            print_linux(&result, options.reads);
        }
        print_goals(&lines);
    }
    let failed = lines.iter().any(|line| line.verdict.fails());
    Ok(u8::from(options.check && failed))
}

/// Whether there are figures of an architecture, and goals.
pub fn is_measured(arch: &str) -> bool {
    ["aarch64", "x86_64"].contains(&arch)
}

/// The short form, for a test: what is wrong, one line each, and how many goals were looked at.
pub fn check(arch: &str) -> Result<(usize, Vec<String>)> {
    let bench = Bench { arch, tool: build::tool()?, image: paths::hypervisor_image(arch), quiet: false };
    let mut figures = bench.figures()?;
    let mut lines = bench.judge(&mut figures)?;
    if !bench.counts() {
        count::measure_work(&bench, &mut figures)?;
        lines.extend(goals::judge_in(goals::LINUX_MODES, goals::X86_64_LINUX, &figures));
    }
    print_goals(&lines);
    let failed: Vec<String> = lines
        .iter()
        .filter(|line| line.fails_tests())
        .map(|line| {
            let value = line.value.map_or("nothing".into(), |value| value.to_string());
            let limit = line.limit.map_or("-".into(), |limit| limit.to_string());
            let meanwhile = line
                .goal
                .meanwhile
                .map_or_else(String::new, |most| format!(", {most} is accepted meanwhile"));
            format!("{} ({}): {value}, the goal is {limit}{meanwhile}", line.goal.figure, line.mode)
        })
        .collect();
    Ok((lines.len(), failed))
}

impl Bench<'_> {
    /// Whether instructions are counted in all kinds of runs: x86_64's native Linux says nothing of its beginning, and storms are of aarch64.
    fn counts(&self) -> bool {
        self.arch == "aarch64"
    }

    /// The goals of the architecture.
    fn goals(&self) -> &'static [goals::Goal] {
        if self.counts() { goals::GOALS } else { goals::X86_64 }
    }

    /// Holds the figures against the goals. x86_64's guests that have their CPUs' local APICs are measured here, as the bare board beside them is another
    /// one: it uses them as they do.
    fn judge(&self, figures: &mut Figures) -> Result<Vec<Line<'static>>> {
        let mut lines = goals::judge(self.goals(), figures);
        if !self.counts() {
            let mut own = probe::measure_x2apic(self)?;
            lines.extend(goals::judge_in(goals::PASSTHROUGH, goals::X86_64_PASSTHROUGH, &own));
            let native = own.remove(goals::NATIVE).unwrap_or_default();
            figures.insert(format!("{}-x2apic", goals::NATIVE), native);
            for (mode, of) in own {
                figures.entry(mode).or_default().extend(of);
            }
        }
        Ok(lines)
    }

    /// All figures that have goals.
    fn figures(&self) -> Result<Figures> {
        let mut figures = Figures::new();
        if self.counts() {
            probe::measure(self, &mut figures)?;
            probe::start(self, &mut figures)?;
            storm::measure(self, &mut figures)?;
        } else {
            probe::measure_x86_64(self, &mut figures)?;
        }
        let all = figures.entry(goals::ALL.into()).or_default();
        all.insert("image-bytes".into(), std::fs::metadata(&self.image)?.len());
        Ok(figures)
    }

    /// What 100 more operations add to the exits of a whole run in passthrough mode, by its report: waits and interrupts between CPUs
    /// apart, nothing.
    fn more(&self, figures: &mut Figures) -> Result<Value> {
        guest::prepare_measuring(self.arch)?;
        let file = paths::root().join(format!("systems/measure-{}/system.toml", self.arch));
        let mut result = Map::new();
        for work in ["reads", "pings"] {
            let mut reports = Vec::new();
            for count in [MORE, 2 * MORE] {
                let change = Change {
                    append: Some(format!("axvm.work={work} axvm.count={count} axvm.rounds=0")),
                    interrupts: Some("passthrough".into()),
                    ..Change::default()
                };
                let name = format!("bench-{work}-{count}");
                let says = format!("MEASURE {work} ok");
                let outcome = self.run(&file, &change, &name, &[], demo::TIMEOUT, &says)?;
                reports.push(report(&outcome)?.clone());
            }
            let exits = exits(&reports[0], &reports[1])?;
            let other = others(&exits);
            figures.entry("passthrough".into()).or_default().insert(format!("more-{work}"), other);
            result.insert(work.into(), json!({"n": MORE, "exits": exits}));
        }
        Ok(Value::Object(result))
    }

    /// What Linux's reads cost, sizes, and the way to the first guest instruction with a big guest.
    fn linux(&self, reads: u64, result: &mut Value) -> Result<()> {
        let run = |name: &str, append: String, qemu: &[String]| {
            let change = Change { append: Some(append), ..Change::default() };
            self.run(&demo::system(self.arch), &change, name, qemu, demo::TIMEOUT, "DEMO bench-nvme ok")
        };
        let once = run("bench-reads", format!("axvm.nvme_reads={reads}"), &[])?;
        let twice = run("bench-reads-twice", format!("axvm.nvme_reads={}", 2 * reads), &[])?;
        let counting: Vec<String> = COUNTING.iter().map(|word| word.to_string()).collect();
        let counted = run("bench-boot", "axvm.nvme_reads=0".into(), &counting)?;
        let elf = build::hypervisor_elf(self.arch)?;
        let mut by_section = Map::new();
        for (name, size) in image::sections(&std::fs::read(&elf)?)? {
            by_section.insert(name, json!(size));
        }
        let hypervisor = &report(&counted)?["hypervisor"];
        result["nvme_read_4k"] =
            json!({"reads": [reads, 2 * reads], "exits": exits(report(&once)?, report(&twice)?)?});
        result["image"] = json!({"bytes": std::fs::metadata(&self.image)?.len(), "sections": by_section});
        result["ram_bytes"] = hypervisor["ram_bytes"].clone();
        result["boot_instructions"] = hypervisor["boot_ticks"].clone();
        result["tick_hz"] = hypervisor["tick_hz"].clone();
        Ok(())
    }

    /// Runs a system file with a change; it must end well, and say that it came to its end.
    fn run(
        &self,
        system: &Path,
        change: &Change,
        name: &str,
        qemu: &[String],
        timeout: Duration,
        says: &str,
    ) -> Result<Outcome> {
        let outcome = self.ended(system, change, name, qemu, timeout)?;
        if outcome.status != Some(0) || !outcome.says(says) {
            bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
        }
        Ok(outcome)
    }

    /// Runs a system file with a change, however it ends.
    fn ended(
        &self,
        system: &Path,
        change: &Change,
        name: &str,
        qemu: &[String],
        timeout: Duration,
    ) -> Result<Outcome> {
        if !self.quiet {
            say::step(format_args!("running {} as {name}", paths::shown(system)));
        }
        let system = variant::of(system, change, name)?;
        runner::run(&Request {
            tool: &self.tool,
            image: &self.image,
            system: &system,
            name,
            qemu,
            arguments: &[],
            timeout,
            show: false,
            report: None,
            programs: None,
            types: None,
            packed: false,
            asks: Vec::new(),
            suspends: &[],
            soak: None,
        })
    }
}

fn line_json(line: &Line) -> Value {
    let floor = line.goal.floor.as_ref();
    json!({
        "figure": line.goal.figure,
        "mode": line.mode,
        "value": line.value,
        "native": line.native,
        "goal": line.limit,
        "elsewhere": line.goal.elsewhere,
        "floor": floor.map(|floor| json!({"figure": floor.figure, "accepted": line.accepted, "why": floor.why})),
        "verdict": line.verdict.to_string(),
    })
}

fn print_goals(lines: &[Line]) {
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    say::step("figures, in instructions unless said otherwise");
    say::note(format_args!(
        "{:<50} {:<12} {:>10} {:>8} {:>10} {:>10}  verdict",
        "", "mode", "figure", "native", "goal", "elsewhere"
    ));
    for line in lines {
        say::note(format_args!(
            "{:<50} {:<12} {:>10} {:>8} {:>10} {:>10}  {}",
            line.goal.what,
            line.mode,
            number(line.value),
            number(line.native),
            number(line.limit),
            number(line.goal.elsewhere),
            line.verdict
        ));
        say_floor(line);
        if let (goals::Verdict::Missed, Some(most)) = (&line.verdict, line.goal.meanwhile) {
            say::note(format_args!("    the goal is missed; the tests accept {most} meanwhile, and no more"));
        }
    }
}

/// Says why a goal can't be reached, where that was measured.
fn say_floor(line: &Line) {
    if let (goals::Verdict::Floor, Some(floor)) = (&line.verdict, &line.goal.floor) {
        let accepted = line.accepted.unwrap_or_default();
        say::note(format_args!("    accepted: {accepted}: {}", floor.why));
    }
}

fn report(outcome: &Outcome) -> Result<&Value> {
    outcome.report.as_ref().with_context(|| format!("no report beside {}", paths::shown(&outcome.log)))
}

/// Exits by reason of the first VM: in the first run, in the second, and their difference.
fn exits(once: &Value, twice: &Value) -> Result<Value> {
    let counts = |report: &Value| report["vms"][0]["exits"]["by_reason"].as_object().cloned();
    let (Some(first), Some(second)) = (counts(once), counts(twice)) else {
        bail!("a report has no exits by reason")
    };
    let mut result = Map::new();
    for (reason, before) in &first {
        let before = before.as_i64().unwrap_or_default();
        let after = second.get(reason).and_then(Value::as_i64).unwrap_or_default();
        result.insert(reason.clone(), json!({"n": before, "2n": after, "difference": after - before}));
    }
    Ok(Value::Object(result))
}

/// Exits that the second run has more, or fewer, than the first: all but waits and interrupts between CPUs.
fn others(exits: &Value) -> u64 {
    let rows = exits.as_object().into_iter().flatten();
    let counted = rows.filter(|(reason, _)| !["wfi", "sgi", "total"].contains(&reason.as_str()));
    counted.filter_map(|(_, row)| row["difference"].as_i64()).map(i64::unsigned_abs).sum()
}

fn print_exits(exits: &Value, count: u64) {
    say::note(format_args!("{:<16} {:>10} {:>10} {:>10} {:>10}", "reason", "N", "2N", "2N-N", "for one"));
    for (reason, row) in exits.as_object().into_iter().flatten() {
        let difference = row["difference"].as_i64().unwrap_or_default();
        say::note(format_args!(
            "{reason:<16} {:>10} {:>10} {difference:>10} {:>10.3}",
            row["n"].as_i64().unwrap_or_default(),
            row["2n"].as_i64().unwrap_or_default(),
            difference as f64 / count as f64,
        ));
    }
}

fn print_more(figures: &Value) {
    for (work, result) in figures["more"].as_object().into_iter().flatten() {
        say::step(format_args!("{work}: exits of a run with {MORE}, with {}", 2 * MORE));
        print_exits(&result["exits"], MORE);
    }
}

fn print_linux(figures: &Value, reads: u64) {
    say::step(format_args!(
        "NVMe reads of 4 KiB in the demo: exits of a run with {reads}, with {}",
        2 * reads
    ));
    print_exits(&figures["nvme_read_4k"]["exits"], reads);
    say::step(format_args!("image: {} bytes", figures["image"]["bytes"]));
    for (name, size) in figures["image"]["sections"].as_object().into_iter().flatten() {
        say::note(format_args!("{name:<16} {:>10}", size.as_u64().unwrap_or_default()));
    }
    say::step(format_args!("memory held by the hypervisor: {} bytes", figures["ram_bytes"]));
    say::step(format_args!(
        "instructions until Linux's first, with copying: {} (ticks of a {} Hz counter)",
        figures["boot_instructions"], figures["tick_hz"]
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_the_difference_of_two_runs() {
        let report = |wfi: u64| json!({"vms": [{"exits": {"by_reason": {"wfi": wfi, "sgi": 3}}}]});
        let exits = exits(&report(10), &report(25)).unwrap();
        assert_eq!(exits["wfi"], json!({"n": 10, "2n": 25, "difference": 15}));
        assert_eq!(exits["sgi"]["difference"], 0);
        assert!(super::exits(&json!({}), &report(1)).is_err());
        assert_eq!(
            others(
                &json!({"wfi": {"difference": 9}, "mmio": {"difference": -2}, "sysreg": {"difference": 1}})
            ),
            3
        );
    }
}
