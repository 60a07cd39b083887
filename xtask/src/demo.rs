//! The main job: AxVM boots an unmodified Debian Linux that drives its own disk, network card and clock, and on x86_64 a serial line and a card
//! that interrupts by its pin. What the guest says is compared with what the host knows, and the disk is read on the host after the run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::echo::Peer;
use crate::guest::payload::Payloads;
use crate::guest::{self, disk, payload};
use crate::host::linux::Profile;
use crate::linux::{self, LinuxHost};
use crate::runner::{self, Outcome, Request};
use crate::variant::{self, Change};
use crate::{build, paths, say};

/// The demo's system file.
pub fn system(arch: &str) -> std::path::PathBuf {
    paths::root().join(format!("systems/demo-{arch}/system.toml"))
}

/// Time for one demo: about two minutes are usual, with QEMU translating every instruction.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// Builds, runs and checks the demo; the exit status.
pub fn run(arch: &str, nic: &str, cpu: &str) -> Result<u8> {
    guest::prepare(arch)?;
    let image = build::hypervisor(arch, &[])?;
    let tool = build::tool()?;
    disk::refresh(arch)?;
    let name = format!("demo-{nic}-{cpu}");
    let system = variant::of(&system(arch), &change(nic, cpu), &name)?;
    let report = paths::target().join("demo").join("report.json");
    say::step(format_args!("axvm run {}", paths::shown(&system)));
    let peer = peer(arch, &system)?;
    let outcome = runner::run(&Request {
        tool: &tool,
        image: &image,
        system: &system,
        name: &name,
        qemu: &[],
        arguments: &[],
        timeout: TIMEOUT,
        show: true,
        report: Some(report.clone()),
        programs: None,
        types: None,
        packed: false,
        asks: Vec::new(),
        suspends: &[],
        soak: None,
    })?;
    let mut problems = check(arch, nic, Interrupts::Msi, &outcome)?;
    problems.extend(peer.map(Peer::finish).unwrap_or_default());
    let more = if arch == "x86_64" { ", its serial line and a card that interrupts by its pin" } else { "" };
    Ok(verdict(&problems, &outcome, &report, &format!("its NVMe disk, its {nic}, its clock{more}")))
}

/// What is different from the system file with this card and CPU.
fn change(nic: &str, cpu: &str) -> Change {
    let other = |word: &str, usual: &str| (word != usual).then(|| word.to_owned());
    Change { nic: other(nic, "e1000e"), cpu: other(cpu, "max"), ..Change::default() }
}

/// Builds, runs and checks the demo on a Linux host; the exit status.
pub fn run_on_linux(arch: &str, nic: &str, cpu: &str) -> Result<u8> {
    // A Linux gives no clock of the board's away.
    let system = paths::root().join(format!("systems/demo-{arch}/linux.toml"));
    if !system.is_file() {
        bail!("there is no demo on a Linux host for {arch} yet");
    }
    guest::prepare(arch)?;
    linux::prepare(arch, Profile::Quick)?;
    disk::refresh(arch)?;
    let name = format!("demo-linux-{nic}-{cpu}");
    let system = variant::of(&system, &change(nic, cpu), &name)?;
    let report = linux::folder(&name).join("report.json");
    say::step(format_args!("axvm run {} --host linux", paths::shown(&system)));
    let outcome = linux::run(&linux::Request {
        system: &system,
        arch,
        name: &name,
        host: &LinuxHost::default(),
        arguments: &[],
        qemu: &[],
        types: None,
        timeout: TIMEOUT,
        show: true,
    })?;
    let problems = check_on_linux(arch, nic, Interrupts::Msi, &outcome)?;
    Ok(verdict(&problems, &outcome, &report, &format!("its NVMe disk, its {nic}")))
}

/// Says what came of it; the exit status.
fn verdict(problems: &[String], outcome: &Outcome, report: &Path, drove: &str) -> u8 {
    say::step("verdict");
    say::note(format_args!("report: {}, log: {}", paths::shown(report), paths::shown(&outcome.log)));
    if problems.is_empty() {
        say::note(format_args!(
            "passed in {:.0} s: the guest drove {drove}, and the host found on the disk what the guest wrote",
            outcome.time.as_secs_f64()
        ));
        return 0;
    }
    for problem in problems {
        say::note(format_args!("FAILED: {problem}"));
    }
    let status = outcome.status.and_then(|status| u8::try_from(status).ok());
    status.filter(|status| *status != 0).unwrap_or(1)
}

