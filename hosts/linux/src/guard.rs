//! Who takes functions from their drivers, and gives them back whatever becomes of the process that has them.
//!
//! The guard is a process of its own (`axvm linux-guard`), in a session of its own, so that neither Ctrl-C nor the end of a terminal reaches
//! it. It is asked by a line for each function, over a pipe; when the pipe is closed, which the kernel does when whoever asked has ended in
//! whatever way, all is given back. What it has taken stands in a file meanwhile, by which `axvm release` gives back what a guard that was
//! killed, too, has left.
//!
//! It keeps the rights that whoever asks gives up before guests run, so it does little for who asks: it takes the functions that it was told of when
//! it was started, and no others, has the nodes by which they are opened belong to the user whom it was told of then, and has their messages come to the
//! processors that it was told of then ([`aim`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use axvm_addr::PciAddress;
use axvm_platform::sysfs::Files;
use axvm_rebind::{Former, Sysfs, TakeError, WriteError, end_uses, give_back, see_unused, take};
use rustix::fs::{FlockOperation, flock, syncfs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::probe::Root;
use crate::vfio::way::{self, Way};
use crate::vfio::{Aimed, Binder};

pub mod aim;

/// Where it stands what is taken.
pub const FOLDER: &str = "/run/axvm";

/// How long a driver may take to let go of a function, or to take it.
const MOST: Duration = Duration::from_secs(10);

/// How long it may take until all that waits to be written to a disk is there.
const MOST_WRITTEN: Duration = Duration::from_secs(60);

/// How long a guard may say nothing while it gives functions back: each is written about three times at the most.
const SILENCE: Duration = Duration::from_secs(3 * MOST.as_secs() + 5);

/// How long a guard may take to end when it has said all.
const LAST: Duration = Duration::from_secs(2);

/// The last line that a guard says.
const END: &str = "end";

/// Users that nobody is but processes that run guests: none of those that distributions, systemd and containers have (systemd,
/// docs/UIDS-GIDS.md).
pub const USERS: Range<u32> = 0x7fff_0000..0x7fff_ffff;

/// The user that this process becomes before guests run, so that no other process has the same.
pub fn own_user() -> u32 {
    USERS.start + std::process::id() % (USERS.end - USERS.start)
}

/// Who may open the nodes of functions, by their paths below `/`.
pub trait Nodes {
    /// The user whose a node is. `None`: there is no such node.
    fn owner(&self, node: &str) -> Option<u32>;

    /// Has it be this user's.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn give(&self, node: &str, user: u32) -> io::Result<()>;
}

impl Nodes for Root {
    fn owner(&self, node: &str) -> Option<u32> {
        fs::metadata(self.path(node)).ok().map(|node| node.uid())
    }

    fn give(&self, node: &str, user: u32) -> io::Result<()> {
        std::os::unix::fs::chown(self.path(node), Some(user), None)
    }
}

/// What a guard is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duty {
    /// The functions that it may be asked for.
    pub functions: Vec<PciAddress>,
    /// Those of them that are taken though Linux uses them: their uses end.
    pub in_use: Vec<PciAddress>,
    /// By which of VFIO's ways they are opened.
    pub way: Way,
    /// The user who is to open them. `None`: root.
    pub user: Option<u32>,
    /// The processors of the run's VMs, by their numbers in Linux: their messages may be led to these.
    pub processors: Vec<usize>,
}

impl Sysfs for Root {
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError> {
        let (path, text) = (self.path(path), text.to_owned());
        within(self, MOST, move || {
            OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
        })
    }

    fn unmount(&self, at: &str) -> Result<(), WriteError> {
        let at = self.path(at.trim_start_matches('/'));
        within(self, MOST_WRITTEN, move || match unmount(&at, UnmountFlags::NOFOLLOW) {
            // Programs have files of it open, which get errors when its disk is gone. What was written is on the disk before.
            Err(Errno::BUSY) => {
                syncfs(File::open(&at)?)?;
                Ok(unmount(&at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
            }
            other => Ok(other?),
        })
    }

    fn swap_off(&self, disk: &str) -> Result<(), WriteError> {
        let mut command = Command::new("swapoff");
        command.arg(self.path("dev").join(disk)).stdin(Stdio::null()).stdout(Stdio::null());
        within(self, MOST_WRITTEN, move || match command.status()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("swapoff: {status}"))),
        })
    }
}

