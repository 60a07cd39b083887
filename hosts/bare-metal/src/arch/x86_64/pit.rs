//! The PIT, by which the clock is measured: its channel 2, whose output can be read and interrupts nobody (Intel 8254; ports 0x42, 0x43,
//! and 0x61 of the chipset).
//!
//! It begins to count with the first instructions, and is looked at again when the rate is asked for: once a millisecond has gone by that says it
//! to less than a hundredth, which is enough for deadlines, and once ten have to some ten-thousandths, which is enough for guests' clocks. Until
//! then there is other work to do, so that hardly anybody waits.

use axvm_x86_cpu::clock::{self, Bounds, Countdown, Counted, Look};
use x86_64::instructions::port::Port;

use super::cpu::ticks;

/// Its ticks in a second.
const PIT_HZ: u64 = 1_193_182;

/// Its counts in a thousandth of a second, and in a hundredth.
const SHORT: u16 = (PIT_HZ / 1000) as u16;
const LONG: u16 = (PIT_HZ / 100) as u16;
/// The highest count there is: as long as it can count without beginning anew.
const HIGHEST: u16 = 0;

/// How much has to go by between two looks, in parts of a second.
const APART: u64 = 100;
/// How often it is looked at, of which the shortest look counts.
const LOOKS: usize = 3;
/// After so many counts it begins anew.
const PERIOD: u64 = 0x1_0000;

/// Port 0x61: the gate of channel 2, the speaker, and what channel 2 puts out.
const GATE: u8 = 1;
const SPEAKER: u8 = 1 << 1;
const OUT: u8 = 1 << 5;

/// After so many looks at it the PIT isn't there, or doesn't count: each takes a microsecond or so on a real bus, and a look at its count ten.
const MOST_LOOKS: u32 = 1_000_000;
const MOST_COUNTS: u32 = MOST_LOOKS / 10;

/// The channel, and what its chipset's port had before.
struct Channel {
    control: Port<u8>,
    before: u8,
    count: u16,
}

impl Channel {
    fn new() -> Self {
        let mut control = Port::<u8>::new(0x61);
        // SAFETY: reading it changes nothing.
        let before = unsafe { control.read() };
        Self { control, before, count: HIGHEST }
    }

    fn measure(&mut self, count: u16) -> Option<Bounds> {
        self.count = count;
        let counted = Counted { least: count.into(), most: u64::from(count) + 1, hz: PIT_HZ };
        clock::measured(|| Bounds::by_countdown(self, counted, MOST_LOOKS))
    }

    fn look(&self) -> Option<Look> {
        let (mut command, mut channel) = (Port::<u8>::new(0x43), Port::<u8>::new(0x42));
        Look::best((0..LOOKS).map(|_| {
            let before = ticks();
            // SAFETY: this channel of the PIT is nobody else's. Its count is kept for the two reads.
            unsafe { command.write(0x80) };
            let after = ticks();
            // SAFETY: the same.
            let left = unsafe { [channel.read(), channel.read()] };
            // It counts down.
            let count = (PERIOD - u64::from(u16::from_le_bytes(left))) % PERIOD;
            Look { before, count, after }
        }))
    }

    fn restore(&mut self) {
        // SAFETY: it is as it was.
        unsafe { self.control.write(self.before) };
    }
}

impl Countdown for Channel {
    fn ticks(&mut self) -> u64 {
        ticks()
    }

    fn begin(&mut self) {
        let (mut command, mut channel) = (Port::<u8>::new(0x43), Port::<u8>::new(0x42));
        // SAFETY: this channel of the PIT is nobody else's, and makes no sound.
        unsafe {
            self.control.write(self.before & !(GATE | SPEAKER));
            // Channel 2, both bytes, mode 0: the output rises when it has counted down.
            command.write(0xb0);
            channel.write(self.count as u8);
            channel.write((self.count >> 8) as u8);
            self.control.write(self.before & !SPEAKER | GATE);
        }
    }

    fn is_over(&mut self) -> bool {
        // SAFETY: reading it changes nothing.
        unsafe { self.control.read() & OUT != 0 }
    }

    // It goes on counting, from the highest count down.
    fn end(&mut self) {}
}

/// A measurement that isn't at its end.
pub struct Measuring {
    channel: Channel,
    first: Option<Look>,
    known: Option<Bounds>,
}

/// Begins to measure the time-stamp counter.
pub fn begin() -> Measuring {
    let mut channel = Channel::new();
    channel.begin();
    let first = channel.look();
    Measuring { channel, first, known: None }
}

impl Measuring {
    /// Its ticks in a second, to less than a hundredth: what hasn't gone by of a thousandth of a second is waited for. `None` where the PIT doesn't
    /// count.
    pub fn roughly(&mut self) -> Option<u64> {
        self.known = self.looked_at_once();
        if self.known.is_none() {
            self.known = self.channel.measure(SHORT);
            self.first = self.channel.look();
        }
        self.known.map(Bounds::hz)
    }

    /// Before it has begun anew, when nothing is known yet.
    fn looked_at_once(&mut self) -> Option<Bounds> {
        let first = self.first?;
        for _ in 0..MOST_COUNTS {
            let last = self.channel.look()?;
            let counted = last.count.checked_sub(first.count)?;
            if self.channel.is_over() {
                return None;
            }
            if counted >= SHORT.into() {
                return Bounds::by_looks(first, last, counted, PIT_HZ).filter(Bounds::is_good);
            }
        }
        None
    }

    /// Its ticks in a second. What hasn't gone by of a hundredth of a second is waited for.
    pub fn end(mut self) -> Option<u64> {
        let bounds = self.looked_at_again().or_else(|| self.channel.measure(LONG)).or(self.known);
        self.channel.restore();
        bounds.map(Bounds::hz)
    }

    fn looked_at_again(&self) -> Option<Bounds> {
        let (first, known) = (self.first?, self.known?);
        while ticks().saturating_sub(first.after) < known.hz() / APART {
            core::hint::spin_loop();
        }
        known.between(first, self.channel.look()?, PIT_HZ, PERIOD)
    }

    /// It doesn't count: all is as it was.
    pub fn give_up(mut self) {
        self.channel.restore();
    }
}