/// Who is at the other end of the demo's serial line, where it has one.
pub fn peer(arch: &str, system: &std::path::Path) -> Result<Option<Peer>> {
    match arch {
        "x86_64" => Peer::start(system, payload::prepare()?.mebibyte()?).map(Some),
        _ => Ok(None),
    }
}

/// A line `DEMO <check> <rest>` of the guest.
fn said<'a>(lines: &'a [String], check: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| {
        let (_, line) = line.split_once("DEMO ")?;
        line.strip_prefix(check)?.strip_prefix(' ').map(str::trim_end)
    })
}

/// The value of `key=` in a line's rest.
fn value<'a>(rest: &'a str, key: &str) -> Option<&'a str> {
    rest.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// By what the guest's PCI functions interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Messages.
    Msi,
    /// The lines of their pins.
    Lines,
}

/// What the demo's guest has beside its disk and its card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// A board's clock.
    Board,
    /// A PC's clock, serial line and card that interrupts by its pin.
    Pc,
    /// Its timer alone: a Linux host gives no others away.
    Timer,
}

/// All that is wrong with a demo's run.
pub fn check(arch: &str, nic: &str, by: Interrupts, outcome: &Outcome) -> Result<Vec<String>> {
    let beside = if arch == "x86_64" { Beside::Pc } else { Beside::Board };
    check_with(arch, beside, nic, by, outcome)
}

/// All that is wrong with a demo's run on a Linux host.
pub fn check_on_linux(arch: &str, nic: &str, by: Interrupts, outcome: &Outcome) -> Result<Vec<String>> {
    check_with(arch, Beside::Timer, nic, by, outcome)
}

fn check_with(
    arch: &str,
    beside: Beside,
    nic: &str,
    by: Interrupts,
    outcome: &Outcome,
) -> Result<Vec<String>> {
    let payloads = payload::prepare()?;
    let mut problems = guest_problems(beside, &outcome.lines, nic, by, &payloads);
    if outcome.status != Some(0) || outcome.verdict() != "ok" {
        let status = outcome.status.map_or("none".to_owned(), |status| status.to_string());
        problems.push(format!("axvm run: verdict {}, exit status {status}", outcome.verdict()));
    }
    match said(&outcome.lines, "nvme-write").and_then(|rest| value(rest, "sha256")) {
        Some(written) => {
            if let Err(error) = disk::verify(arch, written, &payloads) {
                problems.push(format!("{error:#}"));
            }
        }
        None => problems.push("the guest didn't say what it wrote to its disk".into()),
    }
    Ok(problems)
}