/// Does something by a thread, which stays behind where the kernel doesn't come back.
fn within(
    root: &Root,
    most: Duration,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), WriteError> {
    let (done, waits) = mpsc::channel();
    let at_it = root.at_it();
    at_it.fetch_add(1, Ordering::SeqCst);
    std::thread::spawn(move || {
        let worked = work();
        at_it.fetch_sub(1, Ordering::SeqCst);
        // Nobody waits any more: it has taken too long.
        let _ = done.send(worked);
    });
    let worked = waits.recv_timeout(most).map_err(|_| WriteError::Unfinished)?;
    worked.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => WriteError::Denied,
        io::ErrorKind::NotFound => WriteError::Missing,
        io::ErrorKind::ReadOnlyFilesystem => WriteError::ReadOnly,
        _ => WriteError::Other(error.raw_os_error().unwrap_or(0)),
    })
}

/// What was taken, in a file that is locked as long as its guard lives.
struct Record {
    path: PathBuf,
    file: File,
    taken: Vec<Former>,
    /// Of these, those that their drivers haven't let go of yet.
    held: Vec<PciAddress>,
    /// Nodes that belong to another user than they did, with that one.
    nodes: Vec<Node>,
}

/// A function's node, and whose it was.
struct Node {
    path: String,
    owner: u32,
}

impl Record {
    /// An empty one. It has its name only when it is locked: who looks for those that nobody has doesn't find it before.
    fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let process = std::process::id();
        let (early, path) = (folder.join(format!("new-{process}")), folder.join(format!("taken-{process}")));
        let file = File::create(&early)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(early, &path)?;
        Ok(Self { path, file, taken: Vec::new(), held: Vec::new(), nodes: Vec::new() })
    }

    /// Has the file say what is taken.
    fn write(&mut self) -> io::Result<()> {
        let text: String = self.taken.iter().map(|former| format!("{former}\n")).collect();
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }

    fn add(&mut self, former: Former) -> io::Result<()> {
        self.taken.push(former);
        self.write()
    }

    /// Has the node by which a function is opened belong to a user, if there is one.
    fn hand(
        &mut self,
        machine: &(impl Files + Nodes),
        function: PciAddress,
        way: Way,
        user: u32,
    ) -> Result<(), String> {
        let Some(path) = way::node(machine, way, function) else { return Ok(()) };
        let Some(owner) = machine.owner(&path).filter(|owner| *owner != user) else { return Ok(()) };
        machine
            .give(&path, user)
            .map_err(|error| format!("{function}: /{path} can't be handed over: {error}"))?;
        // One that a process which was killed has left is root's in the end.
        let owner = if USERS.contains(&owner) { 0 } else { owner };
        self.nodes.push(Node { path, owner });
        Ok(())
    }

    /// Gives all back that its driver has let go of, and what couldn't be stays in the file. `said` hears of each: its function, or why not.
    fn give_back(
        &mut self,
        machine: &(impl Sysfs + Nodes),
        mut said: impl FnMut(Result<PciAddress, String>),
    ) {
        let mut left = Vec::new();
        // In the opposite order.
        for former in self.taken.drain(..).rev() {
            if self.held.contains(&former.function) {
                left.push(former);
                continue;
            }
            match give_back(machine, &former) {
                Ok(()) => said(Ok(former.function)),
                Err(error) => {
                    said(Err(error.to_string()));
                    left.push(former);
                }
            }
        }
        left.reverse();
        self.taken = left;
        // A node that is there still is of a function that vfio-pci had before, or of such a one's group.
        for Node { path, owner } in self.nodes.drain(..) {
            if machine.owner(&path).is_some()
                && let Err(error) = machine.give(&path, owner)
            {
                said(Err(format!("/{path} stays with another user: {error}")));
            }
        }
        let kept = if self.taken.is_empty() { fs::remove_file(&self.path) } else { self.write() };
        if let Err(error) = kept {
            said(Err(format!("{}: {error}", self.path.display())));
        }
    }
}

/// What this process does as a guard, for whoever has the other ends of its standard input and output. Whether all was given back.
///
/// # Errors
///
/// There can be no record; nothing is taken then.
pub fn run(duty: &Duty) -> io::Result<bool> {
    // Neither a terminal's keys nor its end are for this process. It is the leader of a session already where that fails.
    let _ = rustix::process::setsid();
    let root = Root::new(Path::new("/"));
    let mut left = serve(&root, duty, Path::new(FOLDER), io::stdin().lock(), io::stdout())?;
    if let Some(record) = &mut left {
        // Nobody waits for this process any more, and it can't end while a driver is at it.
        while root.at_it().load(Ordering::SeqCst) > 0 {
            std::thread::sleep(LAST / 10);
        }
        record.held.clear();
        record.give_back(&root, |_| {});
    }
    Ok(left.is_none_or(|record| record.taken.is_empty()))
}

