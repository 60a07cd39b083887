//! Who takes functions from their drivers, and gives them back whatever becomes of the process that has them.
//!
//! The guard is a process of its own (`axvm linux-guard`), in a session of its own, so that neither Ctrl-C nor the end of a terminal reaches
//! it. It is asked by a line for each function, over a pipe; when the pipe is closed, which the kernel does when whoever asked has ended in
//! whatever way, all is given back. What it has taken stands in a file meanwhile, by which `axvm release` gives back what a guard that was
//! killed, too, has left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use axvm_addr::PciAddress;
use axvm_rebind::{Former, Sysfs, WriteError, give_back, take};
use rustix::fs::{FlockOperation, flock};

use crate::probe::Root;
use crate::vfio::Binder;

/// Where it stands what is taken.
pub const FOLDER: &str = "/run/axvm";

/// How long a driver may take to let go of a function, or to take it.
const MOST: Duration = Duration::from_secs(10);

impl Sysfs for Root {
    /// By a thread, which stays behind where the kernel doesn't come back.
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError> {
        let (path, text) = (self.path(path), text.to_owned());
        let (done, waits) = mpsc::channel();
        std::thread::spawn(move || {
            let written = OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes()));
            // Nobody waits any more: it has taken too long.
            let _ = done.send(written);
        });
        let written = waits.recv_timeout(MOST).map_err(|_| WriteError::Unfinished)?;
        written.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => WriteError::Denied,
            io::ErrorKind::NotFound => WriteError::Missing,
            _ => WriteError::Other(error.raw_os_error().unwrap_or(0)),
        })
    }
}

/// What was taken, in a file that is locked as long as its guard lives.
struct Record {
    path: PathBuf,
    file: File,
    taken: Vec<Former>,
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
        Ok(Self { path, file, taken: Vec::new() })
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

    /// Gives all back; what couldn't be stays in the file. Each that couldn't be, in words.
    fn finish(mut self, sysfs: &impl Sysfs) -> Vec<String> {
        let mut problems = Vec::new();
        // In the opposite order.
        let mut left = Vec::new();
        for former in self.taken.drain(..).rev() {
            if let Err(error) = give_back(sysfs, &former) {
                problems.push(error.to_string());
                left.push(former);
            }
        }
        left.reverse();
        self.taken = left;
        let kept = if self.taken.is_empty() { fs::remove_file(&self.path) } else { self.write() };
        problems.extend(kept.err().map(|error| format!("{}: {error}", self.path.display())));
        problems
    }
}

/// What this process does as a guard, for whoever has the other ends of its standard input and output. Whether all was given back.
///
/// # Errors
///
/// There can be no record; nothing is taken then.
pub fn run() -> io::Result<bool> {
    // Neither a terminal's keys nor its end are for this process. It is the leader of a session already where that fails.
    let _ = rustix::process::setsid();
    serve(&Root::new(Path::new("/")), Path::new(FOLDER), io::stdin().lock(), io::stdout())
}

/// What a guard does: a line `take FUNCTION` is answered by `ok` or by `error` and why; at the end of the lines all is given back, and each that
/// couldn't be is a line more. Whether all was.
///
/// # Errors
///
/// There can be no record in the folder; nothing is taken then.
pub fn serve(
    sysfs: &impl Sysfs,
    folder: &Path,
    asked: impl BufRead,
    mut answers: impl Write,
) -> io::Result<bool> {
    let mut record = Record::new(folder)?;
    for line in asked.lines() {
        // Who can't be heard has ended.
        let Ok(line) = line else { break };
        let answer = match perform(sysfs, &mut record, &line) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("error {error}"),
        };
        if writeln!(answers, "{answer}").and_then(|()| answers.flush()).is_err() {
            break;
        }
    }
    let problems = record.finish(sysfs);
    for problem in &problems {
        // Nobody may hear it any more.
        let _ = writeln!(answers, "{problem}");
    }
    Ok(problems.is_empty())
}

fn perform(sysfs: &impl Sysfs, record: &mut Record, line: &str) -> Result<(), String> {
    let function: Option<PciAddress> = line.strip_prefix("take ").and_then(|it| it.parse().ok());
    let function = function.ok_or_else(|| format!("\"{line}\" isn't understood"))?;
    if record.taken.iter().any(|former| former.function == function) {
        return Ok(());
    }
    let former = Former::of(sysfs, function);
    let former = former.ok_or_else(|| format!("{function}: this machine has no such PCI function"))?;
    // Before it is taken: whoever comes after a guard that was killed finds it.
    record.add(former.clone()).map_err(|error| format!("{}: {error}", record.path.display()))?;
    let taken = take(sysfs, &former).map_err(|error| error.to_string());
    if taken.is_err() {
        record.taken.retain(|other| other.function != function);
        record.write().map_err(|error| format!("{}: {error}", record.path.display()))?;
    }
    taken
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
pub fn release(sysfs: &impl Sysfs, folder: &Path) -> Vec<Released> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_record =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("taken-"));
    let mut paths: Vec<PathBuf> = entries.filter(is_record).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| release_one(sysfs, path)).collect()
}

fn release_one(sysfs: &impl Sysfs, path: PathBuf) -> Vec<Released> {
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
    let mut record = Record { path: path.clone(), file, taken: Vec::new() };
    for line in text.lines() {
        match line.parse() {
            Ok(former) => record.taken.push(former),
            Err(error) => results.push(Released::Not(format!("{}: {error}", path.display()))),
        }
    }
    let all: Vec<PciAddress> = record.taken.iter().map(|former| former.function).collect();
    let problems = record.finish(sysfs);
    let is_not = |function: &PciAddress| problems.iter().any(|it| it.starts_with(&function.to_string()));
    results.extend(all.into_iter().filter(|function| !is_not(function)).map(Released::Back));
    results.extend(problems.into_iter().map(Released::Not));
    results
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
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("linux-guard").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let pipe = pipes.map(|(asks, answers)| Pipe { asks, answers: BufReader::new(answers) });
        Ok(Self { process: Mutex::new(process), pipe: Mutex::new(pipe) })
    }

    /// Has all given back. Nothing is open any more. What couldn't be, in words.
    pub fn finish(&self) -> Vec<String> {
        let Some(Pipe { asks, answers }) = crate::lock(&self.pipe).take() else { return Vec::new() };
        drop(asks);
        let problems: Vec<String> = answers.lines().map_while(Result::ok).collect();
        // It has said all that there is to say.
        let _ = crate::lock(&self.process).wait();
        problems
    }
}

impl Binder for Guard {
    fn take(&self, function: PciAddress) -> Result<(), String> {
        let mut pipe = crate::lock(&self.pipe);
        let Some(pipe) = &mut *pipe else { return Err("devices are being given back".into()) };
        let mut answer = String::new();
        let asked = writeln!(pipe.asks, "take {function}").and_then(|()| pipe.answers.read_line(&mut answer));
        match asked {
            Ok(0) => Err(format!("{function}: the process that takes devices from their drivers has ended")),
            Ok(_) if answer.trim() == "ok" => Ok(()),
            Ok(_) => Err(answer.trim().trim_start_matches("error ").to_owned()),
            Err(error) => Err(format!("{function}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