/// What the guest's lines lack.
fn guest_problems(
    beside: Beside,
    lines: &[String],
    nic: &str,
    by: Interrupts,
    payloads: &Payloads,
) -> Vec<String> {
    let mut problems = Vec::new();
    for line in lines.iter().filter(|line| line.contains("DEMO ") && line.contains(" FAILED")) {
        problems.push(format!("the guest says: {line}"));
    }
    let kind = match by {
        Interrupts::Msi => "msi",
        Interrupts::Lines => "intx",
    };
    let (nvme_interrupts, nic_interrupts) = (format!("{kind}-nvme"), format!("{kind}-{nic}"));
    // Each check with the values that the host knows better than the guest.
    let (verify, dhcp) = ([("sha256", payloads.disk_sum.as_str())], [("driver", nic)]);
    let http = [("bytes", "16777216"), ("sha256", payloads.http_sum.as_str())];
    let echo = [("bytes", "1048576"), ("irq", "3"), ("sha256", payloads.mebibyte_sum.as_str())];
    let mut expected: Vec<(&str, &[(&str, &str)])> = vec![
        ("kernel", &[]),
        ("cpus", &[]),
        ("nvme-verify", &verify),
        ("nvme-write", &[("bytes", "67108864")]),
        ("nvme-unmount", &[]),
        ("net-dhcp", &dhcp),
        ("net-http", &http),
        (&nvme_interrupts, &[]),
        (&nic_interrupts, &[]),
    ];
    let rtc: [(&str, &[(&str, &str)]); 2] = [("rtc-read", &[]), ("rtc-alarm", &[])];
    match beside {
        Beside::Board => expected.extend(rtc),
        // The clock by which it measures time, which the hypervisor shows; and what only PCs have.
        Beside::Pc => {
            expected.extend(rtc);
            expected.extend([
                ("timer", &[][..]),
                ("echo", &echo),
                ("card-8139cp", &http),
                ("intx-8139cp", &[]),
            ]);
        }
        Beside::Timer => expected.push(("timer", &[])),
    }
    for (check, values) in expected {
        let Some(rest) = said(lines, check) else {
            problems.push(format!("the guest said nothing of {check}"));
            continue;
        };
        for (key, wanted) in values {
            if value(rest, key) != Some(wanted) {
                problems.push(format!("{check}: {key} is {:?}, not {wanted}", value(rest, key)));
            }
        }
    }
    if !lines.iter().any(|line| line.trim_end().ends_with("DEMO done")) {
        problems.push("the guest didn't come to its end".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[&str] = &[
        "linux| DEMO kernel ok 6.12.95+deb12-arm64",
        "linux| DEMO cpus ok 2",
        "linux| DEMO nvme-verify ok sha256=d",
        "linux| DEMO nvme-write ok bytes=67108864 sha256=w",
        "linux| DEMO nvme-unmount ok",
        "linux| DEMO net-dhcp ok card=eth0 driver=igb address=10.0.2.15",
        "linux| DEMO net-http ok bytes=16777216 sha256=h",
        "linux| DEMO rtc-read ok epoch=1 date=2026-01-01",
        "linux| DEMO rtc-alarm ok interrupts=0->1",
        "linux| DEMO msi-nvme ok 0000:00:02.0 13->745",
        "linux| DEMO msi-igb ok 0000:00:03.0 0->1448",
        "linux| DEMO done",
    ];

    /// What a PC's guest says more.
    const OF_A_PC: &[&str] = &[
        "linux| DEMO timer ok source=kvm-clock interrupts=1->9",
        "linux| DEMO echo ok port=/dev/ttyS1 irq=3 bytes=1048576 sha256=m interrupts=3->100",
        "linux| DEMO card-8139cp ok card=eth1 address=10.0.3.15 pings=3 bytes=16777216 sha256=h",
        "linux| DEMO intx-8139cp ok 0000:00:04.0 0->1448",
    ];

    fn problems_with(beside: Beside, lines: impl Iterator<Item = &'static str>) -> Vec<String> {
        let payloads = Payloads {
            disk: "d".into(),
            disk_sum: "d".into(),
            http: "h".into(),
            http_sum: "h".into(),
            mebibyte_sum: "m".into(),
        };
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        guest_problems(beside, &lines, "igb", Interrupts::Msi, &payloads)
    }

    fn problems_of(lines: impl Iterator<Item = &'static str>) -> Vec<String> {
        problems_with(Beside::Board, lines)
    }

    #[test]
    fn a_guest_that_says_all_is_believed() {
        assert_eq!(problems_of(GOOD.iter().copied()), Vec::<String>::new());
    }

    #[test]
    fn a_pc_has_more_to_say() {
        let all = || GOOD.iter().chain(OF_A_PC).copied();
        assert_eq!(problems_with(Beside::Pc, all()), Vec::<String>::new());
        assert_eq!(problems_of(all()), Vec::<String>::new());
        for missing in OF_A_PC {
            let without = all().filter(|line| line != missing);
            assert_eq!(problems_with(Beside::Pc, without).len(), 1, "without {missing}");
        }
        // Nobody was at the other end.
        let alone = all()
            .map(|line| if line.contains("echo") { "DEMO echo nobody is at the other end" } else { line });
        assert_eq!(problems_with(Beside::Pc, alone).len(), 3);
    }

    #[test]
    fn a_guest_of_a_linux_host_has_its_timer_and_no_clock_of_the_boards() {
        let without = GOOD.iter().copied().filter(|line| !line.contains("rtc-"));
        assert_eq!(problems_with(Beside::Timer, without.clone()).len(), 1);
        assert_eq!(problems_with(Beside::Timer, without.chain([OF_A_PC[0]])), Vec::<String>::new());
    }

    #[test]
    fn every_missing_line_is_a_problem() {
        for missing in GOOD {
            let lines = GOOD.iter().copied().filter(|line| line != missing);
            assert_eq!(problems_of(lines).len(), 1, "without {missing}");
        }
    }

    #[test]
    fn a_wrong_sum_and_a_failure_are_problems() {
        let wrong = GOOD
            .iter()
            .copied()
            .map(|line| if line.ends_with("=d") { "DEMO nvme-verify ok sha256=x" } else { line });
        assert_eq!(problems_of(wrong).len(), 1);
        let failed = GOOD.iter().copied().chain(["DEMO rtc-alarm FAILED no interrupt came"]);
        assert_eq!(problems_of(failed).len(), 1);
    }
}
