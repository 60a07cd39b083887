//! KVM's figures beside the hypervisor's own: the guest that measures, as a VM of a Linux host's on the machine that the hypervisor's figures are of, where
//! one tick is one instruction too, whoever executes it. The table of goals has them as what is reached elsewhere: they are held against that here.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::super::goals::{self, Figures};
use super::super::probe;
use super::Options;
use crate::host::linux::Profile;
use crate::linux::{self, LinuxHost};
use crate::{build, paths, say};

/// A Linux starts whose instructions are counted, one CPU at a time.
const TIMEOUT: Duration = Duration::from_secs(900);

/// So many percent more or less than the table has, a figure is as the table has it.
const AS_KNOWN: u64 = 5;

/// What isn't the same each time: KVM finds out by itself how much earlier than its deadlines its timers have to end; and a device's line is passed on by
/// threads of the tool's, of which others may have their turns in between.
const VARYING: [&str; 2] = ["deadline", "level-line"];

/// What a figure of KVM's is, compared with the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// About what the table has.
    AsKnown,
    /// The table has another one.
    Other,
    /// The table has none.
    Unknown,
    /// It isn't the same each time.
    Varies,
}

impl Compared {
    fn of(figure: &str, seen: u64, known: Option<u64>) -> Self {
        match known {
            _ if VARYING.contains(&figure) => Self::Varies,
            None => Self::Unknown,
            Some(known) if seen.abs_diff(known) * 100 <= known * AS_KNOWN => Self::AsKnown,
            Some(_) => Self::Other,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::AsKnown => "as known",
            Self::Other => "OTHER",
            Self::Unknown => "-",
            Self::Varies => "varies",
        }
    }
}

/// What is said between the guest that has its local APICs as pages, and the one that has them in x2APIC mode.
const BETWEEN: &str = "KVM: x2APIC";

/// The tables, and the modes in which the guest is as in those: of KVM's it has the local APICs by their pages, and in x2APIC mode.
const TABLES: [(&str, &[goals::Goal]); 2] =
    [(goals::EMULATED_MODE, goals::X86_64), (goals::PASSTHROUGH_MODE, goals::X86_64_PASSTHROUGH)];

/// A figure of KVM's.
struct Row {
    goal: &'static goals::Goal,
    mode: &'static str,
    seen: u64,
    compared: Compared,
}

/// Those of the tables that were seen.
fn rows(seen: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for (mode, table) in TABLES {
        let Some(seen) = seen.get(mode) else { continue };
        rows.extend(table.iter().filter_map(|goal| {
            let seen = *seen.get(goal.figure)?;
            Some(Row { goal, mode, seen, compared: Compared::of(goal.figure, seen, goal.elsewhere) })
        }));
    }
    rows
}

/// Measures and prints. With `check` it fails where the table has other figures.
pub fn run(arch: &str, options: &Options) -> Result<u8> {
    if arch != "x86_64" {
        bail!(
            "KVM's exits are measured on x86_64 (--arch x86_64): on {arch} the table has those of a tool of KVM's own"
        );
    }
    build::guest(arch, "axvm-guest-probe")?;
    linux::prepare(arch, Profile::Tool)?;
    let rows = rows(&measure(arch, options.json)?);
    if options.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|Row { goal, mode, seen, compared }| {
                json!({
                    "figure": goal.figure,
                    "beside": mode,
                    "kvm": seen,
                    "known": goal.elsewhere,
                    "is": compared.word(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        say::step("the guest that measures, by KVM: instructions of all processors");
        say::note(format_args!("{:<62} {:<12} {:>10} {:>10}", "", "beside", "KVM", "known"));
        for Row { goal, mode, seen, compared } in &rows {
            let known = goal.elsewhere.map_or("-".to_owned(), |known| known.to_string());
            say::note(format_args!(
                "{:<62} {mode:<12} {seen:>10} {known:>10}  {}",
                goal.what,
                compared.word()
            ));
        }
    }
    let other = rows.iter().any(|row| row.compared == Compared::Other);
    Ok(u8::from(options.check && other))
}

/// Runs the guest twice on one Linux.
fn measure(arch: &str, is_quiet: bool) -> Result<Figures> {
    let system = paths::root().join(format!("systems/probe-{arch}/kvm.toml"));
    let name = format!("bench-linux-{arch}-exits");
    if !is_quiet {
        say::step(format_args!("running {} as {name}", paths::shown(&system)));
    }
    let run = "axvm run --host linux";
    let both = format!("{run} SYSTEM && echo {BETWEEN} && {run} $(dirname SYSTEM)/kvm-x2apic.toml");
    let outcome = linux::run(&linux::Request {
        system: &system,
        arch,
        name: &name,
        host: &LinuxHost { commands: vec![both], ..LinuxHost::default() },
        arguments: &[],
        qemu: &[],
        types: None,
        timeout: TIMEOUT,
        show: false,
    })?;
    let between = outcome.lines.iter().position(|line| line.trim() == BETWEEN);
    let (pages, x2apic) = outcome.lines.split_at(between.unwrap_or_default());
    let is_done = |lines: &[String]| lines.iter().any(|line| line.contains(probe::DONE));
    if outcome.status != Some(0) || !is_done(pages) || !is_done(x2apic) {
        bail!("the run {name} ended as {}; see {}", outcome.verdict(), paths::shown(&outcome.log));
    }
    let names = TABLES.map(|(mode, _)| mode.to_owned());
    Ok(names.into_iter().zip([probe::parse(pages), probe::parse(x2apic)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_as_known_or_another_one() {
        assert_eq!(Compared::of("line", 1049, Some(1000)), Compared::AsKnown);
        assert_eq!(Compared::of("line", 951, Some(1000)), Compared::AsKnown);
        assert_eq!(Compared::of("line", 1051, Some(1000)), Compared::Other);
        assert_eq!(Compared::of("line", 900, Some(1000)), Compared::Other);
        assert_eq!(Compared::of("line", 900, None), Compared::Unknown);
        for figure in VARYING {
            assert_eq!(Compared::of(figure, 900, Some(1000)), Compared::Varies);
            assert!(goals::X86_64.iter().any(|goal| goal.figure == figure), "{figure}");
        }
    }
}
