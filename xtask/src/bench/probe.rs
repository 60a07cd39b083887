//! The guest that measures: on the bare board, and in a VM in each mode.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use toml_edit::DocumentMut;

use super::Bench;
use super::goals::{self, Figures};
use crate::host::qemu;
use crate::variant::Change;
use crate::{image, paths, process};

/// One run takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The line that ends a run that came to its end.
pub const DONE: &str = "PROBE done";

fn system(arch: &str, name: &str) -> PathBuf {
    paths::root().join(format!("systems/probe-{arch}/{name}.toml"))
}

/// Measures on the bare board and in each mode.
pub fn measure(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let program = paths::guest(bench.arch).join("axvm-guest-probe.elf");
    let file = system(bench.arch, "emulated");
    figures.insert(goals::NATIVE.into(), native(bench.arch, &file, &program)?);
    let mut measure = |name: &str, mode: &str, qemu: &[String]| -> Result<()> {
        let change = Change { interrupts: Some(mode.to_string()), ..Change::default() };
        let outcome = bench.run(&file, &change, &format!("bench-probe-{name}"), qemu, TIMEOUT, DONE)?;
        figures.insert(name.to_string(), parse(&outcome.lines));
        Ok(())
    };
    for mode in goals::MODES {
        measure(mode, mode, &[])?;
    }
    measure(goals::GICV4, "emulated", &["-M".into(), "gic-version=4".into()])?;
    Ok(())
}

/// Measures the way to the first guest instruction, and what more memory adds to it.
pub fn start(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let file = system(bench.arch, "start");
    let mut ticks = Vec::new();
    for memory in ["64M", "1088M"] {
        let change = Change { memory: Some(memory.into()), ..Change::default() };
        let outcome = bench.run(&file, &change, &format!("bench-start-{memory}"), &[], TIMEOUT, DONE)?;
        let figures = &super::report(&outcome)?["hypervisor"];
        let number = |key: &str| figures[key].as_u64().with_context(|| format!("the report has no {key}"));
        ticks.push((number("boot_ticks")?, number("boot_filling_ticks")?));
    }
    let [(small, filling), (big, _)] = ticks[..] else { bail!("two runs give two figures") };
    let all = figures.entry(goals::ALL.into()).or_default();
    all.insert("start".into(), small.saturating_sub(filling));
    all.insert("vm-per-gib".into(), big.saturating_sub(small));
    Ok(())
}

/// Runs the guest without a hypervisor, on the board of a system file.
fn native(arch: &str, system: &Path, program: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(system)?;
    let document: DocumentMut = text.parse().with_context(|| format!("in {}", paths::shown(system)))?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let flat = paths::target().join("axvm").join(arch).join("axvm-guest-probe.bin");
    paths::write_atomically(&flat, &image::flatten(&std::fs::read(program)?)?)?;
    let log = paths::logs().join("runs").join("bench-probe-native.log");
    std::fs::create_dir_all(paths::logs().join("runs"))?;
    let mut command = process::command(qemu::program(arch));
    command.args(words.iter().filter_map(|word| word.as_str()));
    command.arg("-kernel").arg(&flat).args(["-display", "none", "-no-reboot", "-monitor", "none"]);
    command.args(["-serial", "stdio"]).stdout(Stdio::piped());
    command.stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    // It says less than a pipe holds: no need to read while it runs.
    let end = Instant::now() + TIMEOUT;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut bytes = Vec::new();
    child.stdout.take().context("no pipe")?.read_to_end(&mut bytes)?;
    let said = String::from_utf8_lossy(&bytes).into_owned();
    paths::write_atomically(&log, said.as_bytes())?;
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if !lines.iter().any(|line| line.contains(DONE)) {
        bail!("the guest that measures doesn't end on the bare board; see {}", paths::shown(&log));
    }
    Ok(parse(&lines))
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
