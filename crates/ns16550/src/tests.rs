//! What a driver relies on.

extern crate std;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, PortDevice, Transmit, Width};
use proptest::prelude::*;

use super::Ns16550;
use super::spec::{self, ier, iir, lcr, lsr, mcr, msr};

struct Wire {
    sent: Mutex<Vec<u8>>,
    room: AtomicUsize,
    /// How often the UART has called for input.
    calls: AtomicUsize,
}

impl Transmit for Wire {
    fn transmit(&self, byte: u8) -> bool {
        let took =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok();
        if took {
            self.sent.lock().unwrap().push(byte);
        }
        took
    }

    fn has_room(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Line {
    high: AtomicBool,
    rises: AtomicU32,
}

impl InterruptLine for Line {
    fn set_level(&self, irq: Irq, high: bool) {
        assert_eq!(irq, Irq(4));
        assert_ne!(self.high.swap(high, Ordering::Relaxed), high, "the line had that level");
        self.rises.fetch_add(high.into(), Ordering::Relaxed);
    }
}

struct Rig {
    uart: Ns16550,
    wire: Arc<Wire>,
    line: Arc<Line>,
}

impl Rig {
    fn new() -> Self {
        let wire = Arc::new(Wire {
            sent: Mutex::new(Vec::new()),
            room: AtomicUsize::new(usize::MAX),
            calls: AtomicUsize::new(0),
        });
        let line = Arc::new(Line::default());
        Self { uart: Ns16550::new(wire.clone(), line.clone(), Irq(4)), wire, line }
    }

    /// As Linux leaves it: FIFOs on with a trigger of eight, the receiver's interrupts through.
    fn linux() -> Self {
        let rig = Self::new();
        rig.write(spec::IIR_FCR, 0x81);
        rig.write(spec::LCR, 3);
        rig.write(spec::MCR, mcr::DTR | mcr::RTS | mcr::OUT2);
        rig.write(spec::IER, ier::RECEIVED | ier::LINE);
        rig
    }

    /// As a host does: at once, where that can be done.
    fn read(&self, register: u8) -> u8 {
        self.uart.fast_read(register.into()).unwrap_or_else(|| self.uart.read_register(register))
    }

    fn write(&self, register: u8, value: u8) {
        self.uart.write(VcpuId(0), register.into(), Width::B1, value.into());
    }

    fn high(&self) -> bool {
        self.line.high.load(Ordering::Relaxed)
    }

    fn sent(&self) -> Vec<u8> {
        self.wire.sent.lock().unwrap().clone()
    }
}

/// PC16550D, table II: what the registers are after a reset, with a modem that is there.
#[test]
fn after_reset() {
    let rig = Rig::new();
    let expected = [
        (spec::DATA, 0),
        (spec::IER, 0),
        (spec::IIR_FCR, 1),
        (spec::LCR, 0),
        (spec::MCR, 0),
        (spec::LSR, 0x60),
        (spec::MSR, 0xb0),
    ];
    for (register, value) in expected {
        assert_eq!(rig.read(register), value, "register {register}");
    }
    assert!(!rig.high());
    assert_eq!(rig.uart.read_register(8), 0xff);
}

/// The steps by which Linux's `8250` driver tells what it has before it (autoconfig and autoconfig_16550a).
#[test]
fn a_driver_finds_a_16550a_and_nothing_newer() {
    let rig = Rig::new();
    // Only four bits of the interrupt enable register are there.
    rig.write(spec::IER, 0xff);
    assert_eq!(rig.read(spec::IER), 0x0f);
    rig.write(spec::IER, 0);
    assert_eq!(rig.read(spec::IER), 0);
    // Loop-back: RTS and OUT2 are seen as CTS and DCD.
    rig.write(spec::MCR, mcr::LOOP | mcr::OUT2 | mcr::RTS);
    assert_eq!(rig.read(spec::MSR) & 0xf0, msr::CTS | msr::DCD);
    rig.write(spec::MCR, 0);
    // FIFOs that work.
    rig.write(spec::IIR_FCR, 1);
    assert_eq!(rig.read(spec::IIR_FCR) & 0xc0, 0xc0);
    // No enhanced features: what would be their register isn't zero, nor can it be written.
    for select in [0x80, 0xbf] {
        rig.write(spec::LCR, select);
        assert_ne!(rig.read(spec::IIR_FCR), 0);
    }
    // No FIFOs of 64 bytes.
    rig.write(spec::LCR, 0);
    rig.write(spec::IIR_FCR, 0x21);
    assert_eq!(rig.read(spec::IIR_FCR) & 0xe0, 0xc0);
    // The scratch register, and the divisor in place of data.
    rig.write(spec::SCR, 0xa5);
    rig.write(spec::LCR, lcr::DLAB);
    rig.write(spec::DATA, 0x0c);
    rig.write(spec::IER, 0x01);
    assert_eq!((rig.read(spec::DATA), rig.read(spec::IER)), (0x0c, 0x01));
    rig.write(spec::LCR, 3);
    assert_eq!((rig.read(spec::IER), rig.read(spec::SCR)), (0, 0xa5));
    assert_eq!(rig.sent(), []);
    // What the line and the modem say is read only.
    rig.write(spec::LSR, 0xff);
    rig.write(spec::MSR, 0xff);
    assert_eq!((rig.read(spec::LSR), rig.read(spec::MSR) & 0xf0), (0x60, 0xb0));
}

/// size_fifo: as many characters come back in loop-back as the FIFO holds.
#[test]
fn looped_back_the_fifo_holds_sixteen() {
    let rig = Rig::new();
    rig.write(spec::IIR_FCR, 7);
    rig.write(spec::MCR, mcr::LOOP);
    for byte in 0..=255 {
        rig.write(spec::DATA, byte);
    }
    assert_eq!(rig.read(spec::LSR), lsr::READY | lsr::OVERRUN | lsr::HOLDING_EMPTY | lsr::EMPTY);
    let mut back = Vec::new();
    while rig.read(spec::LSR) & lsr::READY != 0 {
        back.push(rig.read(spec::DATA));
    }
    assert_eq!(back, (0..16).collect::<Vec<u8>>());
    assert_eq!(rig.sent(), []);
    // Without FIFOs the last one is there.
    rig.write(spec::IIR_FCR, 0);
    rig.write(spec::DATA, 1);
    rig.write(spec::DATA, 2);
    assert_eq!((rig.read(spec::LSR) & lsr::OVERRUN, rig.read(spec::DATA)), (lsr::OVERRUN, 2));
}

/// serial8250_THRE_test and what follows it: the interrupt comes again whenever it is enabled.
#[test]
fn enabled_while_empty_the_transmitter_interrupts_at_once_and_again() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.write(spec::IER, ier::EMPTY);
        assert!(rig.high());
        assert_eq!(rig.read(spec::IIR_FCR), iir::EMPTY);
        assert!(!rig.high(), "identified, it is over");
        assert_eq!(rig.read(spec::IIR_FCR), iir::NONE);
        rig.write(spec::IER, 0);
    }
    // Enabled already, writing the same doesn't raise it.
    rig.write(spec::IER, ier::EMPTY);
    rig.read(spec::IIR_FCR);
    rig.write(spec::IER, ier::EMPTY | ier::RECEIVED);
    assert!(!rig.high());
    // What is sent raises it.
    rig.write(spec::DATA, b'x');
    assert!(rig.high());
    // Masked and let through without being identified it is still there.
    rig.write(spec::IER, 0);
    assert!(!rig.high());
    rig.write(spec::IER, ier::EMPTY);
    assert_eq!(rig.read(spec::IIR_FCR), iir::EMPTY);
}

