//! The PIT, by which the clock is measured: its channel 2, whose output can be read and interrupts nobody (Intel 8254; ports 0x42, 0x43,
//! and 0x61 of the chipset).

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
const MOST_LOOKS: u32 = 10_000_000;

/// The TSC's ticks in a second: the least of three measurements, as whatever comes between makes one too large. `None` where the PIT
/// doesn't count.
pub fn measure_tick_hz() -> Option<u64> {
    (0..3).map(|_| measure()).try_fold(u64::MAX, |least, measured| Some(least.min(measured?)))
}

fn measure() -> Option<u64> {
    let (mut control, mut command, mut channel) =
        (Port::<u8>::new(0x61), Port::<u8>::new(0x43), Port::<u8>::new(0x42));
    // SAFETY: this channel of the PIT is nobody else's, and makes no sound.
    unsafe {
        let before = control.read();
        control.write(before & !(GATE | SPEAKER));
        // Channel 2, both bytes, mode 0: the output rises when it has counted down.
        command.write(0xb0);
        channel.write(COUNT as u8);
        channel.write((COUNT >> 8) as u8);
        control.write(before & !SPEAKER | GATE);
        let start = ticks();
        let mut counted = false;
        for _ in 0..MOST_LOOKS {
            if control.read() & OUT != 0 {
                counted = true;
                break;
            }
        }
        let took = ticks().saturating_sub(start);
        control.write(before);
        (counted && took > 1000).then(|| (u128::from(took) * u128::from(PIT_HZ) / u128::from(COUNT)) as u64)
    }
}
