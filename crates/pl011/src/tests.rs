//! What a driver relies on.

extern crate std;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, MmioDevice, Transmit, Width};
use proptest::prelude::*;

use super::Pl011;
use super::spec::{self, cr, fr, int, lcr_h};

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
    changes: AtomicU32,
}

impl InterruptLine for Line {
    fn set_level(&self, irq: Irq, high: bool) {
        assert_eq!(irq, Irq(33));
        assert_ne!(
            self.high.swap(high, Ordering::Relaxed),
            high,
            "the line was set to the level that it had"
        );
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    uart: Pl011,
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
        Self { uart: Pl011::new(wire.clone(), line.clone(), Irq(33)), wire, line }
    }

    /// As Linux leaves it: FIFOs on, receiving, receive interrupts unmasked.
    fn linux() -> Self {
        let rig = Self::new();
        rig.write(spec::LCR_H, u64::from(lcr_h::FEN) | 0x60);
        rig.write(spec::CR, u64::from(cr::UARTEN | cr::TXE | cr::RXE));
        rig.write(spec::IMSC, u64::from(int::RX | int::RT));
        rig
    }

    fn read(&self, register: u64) -> u64 {
        self.uart.read(VcpuId(0), register, Width::B4)
    }

    fn write(&self, register: u64, value: u64) {
        self.uart.write(VcpuId(0), register, Width::B4, value);
    }

    fn flag(&self, flag: u16) -> bool {
        self.read(spec::FR) & u64::from(flag) != 0
    }

    fn high(&self) -> bool {
        self.line.high.load(Ordering::Relaxed)
    }

    fn sent(&self) -> Vec<u8> {
        self.wire.sent.lock().unwrap().clone()
    }
}

#[test]
fn a_driver_finds_the_identification_of_a_pl011() {
    let rig = Rig::new();
    let id: Vec<u64> = (0..8).map(|i| rig.read(spec::ID + i * 4)).collect();
    assert_eq!(id, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn an_early_console_that_enables_nothing_is_heard() {
    let rig = Rig::new();
    assert!(!rig.flag(fr::TXFF) && !rig.flag(fr::BUSY));
    rig.uart.write(VcpuId(0), spec::DR, Width::B1, u64::from(b'x'));
    assert_eq!(rig.sent(), b"x");
}

#[test]
fn a_program_that_enables_nothing_and_polls_hears_as_it_is_heard() {
    let rig = Rig::new();
    assert_eq!(rig.read(spec::CR), 0x300, "TXE and RXE, not UARTEN (table 3-1)");
    let calls = || rig.wire.calls.load(Ordering::Relaxed);
    let poll = || rig.uart.fast_read(spec::FR).map_or_else(|| rig.read(spec::FR), u64::from);
    // One that prints reads the flags before each character and behind it: what is typed stays with the host.
    for _ in 0..5 {
        assert_ne!(poll() & u64::from(fr::RXFE), 0);
        rig.write(spec::DR, u64::from(b'.'));
        poll();
        assert_eq!(rig.uart.push_input(b"ab"), 0);
    }
    poll();
    assert_eq!(calls(), 0);
    poll();
    assert_eq!(calls(), 1, "it waits for input");
    assert_eq!(rig.uart.push_input(b"ab"), 1, "FIFOs off: one character");
    assert_eq!(poll() & u64::from(fr::RXFE), 0);
    assert_eq!(rig.read(spec::DR), u64::from(b'a'));
    assert_eq!(calls(), 2);
    assert_eq!(rig.uart.push_input(b"b"), 1);
    assert_eq!(rig.read(spec::DR), u64::from(b'b'));
    // Only the receiver's own switch stops it.
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::TXE));
    assert_eq!(rig.uart.push_input(b"d"), 0);
}

#[test]
fn every_byte_of_a_long_text_arrives_once_and_in_order() {
    let rig = Rig::linux();
    let text: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
    for &byte in &text {
        rig.write(spec::DR, u64::from(byte));
    }
    assert_eq!(rig.sent(), text);
}

