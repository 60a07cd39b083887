//! A soak: VMs at work, to which a program does what a user could, at random, for as long as one likes, and then has them end.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// What a run's entry says of its soak.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Soak {
    /// For so many seconds.
    pub seconds: u64,
    /// The VMs that it is done to.
    pub vms: Vec<String>,
    /// What such a VM says when it is at work.
    pub at_work: String,
    /// A device that goes from the first to the second and back: both name it. The second doesn't start by itself then.
    pub device: Option<String>,
    /// Decides what is done, and when; one of the clock's if there is none.
    pub seed: Option<u64>,
}

impl Soak {
    /// The one from which all follows.
    pub fn seed(&self) -> u64 {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.seed.unwrap_or(clock.as_secs())
    }
}

/// What is done to a VM that is at work. Each kind leaves it at work, after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is stopped and starts again.
    Restart,
    /// It stands still for a moment.
    Suspend,
    /// The device goes to the VM, or is taken from it for the other: one after the other is stopped and started, so that one runs always.
    Move,
}

/// All of them, each as often as it stands here.
const STEPS: [Step; 5] = [Step::Restart, Step::Restart, Step::Suspend, Step::Restart, Step::Move];

/// What a VM may take to come to its work.
const START: Duration = Duration::from_secs(400);

/// Between two steps, in seconds.
const PAUSE: std::ops::RangeInclusive<u64> = 2..=25;

/// How long a VM stands still, in seconds.
const STILL: std::ops::RangeInclusive<u64> = 1..=8;

/// What is said when all is over, and the VMs are to end by themselves.
pub const OVER: &str = "soak: it is over";

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn within(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let position = self.next() as usize % all.len().max(1);
        all.get(position).copied()
    }
}

/// One soak, as it goes on.
struct Driver<'a> {
    soak: &'a Soak,
    /// What the run says.
    heard: Receiver<String>,
    /// Where what is done is said, among the run's lines.
    says: Sender<String>,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    /// By VM: whether it is at work.
    works: Vec<bool>,
    /// By VM: whether it was said to be stopped.
    stopped: Vec<bool>,
    /// Who has the device.
    owner: usize,
    done: usize,
}

/// Drives a run whose socket this is, until it is over. What goes wrong is a line of the run's with `FAILED`.
pub fn drive(soak: &Soak, seed: u64, socket: &Path, heard: Receiver<String>, says: Sender<String>) {
    let failed = says.clone();
    if let Err(error) = begin(soak, socket, heard, says).and_then(|driver| driver.run(seed)) {
        let _ = failed.send(format!("soak: FAILED: {error:#}"));
    }
}

fn begin<'a>(
    soak: &'a Soak,
    socket: &Path,
    heard: Receiver<String>,
    says: Sender<String>,
) -> Result<Driver<'a>> {
    let works = vec![false; soak.vms.len()];
    // Something must have been said: then the socket is there.
    let first = heard.recv_timeout(START).context("the run says nothing")?;
    drop(first);
    let end = Instant::now() + Duration::from_secs(30);
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(error).context("the run's socket"),
        }
    };
    let answers = BufReader::new(stream.try_clone()?);
    Ok(Driver {
        soak,
        heard,
        says,
        stream,
        answers,
        works,
        stopped: vec![false; soak.vms.len()],
        owner: 0,
        done: 0,
    })
}

