//! A Linux host under QEMU: Debian's kernel as the host of AxVM's tool, on the board that a system file describes for bare metal. It does
//! what a run lists, and leaves what comes of it in a folder of this machine's.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use toml_edit::DocumentMut;

use crate::guest;
use crate::host::linux::Profile;
use crate::host::{qemu, ubuntu};
use crate::runner::{self, Outcome};
use crate::{build, paths, process};

/// What a Linux host does in a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxHost {
    /// What its shell is told, one after the other; `SYSTEM` is the system file. None: it runs the system file, and its report is the run's.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Debian's programs, and modules, that make more of disks and files there.
    #[serde(default)]
    pub tools: bool,
    /// Its kernel, by the name of one of Ubuntu's ([`ubuntu`]), or `debian-` and a series of Debian's; none: Debian's newest.
    pub linux: Option<String>,
    /// Modules of the kernel's that aren't loaded, by their names.
    #[serde(default)]
    pub without: Vec<String>,
    /// More words for its kernel.
    #[serde(default)]
    pub kernel: Vec<String>,
}

/// A run.
pub struct Request<'a> {
    /// The system file: its board is what the Linux host runs on.
    pub system: &'a Path,
    pub arch: &'a str,
    /// Names the log and the report.
    pub name: &'a str,
    pub host: &'a LinuxHost,
    /// More words for `axvm run`, where that is what the host does.
    pub arguments: &'a [String],
    /// More words for QEMU.
    pub qemu: &'a [String],
    /// What is typed, once a line has been said that has a text: that text, and what.
    pub types: Option<(String, String)>,
    /// After this the run is over, whatever it does.
    pub timeout: Duration,
    /// Whether the user sees the output.
    pub show: bool,
}

/// Where the Linux host has the repository.
const REPOSITORY: &str = "/axvm";

/// Makes sure that all is there: kernel and initramfs; the tool is built anew.
pub fn prepare(arch: &str, profile: Profile) -> Result<()> {
    guest::prepare_kernel(arch, guest::Series::DEFAULT)?;
    guest::prepare_host(arch, guest::Series::DEFAULT)?;
    build::tool_for_linux(arch, profile).map(drop)
}

/// The kernel of a Linux host and its initramfs, which are there then.
fn kernel(arch: &str, host: &LinuxHost) -> Result<(PathBuf, PathBuf)> {
    // Of runs at one time one makes them.
    static MADE: Mutex<()> = Mutex::new(());
    let Some(name) = &host.linux else {
        let image = guest::Series::DEFAULT.folder(arch).join(guest::image_name(arch));
        let initramfs = if host.tools {
            let _made = MADE.lock();
            guest::prepare_host_with_tools(arch)?
        } else {
            guest::Series::DEFAULT.within(paths::linux_host(arch)).join("initrd.cpio.gz")
        };
        return Ok((image, initramfs));
    };
    if let Some(series) = name.strip_prefix("debian-") {
        let series = guest::Series::named(series)?;
        let _made = MADE.lock();
        guest::prepare_kernel(arch, series)?;
        let initramfs = guest::prepare_host(arch, series)?;
        return Ok((series.folder(arch).join(guest::image_name(arch)), initramfs));
    }
    let series = ubuntu::named(name)?;
    if arch != "x86_64" {
        bail!("{name} is a kernel for x86_64, and the board is of {arch}");
    }
    let _made = MADE.lock();
    guest::prepare_host_on(series)?;
    let folder = series.folder();
    Ok((folder.join(guest::image_name(arch)), folder.join("initrd.cpio.gz")))
}

/// The folder that a run's Linux host has at `/out`.
pub fn folder(name: &str) -> PathBuf {
    paths::target().join("linux-host").join("runs").join(name)
}

