//! All tests, stage by stage, with the time of each and one line at the end that counts them all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::host::linux::Profile;
use crate::host::toolchain::{self, BareMetal};
use crate::host::{self, packages};
use crate::{bench, build, edges, fuzz, guest, links, linux, package, paths, process, runs, say};

/// Tests passed, and what failed with the place where one can read why.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: Vec<String>,
}

impl Count {
    fn one(problem: Option<String>) -> Count {
        match problem {
            None => Count { passed: 1, failed: Vec::new() },
            Some(problem) => Count { passed: 0, failed: vec![problem] },
        }
    }

    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
    }
}

/// Problems in one line, if there are any.
fn none_or_all(problems: &[String]) -> Option<String> {
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// A stage: its name and what it does.
type Stage = (&'static str, fn(&Job) -> Result<Count>);

const STAGES: &[Stage] = &[
    ("fmt", fmt),
    ("edges", crate_edges),
    ("clippy", clippy),
    ("clippy-target", clippy_target),
    ("doc", doc),
    ("package", package),
    ("unit", unit),
    ("qemu", qemu),
    ("figures", figures),
];

/// What was asked for.
struct Job<'a> {
    architectures: &'a [&'a str],
    which: &'a Which,
}

impl Job<'_> {
    /// The runs under QEMU that were asked for.
    fn runs(&self) -> Result<Vec<runs::Run>> {
        let mut list = runs::list()?;
        if let Some(name) = self.which.names.iter().find(|name| !list.iter().any(|run| run.name == **name)) {
            bail!("systems/runs.toml has no run `{name}`");
        }
        list.retain(|run| self.which.has(run) && self.architectures.contains(&run.arch.as_str()));
        list.iter_mut().for_each(|run| run.soak_for(self.which.seconds, self.which.seed));
        Ok(list)
    }

    /// The architectures that runs need.
    fn running(&self, list: &[runs::Run]) -> Vec<&str> {
        let is_needed = |arch: &&str| list.iter().any(|run| run.arch == *arch);
        self.architectures.iter().copied().filter(is_needed).collect()
    }

    /// The architectures whose figures have goals.
    fn measured(&self) -> Vec<&str> {
        self.architectures.iter().copied().filter(|arch| bench::is_measured(arch)).collect()
    }
}

/// Which of the runs under QEMU.
pub struct Which {
    /// Those with these names; none: all that the next field says.
    pub names: Vec<String>,
    /// The long ones (`all = true`) too.
    pub all: bool,
    /// How long a soak takes, where its entry isn't to say that.
    pub seconds: Option<u64>,
    /// The seed of a soak, likewise.
    pub seed: Option<u64>,
}

impl Which {
    fn has(&self, run: &runs::Run) -> bool {
        if self.names.is_empty() { self.all || !run.all } else { self.names.contains(&run.name) }
    }
}

