//! Somebody who suspends a VM and has it go on, over and over, at moments that only a seed knows, and looks meanwhile: the VM executes
//! nothing, by its exits and, where its guest counts in its memory, by that, read by QEMU; and others go on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a run asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspends {
    /// The VM.
    vm: String,
    /// Texts: it begins once each was in some line.
    after: Vec<String>,
    /// How often.
    times: u32,
    /// Which moments.
    seed: u64,
    /// How long, in milliseconds, it is suspended at most, and not suspended.
    most_ms: u64,
    /// The VMs whose guests count in their memory, and say where: the first CPU's, then the second's.
    #[serde(default)]
    counters: BTreeMap<String, usize>,
    /// What is asked when the VM is suspended for the last time, in place of `resume`.
    #[serde(default)]
    last: Option<String>,
}

impl Suspends {
    /// Whether it begins, now that this has been said.
    pub fn begins(&self, said: &[String]) -> bool {
        self.after.iter().all(|text| said.iter().any(|line| line.contains(text.as_str())))
    }
}

/// How a guest says where it counts.
const COUNTS_AT: &str = "ATTACK counts at ";

/// How long anything that is asked for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the run's sockets are.
#[derive(Clone, Debug)]
pub struct Sockets {
    /// The shell's, by `--control`.
    pub control: PathBuf,
    /// QEMU's.
    pub qemu: PathBuf,
}

impl Sockets {
    /// QEMU's words for its own.
    pub fn words(&self) -> [String; 2] {
        ["-qmp".into(), format!("unix:{},server=on,wait=off", self.qemu.display())]
    }
}

/// Random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }
}

/// A socket at which lines are asked and answered in JSON.
struct Asked {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Asked {
    fn at(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("no {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, answers })
    }

    fn read(&mut self) -> Result<Value> {
        let mut answer = String::new();
        ensure!(self.answers.read_line(&mut answer)? > 0, "it is closed");
        Ok(serde_json::from_str(&answer)?)
    }

    fn ask(&mut self, line: &str) -> Result<Value> {
        self.stream.write_all(format!("{line}\n").as_bytes())?;
        self.read()
    }
}

/// QEMU's monitor.
struct Monitor(Asked);

impl Monitor {
    fn at(socket: &Path) -> Result<Self> {
        let mut asked = Asked::at(socket)?;
        asked.read()?;
        let mut new = Self(asked);
        new.execute(json!({"execute": "qmp_capabilities"}))?;
        Ok(new)
    }

    fn execute(&mut self, command: Value) -> Result<Value> {
        let mut answer = self.0.ask(&command.to_string())?;
        while answer.get("event").is_some() {
            answer = self.0.read()?;
        }
        answer.get("return").cloned().with_context(|| format!("QEMU: {answer}"))
    }

    /// Words of eight bytes of the machine's memory.
    fn words(&mut self, address: u64, count: usize) -> Result<Vec<u64>> {
        let line = format!("xp /{count}gx {address:#x}");
        let command = json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
        let text = self.execute(command)?;
        let text = text.as_str().unwrap_or_default();
        let words = text.lines().flat_map(|line| line.split_whitespace().skip(1));
        let words: Option<Vec<u64>> =
            words.map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
        words.filter(|words| words.len() == count).with_context(|| format!("QEMU: {text}"))
    }
}

/// Where a guest counts.
struct Counter {
    vm: String,
    at: u64,
    cpus: usize,
}

/// What a line says of where a VM's guest counts.
fn counter(line: &str) -> Option<(String, u64)> {
    let (before, address) = line.split_once(COUNTS_AT)?;
    let vm = before.split_once('[')?.1.split_once(']')?.0;
    Some((vm.into(), u64::from_str_radix(address.trim().strip_prefix("0x")?, 16).ok()?))
}

/// What is seen from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    exits: u64,
    counts: Vec<u64>,
}

struct Round<'a> {
    asks: &'a Suspends,
    shell: Asked,
    monitor: Monitor,
    counters: Vec<Counter>,
}

