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
        package: "axvm-core",
        test: None,
        filter: "dry_run::properties",
    },
    Target {
        name: "boards",
        what: "device trees of made-up boards, and the planner on them",
        package: "axvm-core",
        test: None,
        filter: "dry_run::structured",
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
        test: Some("its_model"),
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
        name: "decode-x86",
        what: "the same, of x86, against another decoder",
        package: "axvm-x86-access",
        test: Some("oracle"),
        filter: "",
    },
    Target {
        name: "x86-cpu",
        what: "an x86 guest's instructions, page tables, registers and exits",
        package: "axvm-x86-cpu",
        test: None,
        filter: "",
    },
    Target {
        name: "handed",
        what: "what an x86 boot loader hands over",
        package: "axvm-platform",
        test: None,
        filter: "acpi::handed",
    },
    Target {
        name: "lspci",
        what: "what lspci prints of a machine",
        package: "axvm-pci",
        test: None,
        filter: "lspci::",
    },
    Target { name: "acpi", what: "ACPI's tables", package: "axvm-acpi", test: Some("tables"), filter: "" },
    Target { name: "aml", what: "ACPI's AML", package: "axvm-aml", test: Some("hostile"), filter: "" },
    Target {
        name: "pc",
        what: "the platform that ACPI's tables describe",
        package: "axvm-platform",
        test: Some("acpi"),
        filter: "",
    },
    Target {
        name: "tables",
        what: "sequences of mappings",
        package: "axvm-paging",
        test: None,
        filter: "mapper::",
    },
    Target {
        name: "shell",
        what: "what is typed at the shell",
        package: "axvm-shell",
        test: None,
        filter: "",
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
        let program = build(target)?;
        if tests(&program, target)?.is_empty() {
            bail!("{}: {} has no test named `{}`", target.name, target.package, target.filter);
        }
        programs.push(program);
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

/// Every target that names no test, of the tests that a plain `cargo test` builds.
pub fn without_tests() -> Result<Vec<String>> {
    let mut cargo = toolchain::host("test");
    cargo.args(["--no-run", "--message-format=json"]);
    let messages = process::output(&mut cargo)?;
    let mut found = Vec::new();
    for target in TARGETS {
        let Some(program) = program(&messages, target) else {
            found.push(format!("fuzz target {}: {} has no such test program", target.name, target.package));
            continue;
        };
        if tests(&program, target)?.is_empty() {
            let Target { name, package, filter, .. } = target;
            found.push(format!("fuzz target {name}: {package} has no test named `{filter}`"));
        }
    }
    Ok(found)
}

/// Builds a target's tests; the program.
fn build(target: &Target) -> Result<PathBuf> {
    let mut cargo = toolchain::host("test");
    cargo.args(["--no-run", "--message-format=json", "--package", target.package]);
    match target.test {
        Some(test) => cargo.args(["--test", test]),
        None => cargo.arg("--lib"),
    };
    program(&process::output(&mut cargo)?, target)
        .with_context(|| format!("cargo names no program of {}", target.name))
}

/// The target's test program, as cargo's messages name it.
fn program(messages: &str, target: &Target) -> Option<PathBuf> {
    let package = format!("#{}@", target.package);
    let is_its = |message: &Value| {
        let named = &message["target"];
        message["profile"]["test"] == true
            && message["package_id"].as_str().is_some_and(|id| id.contains(&package))
            && match target.test {
                Some(test) => named["kind"][0] == "test" && named["name"] == test,
                None => named["kind"][0] == "lib",
            }
    };
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(is_its)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The tests of a program that the target's filter leaves, by their names.
fn tests(program: &Path, target: &Target) -> Result<Vec<String>> {
    let said = process::output(process::command(program).arg(target.filter).arg("--list"))?;
    Ok(said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
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
    let name = match target.package {
        "axvm-core" => "axvm",
        other => other.strip_prefix("axvm-").unwrap_or(other),
    };
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
        let message = |package: &str, kind: &str, name: &str, test: bool, program: &str| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "package_id": format!("path+file:///crates/x#{package}@0.1.0"),
                "target": {"kind": [kind], "name": name},
                "profile": {"test": test},
                "executable": program,
            })
            .to_string()
        };
        let messages = [
            message("axvm-vgic", "lib", "axvm_vgic", false, "/no"),
            "not json".into(),
            message("axvm-vgic", "lib", "axvm_vgic", true, "/library"),
            message("axvm-other", "test", "its", true, "/anothers"),
            message("axvm-vgic", "test", "its", true, "/its"),
        ]
        .join("\n");
        let target = |test| Target { name: "", what: "", package: "axvm-vgic", test, filter: "" };
        assert_eq!(program(&messages, &target(None)), Some(PathBuf::from("/library")));
        assert_eq!(program(&messages, &target(Some("its"))), Some(PathBuf::from("/its")));
        assert_eq!(program(&messages, &target(Some("properties"))), None);
    }

    #[test]
    fn the_tests_of_a_program_are_those_that_the_filter_leaves() {
        let target = |filter| Target { name: "", what: "", package: "xtask", test: None, filter };
        let own = std::env::current_exe().unwrap();
        assert!(tests(&own, &target("fuzz::tests::the_program_is")).unwrap().len() == 1);
        assert!(tests(&own, &target("plan::tests::properties")).unwrap().is_empty());
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