/// What a guard does: a line `take FUNCTION`, or `aim FUNCTION PROCESSORS`, is answered by `ok` or by `error` and why. At the end of the lines all is given back, and each that
/// couldn't be is a line more; so is each that was, `back FUNCTION`. The last line is [`END`]. What is left then, if anything is.
fn serve(
    machine: &(impl Sysfs + Nodes),
    duty: &Duty,
    folder: &Path,
    asked: impl BufRead,
    mut answers: impl Write,
) -> io::Result<Option<Record>> {
    let mut record = Record::new(folder)?;
    for line in asked.lines() {
        // Who can't be heard has ended.
        let Ok(line) = line else { break };
        let answer = match perform(machine, duty, &mut record, &line) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("error {error}"),
        };
        if writeln!(answers, "{answer}").and_then(|()| answers.flush()).is_err() {
            break;
        }
    }
    let mut say = |line: String| {
        // Nobody may hear it any more.
        let _ = writeln!(answers, "{line}").and_then(|()| answers.flush());
    };
    record.give_back(machine, |result| {
        say(result.map_or_else(|why| why, |function| format!("back {function}")));
    });
    for function in &record.held {
        say(format!(
            "{function}: its driver hasn't let go of it yet: as soon as it has, the function is given back to it"
        ));
    }
    say(END.to_owned());
    Ok((!record.taken.is_empty()).then_some(record))
}

fn perform(
    machine: &(impl Sysfs + Nodes),
    duty: &Duty,
    record: &mut Record,
    line: &str,
) -> Result<(), String> {
    let asked = Asked::parse(line).ok_or_else(|| format!("\"{line}\" isn't understood"))?;
    let (Asked::Take(function) | Asked::Aim(function, _)) = asked;
    if !duty.functions.contains(&function) {
        return Err(format!("{function}: no VM of the run has it"));
    }
    if let Asked::Aim(_, processors) = asked {
        if !record.taken.iter().any(|former| former.function == function) {
            return Err(format!("{function}: it isn't taken"));
        }
        if let Some(other) = processors.iter().find(|it| !duty.processors.contains(it)) {
            return Err(format!("{function}: no VM of the run has processor {other}"));
        }
        return aim::aim(machine, function, &processors);
    }
    if record.held.contains(&function) {
        return Err(format!("{function}: its driver hasn't let go of it yet"));
    }
    if !record.taken.iter().any(|former| former.function == function) {
        take_one(machine, duty, record, function)?;
    }
    duty.user.map_or(Ok(()), |user| record.hand(machine, function, duty.way, user))
}

/// What a guard can be asked for.
enum Asked {
    Take(PciAddress),
    Aim(PciAddress, Vec<usize>),
}

impl Asked {
    fn parse(line: &str) -> Option<Self> {
        if let Some(function) = line.strip_prefix("take ") {
            return Some(Self::Take(function.parse().ok()?));
        }
        let (function, processors) = line.strip_prefix("aim ")?.split_once(' ')?;
        Some(Self::Aim(function.parse().ok()?, aim::parse(processors)?))
    }
}

fn take_one(
    machine: &impl Sysfs,
    duty: &Duty,
    record: &mut Record,
    function: PciAddress,
) -> Result<(), String> {
    let former = Former::of(machine, function);
    let former = former.ok_or_else(|| format!("{function}: this machine has no such PCI function"))?;
    // Now, and not only when the run began: a VM may start later.
    let unused = match duty.in_use.contains(&function) {
        true => end_uses(machine, function),
        false => see_unused(machine, function),
    };
    unused.map_err(|error| error.to_string())?;
    // Before it is taken: whoever comes after a guard that was killed finds it.
    record.add(former.clone()).map_err(|error| format!("{}: {error}", record.path.display()))?;
    let Err(error) = take(machine, &former) else { return Ok(()) };
    if matches!(error, TakeError::Holds { .. }) {
        record.held.push(function);
    }
    if !error.leaves_changed() {
        record.taken.retain(|other| other.function != function);
        record.write().map_err(|error| format!("{}: {error}", record.path.display()))?;
    }
    Err(error.to_string())
}

/// What became of what a guard had left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// A function has again what it had.
    Back(PciAddress),
    /// It hasn't, or there is no reading what it had: a line.
    Not(String),
    /// A run has them still: the file of it.
    InUse(PathBuf),
}

/// Gives back what guards that have been killed have left.
pub fn release(machine: &(impl Sysfs + Nodes), folder: &Path) -> Vec<Released> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_record =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("taken-"));
    let mut paths: Vec<PathBuf> = entries.filter(is_record).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| release_one(machine, path)).collect()
}

