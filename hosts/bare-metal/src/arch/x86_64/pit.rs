//! The PIT, by which the clock is measured: its channel 2, whose output can be read and interrupts nobody (Intel 8254; ports 0x42, 0x43,
//! and 0x61 of the chipset).
//!
//! It is waited for a millisecond, which says the rate to less than a hundredth: enough for deadlines. Then it goes on counting, and
//! is looked at again before VMs are started: what went by until then says the rate to some ten-thousandths, as exactly as the hundredth
//! of a second would that nobody waits for so.

use axvm_x86_cpu::clock::{self, Bounds, Countdown, Counted, Look};
use x86_64::instructions::port::Port;

use super::cpu::ticks;

/// Its ticks in a second.
const PIT_HZ: u64 = 1_193_182;

/// How long is waited for it: a thousandth of a second. Where that is all that it says, a hundredth.
const SHORT: u16 = (PIT_HZ / 1000) as u16;
const LONG: u16 = (PIT_HZ / 100) as u16;

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

/// After so many looks at it the PIT isn't there, or doesn't count: each takes a microsecond or so on a real bus.
const MOST_LOOKS: u32 = 1_000_000;

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
        Self { control, before, count: SHORT }
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
    known: Bounds,
    first: Option<Look>,
}

/// Begins to measure the time-stamp counter. `None` where the PIT doesn't count.
pub fn begin() -> Option<Measuring> {
    let mut channel = Channel::new();
    let Some(known) = channel.measure(SHORT) else {
        channel.restore();
        return None;
    };
    let first = channel.look();
    Some(Measuring { channel, known, first })
}

impl Measuring {
    /// Its ticks in a second, to less than a hundredth.
    pub fn roughly(&self) -> u64 {
        self.known.hz()
    }

    /// Its ticks in a second.
    pub fn end(mut self) -> u64 {
        let bounds = self.looked_at_again().or_else(|| self.channel.measure(LONG));
        self.channel.restore();
        bounds.unwrap_or(self.known).hz()
    }

    fn looked_at_again(&self) -> Option<Bounds> {
        let first = self.first?;
        while ticks().saturating_sub(first.after) < self.known.hz() / APART {
            core::hint::spin_loop();
        }
        self.known.between(first, self.channel.look()?, PIT_HZ, PERIOD)
    }
}
