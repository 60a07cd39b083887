//! Fuzzing of what a guest or a file can feed: the property tests of each such thing over and over, each time with another
//! seed and many more cases than `cargo xtask test` has time for, until time is up.
//!
//! What comes in is made by the tests' own strategies (sequences of commands, of accesses, damaged files), and what has to
//! hold of the answer is what the tests say. A failing case is made small and shown by proptest; where it can, it keeps it
//! under `proptest-regressions/`, from which every later run of the tests tries it first.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::toolchain;
use crate::{paths, process, say};

/// Something to be fuzzed.
struct Target {
    name: &'static str,
    what: &'static str,
    package: &'static str,
    /// The integration test, or the library's own tests.
    test: Option<&'static str>,
    /// Only tests with this in their names.
    filter: &'static str,
}

const TARGETS: &[Target] = &[
    Target {
        name: "system-file",
        what: "the system file's reader",
        package: "axvm-system",
        test: None,
        filter: "file::",
    },
    Target {
        name: "bundle",
        what: "the bundle's reader",
        package: "axvm-system",
        test: None,
        filter: "bundle::",
    },
    Target {
        name: "packed",
        what: "the packed system's reader",
        package: "axvm-system",
        test: None,
        filter: "packed::",
    },
    Target {
        name: "platform",
        what: "device trees and snapshots",
        package: "axvm-platform",
        test: Some("hostile"),
        filter: "",
    },
    Target {
        name: "plan",
        what: "the planner",
        package: "axvm",
        test: None,
        filter: "plan::tests::properties",
    },
    Target {
        name: "boards",
        what: "device trees of made-up boards, and the planner on them",
        package: "axvm",
        test: None,
        filter: "plan::tests::structured",
    },
    Target {
        name: "config-space",
        what: "a guest's accesses to config space",
        package: "axvm-vpci",
        test: None,
        filter: "property::",
    },
    Target {
        name: "its",
        what: "a guest's ITS commands",
        package: "axvm-vgic",
        test: Some("its"),
        filter: "",
    },
    Target {
        name: "interrupts",
        what: "sequences of interrupts and accesses to the virtual GIC",
        package: "axvm-vgic",
        test: Some("properties"),
        filter: "",
    },
    Target {
        name: "decode",
        what: "instructions of trapped accesses",
        package: "axvm-loadstore",
        test: None,
        filter: "",
    },
    Target {
        name: "tables",
        what: "sequences of mappings",
        package: "axvm-paging",
        test: None,
        filter: "mapper::",
    },
];

/// So many cases for a property that doesn't say how many it takes.
const CASES: &str = "2000";

/// A round that takes longer hangs.
const HANGS: Duration = Duration::from_secs(300);

/// The targets, a line each.
pub fn help() -> String {
    TARGETS.iter().map(|target| format!("  {:<14} {}\n", target.name, target.what)).collect()
}

/// Fuzzes one target, or each for its share of so much time; the exit status.
pub fn run(only: Option<&str>, seconds: u64) -> Result<u8> {
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| only.is_none_or(|name| name == target.name)).collect();
    if chosen.is_empty() {
        bail!("there is no target `{}`; there are\n{}", only.unwrap_or_default(), help());
    }
    let mut programs = Vec::new();
    for target in &chosen {
        say::step(format_args!("building {}", target.name));
        programs.push(build(target)?);
    }
    let share = Duration::from_secs(seconds) / chosen.len() as u32;
    let mut failed = 0;
    for (target, program) in chosen.iter().zip(&programs) {
        say::step(format_args!("{}: {}, for {:.0} s", target.name, target.what, share.as_secs_f64()));
        let end = Instant::now() + share;
        let mut rounds = 0;
        loop {
            match round(target, program, end)? {
                Round::Passed => rounds += 1,
                Round::OutOfTime => break,
                Round::Failed(why) => {
                    failed += 1;
                    say::note(format_args!("FAILED: {why}"));
                    break;
                }
            }
        }
        // The one that time ran out on looked at cases, too.
        say::note(format_args!("{rounds} rounds and a part"));
    }
    println!("fuzz: {} targets, {failed} failed", chosen.len());
    Ok(u8::from(failed > 0))
}

/// Builds a target's tests; the program.
fn build(target: &Target) -> Result<PathBuf> {
    let mut cargo = toolchain::host("test");
    cargo.args(["--no-run", "--message-format=json", "--package", target.package]);
    match target.test {
        Some(test) => cargo.args(["--test", test]),
        None => cargo.arg("--lib"),
    };
    program(&process::output(&mut cargo)?)
        .with_context(|| format!("cargo names no program of {}", target.name))
}

/// The test program that cargo's messages name.
fn program(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// What came of one round.
#[derive(Debug, PartialEq)]
enum Round {
    Passed,
    OutOfTime,
    Failed(String),
}

/// Runs a target's tests once, with a seed of its own.
fn round(target: &Target, program: &Path, end: Instant) -> Result<Round> {
    let start = Instant::now();
    if start >= end {
        return Ok(Round::OutOfTime);
    }
    let log = paths::logs().join("fuzz").join(format!("{}.log", target.name));
    std::fs::create_dir_all(paths::logs().join("fuzz"))?;
    let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = process::command(program);
    // As cargo runs it: proptest looks for the sources from there.
    command.current_dir(package_folder(target)).arg(target.filter).env("PROPTEST_CASES", CASES);
    let mut child = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    loop {
        if let Some(status) = child.try_wait()? {
            let why = || format!("{status}; the case is in {}", paths::shown(&log));
            return Ok(if status.success() { Round::Passed } else { Round::Failed(why()) });
        }
        let now = Instant::now();
        if now >= end || now - start > HANGS {
            child.kill()?;
            child.wait()?;
            return Ok(match now >= end {
                true => Round::OutOfTime,
                false => {
                    Round::Failed(format!("no end after {} s; see {}", HANGS.as_secs(), paths::shown(&log)))
                }
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn package_folder(target: &Target) -> PathBuf {
    let name = target.package.strip_prefix("axvm-").unwrap_or(target.package);
    paths::root().join("crates").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_where_the_table_says_and_has_properties() {
        for target in TARGETS {
            let folder = package_folder(target);
            assert!(folder.join("Cargo.toml").is_file(), "{}", target.name);
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(manifest.contains("proptest"), "{} has no property tests", target.name);
            assert!(target.test.is_none_or(|test| folder.join(format!("tests/{test}.rs")).is_file()));
        }
    }

    #[test]
    fn the_program_is_that_of_the_test() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/no"}
not json
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/yes"}"#;
        assert_eq!(program(messages), Some(PathBuf::from("/yes")));
    }

    #[test]
    fn a_program_that_fails_is_a_failure_and_one_that_has_no_time_left_is_not() {
        let target = TARGETS.first().unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(round(target, Path::new("true"), later).unwrap(), Round::Passed);
        assert!(matches!(round(target, Path::new("false"), later).unwrap(), Round::Failed(_)));
        assert_eq!(round(target, Path::new("true"), Instant::now()).unwrap(), Round::OutOfTime);
    }
}
