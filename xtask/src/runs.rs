//! The list of QEMU runs (`systems/runs.toml`): each a system file and what must come of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::demo::{self, Interrupts};
use crate::echo::Peer;
use crate::guest::{self, Series, disk};
use crate::host::bochs;
use crate::host::grub::Firmware;
use crate::linux::{self, LinuxHost};
use crate::runner::{self, Outcome, Request};
use crate::soak::{self, Soak};
use crate::suspends::Suspends;
use crate::variant::{self, Change};
use crate::{native, paths, process, refusal, taken, tree};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    run: Vec<Run>,
}

/// One run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name, also its log's.
    pub name: String,
    /// The system file, from `systems/`.
    system: String,
    /// The architecture of its board, which the system file says.
    #[serde(skip)]
    pub arch: String,
    /// What is changed in it.
    #[serde(default)]
    change: Change,
    /// Whether the guest is the demo's, whose lines and disk are checked.
    #[serde(default)]
    demo: bool,
    /// Whether the demo's PCI functions interrupt by the lines of their pins.
    #[serde(default)]
    lines: bool,
    /// Whether the board has a second serial line, on which what is sent comes back.
    #[serde(default)]
    loopback: bool,
    /// Whether somebody is at the other end of the system file's second serial line, to whom a mebibyte must come back.
    #[serde(default)]
    echo: bool,
    /// The verdict that the run must have.
    #[serde(default)]
    verdict: Option<String>,
    /// Texts of which each must be in some line.
    #[serde(default)]
    says: Vec<String>,
    /// Sets of texts: of each, a line must have one. For what the machine's pace decides.
    #[serde(default)]
    says_one_of: Vec<Vec<String>>,
    /// Texts that no line may have.
    #[serde(default)]
    never: Vec<String>,
    /// Violations that the report must have.
    #[serde(default)]
    events: Vec<Event>,
    /// Kinds of violation that it must not have.
    #[serde(default)]
    no_events: Vec<String>,
    /// Of devices, by their names in the report: the least and the most interrupts that the hypervisor took for each.
    #[serde(default)]
    interrupts: BTreeMap<String, [u64; 2]>,
    /// Texts of which each must be in what the report says was said while a VM had the hypervisor's console.
    #[serde(default)]
    meanwhile: Vec<String>,
    /// How often, at least, a VM was taken apart to be built again: then what was taken of the machine must be what it was the first time.
    rebuilt: Option<u64>,
    /// What leaks meanwhile, by the names of what is counted: the count must show each of these, and nothing else.
    #[serde(default)]
    leaks: Vec<String>,
    /// Whether the file is refused, with exactly the problems that its comments `# problem: RULE` announce.
    #[serde(default)]
    refused: bool,
    /// A folder, from `systems/`, whose programs come before all others: stand-ins, such as an old QEMU.
    programs: Option<String>,
    /// Lines with this mark are those that the guest says on the bare board, one by one.
    as_native: Option<String>,
    /// The last line of such a guest.
    done: Option<String>,
    /// What is typed, and when.
    types: Option<Types>,
    /// Whether the tool only packs it, and QEMU starts that: nobody but a terminal listens.
    #[serde(default)]
    packed: bool,
    /// What emulates the board, where it isn't QEMU: then the tool packs only, and there is no report.
    emulator: Option<Emulator>,
    /// What programs ask for at the run's socket, and when: one after the other.
    #[serde(default)]
    asks: Vec<Asks>,
    /// Who suspends VMs, and how.
    #[serde(default)]
    suspends: Vec<Suspends>,
    /// What a program does to its VMs, at random and for long.
    soak: Option<Soak>,
    /// In what the board's device tree differs from QEMU's.
    tree: Option<tree::Kind>,
    /// The protection that is off, in the hypervisor's test image.
    protection_off: Option<String>,
    /// The guest that is fetched and made for it, where it isn't the demo's.
    guest: Option<Guest>,
    /// The boot loader that starts the hypervisor, from a disk with what `axvm pack` writes; without one QEMU does.
    boot_loader: Option<BootLoader>,
    /// That it runs on a Linux host, on the board that its system file has for bare metal.
    pub linux_host: Option<LinuxHost>,
    /// More words for `axvm run`.
    #[serde(default)]
    arguments: Vec<String>,
    /// More words for QEMU.
    #[serde(default)]
    qemu: Vec<String>,
    /// Seconds that it may take.
    timeout: Option<u64>,
    /// Whether only its timeout ends it: the board stays where it is.
    #[serde(default)]
    stays: bool,
    /// Whether it is too long for every change: `cargo xtask test --all` makes it.
    #[serde(default)]
    pub all: bool,
}