#[test]
fn input_that_had_no_room_is_called_for_when_there_is_some_and_all_of_it_arrives() {
    let rig = Rig::linux();
    let text: Vec<u8> = (0..101_040u32).map(|i| i as u8).collect();
    let calls = || rig.wire.calls.load(Ordering::Relaxed);
    let (mut offered, mut heard, mut answered) = (rig.uart.push_input(&text), Vec::new(), 0);
    assert_eq!((offered, calls()), (16, 0));
    while heard.len() < text.len() {
        assert!(!rig.flag(fr::RXFE), "the guest waits for nothing after {} bytes", heard.len());
        heard.push(rig.read(spec::DR) as u8);
        // Whoever types does nothing unless he is called.
        if calls() > answered {
            answered = calls();
            offered += rig.uart.push_input(&text[offered..]);
        }
    }
    assert_eq!(heard, text);
    assert!(calls() <= text.len() / 8 + 1, "{} calls: one for every eight bytes is enough", calls());
}

#[test]
fn input_is_called_for_when_the_receiver_is_turned_on_and_only_if_some_waits() {
    let rig = Rig::new();
    let calls = || rig.wire.calls.load(Ordering::Relaxed);
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::TXE));
    assert_eq!(rig.uart.push_input(b"x"), 0);
    assert_eq!(calls(), 0, "nobody receives");
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::RXE));
    assert_eq!(calls(), 1);
    // Without FIFOs there is room for one byte, and again once it was read.
    assert_eq!(rig.uart.push_input(b"xy"), 1);
    assert_eq!(calls(), 1);
    rig.read(spec::DR);
    assert_eq!(calls(), 2);
    assert_eq!(rig.uart.push_input(b"y"), 1);
    rig.read(spec::DR);
    assert_eq!(calls(), 2, "nothing waits any more");
}

#[test]
fn the_transmit_interrupt_needs_a_first_byte_and_then_stays_until_it_is_masked() {
    let rig = Rig::linux();
    rig.write(spec::IMSC, u64::from(int::TX));
    assert!(!rig.high(), "nothing has passed the level yet (2.8.3)");
    rig.write(spec::DR, 1);
    assert!(rig.high(), "the FIFO is empty again");
    rig.write(spec::DR, 2);
    assert!(rig.high());
    rig.write(spec::IMSC, 0);
    assert!(!rig.high());
    rig.write(spec::IMSC, u64::from(int::TX));
    assert!(rig.high(), "unmasking alone lets a raised interrupt through");
    rig.write(spec::ICR, u64::from(int::TX));
    assert!(!rig.high());
}

#[test]
fn a_full_output_shows_as_a_full_fifo_and_goes_on_when_there_is_room() {
    let rig = Rig::linux();
    rig.write(spec::IMSC, u64::from(int::TX));
    rig.wire.room.store(0, Ordering::Relaxed);
    for byte in 0..16 {
        assert!(!rig.flag(fr::TXFF));
        rig.write(spec::DR, byte);
    }
    assert!(rig.flag(fr::TXFF) && rig.flag(fr::BUSY) && !rig.flag(fr::TXFE));
    assert!(!rig.high());
    rig.write(spec::DR, 99);
    assert_eq!(rig.uart.lost(), 1);
    rig.wire.room.store(usize::MAX, Ordering::Relaxed);
    rig.uart.pump();
    assert_eq!(rig.sent(), (0..16).collect::<Vec<u8>>());
    assert!(rig.high() && rig.flag(fr::TXFE) && !rig.flag(fr::BUSY));
}

#[test]
fn one_typed_character_raises_the_timeout_and_reading_it_lowers_the_line() {
    let rig = Rig::linux();
    assert_eq!(rig.uart.push_input(b"a"), 1);
    assert_eq!(rig.read(spec::MIS), u64::from(int::RT));
    assert!(rig.high() && !rig.flag(fr::RXFE));
    assert_eq!(rig.read(spec::DR), u64::from(b'a'));
    assert!(!rig.high() && rig.flag(fr::RXFE));
    assert_eq!(rig.read(spec::DR), 0);
}