impl Driver<'_> {
    fn run(mut self, seed: u64) -> Result<()> {
        let mut random = Random(seed);
        let mut kinds = STEPS.to_vec();
        self.say(format_args!("seed {seed}, {} s", self.soak.seconds));
        if let Some(device) = &self.soak.device {
            let [first, second] = [0, 1].map(|vm| self.soak.vms[vm].clone());
            self.until(|driver| driver.works[0], &first)?;
            self.ask(&format!("assign {device} {first}"))?;
            self.ask(&format!("start {second}"))?;
        } else {
            kinds.retain(|kind| *kind != Step::Move);
        }
        self.until_all_work()?;
        let end = Instant::now() + Duration::from_secs(self.soak.seconds);
        while Instant::now() < end {
            self.listen(Duration::from_secs(random.within(PAUSE)))?;
            // One may be on its way while others are at work.
            let ready: Vec<usize> =
                self.works.iter().enumerate().filter(|(_, works)| **works).map(|(vm, _)| vm).collect();
            let (Some(vm), Some(step)) = (random.of(&ready), random.of(&kinds)) else { continue };
            if Instant::now() < end && !self.perform(vm, step, &mut random)? {
                self.say(format_args!("{step:?} isn't served here"));
                kinds.retain(|kind| *kind != step);
            }
        }
        self.until_all_work()?;
        self.say(format_args!("{} steps were done", self.done));
        let _ = self.says.send(OVER.into());
        Ok(())
    }

    /// Does a step. `false`: the hypervisor has no such command.
    fn perform(&mut self, vm: usize, step: Step, random: &mut Random) -> Result<bool> {
        let name = self.soak.vms[vm].clone();
        match step {
            Step::Restart => {
                self.works[vm] = false;
                self.ask(&format!("restart {name}"))?;
            }
            Step::Suspend => {
                if !self.ask(&format!("suspend {name}"))? {
                    return Ok(false);
                }
                if self.stands_still(&name)? {
                    self.listen(Duration::from_secs(random.within(STILL)))?;
                    self.ask(&format!("resume {name}"))?;
                } else {
                    self.say(format_args!("{name} goes on instead"));
                }
            }
            Step::Move => {
                let (Some(device), from) = (self.soak.device.clone(), self.owner) else { return Ok(false) };
                let to = 1 - from;
                self.until_all_work()?;
                self.turn(from, &format!("release {device}"))?;
                self.until_all_work()?;
                self.turn(to, &format!("assign {device} {}", self.soak.vms[to]))?;
                self.owner = to;
            }
        }
        self.done += 1;
        Ok(true)
    }

    /// Stops a VM, asks for this, and starts it again.
    fn turn(&mut self, vm: usize, line: &str) -> Result<()> {
        let name = self.soak.vms[vm].clone();
        self.stopped[vm] = false;
        self.works[vm] = false;
        self.ask(&format!("stop {name}"))?;
        self.until(|driver| driver.stopped[vm], &name)?;
        self.ask(line)?;
        self.ask(&format!("start {name}"))?;
        Ok(())
    }

    /// Waits until a VM that is being suspended is. `false`: it goes on, since it couldn't be.
    fn stands_still(&mut self, name: &str) -> Result<bool> {
        let end = Instant::now() + START;
        while Instant::now() < end {
            let answer = self.request("vms")?;
            let vms = answer["vms"].as_array().into_iter().flatten();
            let state = vms.filter(|vm| vm["name"] == name).find_map(|vm| vm["state"].as_str());
            match state {
                Some("suspending") => self.listen(Duration::from_millis(100))?,
                other => return Ok(other == Some("suspended")),
            }
        }
        bail!("{name} is neither suspended nor goes on");
    }

    /// Asks the hypervisor's shell, and says what it has answered. `false`: it has no such command.
    fn ask(&mut self, line: &str) -> Result<bool> {
        let answer = self.request(line)?;
        self.say(format_args!("{line}: {answer}"));
        match &answer["error"]["message"] {
            Value::Null => Ok(true),
            Value::String(why) if why.contains("isn't served") => Ok(false),
            why => bail!("{line}: {why}"),
        }
    }

    fn request(&mut self, line: &str) -> Result<Value> {
        self.stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            bail!("the run has ended before its time");
        }
        Ok(serde_json::from_str(&answer)?)
    }

    fn until_all_work(&mut self) -> Result<()> {
        for (vm, name) in self.soak.vms.iter().enumerate() {
            self.until(|driver| driver.works[vm], name)?;
        }
        Ok(())
    }

    /// Waits until something is so of this VM.
    fn until(&mut self, is_so: impl Fn(&Self) -> bool, name: &str) -> Result<()> {
        let end = Instant::now() + START;
        while !is_so(self) {
            if Instant::now() > end {
                bail!("{name} doesn't come to its work, or to its end");
            }
            self.listen(Duration::from_secs(1))?;
        }
        Ok(())
    }

    /// Hears for a while who comes to its work.
    fn listen(&mut self, most: Duration) -> Result<()> {
        let end = Instant::now() + most;
        loop {
            match self.heard.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(&self.soak.at_work) => {
                    let is = |name: &String| line.contains(&format!("[{name}] "));
                    if let Some(vm) = self.soak.vms.iter().position(is) {
                        self.works[vm] = true;
                    }
                }
                Ok(line) => {
                    let is = |name: &String| line.contains(&format!("{name}: it is stopped"));
                    if let Some(vm) = self.soak.vms.iter().position(is) {
                        self.stopped[vm] = true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("the run has ended before its time"),
            }
        }
    }

    fn say(&self, what: fmt::Arguments<'_>) {
        // Nobody reads it once the run is over.
        let _ = self.says.send(format!("soak: {what}"));
    }
}

/// In what the end of a long soak differs from that of a short one: nothing that is taken of the machine may.
pub fn differences(short: &Value, long: &Value) -> Vec<String> {
    /// How much more of the hypervisor's memory may be taken: its report has more to tell.
    const RECORDS: u64 = 64 << 10;
    let mut problems = Vec::new();
    let Some(before) = short["end"].as_object() else {
        return vec!["there is nothing to compare with".into()];
    };
    for (what, short) in before {
        let long = &long["end"][what];
        let is_right = match (what.as_str(), short.as_u64(), long.as_u64()) {
            ("memory_bytes", Some(short), Some(long)) => long <= short + RECORDS,
            (_, short, long) => short.is_some() && short == long,
        };
        if !is_right {
            problems.push(format!("{what}: {short} at the end of a short soak, {long} at this one's"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_done_follows_from_the_seed() {
        let numbers = |seed| -> Vec<u64> {
            let mut random = Random(seed);
            (0..50).map(|_| random.within(3..=9)).collect()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!((3..=9).all(|number| numbers(7).contains(&number)) && numbers(7).iter().all(|it| *it <= 9));
    }

    #[test]
    fn all_must_be_back_at_the_end() {
        let end = |lines: u64, memory: u64| json!({"end": {"lines": lines, "memory_bytes": memory}});
        assert_eq!(differences(&end(3, 1000), &end(3, 9000)), Vec::<String>::new());
        assert_eq!(differences(&end(3, 1000), &end(4, 1 << 20)).len(), 2);
        assert_eq!(differences(&Value::Null, &end(3, 0)).len(), 1);
    }
}
