//! One machine from its start to its end: the child process, its serial line, the user's keys, the clock.
//!
//! A thread each reads the serial line, QEMU's messages, the keys and the signals, and sends what it has read to one loop, which
//! alone decides. Keys go to QEMU by a thread of their own, so that a machine that doesn't read can't stop the clock.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use axvm::report::Report;
use axvm_addr::VmId;
use axvm_platform::model::Platform;
use axvm_system::wire::{Channel, Decoder, Nonce, Piece, Pieces};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::console::{Console, Speaker};
use crate::control::{Request, Requests, Socket};
use crate::lines::Lines;
use crate::service;
use crate::terminal::Raw;
use crate::typing::Typing;
use crate::typist::Typist;

/// How long the machine has to end once nothing is left to do.
const GRACE: Duration = Duration::from_secs(5);

/// How often the child is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// Why a program's command isn't done while a VM has the line.
const AWAY: &str = "a VM has the hypervisor's console: nobody hears commands at this line until it is gone";

/// What is to be run and shown.
pub struct Job {
    /// QEMU, or a Linux host's process.
    pub command: Command,
    /// Who speaks by its standard error.
    pub errors: Speaker,
    /// Who answers the boot loader, if there is one.
    pub typist: Option<Typist>,
    /// What frames carry.
    pub nonce: Nonce,
    /// The VMs' names.
    pub names: Vec<String>,
    /// The VM that has the focus first.
    pub first: VmId,
    /// After this it is ended.
    pub timeout: Option<Duration>,
    /// The guests' RAM in bytes: it is zeroed before the report comes.
    pub memory: u64,
    /// Whether this is a terminal with a user at it.
    pub interactive: bool,
    /// Whether standard input goes to the VM in focus.
    pub keys: bool,
    /// Where programs ask for the shell's commands.
    pub control: Option<Arc<Socket>>,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did.
    ByItself,
    /// The clock.
    Timeout,
    /// The user.
    Interrupted,
}

/// How it went.
pub struct Outcome {
    report: Option<Vec<u8>>,
    platform: Option<Vec<u8>>,
    /// Who ended it.
    pub ended: Ended,
    /// Whether a VM had the serial line at the end, so that the hypervisor couldn't be told to end, nor tell.
    pub away: bool,
    /// Whether the hypervisor has said anything.
    pub spoke: bool,
    /// QEMU's exit status; `None`: it had to be killed.
    pub status: Option<ExitStatus>,
    /// The last lines of hypervisor, board and QEMU.
    pub last: Vec<String>,
    /// The last lines of QEMU itself.
    pub errors: Vec<String>,
}

impl Outcome {
    /// The hypervisor's report, if one came and can be read.
    pub fn report(&self) -> Option<Report> {
        postcard::from_bytes(self.report.as_deref()?).ok()
    }

    /// Whether one came, readable or not.
    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    /// The platform, if it came.
    pub fn platform(&self) -> Option<Platform> {
        postcard::from_bytes(self.platform.as_deref()?).ok()
    }
}

enum Event {
    Serial(Vec<u8>),
    SerialEnd,
    Errors(Vec<u8>),
    ErrorsEnd,
    Control(Request),
    Quit,
    Signal,
}

/// A child that doesn't outlive this.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it.
///
/// # Errors
///
/// If QEMU can't be started.
pub fn run<W: Write>(mut job: Job, out: W) -> io::Result<Outcome> {
    // In a group of its own: a Ctrl-C at the terminal is this program's to act upon, not QEMU's.
    job.command.process_group(0);
    job.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Owned(job.command.spawn()?);
    // Few events wait: a machine that writes faster than the user's terminal shows has to wait itself.
    let (events, received) = mpsc::sync_channel(64);
    if let Some(serial) = child.0.stdout.take() {
        pass_on(serial, events.clone(), Event::Serial, Event::SerialEnd);
    }
    if let Some(errors) = child.0.stderr.take() {
        pass_on(errors, events.clone(), Event::Errors, Event::ErrorsEnd);
    }
    let keys = child.0.stdin.take().map(|stdin| Typing::to(stdin, job.interactive));
    if let (true, Some(keys)) = (job.keys, &keys) {
        let events = events.clone();
        keys.read_keys(move || events.send(Event::Quit).is_ok());
    }
    if let Some(socket) = &job.control {
        let events = events.clone();
        socket.serve(move |request| events.send(Event::Control(request)).is_ok())?;
    }
    let asks = events.clone();
    service::tell(move |request| asks.send(Event::Control(request)).is_ok());
    let signals = watch_signals(events)?;
    let raw = if job.interactive { Raw::enter() } else { None };
    let focus = raw.as_ref().map(|_| job.first);
    let run = Run {
        console: Console::new(out, job.names, focus),
        decoder: Decoder::new(&job.nonce),
        typist: job.typist,
        report: Pieces::of_report(),
        platform: Pieces::of_platform(),
        answer: Pieces::of_answers(),
        requests: Requests::default(),
        spoke: false,
        last: Lines::default(),
        errors: Lines::default(),
        who: job.errors,
        keys,
        ended: Ended::ByItself,
        deadline: job.timeout.map(|timeout| Instant::now() + timeout),
        grace: grace(job.memory),
        ending: false,
        away: None,
    };
    let outcome = run.until_it_ends(&mut child.0, &received);
    service::tell_end();
    signals.close();
    drop(raw);
    Ok(outcome)
}

