//! The PIT, by which the clock is measured: its channel 2, whose output can be read and interrupts nobody (Intel 8254; ports 0x42, 0x43,
//! and 0x61 of the chipset).

use axvm_x86_cpu::clock::{self, Bounds, Countdown, Counted};
use x86_64::instructions::port::Port;

use super::cpu::ticks;

/// Its ticks in a second.
const PIT_HZ: u64 = 1_193_182;

/// How long is measured: a hundredth of a second.
const COUNT: u16 = (PIT_HZ / 100) as u16;

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
            channel.write(COUNT as u8);
            channel.write((COUNT >> 8) as u8);
            self.control.write(self.before & !SPEAKER | GATE);
        }
    }

    fn is_over(&mut self) -> bool {
        // SAFETY: reading it changes nothing.
        unsafe { self.control.read() & OUT != 0 }
    }

    fn end(&mut self) {
        // SAFETY: it is as it was.
        unsafe { self.control.write(self.before) };
    }
}

/// The time-stamp counter's ticks in a second. `None` where the PIT doesn't count.
pub fn measure_tick_hz() -> Option<u64> {
    let mut control = Port::<u8>::new(0x61);
    // SAFETY: reading it changes nothing.
    let before = unsafe { control.read() };
    let counted = Counted { least: COUNT.into(), most: u64::from(COUNT) + 1, hz: PIT_HZ };
    let mut channel = Channel { control, before };
    clock::measured_hz(|| Bounds::by_countdown(&mut channel, counted, MOST_LOOKS))
}
