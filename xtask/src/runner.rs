//! One run of `axvm run`: bounded, its output kept and shown, its report read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml_edit::DocumentMut;

use crate::host::{bochs, qemu};
use crate::soak::{self, Soak};
use crate::suspends::{self, Sockets, Suspends};
use crate::{paths, process};

/// What to run.
pub struct Request<'a> {
    /// The user's tool.
    pub tool: &'a Path,
    /// The hypervisor's flat image.
    pub image: &'a Path,
    /// The system file.
    pub system: &'a Path,
    /// Names the log and the report.
    pub name: &'a str,
    /// More words for QEMU.
    pub qemu: &'a [String],
    /// More words for `axvm run`.
    pub arguments: &'a [String],
    /// After this the run is over, whatever it does.
    pub timeout: Duration,
    /// Whether the user sees the output.
    pub show: bool,
    /// The report's place, where it isn't the usual one.
    pub report: Option<PathBuf>,
    /// A folder whose programs come before those of PATH.
    pub programs: Option<PathBuf>,
    /// What is typed, once a line has been said that has a text: that text, and what.
    pub types: Option<(String, String)>,
    /// Without the tool: QEMU starts what it packs, and there is no report.
    pub packed: bool,
    /// What programs ask for at the run's socket, each once a line has been said that has a text, and after the one before: that text, and
    /// lines. Each answer is a line of the output, after `control: `.
    pub asks: Vec<(String, Vec<String>)>,
    /// Who suspends VMs, each once a line has been said that has a text.
    pub suspends: &'a [Suspends],
    /// What is done to it at random, by this seed.
    pub soak: Option<(Soak, u64)>,
}

/// What came of it.
pub struct Outcome {
    /// The exit status; none when it was ended.
    pub status: Option<i32>,
    /// Everything it said.
    pub lines: Vec<String>,
    /// The report, if it left one.
    pub report: Option<Value>,
    /// Where its output is kept.
    pub log: PathBuf,
    /// How long it took.
    pub time: Duration,
}

impl Outcome {
    /// The report's verdict.
    pub fn verdict(&self) -> &str {
        self.report.as_ref().and_then(|report| report["verdict"].as_str()).unwrap_or("no report")
    }

    /// Whether some line has the text.
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

/// Runs a system file.
pub fn run(request: &Request) -> Result<Outcome> {
    let folder = paths::logs().join("runs");
    std::fs::create_dir_all(&folder)?;
    let log = folder.join(format!("{}.log", request.name));
    let report = request.report.clone().unwrap_or_else(|| folder.join(format!("{}.json", request.name)));
    if let Some(folder) = report.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let _ = std::fs::remove_file(&report);
    let place = |kind| paths::target().join(format!("{}.{kind}", request.name));
    let sockets = Sockets { control: place("control"), qemu: place("qmp") };
    let mut command = if request.packed {
        packed(request)?
    } else {
        let mut command = process::command(request.tool);
        command.arg("run").arg(request.system).arg("--report").arg(&report);
        command.arg("--timeout").arg(request.timeout.as_secs().to_string());
        command.args(request.arguments);
        for word in request.qemu {
            command.arg("--qemu").arg(word);
        }
        if !request.suspends.is_empty() {
            for word in sockets.words() {
                command.arg("--qemu").arg(word);
            }
        }
        command
    };
    if let Some(folder) = &request.programs {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.clone()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders)?);
    }
    if request.types.is_some() {
        command.stdin(Stdio::piped());
    }
    let socket = &sockets.control;
    if !request.asks.is_empty() || !request.suspends.is_empty() || request.soak.is_some() {
        command.arg("--control").arg(socket);
    }
    command.env("AXVM_HYPERVISOR", request.image).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    let (sender, receiver) = mpsc::channel();
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { bail!("no pipes") };
    let mut keys = child.stdin.take().zip(request.types.as_ref());
    let mut asks = request.asks.iter().peekable();
    let mut suspends = request.suspends.to_vec();
    let mut answers = Some(sender.clone());
    let mut soaks = request.soak.clone().map(|(soak, seed)| {
        let (lines, heard) = mpsc::channel();
        let (socket, says) = (socket.clone(), sender.clone());
        std::thread::spawn(move || soak::drive(&soak, seed, &socket, heard, says));
        lines
    });
    pass_on(out, sender.clone());
    pass_on(err, sender);

    let mut kept = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut lines = Vec::new();
    // The tool ends the run by its own timeout; this one is for a tool that doesn't.
    let deadline = start + request.timeout + Duration::from_secs(60);
    let mut ended = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(Duration::from_secs(1))) {
            Ok(line) => {
                if let Some((mut stdin, (_, text))) =
                    keys.take_if(|(_, (after, _))| line.contains(after.as_str()))
                {
                    // By a thread: who reads slowly mustn't keep this from reading what is said.
                    let text = text.clone();
                    std::thread::spawn(move || stdin.write_all(text.as_bytes()));
                }
                if let Some(((_, lines), sender)) =
                    asks.next_if(|(after, _)| line.contains(after.as_str())).zip(answers.clone())
                {
                    let (socket, lines) = (socket.clone(), lines.clone());
                    std::thread::spawn(move || ask(&socket, &lines, &sender));
                }
                if let Some(soak) = &soaks {
                    // It may be over already.
                    let _ = soak.send(line.clone());
                }
                writeln!(kept, "{line}")?;
                if request.show {
                    println!("{line}");
                }
                lines.push(line);
                for asks in suspends.extract_if(.., |it| it.begins(&lines)) {
                    let Some(sender) = answers.clone() else { continue };
                    let (sockets, said) = (sockets.clone(), lines.clone());
                    // Nobody reads it once the run is over.
                    std::thread::spawn(move || sender.send(suspends::perform(&asks, &sockets, &said)));
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                // Whoever might still have asked for something doesn't keep the run open.
                if child.try_wait()?.is_some() {
                    answers = None;
                    soaks = None;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                ended = true;
                break;
            }
        }
    }
    let status = child.wait()?;
    let report = std::fs::read(&report).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let status = if ended { None } else { status.code() };
    Ok(Outcome { status, lines, report, log, time: start.elapsed() })
}