#[test]
fn a_timeout_that_was_cleared_comes_again_with_the_next_character() {
    let rig = Rig::linux();
    rig.uart.push_input(b"a");
    rig.write(spec::ICR, u64::from(int::RT | int::RX));
    assert!(!rig.high());
    rig.uart.push_input(b"b");
    assert!(rig.high());
}

#[test]
fn the_receive_interrupt_follows_its_level() {
    let rig = Rig::linux();
    rig.write(spec::IFLS, 0b010_000); // receive at 1/2
    rig.write(spec::IMSC, u64::from(int::RX));
    assert_eq!(rig.uart.push_input(b"1234567"), 7);
    assert!(!rig.high());
    assert_eq!(rig.uart.push_input(b"8"), 1);
    assert!(rig.high());
    rig.read(spec::DR);
    assert!(!rig.high());
}

#[test]
fn input_is_taken_up_to_the_fifo_and_none_before_the_receiver_is_on() {
    let rig = Rig::new();
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::TXE));
    assert_eq!(rig.uart.push_input(b"early"), 0);
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::RXE));
    assert_eq!(rig.uart.push_input(b"two"), 1, "FIFOs off: one character");
    rig.read(spec::DR);
    rig.write(spec::LCR_H, u64::from(lcr_h::FEN));
    assert_eq!(rig.uart.push_input(&[7; 40]), 16);
    assert!(rig.flag(fr::RXFF));
    let read: Vec<u64> = (0..16).map(|_| rig.read(spec::DR)).collect();
    assert_eq!(read, [7; 16]);
}

#[test]
fn loop_back_returns_what_is_sent_and_marks_what_overran() {
    let rig = Rig::linux();
    rig.write(spec::CR, u64::from(cr::UARTEN | cr::TXE | cr::RXE | cr::LBE));
    rig.write(spec::DR, 5);
    assert_eq!(rig.read(spec::DR), 5);
    for byte in 0..17 {
        rig.write(spec::DR, byte);
    }
    assert_ne!(rig.read(spec::RIS) & u64::from(int::OE), 0);
    for byte in 0..16 {
        assert_eq!(rig.read(spec::DR), byte);
    }
    rig.write(spec::DR, 50);
    assert_eq!(rig.read(spec::DR), 50 | 1 << 11, "the next character tells that one before it was lost");
    assert!(rig.sent().is_empty());
}

#[test]
fn an_access_beside_the_data_register_takes_no_character() {
    let rig = Rig::linux();
    rig.uart.push_input(b"a");
    assert_eq!(rig.uart.read(VcpuId(0), 1, Width::B1), 0);
    assert_eq!(rig.uart.read(VcpuId(0), 2, Width::B2), 0);
    assert_eq!(rig.uart.read(VcpuId(0), 0, Width::B1), u64::from(b'a'));
}

#[test]
fn after_a_reset_the_line_is_low_and_the_registers_have_their_reset_values() {
    let rig = Rig::linux();
    rig.uart.push_input(b"a");
    rig.uart.reset();
    assert!(!rig.high());
    assert_eq!((rig.read(spec::CR), rig.read(spec::IFLS), rig.read(spec::IMSC)), (0x300, 0x12, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u64),
    Type(Vec<u8>),
    Room(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..0x1000, 0u64..4).prop_map(|(offset, width)| Step::Read(offset, 1 << width)),
        (prop_oneof![0u64..0x50, Just(spec::DR), 0u64..0x1000], 0u64..4, any::<u64>())
            .prop_map(|(offset, width, value)| Step::Write(offset, 1 << width, value)),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Step::Type),
        (0usize..30).prop_map(Step::Room),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_does_the_line_is_high_exactly_while_a_masked_interrupt_is_raised(
        steps in proptest::collection::vec(step(), 0..200)
    ) {
        let rig = Rig::new();
        for step in steps {
            match step {
                Step::Read(offset, width) => {
                    let width = Width::from_bytes(width).unwrap();
                    let value = rig.uart.read(VcpuId(0), offset, width);
                    prop_assert_eq!(value & !width.mask(), 0);
                }
                Step::Write(offset, width, value) => {
                    rig.uart.write(VcpuId(0), offset, Width::from_bytes(width).unwrap(), value);
                }
                Step::Type(bytes) => prop_assert!(rig.uart.push_input(&bytes) <= 16),
                Step::Room(room) => {
                    rig.wire.room.store(room, Ordering::Relaxed);
                    rig.uart.pump();
                }
            }
            prop_assert_eq!(rig.high(), rig.read(spec::MIS) != 0);
        }
    }
}

