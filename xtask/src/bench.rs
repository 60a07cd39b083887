//! Figures: what an NVMe read of 4 KiB costs in exits (the difference of two runs), how big the image is, how much
//! memory the hypervisor holds, and how long it takes to the guest's first instruction.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::runner::{self, Outcome, Request};
use crate::variant::{self, Change};
use crate::{build, demo, guest, image, paths, say};

/// With these, QEMU counts one instruction as one tick of its clock: with `-cpu max` a tick of the counter.
const COUNTING: &[&str] = &["-icount", "shift=0,sleep=off"];

struct Bench<'a> {
    arch: &'a str,
    tool: PathBuf,
    image: PathBuf,
    /// In JSON mode nothing else goes to the standard output.
    quiet: bool,
}

/// Measures and prints; the exit status.
pub fn run(arch: &str, reads: u64, json: bool) -> Result<u8> {
    if reads == 0 {
        bail!("--reads must be 1 or more");
    }
    guest::prepare(arch)?;
    let image = build::hypervisor(arch, &[])?;
    let elf = build::hypervisor_elf(arch)?;
    let bench = Bench { arch, tool: build::tool()?, image, quiet: json };
    let once = bench.run("bench-reads", &format!("axvm.nvme_reads={reads}"), &[])?;
    let twice = bench.run("bench-reads-twice", &format!("axvm.nvme_reads={}", 2 * reads), &[])?;
    let counting: Vec<String> = COUNTING.iter().map(|word| word.to_string()).collect();
    let counted = bench.run("bench-boot", "axvm.nvme_reads=0", &counting)?;

    let sections = image::sections(&std::fs::read(&elf)?)?;
    let flat = std::fs::metadata(&bench.image)?.len();
    let hypervisor = &report(&counted)?["hypervisor"];
    let exits = exits(report(&once)?, report(&twice)?)?;
    let mut by_section = Map::new();
    for (name, size) in sections {
        by_section.insert(name, json!(size));
    }
    let figures = json!({
        "arch": arch,
        "nvme_read_4k": {"reads": [reads, 2 * reads], "exits": exits},
        "image": {"bytes": flat, "sections": by_section},
        "ram_bytes": hypervisor["ram_bytes"],
        "boot_instructions": hypervisor["boot_ticks"],
        "tick_hz": hypervisor["tick_hz"],
    });
    if json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures, reads);
    }
    Ok(0)
}

impl Bench<'_> {
    fn run(&self, name: &str, append: &str, qemu: &[String]) -> Result<Outcome> {
        if !self.quiet {
            say::step(format_args!("running {append} {}", qemu.join(" ")));
        }
        let change = Change { append: Some(append.into()), ..Change::default() };
        let system = variant::of(&demo::system(self.arch), &change, name)?;
        let outcome = runner::run(&Request {
            tool: &self.tool,
            image: &self.image,
            system: &system,
            name,
            qemu,
            arguments: &[],
            timeout: demo::TIMEOUT,
            show: false,
            report: None,
            programs: None,
        })?;
        if outcome.status != Some(0) || !outcome.says("DEMO bench-nvme ok") {
            bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
        }
        Ok(outcome)
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

fn print(figures: &Value, reads: u64) {
    say::step(format_args!("NVMe reads of 4 KiB: exits of a run with {reads}, with {}", 2 * reads));
    say::note(format_args!("{:<16} {:>10} {:>10} {:>10} {:>10}", "reason", "N", "2N", "2N-N", "per read"));
    for (reason, row) in figures["nvme_read_4k"]["exits"].as_object().into_iter().flatten() {
        let difference = row["difference"].as_i64().unwrap_or_default();
        say::note(format_args!(
            "{reason:<16} {:>10} {:>10} {difference:>10} {:>10.3}",
            row["n"].as_i64().unwrap_or_default(),
            row["2n"].as_i64().unwrap_or_default(),
            difference as f64 / reads as f64,
        ));
    }
    say::step(format_args!("image: {} bytes", figures["image"]["bytes"]));
    for (name, size) in figures["image"]["sections"].as_object().into_iter().flatten() {
        say::note(format_args!("{name:<16} {:>10}", size.as_u64().unwrap_or_default()));
    }
    say::step(format_args!("memory held by the hypervisor: {} bytes", figures["ram_bytes"]));
    say::step(format_args!(
        "instructions until the guest's first: {} (ticks of a {} Hz counter)",
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
    }
}