struct Run<W> {
    console: Console<W>,
    decoder: Decoder,
    typist: Option<Typist>,
    report: Pieces,
    platform: Pieces,
    /// The answer that is arriving to the first of these.
    answer: Pieces,
    requests: Requests,
    spoke: bool,
    last: Lines,
    /// What QEMU itself said.
    errors: Lines,
    /// Who that is.
    who: Speaker,
    keys: Option<Typing>,
    ended: Ended,
    /// The end of the run's time, or of the grace if it is ending.
    deadline: Option<Instant>,
    /// How long the hypervisor has to stop the VMs and send its report once it was told to.
    grace: Duration,
    /// Whether it was told to end, or has sent its report.
    ending: bool,
    /// Whose the serial line is, while it isn't the hypervisor's: then nobody hears commands at it.
    away: Option<VmId>,
}

impl<W: Write> Run<W> {
    fn until_it_ends(mut self, child: &mut Child, received: &Receiver<Event>) -> Outcome {
        let mut status = None;
        let mut errors_open = true;
        loop {
            match received.recv_timeout(TICK) {
                Ok(Event::Serial(bytes)) => self.serial(&bytes),
                Ok(Event::Errors(bytes)) => {
                    self.last.push(&bytes);
                    self.errors.push(&bytes);
                    self.console.say(self.who, &bytes);
                }
                Ok(Event::ErrorsEnd) => errors_open = false,
                Ok(Event::Control(request)) if self.away.is_some() => request.refuse(AWAY),
                Ok(Event::Control(request)) => {
                    self.requests
                        .take(request, |bytes| self.keys.as_ref().is_some_and(|keys| keys.write(bytes)));
                }
                Ok(Event::Quit) => {
                    self.end(Ended::Interrupted);
                    // The keys themselves may be behind much that was pasted.
                    self.quit();
                }
                Ok(Event::Signal) if self.ended == Ended::Interrupted => break,
                Ok(Event::Signal) => {
                    self.end(Ended::Interrupted);
                    self.quit();
                }
                Ok(Event::SerialEnd) => {
                    // Its line is closed, so that it can say no more; it may still be ending.
                    status = status.or_else(|| wait(child, GRACE));
                    break;
                }
                Err(RecvTimeoutError::Timeout) => match child.try_wait() {
                    // Ended with nothing more to read for a while, but the line is open: another process has it.
                    Ok(Some(_)) if status.is_some() => break,
                    Ok(now) => status = now,
                    Err(_) => break,
                },
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                if self.ending {
                    break;
                }
                self.end(Ended::Timeout);
                self.quit();
            }
        }
        // QEMU's last words come by another pipe than the end of its line did. Another process may have that pipe too.
        let deadline = Instant::now() + TICK;
        loop {
            let more = errors_open && status.is_some();
            let patience =
                if more { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let Ok(event) = received.recv_timeout(patience) else { break };
            match event {
                Event::ErrorsEnd => errors_open = false,
                Event::Serial(bytes) => self.serial(&bytes),
                Event::Errors(bytes) => {
                    self.last.push(&bytes);
                    self.errors.push(&bytes);
                    self.console.say(self.who, &bytes);
                }
                _ => {}
            }
        }
        let rest = self.decoder.finish();
        self.last.push(&rest);
        self.console.say(Speaker::Board, &rest);
        self.console.finish();
        Outcome {
            report: self.report.complete().map(<[u8]>::to_vec),
            platform: self.platform.complete().map(<[u8]>::to_vec),
            ended: self.ended,
            away: self.away.is_some(),
            spoke: self.spoke,
            status,
            last: self.last.finish(),
            errors: self.errors.finish(),
        }
    }

    fn serial(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(piece) = self.decoder.next_piece() {
            match piece {
                Piece::Noise(bytes) => {
                    if let Some(vm) = self.away {
                        self.console.say(Speaker::Vm(vm), &bytes);
                        continue;
                    }
                    self.type_to(&bytes);
                    self.last.push(&bytes);
                    self.console.say(Speaker::Board, &bytes);
                }
                Piece::Frame(channel, payload) => {
                    self.spoke = true;
                    self.frame(channel, &payload);
                }
            }
        }
    }

    fn frame(&mut self, channel: Channel, payload: &[u8]) {
        match channel {
            Channel::Log | Channel::Event => {
                self.last.push(payload);
                self.console.say(Speaker::Hypervisor, payload);
            }
            Channel::Console(vm) => self.console.say(Speaker::Vm(vm), payload),
            Channel::Away(vm) => {
                self.away = Some(vm);
                self.requests.refuse_all(AWAY);
            }
            Channel::Focus(vm) => {
                self.away = None;
                self.console.focus(vm);
                // The first says that it listens.
                self.requests.listen(|bytes| self.keys.as_ref().is_some_and(|keys| keys.write(bytes)));
            }
            Channel::ShellFocus => self.console.focus_on_shell(),
            Channel::Shell => self.console.say(Speaker::Shell, payload),
            Channel::Answer => self.answer.push(channel, payload),
            Channel::AnswerEnd => {
                self.answer.push(channel, payload);
                self.requests.answered(self.answer.complete().unwrap_or_default());
            }
            Channel::Report | Channel::Platform | Channel::PlatformEnd => {
                self.report.push(channel, payload);
                self.platform.push(channel, payload);
            }
            Channel::ReportEnd => {
                self.report.push(channel, payload);
                // The report is the last thing it says: the machine goes off, or is switched off.
                self.ending = true;
                self.deadline = Some(Instant::now() + GRACE);
            }
        }
    }

    /// Lets the typist answer what the board said.
    fn type_to(&mut self, heard: &[u8]) {
        let answer = self.typist.as_mut().and_then(|typist| typist.hears(heard));
        if let (Some(answer), Some(keys)) = (answer, &self.keys) {
            // If keys are waiting already the boot loader reads none: the run ends by its timeout.
            let _ = keys.write(answer);
        }
    }

    /// It is to end; the first reason counts.
    fn end(&mut self, why: Ended) {
        if !self.ending {
            self.ending = true;
            self.ended = why;
            // Who isn't heard needs no time to obey.
            let grace = if self.away.is_some() { Duration::ZERO } else { self.grace };
            self.deadline = Some(Instant::now() + grace);
        }
    }

    /// Tells the hypervisor, if it hears.
    fn quit(&self) {
        if let Some(keys) = self.keys.as_ref().filter(|_| self.away.is_none()) {
            keys.quit();
        }
    }
}

/// The time that stopping guests with so much RAM may take. An emulated machine zeroes some 256 MiB in a second, one on a busy
/// host less.
const fn grace(memory: u64) -> Duration {
    GRACE.saturating_add(Duration::from_secs(memory / (64 << 20)))
}

/// Waits for the child, but not for ever.
fn wait(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + most;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(TICK / 10),
            _ => return None,
        }
    }
}

fn pass_on(
    mut from: impl Read + Send + 'static,
    to: SyncSender<Event>,
    wrap: fn(Vec<u8>) -> Event,
    end: Event,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length @ 1..) => {
                    if to.send(wrap(buffer[..length].to_vec())).is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        // Nobody may be left to hear it.
        let _ = to.send(end);
    });
}

fn watch_signals(to: SyncSender<Event>) -> io::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    thread::spawn(move || {
        for _ in signals.forever() {
            if to.send(Event::Signal).is_err() {
                return;
            }
        }
    });
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_with_more_memory_have_more_time_to_be_taken_apart() {
        assert_eq!(grace(0), GRACE);
        assert_eq!(grace(3 << 30), GRACE + Duration::from_secs(48));
    }
}