/// Packs the system, as a boot loader would get it; QEMU with that.
fn packed(request: &Request) -> Result<Command> {
    let folder = paths::target().join("packed").join(request.name);
    let mut pack = process::command(request.tool);
    pack.arg("pack").arg(request.system).arg("-o").arg(&folder).env("AXVM_HYPERVISOR", request.image);
    process::output(&mut pack)?;
    let text = std::fs::read_to_string(request.system)?;
    let document: DocumentMut =
        text.parse().with_context(|| format!("in {}", paths::shown(request.system)))?;
    let arch = document["board"]["arch"].as_str().context("it has no board.arch")?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let mut command = process::command(qemu::program(arch));
    command.args(words.iter().filter_map(|word| word.as_str())).args(request.qemu);
    command.arg("-kernel").arg(folder.join("axvm-hypervisor.bin"));
    command.arg("-initrd").arg(folder.join("bundle.axvm"));
    command.args(["-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio"]);
    Ok(command)
}

/// Packs the system and has a board of Bochs's boot that by GRUB. What comes of it is what the board says on its first serial line; the status
/// is 0 if it is switched off.
pub fn run_in_bochs(request: &Request) -> Result<Outcome> {
    let folder = paths::target().join("packed").join(request.name);
    let files = folder.join("cd");
    let mut pack = process::command(request.tool);
    pack.arg("pack").arg(request.system).arg("-o").arg(&files).env("AXVM_HYPERVISOR", request.image);
    process::output(&mut pack)?;
    let mut machine = bochs::command(&folder, &files)?;
    let said = File::create(folder.join("said.txt"))?;
    machine.command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    let start = Instant::now();
    let mut child = machine
        .command
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::line(&machine.command)))?;
    let mut ended = false;
    while child.try_wait()?.is_none() {
        if start.elapsed() > request.timeout {
            child.kill()?;
            child.wait()?;
            ended = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let log = paths::logs().join("runs").join(format!("{}.log", request.name));
    let bytes = std::fs::read(&machine.serial).unwrap_or_default();
    paths::write_atomically(&log, &bytes)?;
    let lines = String::from_utf8_lossy(&bytes).lines().map(|line| line.trim_end().to_owned()).collect();
    let is_off = std::fs::read_to_string(&machine.log).is_ok_and(|log| log.contains(bochs::SWITCHED_OFF));
    let status = if ended { None } else { Some(if is_off { 0 } else { 1 }) };
    Ok(Outcome { status, lines, report: None, log, time: start.elapsed() })
}

/// Asks at a run's socket, one thing after another.
fn ask(socket: &Path, lines: &[String], sender: &Sender<String>) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        if answers.read_line(&mut answer)? == 0 {
            break;
        }
        // Nobody reads them once the run is over.
        let _ = sender.send(format!("control: {}", answer.trim_end()));
    }
    Ok(())
}

/// Sends each line of a stream; bytes that aren't text, as a console may have, are replaced.
pub fn pass_on(stream: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}