/// Table IV, from the highest to the lowest, and what ends each.
#[test]
fn interrupts_have_their_priorities() {
    let rig = Rig::new();
    rig.write(spec::IIR_FCR, 0x41);
    // Loop-back raises all of them: an overrun, four characters, an empty transmitter, DSR, which has gone.
    rig.write(spec::MCR, mcr::LOOP);
    for byte in 0..17 {
        rig.write(spec::DATA, byte);
    }
    rig.write(spec::IER, 0xf);
    let identify = || rig.read(spec::IIR_FCR) & 0xf;
    assert_eq!(identify(), iir::LINE);
    rig.read(spec::LSR);
    for left in (0..16).rev() {
        assert_eq!(identify(), if left >= 3 { iir::RECEIVED } else { iir::TIMEOUT }, "{left}");
        rig.read(spec::DATA);
    }
    assert_eq!(identify(), iir::EMPTY);
    assert_eq!(identify(), iir::MODEM);
    assert_eq!(rig.read(spec::MSR), msr::CTS_CHANGED | msr::DSR_CHANGED | msr::DCD_CHANGED);
    assert_eq!(identify(), iir::NONE);
    assert!(!rig.high());
    // Of RI its end counts.
    rig.write(spec::MCR, mcr::LOOP | mcr::OUT1);
    assert_eq!(rig.read(spec::MSR), msr::RI);
    rig.write(spec::MCR, mcr::LOOP);
    assert_eq!(rig.read(spec::MSR), msr::RING_ENDED);
}

