//! The hypervisor's console: one UART, shared by its own messages, the guests' consoles, and the report.
//!
//! Under `axvm run` everything goes in frames (`axvm_system::wire`) that carry a number no guest ever sees. A guest's bytes are
//! payload, so it can't forge what others say. Without the tool (the bundle has no number) people read whole lines with names
//! before them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use arm_pl011_uart::{
    DataBits, Interrupts, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer,
};
use axvm_addr::{Hpa, VmId};
use axvm_system::wire::{self, Channel, Nonce};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use crate::arch;

/// How often the UART is asked whether it has room for a byte before the byte is dropped.
const PATIENCE: usize = 1_000_000;

static OUTPUT: Mutex<Option<Output>> = Mutex::new(None);

/// Where the UART is, for the last words of a fault: 0 if there is none.
static BASE: AtomicU64 = AtomicU64::new(0);

/// The frames' number, for the same: 0 if there are no frames.
static NONCE: AtomicU64 = AtomicU64::new(0);

struct Output {
    uart: Uart<'static>,
    nonce: Option<Nonce>,
    /// Whose line is open, without frames.
    open: Option<VmId>,
    names: Vec<String>,
}

impl Output {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            for _ in 0..PATIENCE {
                if !self.uart.is_tx_fifo_full() {
                    break;
                }
                core::hint::spin_loop();
            }
            self.uart.write_word(byte);
        }
    }

    fn send(&mut self, channel: Channel, payload: &[u8]) {
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
                    if self.open != Some(vm) {
                        self.end_line();
                        let name = self.names.get(usize::from(vm.0)).cloned().unwrap_or_default();
                        self.bytes(b"[");
                        self.bytes(name.as_bytes());
                        self.bytes(b"] ");
                    }
                    self.bytes(line);
                    self.open = (line.last() != Some(&b'\n')).then_some(vm);
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
            // The report is for the tool; the focus shows by itself.
            _ => {}
        }
    }

    fn end_line(&mut self) {
        if self.open.take().is_some() {
            self.bytes(b"\r\n");
        }
    }
}

/// Takes the UART over. `clock_hz`: what drives its baud rate, if the platform says; else it stays as the firmware left it.
///
/// # Safety
///
/// `base` must be a PL011 that is mapped and driven by nobody else.
pub unsafe fn init(base: Hpa, clock_hz: Option<u32>) {
    let Some(registers) = NonNull::new(base.0 as *mut PL011Registers) else { return };
    // SAFETY: by the caller's promise.
    let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
    if let Some(clock) = clock_hz {
        let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
        // A clock too slow for the rate: keep what the firmware set.
        let _ = uart.enable(line, 115_200, clock);
    }
    // Input wakes the hypervisor's CPU; it asks, so the interrupt only has to be pending.
    uart.set_interrupt_masks(Interrupts::RXI | Interrupts::RTI);
    BASE.store(base.0, Ordering::Relaxed);
    let mut output = OUTPUT.lock();
    let nonce = output.as_mut().and_then(|old| {
        old.uart.set_interrupt_masks(Interrupts::empty());
        old.nonce
    });
    *output = Some(Output { uart, nonce, open: None, names: Vec::new() });
    drop(output);
    let _ = log::set_logger(&Messages);
    log::set_max_level(LevelFilter::Info);
}

/// From here on in frames with this number.
pub fn use_frames(nonce: [u8; 16]) {
    if let Some(output) = OUTPUT.lock().as_mut() {
        let nonce = wire::frame_nonce(&nonce);
        NONCE.store(u64::from_ne_bytes(nonce), Ordering::Relaxed);
        output.nonce = Some(nonce);
    }
}

/// Whether a tool listens, which has the last word on the verdict.
pub fn has_frames() -> bool {
    NONCE.load(Ordering::Relaxed) != 0
}

/// Names for the lines of guests, by VM id.
pub fn set_names(names: Vec<String>) {
    if let Some(output) = OUTPUT.lock().as_mut() {
        output.names = names;
    }
}

/// Sends a payload.
pub fn send(channel: Channel, payload: &[u8]) {
    if let Some(output) = OUTPUT.lock().as_mut() {
        output.send(channel, payload);
    }
}

/// The next byte that was typed.
pub fn receive() -> Option<u8> {
    let mut output = OUTPUT.lock();
    let uart = &mut output.as_mut()?.uart;
    // A broken character is a character lost.
    uart.read_word().ok().flatten()
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

struct Messages;

impl Log for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !within_budget() {
            return;
        }
        let mut line = String::new();
        let _ = match record.level() {
            Level::Error => write!(line, "error: {}", record.args()),
            Level::Warn => write!(line, "warning: {}", record.args()),
            _ => write!(line, "{}", record.args()),
        };
        line.push('\n');
        send(Channel::Log, line.as_bytes());
    }

    fn flush(&self) {}
}

/// A way to speak when nothing can be relied on: no lock, no heap.
pub struct Emergency {
    output: Option<Output>,
}

/// Speaks past all locks. Only for the last words of a CPU: another may be in the middle of a line.
pub fn emergency() -> Emergency {
    let nonce = match NONCE.load(Ordering::Relaxed) {
        0 => None,
        nonce => Some(nonce.to_ne_bytes()),
    };
    let output = NonNull::new(BASE.load(Ordering::Relaxed) as *mut PL011Registers).map(|registers| Output {
        // SAFETY: a second handle on the UART, for the time that is left: other CPUs' lines may be mixed up with this one's, and
        // nothing else is at stake, since the run ends.
        uart: Uart::new(unsafe { UniqueMmioPointer::new(registers) }),
        nonce,
        open: None,
        names: Vec::new(),
    });
    Emergency { output }
}

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(output) = &mut self.output {
            match output.nonce {
                Some(_) => output.send(Channel::Log, text.as_bytes()),
                None => output.bytes(text.as_bytes()),
            }
        }
        Ok(())
    }
}