/// What is typed once a line has been said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Types {
    /// A text in that line.
    after: String,
    text: String,
    /// How often.
    #[serde(default = "once")]
    times: usize,
    /// What is typed at the end.
    #[serde(default)]
    then: String,
}

/// What a program asks for once a line has been said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asks {
    /// A text in that line.
    after: String,
    /// Commands of the shell's.
    lines: Vec<String>,
}

fn once() -> usize {
    1
}

/// A guest beside the demo's and those of `guests/`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Guest {
    /// Debian's U-Boot for the board, with a disk from which it boots the demo's kernel.
    UBoot,
}

/// A boot loader.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BootLoader {
    /// Debian's U-Boot for the board.
    UBoot,
    /// Debian's GRUB, after a BIOS.
    GrubBios,
    /// Debian's GRUB, after UEFI.
    GrubUefi,
}

/// What emulates a board beside QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Emulator {
    /// Debian's Bochs, whose board GRUB starts the hypervisor on.
    Bochs,
}

/// A violation in a report: its kind, and what else is given of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Kind(String),
    Fields(BTreeMap<String, String>),
}

impl Event {
    /// Whether the report's record is such a one.
    fn is(&self, record: &Value) -> bool {
        match self {
            Event::Kind(kind) => record["kind"] == kind.as_str(),
            Event::Fields(fields) => {
                fields.iter().all(|(name, value)| record[name.as_str()] == value.as_str())
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Kind(kind) => write!(f, "of kind {kind}"),
            Event::Fields(fields) => write!(f, "with {fields:?}"),
        }
    }
}

/// Reads the list.
pub fn list() -> Result<Vec<Run>> {
    let path = paths::root().join("systems/runs.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut list: List = toml::from_str(&text).with_context(|| format!("in {}", paths::shown(&path)))?;
    for (at, run) in list.run.iter().enumerate() {
        if list.run[..at].iter().any(|other| other.name == run.name) {
            bail!("two runs are called {}", run.name);
        }
        if status_of(run.verdict()).is_none() {
            bail!("{}: there is no verdict `{}`", run.name, run.verdict());
        }
        if run.linux_host.is_some() && run.is_for_bare_metal() {
            bail!("{}: it asks for what only a run on bare metal has, and is on a Linux host", run.name);
        }
    }
    for run in &mut list.run {
        run.arch = arch_of(&paths::root().join("systems").join(&run.system))?;
    }
    Ok(list.run)
}

/// The architecture that a system file names. One that must be refused may name none: it is refused where the others run.
fn arch_of(system: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(system).with_context(|| format!("cannot read {}", paths::shown(system)))?;
    let word = |line: &str| {
        Some(line.strip_prefix("arch")?.trim_start().strip_prefix('=')?.trim().trim_matches('"').to_owned())
    };
    Ok(text.lines().find_map(word).unwrap_or_else(|| "aarch64".to_owned()))
}

/// The exit status that belongs to a verdict.
fn status_of(verdict: &str) -> Option<i32> {
    Some(match verdict {
        "ok" => 0,
        "bad-input" => 2,
        "guest-failed" => 3,
        "violation" => 4,
        "hypervisor-failed" => 5,
        "timeout" => 6,
        "interrupted" => 130,
        _ => return None,
    })
}

impl Run {
    /// The kernel that its guest needs beside the usual one.
    pub fn kernel(&self) -> Result<Option<Series>> {
        self.change.kernel.as_deref().map(Series::named).transpose()
    }

    /// Has its soak, if it has one, take so long, with this seed; as its entry says where that isn't said.
    pub fn soak_for(&mut self, seconds: Option<u64>, seed: Option<u64>) {
        if let Some(soak) = &mut self.soak {
            if let Some(seconds) = seconds {
                self.timeout = self.timeout.map(|most| (most + seconds).saturating_sub(soak.seconds));
                soak.seconds = seconds;
            }
            soak.seed = seed.or(soak.seed);
        }
    }

    /// Makes sure that what emulates its board is there, where that isn't QEMU.
    pub fn ensure_emulator(&self) -> Result<()> {
        match self.emulator {
            None => Ok(()),
            Some(Emulator::Bochs) => bochs::ensure(),
        }
    }

    /// Whether its board has the demo's disk, which one QEMU at a time may have.
    pub fn uses_the_disk(&self) -> bool {
        self.names("disk.img")
    }

    /// Whether its guests are small ones of the repository's.
    pub fn uses_small_guests(&self) -> bool {
        self.names("/axvm-guest-")
    }

    fn names(&self, file: &str) -> bool {
        let text = std::fs::read_to_string(paths::root().join("systems").join(&self.system));
        text.is_ok_and(|text| text.contains(file))
    }

    /// Whether it has what is done to the hypervisor's image or board, or by its console's session.
    fn is_for_bare_metal(&self) -> bool {
        self.loopback
            || self.programs.is_some()
            || self.as_native.is_some()
            || self.packed
            || !self.asks.is_empty()
            || !self.suspends.is_empty()
            || self.soak.is_some()
            || self.tree.is_some()
            || self.protection_off.is_some()
            || self.guest.is_some()
            || self.boot_loader.is_some()
            || self.emulator.is_some()
    }

    /// Whether it leaves a report: on a Linux host it may do something else than run a system.
    fn has_report(&self) -> bool {
        !self.is_bare_serial() && self.linux_host.as_ref().is_none_or(|host| host.commands.is_empty())
    }

    /// Whether nobody listens but a serial line.
    fn is_bare_serial(&self) -> bool {
        self.packed || self.emulator.is_some()
    }

    fn verdict(&self) -> &str {
        self.verdict.as_deref().unwrap_or(if self.refused { "bad-input" } else { "ok" })
    }

    /// Runs it; all that is wrong, and the outcome with its log.
    pub fn perform(&self, tool: &Path) -> Result<(Vec<String>, Outcome)> {
        if let Some(host) = &self.linux_host {
            return self.perform_on_linux(host);
        }
        let arch = self.arch.as_str();
        let image = match self.protection_off {
            None => paths::hypervisor_image(arch),
            Some(_) => paths::test_image(arch),
        };
        let mut arguments = self.arguments.clone();
        if let Some(name) = &self.protection_off {
            arguments.extend(["--protection-off".to_owned(), name.clone()]);
        }
        let mut qemu = self.qemu.clone();
        let grub = |firmware: Firmware| (firmware.cd(), firmware.words());
        let loader = match self.boot_loader {
            None => None,
            Some(BootLoader::UBoot) => Some((guest::u_boot(arch)?, Vec::new())),
            Some(BootLoader::GrubBios) => Some(grub(Firmware::Bios)),
            Some(BootLoader::GrubUefi) => Some(grub(Firmware::Uefi)),
        };
        if let Some((loader, words)) = loader {
            arguments.extend(["--boot-loader".to_owned(), loader.display().to_string()]);
            qemu.extend(words);
        }
        if let Some(Guest::UBoot) = self.guest {
            guest::u_boot(arch)?;
            guest::boot_disk::refresh(arch, &guest::payload::prepare()?)?;
        }
        if self.demo {
            disk::refresh(arch)?;
        }
        let system =
            variant::of(&paths::root().join("systems").join(&self.system), &self.change, &self.name)?;
        let timeout = self.most();
        if self.loopback {
            qemu.extend(loopback(&self.name)?);
        }
        if let Some(kind) = self.tree {
            let tree = tree::write(arch, &system, &self.name, kind)?;
            qemu.extend(["-dtb".to_owned(), tree.display().to_string()]);
        }
        let run = |name: &str, soak: Option<(Soak, u64)>| {
            let request = Request {
                tool,
                image: &image,
                system: &system,
                name,
                qemu: &qemu,
                arguments: &arguments,
                timeout,
                show: false,
                report: None,
                programs: self.programs.as_ref().map(|folder| paths::root().join("systems").join(folder)),
                types: self.types.as_ref().map(|it| (it.after.clone(), it.text.repeat(it.times) + &it.then)),
                packed: self.packed,
                asks: self.asks.iter().map(|it| (it.after.clone(), it.lines.clone())).collect(),
                suspends: &self.suspends,
                soak,
            };
            match self.emulator {
                None => runner::run(&request),
                Some(Emulator::Bochs) => runner::run_in_bochs(&request),
            }
        };
        let soak = self.soak.as_ref().map(|soak| (soak.clone(), soak.seed()));
        // What is left at the end must be what a soak without a step leaves.
        let short = match &soak {
            Some((soak, seed)) => Some(run(
                &format!("{}-short", self.name),
                Some((Soak { seconds: 0, ..soak.clone() }, *seed)),
            )?),
            None => None,
        };
        let peer = match (self.demo, self.echo) {
            (_, true) => Some(Peer::start(&system, guest::payload::prepare()?.mebibyte()?)?),
            (true, false) => demo::peer(arch, &system)?,
            (false, false) => None,
        };
        let outcome = run(&self.name, soak)?;
        let mut problems = self.differences(&outcome);
        problems.extend(peer.map(Peer::finish).unwrap_or_default());
        if let Some(short) = short {
            let taken = |outcome: &Outcome| {
                outcome.report.as_ref().map_or(Value::Null, |report| report["hypervisor"]["taken"].clone())
            };
            problems.extend(soak::differences(&taken(&short), &taken(&outcome)));
            if !outcome.says(soak::OVER) {
                problems.push("the soak didn't come to its end".into());
            }
        }
        if self.refused {
            let text = std::fs::read_to_string(&system)?;
            let name = system.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            problems.extend(refusal::differences(name, &text, &outcome));
        }
        if let Some(mark) = &self.as_native {
            let done = self.done.as_deref().unwrap_or(mark);
            let said = native::run(arch, &system, &format!("{}-native", self.name), done, timeout)?;
            problems.extend(native::differences(mark, &said, &outcome.lines));
        }
        if self.demo {
            let nic = self.change.nic.as_deref().unwrap_or("e1000e");
            let by = if self.lines { Interrupts::Lines } else { Interrupts::Msi };
            problems.extend(demo::check(arch, nic, by, &outcome)?);
        }
        Ok((problems, outcome))
    }

    /// Runs it on a Linux host.
    fn perform_on_linux(&self, host: &LinuxHost) -> Result<(Vec<String>, Outcome)> {
        let arch = self.arch.as_str();
        if self.uses_the_disk() {
            disk::refresh(arch)?;
        }
        let system = paths::root().join("systems").join(&self.system);
        let outcome = linux::run(&linux::Request {
            system: &variant::of(&system, &self.change, &self.name)?,
            arch,
            name: &self.name,
            host,
            arguments: &self.arguments,
            qemu: &self.qemu,
            types: self.types.as_ref().map(|it| (it.after.clone(), it.text.repeat(it.times) + &it.then)),
            timeout: self.most(),
            show: false,
        })?;
        let mut problems = self.differences(&outcome);
        if self.refused {
            let text = std::fs::read_to_string(&system)?;
            let name = system.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            problems.extend(refusal::differences(name, &text, &outcome));
        }
        if self.demo {
            let nic = self.change.nic.as_deref().unwrap_or("e1000e");
            let by = if self.lines { Interrupts::Lines } else { Interrupts::Msi };
            problems.extend(demo::check_on_linux(arch, nic, by, &outcome)?);
        }
        Ok((problems, outcome))
    }

    /// How long it may take.
    fn most(&self) -> Duration {
        self.timeout.map_or(if self.demo { demo::TIMEOUT } else { DEFAULT }, Duration::from_secs)
    }

    fn differences(&self, outcome: &Outcome) -> Vec<String> {
        let mut problems = Vec::new();
        // Who ends a run wakes the hypervisor with that: what it then finds is no sign that it would have found it by itself.
        let until_timeout = outcome.time >= self.most();
        if until_timeout && !self.stays && self.verdict() != "timeout" {
            problems.push(format!("it went on until its timeout, {} s", self.most().as_secs()));
        }
        if self.stays && !until_timeout {
            problems.push("it ended by itself".into());
        }
        let expected = if self.is_bare_serial() { Some(0) } else { status_of(self.verdict()) };
        if outcome.status != expected {
            problems.push(format!(
                "exit status {:?}, not {:?} ({})",
                outcome.status,
                expected.unwrap_or_default(),
                self.verdict()
            ));
        }
        if self.has_report() && outcome.verdict() != self.verdict() {
            problems.push(format!("the report's verdict is {}, not {}", outcome.verdict(), self.verdict()));
        }
        for text in self.says.iter().filter(|text| !outcome.says(text)) {
            problems.push(format!("no line says `{text}`"));
        }
        for texts in self.says_one_of.iter().filter(|texts| !texts.iter().any(|text| outcome.says(text))) {
            problems.push(format!("no line says one of `{}`", texts.join("`, `")));
        }
        for text in self.never.iter().filter(|text| outcome.says(text)) {
            problems.push(format!("a line says `{text}`"));
        }
        let events = outcome.report.as_ref().and_then(|report| report["events"].as_array());
        let events = events.map_or(&[][..], Vec::as_slice);
        for event in self.events.iter().filter(|event| !events.iter().any(|it| event.is(it))) {
            problems.push(format!("the report has no event {event}"));
        }
        let devices = outcome.report.as_ref().and_then(|report| report["vms"].as_array());
        let devices: Vec<&serde_json::Value> =
            devices.into_iter().flatten().filter_map(|vm| vm["devices"].as_array()).flatten().collect();
        for (name, [least, most]) in &self.interrupts {
            let device = devices.iter().find(|device| device["device"] == name.as_str());
            let taken = device.and_then(|device| device["exits"]["interrupts"].as_u64());
            if taken.is_none_or(|taken| taken < *least || taken > *most) {
                problems.push(format!("{name}: {taken:?} interrupts were taken, not {least} to {most}"));
            }
        }
        let meanwhile = outcome.report.as_ref().map(|report| &report["hypervisor"]["meanwhile"]["text"]);
        let meanwhile = meanwhile.and_then(Value::as_str).unwrap_or_default();
        for text in self.meanwhile.iter().filter(|text| !meanwhile.contains(text.as_str())) {
            problems.push(format!("`{text}` wasn't said meanwhile"));
        }
        if let Some(least) = self.rebuilt {
            let taken = outcome.report.as_ref().map_or(&Value::Null, |report| &report["hypervisor"]["taken"]);
            problems.extend(taken::other_than(taken::differences(taken, least), &self.leaks));
        }
        for kind in self.no_events.iter().filter(|kind| events.iter().any(|it| it["kind"] == kind.as_str())) {
            problems.push(format!("the report has an event of kind {kind}"));
        }
        problems
    }
}

/// QEMU's words for a second serial line with a FIFO behind it that is both its input and its output.
fn loopback(name: &str) -> Result<[String; 4]> {
    let folder = paths::target().join("loopback");
    std::fs::create_dir_all(&folder)?;
    let fifo = folder.join(name);
    // As QEMU looks for them.
    let ends = ["in", "out"].map(|end| folder.join(format!("{name}.{end}")));
    for old in ends.iter().chain([&fifo]) {
        let _ = std::fs::remove_file(old);
    }
    process::output(process::command("mkfifo").arg(&fifo))?;
    for end in &ends {
        std::os::unix::fs::symlink(&fifo, end)?;
    }
    let chardev = format!("pipe,id=loopback,path={}", fifo.display());
    Ok(["-chardev".into(), chardev, "-serial".into(), "chardev:loopback".into()])
}

/// Time for the small guests and for files that are refused.
const DEFAULT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: i32, verdict: &str, lines: &[&str]) -> Outcome {
        Outcome {
            status: Some(status),
            lines: lines.iter().map(|line| line.to_string()).collect(),
            report: Some(
                serde_json::json!({"verdict": verdict, "events": [{"kind": "dma-write", "action": "reported"}]}),
            ),
            log: Default::default(),
            time: Default::default(),
        }
    }