fn release_one(machine: &(impl Sysfs + Nodes), path: PathBuf) -> Vec<Released> {
    let failed = |error: io::Error| vec![Released::Not(format!("{}: {error}", path.display()))];
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return vec![Released::InUse(path)];
    }
    let text = match io::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => return failed(error),
    };
    let mut results = Vec::new();
    let (held, nodes) = (Vec::new(), Vec::new());
    let mut record = Record { path: path.clone(), file, taken: Vec::new(), held, nodes };
    for line in text.lines() {
        match line.parse::<Former>() {
            Ok(former) => {
                let paths = [Way::Groups, Way::Devices].map(|way| way::node(machine, way, former.function));
                let theirs = |path: &String| machine.owner(path).is_some_and(|it| USERS.contains(&it));
                let nodes = paths.into_iter().flatten().filter(theirs);
                record.nodes.extend(nodes.map(|path| Node { path, owner: 0 }));
                record.taken.push(former);
            }
            Err(error) => results.push(Released::Not(format!("{}: {error}", path.display()))),
        }
    }
    let mut back = Vec::new();
    record.give_back(machine, |result| match result {
        Ok(function) => back.push(Released::Back(function)),
        Err(why) => results.push(Released::Not(why)),
    });
    // As they were taken.
    back.reverse();
    back.extend(results);
    back
}

/// A guard, as it is asked.
pub struct Guard {
    process: Mutex<Child>,
    pipe: Mutex<Option<Pipe>>,
}

struct Pipe {
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Guard {
    /// Starts one: this program, told to be a guard.
    ///
    /// # Errors
    ///
    /// It can't be started.
    pub fn start(duty: &Duty) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("linux-guard");
        if let Some(user) = duty.user {
            command.arg("--user").arg(user.to_string());
        }
        if duty.way == Way::Devices {
            command.arg("--devices");
        }
        for function in &duty.in_use {
            command.arg("--in-use").arg(function.to_string());
        }
        if !duty.processors.is_empty() {
            command.arg("--processors").arg(aim::list(&duty.processors));
        }
        command.args(duty.functions.iter().map(ToString::to_string));
        // It may outlive all others, and keeps nothing of theirs open.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let pipe = pipes.map(|(asks, answers)| Pipe { asks, answers: BufReader::new(answers) });
        Ok(Self { process: Mutex::new(process), pipe: Mutex::new(pipe) })
    }

    /// Has all given back. Nothing is open any more. What couldn't be, in words.
    pub fn finish(&self) -> Vec<String> {
        let Some(Pipe { asks, answers }) = crate::lock(&self.pipe).take() else { return Vec::new() };
        drop(asks);
        let (send, said) = mpsc::channel();
        let reads = move || {
            // Nobody may wait any more.
            answers.lines().map_while(Result::ok).take_while(|line| send.send(line.clone()).is_ok()).count()
        };
        if let Err(error) = std::thread::Builder::new().spawn(reads) {
            return vec![format!("whether devices were given back isn't known: {error}")];
        }
        let mut problems = Vec::new();
        loop {
            match said.recv_timeout(SILENCE) {
                Ok(line) if line == END => break,
                Ok(line) if line.starts_with("back ") => {}
                Ok(line) => problems.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    problems.push(format!(
                        "the process that gives devices back hasn't done so within {} s: what it has stands in {FOLDER}",
                        SILENCE.as_secs()
                    ));
                    break;
                }
            }
        }
        // It has said all that there is to say. Where a driver keeps it, it stays behind.
        let deadline = Instant::now() + LAST;
        while matches!(crate::lock(&self.process).try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LAST / 100);
        }
        problems
    }
}

impl Binder for Guard {
    fn take(&self, function: PciAddress) -> Result<(), String> {
        let mut pipe = crate::lock(&self.pipe);
        let Some(pipe) = &mut *pipe else { return Err("devices are being given back".into()) };
        pipe.ask(function, format_args!("take {function}"))
    }

    fn aim(&self, function: PciAddress, processors: &[usize]) -> Result<Aimed, String> {
        // Who takes a function may have it for seconds, and who asks for this has others to look after.
        let Ok(mut pipe) = self.pipe.try_lock() else { return Ok(Aimed::Later) };
        let Some(pipe) = &mut *pipe else { return Ok(Aimed::Done) };
        pipe.ask(function, format_args!("aim {function} {}", aim::list(processors))).map(|()| Aimed::Done)
    }
}

impl Pipe {
    fn ask(&mut self, function: PciAddress, what: std::fmt::Arguments<'_>) -> Result<(), String> {
        let mut answer = String::new();
        let asked = writeln!(self.asks, "{what}").and_then(|()| self.answers.read_line(&mut answer));
        match asked {
            Ok(0) => Err(format!(
                "{function}: the process that takes devices from their drivers has ended (may it write to {FOLDER}?)"
            )),
            Ok(_) if answer.trim() == "ok" => Ok(()),
            Ok(_) => Err(answer.trim().trim_start_matches("error ").to_owned()),
            Err(error) => Err(format!("{function}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