/// Runs it. Its exit status is that of the host's last command.
pub fn run(request: &Request) -> Result<Outcome> {
    let out = folder(request.name);
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    std::fs::create_dir_all(&out)?;
    let tool = paths::linux_tool(request.arch);
    std::fs::copy(&tool, out.join("axvm")).with_context(|| format!("cannot copy {}", paths::shown(&tool)))?;
    std::fs::write(out.join("commands"), commands(request)?)?;
    let logs = paths::logs().join("runs");
    std::fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{}.log", request.name));
    let mut kept = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = machine(request, &out)?;
    command.stdin(if request.types.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else { bail!("no pipes") };
    let (sender, receiver) = mpsc::channel();
    runner::pass_on(output, sender.clone());
    runner::pass_on(errors, sender);
    let mut keys = child.stdin.take().zip(request.types.as_ref());
    let (mut lines, mut ended) = (Vec::new(), false);
    loop {
        let left = (start + request.timeout).saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(line) => {
                if let Some((mut stdin, (_, text))) =
                    keys.take_if(|(_, (after, _))| line.contains(after.as_str()))
                {
                    let text = text.clone();
                    // By a thread: who reads slowly mustn't keep this from reading what is said.
                    std::thread::spawn(move || stdin.write_all(text.as_bytes()));
                }
                writeln!(kept, "{line}")?;
                if request.show {
                    println!("{line}");
                }
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                ended = true;
                break;
            }
        }
    }
    child.wait()?;
    let read = |name: &str| std::fs::read(out.join(name)).ok();
    let status = read("status").and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok());
    let report = read("report.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let _ = std::fs::remove_file(out.join("axvm"));
    Ok(Outcome { status: if ended { None } else { status }, lines, report, log, time: start.elapsed() })
}

/// What the host's shell is told.
fn commands(request: &Request) -> Result<String> {
    let inside = request.system.strip_prefix(paths::root());
    let inside = inside.with_context(|| format!("{} isn't in the repository", request.system.display()))?;
    let system = Path::new(REPOSITORY).join(inside).display().to_string();
    let mut commands: Vec<String> =
        request.host.commands.iter().map(|line| line.replace("SYSTEM", &system)).collect();
    if commands.is_empty() {
        let mut line = format!("axvm run {system} --host linux --report /out/report.json");
        line += &format!(" --timeout {}", request.timeout.as_secs());
        line.extend(request.arguments.iter().map(|word| format!(" '{word}'")));
        commands.push(line);
    }
    Ok(commands.into_iter().map(|line| line + "\n").collect())
}

/// QEMU with the system file's board, and the host's kernel as what starts there.
fn machine(request: &Request, out: &Path) -> Result<Command> {
    let text = std::fs::read_to_string(request.system)
        .with_context(|| format!("cannot read {}", paths::shown(request.system)))?;
    let document: DocumentMut =
        text.parse().with_context(|| format!("in {}", paths::shown(request.system)))?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let mut command = process::command(qemu::program(request.arch));
    command.args(["-serial", "stdio"]);
    command.args(words.iter().filter_map(|word| word.as_str())).args(request.qemu);
    command.args(["-display", "none", "-monitor", "none", "-no-reboot"]);
    let (image, initramfs) = kernel(request.arch, request.host)?;
    command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    let console = if request.arch == "x86_64" { "ttyS0" } else { "ttyAMA0" };
    let mut kernel = format!("console={console} loglevel=4 panic=-1");
    if !request.host.without.is_empty() {
        kernel += &format!(" axvm.without={}", request.host.without.join(","));
    }
    kernel.extend(request.host.kernel.iter().map(|word| format!(" {word}")));
    command.arg("-append").arg(kernel);
    // At places where no board has anything else.
    for (tag, path, more, place) in
        [("repository", paths::root(), ",readonly=on", "1c"), ("out", out, "", "1d")]
    {
        let path = path.display();
        command.arg("-fsdev").arg(format!("local,id={tag},path={path},security_model=none{more}"));
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag},addr={place}"));
    }
    if let Some(folder) = request.system.parent() {
        command.current_dir(folder);
    }
    Ok(command)
}