impl Round<'_> {
    fn ask(&mut self, line: &str) -> Result<Value> {
        let answer = self.shell.ask(line)?;
        ensure!(answer.get("error").is_none(), "{line}: {answer}");
        Ok(answer)
    }

    /// Asks for something that is done: there must be an answer that says so.
    fn have(&mut self, what: &str) -> Result<()> {
        let line = format!("{what} {}", self.asks.vm);
        let answer = self.ask(&line)?;
        ensure!(answer.get("done").is_some(), "{line}: {answer}");
        Ok(())
    }

    fn state(&mut self, vm: &str) -> Result<String> {
        let answer = self.ask("vms")?;
        let vms = answer["vms"].as_array().context("no VMs")?;
        let vm = vms.iter().find(|it| it["name"] == vm).context("no such VM")?;
        Ok(vm["state"].as_str().unwrap_or_default().into())
    }

    /// Waits until the VM is in this state.
    fn until(&mut self, state: &str) -> Result<()> {
        let (vm, end) = (self.asks.vm.clone(), Instant::now() + PATIENCE);
        loop {
            let now = self.state(&vm)?;
            if now == state {
                return Ok(());
            }
            ensure!(Instant::now() < end, "it is {now} and not {state}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn see(&mut self, vm: &str) -> Result<Seen> {
        let answer = self.ask(&format!("exits {vm}"))?;
        let rows = answer["exits"].as_array().context("no exits")?;
        let total = rows.iter().find(|row| row["reason"] == "total").context("no total")?;
        let mut counts = Vec::new();
        if let Some(Counter { at, cpus, .. }) = self.counters.iter().find(|it| it.vm == vm) {
            counts = self.monitor.words(*at, *cpus)?;
        }
        Ok(Seen { exits: total["count"].as_u64().unwrap_or_default(), counts })
    }

    /// Once: how many milliseconds it is suspended.
    fn once(&mut self, ms: u64, go_on: &str) -> Result<()> {
        let vm = self.asks.vm.clone();
        self.have("suspend")?;
        self.until("suspended")?;
        let before = self.see(&vm)?;
        let others: Vec<String> =
            self.counters.iter().map(|it| it.vm.clone()).filter(|other| *other != vm).collect();
        let mut running = Vec::new();
        for other in others {
            let seen = self.see(&other)?;
            running.push((other, seen));
        }
        std::thread::sleep(Duration::from_millis(ms));
        let after = self.see(&vm)?;
        ensure!(before == after, "it is suspended and executes: {before:?}, then {after:?}");
        for (other, before) in running {
            let end = Instant::now() + PATIENCE;
            while self.see(&other)?.counts.iter().zip(&before.counts).any(|(after, before)| after <= before) {
                ensure!(Instant::now() < end, "{other} doesn't go on beside it: {before:?}");
            }
        }
        self.have(go_on)?;
        if go_on != "resume" {
            return Ok(());
        }
        // What counts does so again.
        let end = Instant::now() + PATIENCE;
        while self.see(&vm)?.counts.iter().zip(&after.counts).any(|(now, before)| now <= before) {
            ensure!(Instant::now() < end, "it doesn't go on: {after:?}");
        }
        Ok(())
    }
}

/// Does it; what to say of it in the end.
pub fn perform(asks: &Suspends, sockets: &Sockets, said: &[String]) -> String {
    match try_perform(asks, sockets, said) {
        Ok(()) => format!("suspends: {} {} times, seed {}", asks.vm, asks.times, asks.seed),
        Err(error) => {
            // Nobody waits for what stays suspended.
            let _ = Asked::at(&sockets.control).and_then(|mut shell| shell.ask("off"));
            format!("suspends: {} FAILED: {error:#} (seed {})", asks.vm, asks.seed)
        }
    }
}

fn try_perform(asks: &Suspends, sockets: &Sockets, said: &[String]) -> Result<()> {
    let (shell, monitor) = (Asked::at(&sockets.control)?, Monitor::at(&sockets.qemu)?);
    let mut round = Round { asks, shell, monitor, counters: Vec::new() };
    let plan = round.ask("plan")?;
    let ram: Vec<&Value> = plan["plan"].as_array().into_iter().flatten().collect();
    for (vm, &cpus) in &asks.counters {
        let line = said.iter().rev().filter_map(|line| counter(line)).find(|(it, _)| it == vm);
        let (_, gpa) = line.with_context(|| format!("{vm} hasn't said where it counts"))?;
        let at = machine_address(&ram, vm, gpa).with_context(|| format!("{vm} has no RAM at {gpa:#x}"))?;
        round.counters.push(Counter { vm: vm.clone(), at, cpus });
    }
    let mut random = Random(asks.seed | 1 << 63);
    for time in 1..=asks.times {
        std::thread::sleep(Duration::from_millis(random.below(asks.most_ms)));
        let is_last = time == asks.times;
        let go_on = asks.last.as_deref().filter(|_| is_last).unwrap_or("resume");
        let ms = random.below(asks.most_ms);
        if let Err(error) = round.once(ms, go_on) {
            bail!("time {time}: {error:#}");
        }
    }
    Ok(())
}

/// Where the machine has what a VM has there.
fn machine_address(plan: &[&Value], vm: &str, gpa: u64) -> Option<u64> {
    let number = |text: &Value| u64::from_str_radix(text.as_str()?.strip_prefix("0x")?, 16).ok();
    plan.iter().filter(|row| row["vm"] == vm && row["kind"] == "ram").find_map(|row| {
        let (guest, machine) = (number(&row["guest"])?, number(&row["machine"])?);
        let offset = gpa.checked_sub(guest)?;
        (offset < row["size"].as_u64()?).then_some(machine + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_guest_counts_where() {
        assert_eq!(counter("[a-b] ATTACK counts at 0x40200010"), Some(("a-b".into(), 0x4020_0010)));
        assert_eq!(counter("[a] ATTACK counts begins"), None);
    }

    #[test]
    fn what_a_vm_has_is_where_the_plan_says() {
        let rows = [
            json!({"vm": "a", "kind": "ram", "guest": "0x40000000", "machine": "0x50000000", "size": 4096}),
            json!({"vm": "b", "kind": "ram", "guest": "0x40000000", "machine": "0x60000000", "size": 4096}),
        ];
        let rows: Vec<&Value> = rows.iter().collect();
        assert_eq!(machine_address(&rows, "b", 0x4000_0010), Some(0x6000_0010));
        assert_eq!(machine_address(&rows, "b", 0x4000_1000), None);
    }

    #[test]
    fn a_seed_has_its_own_moments() {
        let moments = |seed: u64| {
            let mut random = Random(seed | 1 << 63);
            [0; 8].map(|_| random.below(1000))
        };
        assert_eq!(moments(7), moments(7));
        assert_ne!(moments(7), moments(8));
    }
}