/// Runs the stages named, or all; the exit status.
pub fn run(architectures: &[&str], stages: &[String], which: &Which) -> Result<u8> {
    if let Some(name) = stages.iter().find(|name| !STAGES.iter().any(|(stage, _)| stage == name)) {
        let known = STAGES.iter().map(|(stage, _)| *stage).collect::<Vec<_>>().join(", ");
        bail!("there is no stage `{name}`; there are {known}");
    }
    host::prepare(architectures, host::For::Checks)?;
    let job = Job { architectures, which };
    // What a stage lacks is said now, not after the stages before it.
    let is_wanted = |name: &str| stages.is_empty() || stages.iter().any(|wanted| wanted == name);
    if is_wanted("qemu") {
        let list = job.runs()?;
        host::prepare(&job.running(&list), host::For::Tests)?;
        list.iter().try_for_each(runs::Run::ensure_emulator)?;
    }
    if is_wanted("figures") {
        host::prepare(&job.measured(), host::For::Tests)?;
    }
    let mut total = Count::default();
    let mut times = Vec::new();
    for (name, stage) in STAGES {
        if !is_wanted(name) {
            continue;
        }
        say::step(format_args!("{name}"));
        let start = Instant::now();
        let count = match stage(&job) {
            Ok(count) => count,
            Err(error) if error.is::<say::Missing>() => return Err(error),
            Err(error) => Count::one(Some(format!("{name}: {error:#}"))),
        };
        let seconds = start.elapsed().as_secs_f64();
        for failure in &count.failed {
            say::note(format_args!("FAILED: {failure}"));
        }
        say::note(format_args!(
            "{name}: {} passed, {} failed, {seconds:.1} s",
            count.passed,
            count.failed.len()
        ));
        times.push((*name, seconds));
        total.add(count);
    }
    say::step("times");
    for (name, seconds) in times {
        say::note(format_args!("{name:<14} {seconds:>7.1} s"));
    }
    for failure in &total.failed {
        println!("FAILED: {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failed.len());
    Ok(u8::from(!total.failed.is_empty()))
}

/// Runs a command as one test, its output in a log.
fn logged(name: &str, command: &mut Command) -> Result<Count> {
    let log = paths::logs().join(format!("{name}.log"));
    let status = process::logged(command, &log)?;
    let why = || format!("{name}: {status}, see {}{}", paths::shown(&log), tail(&log));
    Ok(Count::one((!status.success()).then(why)))
}

/// The last lines of a log, for the screen.
fn tail(log: &std::path::Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("\n      {line}")).collect()
}

fn fmt(_: &Job) -> Result<Count> {
    logged("fmt", toolchain::host("fmt").args(["--all", "--check"]))
}

fn crate_edges(_: &Job) -> Result<Count> {
    Ok(Count::one(none_or_all(&edges::check()?)))
}

fn clippy(_: &Job) -> Result<Count> {
    logged("clippy", toolchain::host("clippy").args(["--all-targets", "--", "-D", "warnings"]))
}

/// The same for what runs on bare metal.
fn clippy_target(job: &Job) -> Result<Count> {
    let mut count = Count::default();
    let metadata = build::metadata()?;
    for arch in job.architectures {
        let bare_metal = BareMetal::find(arch)?;
        if !bare_metal.has_clippy() {
            packages::install(&["rust-web-clippy"], None)?;
        }
        for package in build::bare_metal_packages(&metadata, arch)? {
            let mut cargo = bare_metal.cargo("clippy", "clippy");
            let features = build::features(&metadata, &package).join(",");
            cargo.args(["--package", &package, "--features", &features, "--", "-D", "warnings"]);
            count.add(logged(&format!("clippy-{arch}-{package}"), &mut cargo)?);
        }
    }
    Ok(count)
}

/// The documentation of the crates, and whether what the documents name is there.
fn doc(_: &Job) -> Result<Count> {
    let mut cargo = toolchain::host("doc");
    let mut count = logged("doc", cargo.arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    count.add(Count::one(none_or_all(&links::broken()?)));
    Ok(count)
}

/// The crates as packages, each whole by itself: their manifests, and what `cargo package` says; with `--all` they are built with their
/// tests from the packages alone.
fn package(job: &Job) -> Result<Count> {
    let mut count = Count::one(none_or_all(&package::lacking()?));
    // All that it resolves is there once the crates were built; if not, it is fetched.
    let mut packed = logged("package", package::command()?.arg("--offline"))?;
    if !packed.failed.is_empty() {
        packed = logged("package", &mut package::command()?)?;
    }
    count.add(packed);
    if job.which.all && count.failed.is_empty() {
        count.add(logged("package-apart", &mut package::apart()?)?);
    }
    Ok(count)
}

/// Unit, property and documentation tests of everything that runs on the host.
fn unit(_: &Job) -> Result<Count> {
    let log = paths::logs().join("unit.log");
    let status = process::logged(toolchain::host("test").arg("--no-fail-fast"), &log)?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let (passed, failed) = results(&text);
    let mut failures = failed_names(&text);
    failures.truncate(failed);
    // Some failures have no name of their own: a test program that ended early.
    while failures.len() < failed {
        failures.push("a test".into());
    }
    if failures.is_empty() && !status.success() {
        failures.push(format!("cargo test: {status}{}", tail(&log)));
    }
    let failed = failures.into_iter().map(|name| format!("{name}, see {}", paths::shown(&log))).collect();
    let mut count = Count { passed, failed };
    // What `cargo xtask fuzz` runs are these tests, by their names.
    if status.success() {
        count.add(Count::one(none_or_all(&fuzz::without_tests()?)));
    }
    Ok(count)
}

/// Sums of the lines `test result: ok. 3 passed; 0 failed; ...`.
fn results(text: &str) -> (usize, usize) {
    let mut sums = (0, 0);
    for line in text.lines().filter(|line| line.starts_with("test result: ")) {
        let number = |word: &str| -> usize {
            let before = line.split(word).next().unwrap_or_default();
            before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        sums.0 += number(" passed");
        sums.1 += number(" failed");
    }
    sums
}

/// Names from the lines `test some::name ... FAILED`.
fn failed_names(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    names.map(str::to_owned).collect()
}

/// The runs under QEMU. Two at a time: most of them are one guest on one CPU, or wait, and in none is time counted.
fn qemu(job: &Job) -> Result<Count> {
    let list = job.runs()?;
    let tool = match prepare(&job.running(&list), &list) {
        Ok(tool) => tool,
        Err(error) if error.is::<say::Missing>() => return Err(error),
        // Nothing can run: every run has failed, for the same reason.
        Err(error) => {
            let failed = list.iter().map(|run| format!("{}: {error:#}", run.name)).collect();
            return Ok(Count { passed: 0, failed });
        }
    };
    // Those that use the demo's disk do so one after the other.
    let (disk, others): (Vec<_>, Vec<_>) = list.iter().partition(|run| run.uses_the_disk());
    let disk_in_use = Mutex::new(());
    let (disk, others) = (Mutex::new(disk.into_iter()), Mutex::new(others.into_iter()));
    let count = Mutex::new(Count::default());
    let perform = |run: &runs::Run| {
        let (failure, seconds) = one_run(run, &tool);
        let word = if failure.is_none() { "passed" } else { "FAILED" };
        say::note(format_args!("{:<40} {word} {seconds:>6.1} s", run.name));
        let mut count = locked(&count);
        match failure {
            None => count.passed += 1,
            Some(failure) => count.failed.push(failure),
        }
    };
    let with_disk = || {
        loop {
            let _alone = locked(&disk_in_use);
            let Some(run) = locked(&disk).next() else { break };
            perform(run);
        }
    };
    let without = || {
        loop {
            let Some(run) = locked(&others).next() else { break };
            perform(run);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            with_disk();
            without();
        });
        without();
        with_disk();
    });
    Ok(count.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What a lock holds, also when another run's thread has ended early.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Performs a run: what failed, if something did, and how many seconds it took.
fn one_run(run: &runs::Run, tool: &Path) -> (Option<String>, f64) {
    let start = Instant::now();
    let failure = match run.perform(tool) {
        Ok((problems, _)) if problems.is_empty() => None,
        Ok((problems, outcome)) => {
            Some(format!("{}: {}; see {}", run.name, problems.join("; "), paths::shown(&outcome.log)))
        }
        Err(error) => Some(format!("{}: {error:#}", run.name)),
    };
    (failure, start.elapsed().as_secs_f64())
}

/// The figures that have goals, without the runs of Linux.
fn figures(job: &Job) -> Result<Count> {
    let mut count = Count::default();
    for arch in job.measured() {
        build::hypervisor(arch, &[])?;
        build::guests(arch)?;
        let (goals, failed) = bench::check(arch)?;
        let passed = goals - failed.len();
        if !BareMetal::find(arch)?.builds_library() {
            say::note("not held to their goals: those are for an image whose library is built from source");
            count.add(Count { passed, failed: Vec::new() });
            continue;
        }
        count.add(Count { passed, failed });
    }
    Ok(count)
}

/// Builds and fetches what the runs of these architectures need; the tool.
fn prepare(architectures: &[&str], list: &[runs::Run]) -> Result<PathBuf> {
    for arch in architectures {
        guest::prepare(arch)?;
        let list = || list.iter().filter(|run| run.arch == *arch);
        for run in list() {
            if let Some(series) = run.kernel()? {
                guest::prepare_kernel(arch, series)?;
            }
        }
        if list().any(|run| run.linux_host.is_some()) {
            linux::prepare(arch, Profile::Quick)?;
        }
        if list().all(|run| run.linux_host.is_some()) {
            if list().any(runs::Run::uses_small_guests) {
                build::guests(arch)?;
            }
            continue;
        }
        build::hypervisor(arch, &[])?;
        build::hypervisor(arch, &["protection-off".to_owned()])?;
        build::guests(arch)?;
    }
    // A Linux host has its own.
    if list.iter().all(|run| run.linux_host.is_some()) {
        return Ok(PathBuf::new());
    }
    build::tool()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let text = "running 2 tests\ntest a ... ok\ntest b::c ... FAILED\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    test result: ok. 40 passed; 0 failed; 2 ignored\n";
        assert_eq!(results(text), (41, 1));
        assert_eq!(failed_names(text), ["b::c"]);
    }
}
