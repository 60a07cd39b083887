//! The hypervisor's console: one UART (or none: then what it says is in its record alone), shared by its own messages, the guests' consoles, and the report.
//!
//! Under `axvm run` everything goes in frames (`axvm_system::wire`) that carry a number no guest ever sees. A guest's bytes are
//! payload, so it can't forge what others say. Without the tool (the bundle has no number) people read whole lines with names
//! before them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm::meanwhile::Meanwhile;
use axvm::report::MeanwhileReport;
use axvm_addr::VmId;
use axvm_platform::uart::UartPlace;
use axvm_system::wire::{self, Channel, Nonce};
use axvm_uart::{Description, Received, Uart};
use spin::Once;
use spin::mutex::TicketMutex;

use crate::arch::UartRegisters;
use crate::protection;
use crate::{arch, record};

mod lent;

pub use lent::{NotLent, attend, release, unbind};

/// How long a UART may have no room before it is taken for one that never will: a byte at 9,600 baud takes 1 ms, and a FIFO has
/// 256 of them at the most.
const PATIENCE_MS: u64 = 300;

/// There from its first use on, so that the image has no part for it.
static OUTPUT: Once<TicketMutex<Output>> = Once::new();

fn output() -> &'static TicketMutex<Output> {
    OUTPUT.call_once(|| TicketMutex::new(Output::new(None, None)))
}

/// The frames' number, for the last words of a fault: 0 if there are no frames.
static NONCE: AtomicU64 = AtomicU64::new(0);

/// Who begins a line without ending it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Vm(VmId),
    Shell,
}

/// A UART at which the hypervisor speaks while a VM has its own.
pub struct Aside {
    description: Description,
    place: UartPlace,
    clock_hz: Option<u32>,
}

struct Output {
    uart: Option<Uart<UartRegisters>>,
    /// The hypervisor's own, while a VM has it.
    lent: Option<lent::Lent>,
    /// What was said while there was none because of that.
    meanwhile: Meanwhile,
    /// It has had no room for so long that nobody waits for it any more.
    stuck: bool,
    nonce: Option<Nonce>,
    /// Whose line is open, without frames.
    open: Option<Speaker>,
    /// Somebody has spoken in the middle of the shell's line.
    disturbed: bool,
    names: Vec<String>,
}

