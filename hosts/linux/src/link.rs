//! What this process says to the tool that started it, in frames (`axvm_system::wire`) on its standard output.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axvm::report::Report;
use axvm_monitor::Voice;
use axvm_system::wire::{self, Channel, Nonce};
use serde::Serialize;

/// The most messages in a second: a guest that provokes them can't keep the line busy for all others.
const MESSAGES_A_SECOND: u32 = 100;

/// The line to the tool.
pub struct Link {
    nonce: Nonce,
    out: Mutex<Box<dyn Write + Send>>,
    budget: Mutex<Budget>,
}

struct Budget {
    since: Instant,
    count: u32,
}

impl Link {
    /// Whose frames carry this number.
    pub fn new(nonce: &[u8; 16], out: Box<dyn Write + Send>) -> Self {
        Self {
            nonce: wire::frame_nonce(nonce),
            out: Mutex::new(out),
            budget: Mutex::new(Budget { since: Instant::now(), count: 0 }),
        }
    }

    /// Sends a payload. Where nobody is left to hear it, it is lost: the run ends by the end of the keys.
    pub fn send(&self, channel: Channel, payload: &[u8]) {
        let mut bytes = Vec::new();
        wire::for_each_frame(&self.nonce, channel, payload, |header, part| {
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(part);
        });
        let mut out = crate::lock(&self.out);
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    }

    /// Sends something packed, piece by piece.
    pub fn send_packed(&self, piece: Channel, end: Channel, value: &impl Serialize) {
        match postcard::to_allocvec(value) {
            Ok(bytes) => self.send(piece, &bytes),
            Err(error) => self.error(format_args!("the report can't be sent: {error}")),
        }
        self.send(end, &[]);
    }

    /// Sends the report: the last thing that the tool waits for.
    pub fn report(&self, report: &Report) {
        self.send_packed(Channel::Report, Channel::ReportEnd, report);
    }

    fn within_budget(&self) -> bool {
        let mut budget = crate::lock(&self.budget);
        if budget.since.elapsed() >= Duration::from_secs(1) {
            *budget = Budget { since: Instant::now(), count: 0 };
        }
        budget.count = budget.count.saturating_add(1);
        budget.count <= MESSAGES_A_SECOND
    }

    /// Says a line, if there haven't been too many.
    pub fn say(&self, channel: Channel, prefix: &str, what: fmt::Arguments<'_>) {
        if self.within_budget() {
            self.send(channel, format!("{prefix}{what}\n").as_bytes());
        }
    }

    /// Something is not as it must be.
    pub fn error(&self, what: fmt::Arguments<'_>) {
        self.say(Channel::Log, "error: ", what);
    }

    /// Something is not as it should be.
    pub fn warn(&self, what: fmt::Arguments<'_>) {
        self.say(Channel::Log, "warning: ", what);
    }

    /// It is good to know.
    pub fn info(&self, what: fmt::Arguments<'_>) {
        self.say(Channel::Log, "", what);
    }
}

impl Voice for Link {
    fn info(&self, what: fmt::Arguments<'_>) {
        Self::info(self, what);
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        Self::warn(self, what);
    }

    fn error(&self, what: fmt::Arguments<'_>) {
        Self::error(self, what);
    }
}