proptest! {
    /// What can be done at once comes to the same as what is done the usual way, and leaves the line alone.
    #[test]
    fn by_the_fast_path_or_not_is_the_same(
        ops in prop::collection::vec((0u8..8, any::<u16>(), 0usize..3), 1..200),
    ) {
        let (quick, slow) = (Rig::linux(), Rig::linux());
        let registers = [spec::LCR_H, spec::CR, spec::IMSC, spec::IFLS, spec::ICR];
        for (op, value, room) in ops {
            match op {
                0..=2 => {
                    let before = quick.line.changes.load(Ordering::Relaxed);
                    if quick.uart.fast_write(spec::DR, value.into()) {
                        prop_assert_eq!(before, quick.line.changes.load(Ordering::Relaxed));
                    } else {
                        quick.write(spec::DR, value.into());
                    }
                    slow.write(spec::DR, value.into());
                }
                3 | 4 => {
                    let expected = slow.read(spec::FR);
                    let got = quick.uart.fast_read(spec::FR).map(u64::from);
                    prop_assert_eq!(got.unwrap_or_else(|| quick.read(spec::FR)), expected);
                }
                5 => {
                    for rig in [&quick, &slow] {
                        rig.uart.push_input(&[value as u8]);
                    }
                }
                6 => {
                    let register = registers[usize::from(value) % registers.len()];
                    // Mostly what Linux writes: the FIFOs on, the transmitter's interrupt off.
                    let value = if value & 0x300 == 0 { value } else { 0x301 & !int::TX };
                    for rig in [&quick, &slow] {
                        rig.write(register, value.into());
                    }
                }
                _ => {
                    for rig in [&quick, &slow] {
                        rig.wire.room.store(if room == 0 { usize::MAX } else { room }, Ordering::Relaxed);
                        rig.uart.pump();
                    }
                }
            }
            prop_assert_eq!(&*quick.wire.sent.lock().unwrap(), &*slow.wire.sent.lock().unwrap());
            for register in [spec::FR, spec::RIS, spec::MIS] {
                prop_assert_eq!(quick.read(register), slow.read(register));
            }
            prop_assert_eq!(quick.line.high.load(Ordering::Relaxed), slow.line.high.load(Ordering::Relaxed));
        }
    }
}

#[test]
fn a_driver_that_polls_prints_at_once() {
    let rig = Rig::linux();
    assert_eq!(rig.uart.fast_read(spec::FR).map(u64::from), Some(rig.read(spec::FR)));
    assert!(rig.uart.fast_write(spec::DR, 0x41));
    assert_eq!(*rig.wire.sent.lock().unwrap(), [0x41]);
    // Not with the transmitter's interrupt on, nor without room, nor other registers.
    rig.write(spec::IMSC, int::TX.into());
    assert!(!rig.uart.fast_write(spec::DR, 0x41));
    rig.write(spec::IMSC, 0);
    rig.wire.room.store(0, Ordering::Relaxed);
    assert!(!rig.uart.fast_write(spec::DR, 0x41));
    assert!(!rig.uart.fast_write(spec::IMSC, 0) && rig.uart.fast_read(spec::RIS).is_none());
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 1);
}