#[test]
fn what_is_typed_waits_for_a_guest_that_listens() {
    let rig = Rig::new();
    assert_eq!(rig.uart.push_input(b"early"), 0, "nobody listens");
    // One that prints doesn't listen either.
    for byte in *b"boot" {
        assert_ne!(rig.read(spec::LSR) & lsr::HOLDING_EMPTY, 0);
        rig.write(spec::DATA, byte);
        assert_eq!(rig.read(spec::LSR) & lsr::READY, 0);
    }
    assert_eq!(rig.uart.push_input(b"early"), 0);
    // One that polls gets a character, as there is no FIFO.
    for _ in 0..3 {
        rig.read(spec::LSR);
    }
    assert_eq!(rig.wire.calls.load(Ordering::Relaxed), 1, "it calls for what waits");
    assert_eq!(rig.uart.push_input(b"early"), 1);
    assert_eq!((rig.read(spec::LSR) & lsr::READY, rig.read(spec::DATA)), (lsr::READY, b'e'));

    let rig = Rig::linux();
    assert_eq!(rig.uart.push_input(&[7; 40]), 16);
    assert!(rig.high());
    assert_eq!(rig.read(spec::IIR_FCR), iir::RECEIVED | iir::FIFOS);
    for _ in 0..8 {
        assert_eq!(rig.wire.calls.load(Ordering::Relaxed), 0);
        rig.read(spec::DATA);
    }
    assert_eq!(rig.wire.calls.load(Ordering::Relaxed), 1);
    assert_eq!(rig.uart.push_input(&[8; 24]), 8);
    // Turned off, a FIFO loses what it has.
    rig.write(spec::IIR_FCR, 0);
    assert_eq!(rig.read(spec::LSR) & lsr::READY, 0);
    assert!(!rig.high());
    // In loop-back the line is cut.
    rig.write(spec::MCR, mcr::LOOP);
    assert_eq!(rig.uart.push_input(b"x"), 0);
}

#[test]
fn without_room_output_waits_and_too_much_is_lost() {
    let rig = Rig::linux();
    rig.write(spec::IER, ier::EMPTY);
    rig.read(spec::IIR_FCR);
    rig.wire.room.store(2, Ordering::Relaxed);
    for byte in 0..20 {
        rig.write(spec::DATA, byte);
    }
    assert_eq!(rig.sent(), [0, 1]);
    assert_eq!((rig.read(spec::LSR) & (lsr::EMPTY | lsr::HOLDING_EMPTY), rig.uart.lost()), (0, 2));
    assert!(!rig.high());
    // Clearing the FIFO doesn't drop it.
    rig.write(spec::IIR_FCR, 0x87);
    rig.wire.room.store(usize::MAX, Ordering::Relaxed);
    rig.uart.pump();
    assert_eq!(rig.sent(), (0..18).collect::<Vec<u8>>());
    assert!(rig.high(), "the transmitter is empty");
    rig.wire.room.store(0, Ordering::Relaxed);
    rig.write(spec::DATA, 1);
    rig.uart.reset();
    assert_eq!((rig.read(spec::LSR), rig.uart.lost()), (0x60, 0));
}

#[test]
fn a_wide_access_is_one_of_each_byte() {
    let rig = Rig::new();
    rig.uart.write(VcpuId(0), spec::LCR.into(), Width::B2, 0x0b03);
    assert_eq!((rig.read(spec::LCR), rig.read(spec::MCR)), (0x03, 0x0b));
    assert_eq!(rig.uart.read(VcpuId(0), spec::LCR.into(), Width::B4), 0xb060_0b03);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u8),
    Write(u8, u8),
    Type(u8),
    Room(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u8).prop_map(Step::Read),
        4 => (0..8u8, any::<u8>()).prop_map(|(register, value)| Step::Write(register, value)),
        2 => (1..30u8).prop_map(Step::Type),
        1 => (0..20usize).prop_map(Step::Room),
    ]
}

proptest! {
    /// Whatever a guest does, the line is high exactly while the identification register names an interrupt, what it sends arrives in
    /// order, once, but for what is counted as lost, and what is typed as well.
    #[test]
    fn the_line_says_what_is_pending(steps in prop::collection::vec(step(), 1..200)) {
        let rig = Rig::new();
        rig.wire.room.store(0, Ordering::Relaxed);
        let mut waits = VecDeque::new();
        let mut arrived = 0;
        for step in steps {
            let high = rig.high();
            match step {
                Step::Read(spec::IIR_FCR) => {
                    prop_assert_eq!(rig.read(spec::IIR_FCR) & 1 == 0, high);
                }
                Step::Read(register) => {
                    // What is read at once is what is read otherwise, and the line is as it was.
                    let at_once = rig.uart.fast_read(register.into());
                    prop_assert!(at_once.is_none() || rig.high() == high);
                    let read = rig.uart.read_register(register);
                    prop_assert!(at_once.is_none_or(|value| value == read));
                }
                Step::Write(register, value) => {
                    let sends = register == spec::DATA
                        && rig.read(spec::LCR) & lcr::DLAB == 0
                        && rig.read(spec::MCR) & mcr::LOOP == 0;
                    let lost = rig.uart.lost();
                    rig.write(register, value);
                    if sends && rig.uart.lost() == lost {
                        waits.push_back(value);
                    }
                }
                Step::Type(count) => prop_assert!(rig.uart.push_input(&std::vec![0; count.into()]) <= 16),
                Step::Room(room) => {
                    rig.wire.room.store(room, Ordering::Relaxed);
                    rig.uart.pump();
                }
            }
            for byte in rig.sent().split_off(arrived) {
                prop_assert_eq!(waits.pop_front(), Some(byte));
                arrived += 1;
            }
            // What waits when the line is cut is looped back.
            if rig.read(spec::MCR) & mcr::LOOP != 0 {
                waits.clear();
            }
        }
    }
}