    fn run(text: &str) -> Run {
        toml::from_str(&format!("name = \"n\"\nsystem = \"s\"\n{text}")).unwrap()
    }

    #[test]
    fn the_list_in_the_repository_is_well_formed_and_its_files_are_there() {
        for run in list().unwrap() {
            assert!(paths::root().join("systems").join(&run.system).is_file(), "{}", run.system);
        }
    }

    #[test]
    fn status_and_verdict_must_both_be_right() {
        let expected = run("verdict = \"violation\"\nevents = [\"dma-write\"]");
        assert!(expected.differences(&outcome(4, "violation", &[])).is_empty());
        assert_eq!(expected.differences(&outcome(0, "violation", &[])).len(), 1);
        assert_eq!(expected.differences(&outcome(4, "ok", &[])).len(), 1);
        let action = |action: &str| {
            run(&format!(
                "verdict = \"violation\"\nevents = [{{ kind = \"dma-write\", action = \"{action}\" }}]"
            ))
        };
        assert!(action("reported").differences(&outcome(4, "violation", &[])).is_empty());
        assert_eq!(action("blocked").differences(&outcome(4, "violation", &[])).len(), 1);
        let none = run("verdict = \"violation\"\nno_events = [\"dma-write\"]");
        assert_eq!(none.differences(&outcome(4, "violation", &[])).len(), 1);
        let other = run("verdict = \"violation\"\nevents = [\"dma-read\"]");
        assert_eq!(other.differences(&outcome(4, "violation", &[])).len(), 1);
    }