impl Output {
    const fn new(uart: Option<Uart<UartRegisters>>, nonce: Option<Nonce>) -> Self {
        Self {
            uart,
            lent: None,
            meanwhile: Meanwhile::new(),
            stuck: false,
            nonce,
            open: None,
            disturbed: false,
            names: Vec::new(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let Some(uart) = &self.uart else {
            if self.lent.is_some() {
                self.meanwhile.push(bytes);
            }
            return;
        };
        for &byte in bytes {
            if uart.write(byte).is_ok() {
                self.stuck = false;
            } else if !self.stuck {
                let end = arch::ticks() + arch::tick_hz() * PATIENCE_MS / 1000;
                while uart.write(byte).is_err() {
                    if arch::ticks() > end {
                        self.stuck = true;
                        break;
                    }
                }
            }
        }
    }

    /// Whether somebody can hear what is said.
    fn is_heard(&self) -> bool {
        self.uart.is_some() && !self.stuck
    }

    fn send(&mut self, channel: Channel, payload: &[u8]) {
        if matches!(channel, Channel::Log | Channel::Event) {
            record::push(payload, self.is_heard());
        }
        self.say(channel, payload);
    }

    fn say(&mut self, channel: Channel, payload: &[u8]) {
        match self.nonce {
            Some(nonce) => {
                wire::for_each_frame(&nonce, channel, payload, |header, part| {
                    self.bytes(header);
                    self.bytes(part);
                });
            }
            None => self.plain(channel, payload),
        }
    }

    /// Without frames: whole lines, with who says it.
    fn plain(&mut self, channel: Channel, payload: &[u8]) {
        match channel {
            Channel::Console(vm) => {
                for line in payload.split_inclusive(|&byte| byte == b'\n') {
                    if self.open != Some(Speaker::Vm(vm)) {
                        self.end_line();
                        let name = self.names.get(usize::from(vm.0)).cloned().unwrap_or_default();
                        self.bytes(b"[");
                        self.bytes(name.as_bytes());
                        self.bytes(b"] ");
                    }
                    self.bytes(line);
                    self.open = (line.last() != Some(&b'\n')).then_some(Speaker::Vm(vm));
                }
            }
            Channel::Log | Channel::Event => {
                self.end_line();
                for line in payload.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                    self.bytes(b"axvm: ");
                    self.bytes(line);
                    self.bytes(b"\r\n");
                }
            }
            Channel::Shell => {
                if self.open != Some(Speaker::Shell) {
                    self.end_line();
                }
                self.bytes(payload);
                self.open = (payload.last() != Some(&b'\n')).then_some(Speaker::Shell);
            }
            // The shell is left, perhaps.
            Channel::Focus(_) | Channel::Away(_) => self.end_line(),
            // The report and answers are for the tool; the focus shows by itself.
            _ => {}
        }
    }

    fn end_line(&mut self) {
        if let Some(speaker) = self.open.take() {
            self.bytes(b"\r\n");
            self.disturbed |= speaker == Speaker::Shell;
        }
    }
}

/// Takes a UART over. `clock_hz`: what drives its baud rate, if the platform says.
///
/// # Safety
///
/// There must be such a UART at `place` that is mapped and driven by nobody else.
pub unsafe fn init(description: Description, place: UartPlace, clock_hz: Option<u32>) {
    let Some(registers) = UartRegisters::at(place) else { return };
    let uart = Uart::new(description, registers);
    uart.set_up(clock_hz);
    let mut now = output().lock();
    if let Some(before) = &now.uart {
        before.listen(false);
    }
    *now = Output::new(Some(uart), now.nonce);
}

/// Whether messages can be said: there is a heap.
static TAKES_MESSAGES: AtomicBool = AtomicBool::new(false);

/// Says what an earlier start could tell nobody, if there is such a thing. To be called before this one says anything.
pub fn say_last_start() {
    let text = record::last_start();
    if !text.is_empty() {
        send(Channel::Log, text.as_bytes());
    }
}

/// Says at a console that has come late what was said before it was there.
pub fn catch_up() {
    let mut output = output().lock();
    if output.is_heard() {
        output.say(Channel::Log, &record::untold());
    }
}

/// Takes the console away: what is said from here on is kept in memory only.
pub fn take_away() {
    output().lock().uart = None;
}

/// Has messages (`log`) come here. From then on there must be a heap.
pub fn take_messages() {
    TAKES_MESSAGES.store(true, Ordering::Relaxed);
}

/// Has the UART interrupt when something is typed. `false`: it can't, and has to be asked now and then.
pub fn listen(on: bool) -> bool {
    output().lock().uart.as_ref().is_some_and(|uart| uart.listen(on))
}

/// Whether there is one.
pub fn is_there() -> bool {
    output().lock().uart.is_some()
}

/// From here on in frames with this number.
pub fn use_frames(nonce: [u8; 16]) {
    let nonce = wire::frame_nonce(&nonce);
    NONCE.store(u64::from_ne_bytes(nonce), Ordering::Relaxed);
    output().lock().nonce = Some(nonce);
}

/// Whether a tool listens, which has the last word on the verdict.
pub fn has_frames() -> bool {
    NONCE.load(Ordering::Relaxed) != 0
}

/// Lets a VM have the console, and speaks from here on at `aside`, or to memory, in plain lines: who listens there is no tool. Does nothing
/// where a VM has it already, or where there is none.
///
/// # Errors
///
/// [`NotLent`].
pub fn lend(vm: VmId, aside: Option<Aside>) -> Result<(), NotLent> {
    let output = &mut *output().lock();
    if output.lent.is_some() {
        return Ok(());
    }
    let Some(uart) = output.uart.clone() else { return Ok(()) };
    let settings = uart.settings().ok_or(NotLent)?;
    output.say(lent::told(vm), &[]);
    let end = arch::ticks() + arch::tick_hz() * PATIENCE_MS / 1000;
    while !uart.is_idle() && arch::ticks() < end {
        core::hint::spin_loop();
    }
    uart.listen(false);
    NONCE.store(0, Ordering::Relaxed);
    output.lent = Some(lent::Lent { uart, settings, nonce: output.nonce.take() });
    output.stuck = false;
    output.uart = aside.and_then(|Aside { description, place, clock_hz }| {
        let uart = Uart::new(description, UartRegisters::at(place)?);
        uart.set_up(clock_hz);
        Some(uart)
    });
    MOVES.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Takes the console back that a VM has had, and speaks there again.
pub fn take_back() {
    let output = &mut *output().lock();
    let Some(lent::Lent { uart, settings, nonce }) = output.lent.take() else { return };
    output.end_line();
    if let Some(aside) = &output.uart {
        aside.listen(false);
    }
    uart.restore(&settings);
    output.uart = Some(uart);
    output.nonce = nonce;
    output.stuck = false;
    NONCE.store(nonce.map_or(0, u64::from_ne_bytes), Ordering::Relaxed);
    // It is told in the report.
    drop(record::untold());
    MOVES.fetch_add(1, Ordering::SeqCst);
}

/// Whether a VM has the console, or had it and it wasn't taken back.
pub fn is_lent() -> bool {
    output().lock().lent.is_some()
}

/// What was said while there was nowhere to say it.
pub fn meanwhile() -> Option<MeanwhileReport> {
    output().lock().meanwhile.report()
}

/// How often the place has changed at which the hypervisor speaks and hears.
static MOVES: AtomicU64 = AtomicU64::new(0);

/// How often it has moved so far.
pub fn moves() -> u64 {
    MOVES.load(Ordering::SeqCst)
}

/// Names for the lines of guests, by VM id.
pub fn set_names(names: Vec<String>) {
    output().lock().names = names;
}

/// Sends a payload.
pub fn send(channel: Channel, payload: &[u8]) {
    output().lock().send(channel, payload);
}

/// Whether the shell's line is to be drawn again, which is asked once: somebody has spoken in the middle of it. `now`: even in the middle
/// of what they say.
pub fn take_disturbed(now: bool) -> bool {
    let mut output = output().lock();
    (now || output.open.is_none()) && core::mem::take(&mut output.disturbed)
}

/// What was typed next.
pub fn receive() -> Received {
    output().lock().uart.as_ref().map_or(Received::Nothing, Uart::read)
}

/// The most messages in a second: a guest that provokes them can't keep the line busy for all others.
const MESSAGES_A_SECOND: u64 = 100;

/// Whether one more message may be said in this second.
fn within_budget() -> bool {
    /// The second, and the messages in it so far.
    static SECOND: AtomicU64 = AtomicU64::new(0);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = arch::ticks() / arch::tick_hz();
    if SECOND.swap(now, Ordering::Relaxed) != now {
        COUNT.store(0, Ordering::Relaxed);
    }
    COUNT.fetch_add(1, Ordering::Relaxed) < MESSAGES_A_SECOND
}

/// Says a line of the hypervisor's own, if there haven't been too many.
pub fn message(prefix: &str, what: fmt::Arguments<'_>) {
    if !TAKES_MESSAGES.load(Ordering::Relaxed) || !within_budget() {
        return;
    }
    let mut line = String::new();
    let _ = writeln!(line, "{prefix}{what}");
    send(Channel::Log, line.as_bytes());
}

/// A way to speak when nothing can be relied on: no lock, no heap.
pub struct Emergency(Output);

/// Speaks past all locks. Only for the last words of a CPU: another may be in the middle of a line.
pub fn emergency() -> Emergency {
    let nonce = match NONCE.load(Ordering::Relaxed) {
        0 => None,
        nonce => Some(nonce.to_ne_bytes()),
    };
    // SAFETY: a second handle on the UART, for the time that is left: other CPUs' lines may be mixed up with this one's, and
    // nothing else is at stake, since the run ends. What is read here changes only while the boot sets the console up.
    let uart = OUTPUT.get().and_then(|output| unsafe { (*output.as_mut_ptr()).uart.clone() });
    Emergency(Output::new(uart, nonce))
}

/// Speaks where there isn't even a lock, since the MMU is off.
///
/// # Safety
///
/// As [`init`].
#[cfg_attr(
    target_arch = "x86_64",
    expect(dead_code, reason = "there the image is mapped before anything can fail")
)]
pub unsafe fn early_emergency(uart: Option<(Description, UartPlace)>) -> Emergency {
    let uart = uart.and_then(|(description, place)| Some(Uart::new(description, UartRegisters::at(place)?)));
    if let Some(uart) = &uart {
        uart.set_up(None);
    }
    Emergency(Output::new(uart, None))
}

impl Emergency {
    /// Ends the run, without its last report, which makes the verdict `hypervisor-failed`. Where nobody could be told, the machine
    /// isn't switched off, so that the record stays.
    pub fn end(self) -> ! {
        let Some(uart) = &self.0.uart else { protection::restart_or(arch::halt) };
        let end = arch::ticks() + arch::tick_hz();
        while !uart.is_idle() && arch::ticks() < end {
            core::hint::spin_loop();
        }
        arch::system_off()
    }
}

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.0.nonce {
            Some(_) => self.0.send(Channel::Log, text.as_bytes()),
            None => {
                record::push(text.as_bytes(), self.0.is_heard());
                self.0.bytes(text.as_bytes());
            }
        }
        Ok(())
    }
}
