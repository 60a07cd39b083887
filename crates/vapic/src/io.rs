//! An I/O APIC (Intel 82093AA, version 0x20 as in the ICH9): lines become messages.

use crate::message::{Destination, Message, signal};
use crate::spec::{IO_VERSION, PINS, Redirection, io};

/// An I/O APIC with 24 pins.
#[derive(Clone, Debug)]
pub struct IoApic {
    id: u8,
    selected: u8,
    entries: [Redirection; PINS],
    /// Which lines are active, a bit each.
    lines: u32,
    /// Pins whose lines are looked at anew.
    resampled: u32,
}

/// The bits of an entry that can be written.
const WRITABLE: u64 = !((1 << 12 | 1 << 14) | 0x00ff_ffff_fffe_0000);

impl IoApic {
    /// As after reset: every pin is masked.
    pub fn new(id: u8) -> Self {
        let entries = [Redirection::new().with_masked(true); PINS];
        Self { id: id & 15, selected: 0, entries, lines: 0, resampled: 0 }
    }

    /// Has the lines of these pins, a bit each, looked at anew: when an interrupt of theirs ends, and when they are unmasked, they count as
    /// inactive until they are set again. That is for lines of real devices, which whoever sets them has to mask while they are active
    /// and can't look at meanwhile; [`IoApic::open`] says when they are to be unmasked.
    #[must_use]
    pub fn with_resampled(self, pins: u32) -> Self {
        Self { resampled: pins, ..self }
    }

    /// The pins at which a change of the line would be heard, a bit each: they aren't masked, and wait for no end.
    pub fn open(&self) -> u32 {
        self.open_of(u32::MAX)
    }

    /// The same, of these pins.
    pub(crate) fn open_of(&self, pins: u32) -> u32 {
        let (mut left, mut open) = (pins, 0);
        while left != 0 {
            let pin = left.trailing_zeros();
            left &= left - 1;
            let Some(entry) = self.entries.get(pin as usize) else { break };
            let waits = entry.level() && (entry.remote() || self.lines >> pin & 1 != 0);
            open |= u32::from(!entry.masked() && !waits) << pin;
        }
        open
    }

    /// Reads a register in memory, 32 bits. Elsewhere there is nothing.
    pub fn read(&self, at: u64) -> u32 {
        match at {
            io::SELECT => self.selected.into(),
            io::WINDOW => self.window(),
            _ => 0,
        }
    }

    fn window(&self) -> u32 {
        match self.selected {
            io::ID | io::ARBITRATION => u32::from(self.id) << 24,
            io::VERSION => IO_VERSION,
            register => {
                let Some((pin, shift)) = entry(register) else { return 0 };
                self.entries.get(pin).map_or(0, |entry| (u64::from(*entry) >> shift) as u32)
            }
        }
    }

    /// Writes a register in memory, 32 bits. What is to be sent is handed to `send`, which says whether a CPU takes it.
    pub fn write(&mut self, at: u64, value: u32, send: impl FnMut(Message) -> bool) {
        match at {
            io::SELECT => self.selected = value as u8,
            io::WINDOW => self.write_window(value, send),
            io::EOI => self.end(value as u8, send),
            _ => {}
        }
    }

    fn write_window(&mut self, value: u32, send: impl FnMut(Message) -> bool) {
        if self.selected == io::ID {
            self.id = (value >> 24) as u8 & 15;
            return;
        }
        let Some((pin, shift)) = entry(self.selected) else { return };
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let before = u64::from(*entry);
        let was_masked = entry.masked();
        let written = before & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
        *entry = Redirection::from(before & !WRITABLE | written & WRITABLE);
        // What isn't by level has no end that is waited for: that is how an operating system gets rid of one.
        if !entry.level() {
            entry.set_remote(false);
        }
        if was_masked && !entry.masked() && !entry.remote() {
            self.resample(pin);
        }
        self.look(pin, send);
    }

    fn resample(&mut self, pin: usize) {
        self.lines &= !(self.resampled & 1 << pin);
    }

    /// Sends what waits because no CPU took it when it was sent.
    pub fn send_again(&mut self, mut send: impl FnMut(Message) -> bool) {
        for pin in 0..PINS {
            self.look(pin, &mut send);
        }
    }

    /// A line becomes active or not: what is active for a pin that is active low is low.
    pub fn set_line(&mut self, pin: u8, active: bool, mut send: impl FnMut(Message) -> bool) {
        let Some(entry) = self.entries.get(usize::from(pin)).copied() else { return };
        let bit = 1 << pin;
        let rises = active && self.lines & bit == 0;
        self.lines = if active { self.lines | bit } else { self.lines & !bit };
        if entry.level() {
            self.look(usize::from(pin), send);
        } else if rises && !entry.masked() {
            // An edge at a pin that is masked is lost (3.2.4, bit 16).
            message(entry).map(&mut send);
        }
    }

    /// A local APIC has ended an interrupt with this vector that counts by its level: where the line is still active it comes again.
    pub fn end(&mut self, vector: u8, mut send: impl FnMut(Message) -> bool) {
        for pin in 0..PINS {
            if let Some(entry) = self.entries.get_mut(pin)
                && entry.level()
                && entry.vector() == vector
                && entry.remote()
            {
                entry.set_remote(false);
                self.resample(pin);
                self.look(pin, &mut send);
            }
        }
    }

    /// Sends what a line that counts by its level asks for, unless it is masked or still under way.
    fn look(&mut self, pin: usize, mut send: impl FnMut(Message) -> bool) {
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let active = self.lines >> pin & 1 != 0;
        if !entry.level() || !active || entry.masked() || entry.remote() {
            return;
        }
        // What isn't served, or isn't taken, never ends.
        if let Some(message) = message(*entry) {
            entry.set_remote(send(message));
        }
    }

    /// What a pin sends that isn't masked, as its entry says now; `None`: nothing that is served.
    pub fn sends(&self, pin: u8) -> Option<Message> {
        message(self.entry(pin)?)
    }

    /// What a pin's entry says now.
    pub fn entry(&self, pin: u8) -> Option<Redirection> {
        self.entries.get(usize::from(pin)).copied()
    }
}

/// The pin and the half of its entry that a register of the window shows.
fn entry(register: u8) -> Option<(usize, u32)> {
    let number = usize::from(register.checked_sub(io::ENTRIES)?);
    (number < 2 * PINS).then_some((number / 2, if number % 2 == 0 { 0 } else { 32 }))
}

/// What an entry sends.
fn message(entry: Redirection) -> Option<Message> {
    let (signal, delivery) = signal(entry.mode(), entry.vector(), entry.level())?;
    let destination = Destination { id: entry.destination().into(), logical: entry.logical(), narrow: true };
    Some(Message { destination, delivery, signal })
}