    #[test]
    fn a_run_that_its_timeout_ends_fails_whatever_comes_of_it() {
        let expected = run("timeout = 60");
        let taking = |seconds| Outcome { time: Duration::from_secs(seconds), ..outcome(0, "ok", &[]) };
        assert!(expected.differences(&taking(59)).is_empty());
        assert_eq!(expected.differences(&taking(60)).len(), 1);
        let stays = run("timeout = 60\nstays = true");
        assert!(stays.differences(&taking(60)).is_empty());
        assert_eq!(stays.differences(&taking(59)), ["it ended by itself"]);
        let timeout = Outcome { time: Duration::from_secs(60), ..outcome(6, "timeout", &[]) };
        assert!(run("timeout = 60\nverdict = \"timeout\"").differences(&timeout).is_empty());
    }

    #[test]
    fn the_interrupts_taken_for_a_device_are_within_their_bounds() {
        let expected = run("interrupts = { nvme = [1, 2] }");
        let taken = |device: &str, count: u64| {
            let device = serde_json::json!({"device": device, "exits": {"interrupts": count}});
            let mut outcome = outcome(0, "ok", &[]);
            outcome.report.as_mut().unwrap()["vms"] = serde_json::json!([{"devices": [device]}]);
            expected.differences(&outcome).len()
        };
        assert_eq!([taken("nvme", 1), taken("nvme", 2)], [0, 0]);
        assert_eq!([taken("nvme", 0), taken("nvme", 3), taken("nic", 1)], [1, 1, 1]);
    }
}
