//! The guest that measures: on the bare board, and in a VM in each mode.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::goals::{self, Figures};
use crate::runner::Outcome;
use crate::variant::Change;
use crate::{native, paths};

/// One run takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The line that ends a run that came to its end.
pub const DONE: &str = "PROBE done";

fn system(arch: &str, name: &str) -> PathBuf {
    paths::root().join(format!("systems/probe-{arch}/{name}.toml"))
}

/// Measures on the bare board and in each mode.
pub fn measure(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let mut measure =
        |name: &str, mode: &str, qemu: &[String]| measure_mode(bench, figures, name, mode, qemu).map(drop);
    for mode in goals::MODES {
        measure(mode, mode, &[])?;
    }
    measure(goals::GICV4, "emulated", &["-M".into(), "gic-version=4".into()])?;
    measure_native(bench, figures)
}

/// On the bare board, in emulated mode, and the way to the first guest instruction.
pub fn measure_x86_64(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let outcome = measure_mode(bench, figures, "emulated", "emulated", &[])?;
    let ram = super::report(&outcome)?["hypervisor"]["ram_bytes"].as_u64();
    let ram = ram.context("the report has no ram_bytes")?;
    figures.entry(goals::ALL.into()).or_default().insert("ram-bytes".into(), ram);
    start(bench, figures)?;
    measure_native(bench, figures)
}

/// Of x86_64's guests that have their CPUs' local APICs: beside them the bare board with these in the same mode (x2APIC).
pub fn measure_x2apic(bench: &Bench) -> Result<Figures> {
    let file = system(bench.arch, goals::PASSTHROUGH_MODE);
    let name = format!("bench-probe-{}", goals::PASSTHROUGH_MODE);
    let outcome = bench.run(&file, &Change::default(), &name, &[], TIMEOUT, DONE)?;
    let said = native::run(bench.arch, &file, "bench-probe-native-x2apic", DONE, TIMEOUT)?;
    Ok(Figures::from([
        (goals::PASSTHROUGH_MODE.to_owned(), parse(&outcome.lines)),
        (goals::NATIVE.to_owned(), parse(&said)),
    ]))
}

fn measure_native(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let file = system(bench.arch, "emulated");
    let said = native::run(bench.arch, &file, "bench-probe-native", DONE, TIMEOUT)?;
    figures.insert(goals::NATIVE.into(), parse(&said));
    Ok(())
}

fn measure_mode(
    bench: &Bench,
    figures: &mut Figures,
    name: &str,
    mode: &str,
    qemu: &[String],
) -> Result<Outcome> {
    let file = system(bench.arch, "emulated");
    let change = Change { interrupts: Some(mode.into()), ..Change::default() };
    let outcome = bench.run(&file, &change, &format!("bench-probe-{name}"), qemu, TIMEOUT, DONE)?;
    figures.insert(name.to_string(), parse(&outcome.lines));
    Ok(outcome)
}

/// Measures the way to the first guest instruction, and what more memory adds to it.
pub fn start(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let file = system(bench.arch, "start");
    let mut ticks = Vec::new();
    // Of a CPU that is told to begin anew QEMU counts the rest of its turn as executed, which comes to millions of what nobody executes.
    let has_counted_waiting = bench.arch == "x86_64";
    for memory in ["64M", "1088M"] {
        let change = Change { memory: Some(memory.into()), ..Change::default() };
        let outcome = bench.run(&file, &change, &format!("bench-start-{memory}"), &[], TIMEOUT, DONE)?;
        let figures = &super::report(&outcome)?["hypervisor"];
        let number = |key: &str| figures[key].as_u64().with_context(|| format!("the report has no {key}"));
        let waiting = if has_counted_waiting { number("boot_waiting_ticks")? } else { 0 };
        ticks.push((number("boot_ticks")?.saturating_sub(waiting), number("boot_filling_ticks")?));
    }
    let [(small, filling), (big, _)] = ticks[..] else { bail!("two runs give two figures") };
    let all = figures.entry(goals::ALL.into()).or_default();
    all.insert("start".into(), small.saturating_sub(filling));
    all.insert("vm-per-gib".into(), big.saturating_sub(small));
    Ok(())
}

/// The figures of its lines `PROBE name ticks`. What was skipped has none.
pub fn parse(lines: &[String]) -> BTreeMap<String, u64> {
    let mut figures = BTreeMap::new();
    for line in lines {
        let Some((_, rest)) = line.split_once("PROBE ") else { continue };
        let mut words = rest.split_whitespace();
        if let (Some(name), Some(Ok(ticks)), None) =
            (words.next(), words.next().map(str::parse), words.next())
        {
            figures.insert(name.to_owned(), ticks);
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_lines_of_a_name_and_a_number() {
        let lines = [
            "[probe] PROBE counter 1000000000 Hz",
            "[probe] PROBE line 12",
            "PROBE msi skipped: no edu",
            "x 3",
        ];
        let figures = parse(&lines.map(String::from));
        assert_eq!(figures.into_iter().collect::<Vec<_>>(), [("line".to_owned(), 12)]);
    }
}
