extern crate std;
use std::vec;

use axvm_addr::Ports;
use axvm_axdevice::Width::{self, B1, B2, B4};
use proptest::prelude::*;

use super::*;

const STATUS: u16 = 0x600;
const ENABLE: u16 = 0x602;
const CONTROL: u16 = 0x604;
const RESET: u16 = 0xcf9;

fn power() -> Power {
    Power::new(Places {
        event: Ports::of(STATUS, 4).unwrap(),
        control: Ports::of(CONTROL, 2).unwrap(),
        s5: 5,
        reset: RESET,
    })
}

#[test]
fn the_button_asserts_the_line_once_it_is_enabled_and_until_it_is_noted() {
    let mut power = power();
    power.press();
    assert_eq!(power.read(STATUS, B2), Some(0x100));
    assert!(!power.line(), "nobody has enabled it");
    power.write(ENABLE, B2, 0x100);
    assert!(power.line());
    power.write(STATUS, B2, 0xfeff);
    assert!(power.line(), "other bits are noted");
    power.write(STATUS, B2, 0x100);
    assert!(!power.line());
    assert_eq!(power.read(STATUS, B2), Some(0));
    power.press();
    power.write(ENABLE, B2, 0);
    assert!(!power.line());
}

#[test]
fn what_is_enabled_reads_back_and_what_isn_t_there_doesn_t() {
    let mut power = power();
    power.write(ENABLE, B2, 0xffff);
    assert_eq!(power.read(ENABLE, B2), Some(0x120), "the power button and the global lock");
    power.write(STATUS, B2, 0xffff);
    assert_eq!(power.read(STATUS, B2), Some(0), "a status can't be set");
}

#[test]
fn the_registers_are_read_and_written_by_bytes_and_both_at_once() {
    let mut power = power();
    power.press();
    power.write(ENABLE + 1, B1, 1);
    assert!(power.line());
    assert_eq!((power.read(ENABLE, B1), power.read(ENABLE + 1, B1)), (Some(0), Some(1)));
    assert_eq!(power.read(STATUS, B4), Some(0x0100_0100));
    power.write(STATUS + 1, B1, 1);
    assert!(!power.line());
    power.press();
    power.write(STATUS, B4, 0x0020_0100);
    assert_eq!((power.read(STATUS, B2), power.read(ENABLE, B2)), (Some(0), Some(0x20)));
    assert_eq!(power.read(ENABLE, B4), Some(0x0001_0020), "PM1a_CNT follows here");
    assert_eq!(power.read(CONTROL, B4), Some(0xffff_0001), "and nothing behind it");
}

#[test]
fn s5_is_asked_for_by_its_type_and_sleep_enable_together() {
    let ask = |value| power().write(CONTROL, B2, value);
    assert_eq!(ask(5 << 10), Some(Asked::Nothing));
    assert_eq!(ask(5 << 10 | 1 << 13), Some(Asked::Off));
    for other in [0, 1, 2, 3, 4, 6, 7] {
        assert_eq!(ask(other << 10 | 1 << 13), Some(Asked::Nothing), "{other}");
    }
    // By bytes: the type is in the one with sleep enable.
    let mut by_bytes = power();
    assert_eq!(by_bytes.write(CONTROL, B1, 0), Some(Asked::Nothing));
    assert_eq!(by_bytes.write(CONTROL + 1, B1, 5 << 2 | 1 << 5), Some(Asked::Off));
    // A type that was written before isn't asked for by a write of the low byte.
    let mut earlier = power();
    earlier.write(CONTROL, B2, 5 << 10 | 1 << 13);
    assert_eq!(earlier.write(CONTROL, B1, 1), Some(Asked::Nothing), "sleep enable isn't kept");
}

#[test]
fn the_machine_is_always_in_acpis_mode() {
    let mut power = power();
    assert_eq!(power.read(CONTROL, B2), Some(1));
    power.write(CONTROL, B2, 0);
    assert_eq!(power.read(CONTROL, B2), Some(1));
    power.write(CONTROL, B2, 0xffff);
    assert_eq!(power.read(CONTROL, B2), Some(0x1c03), "sleep enable reads as 0");
}

#[test]
fn the_reset_register_resets_by_its_third_bit() {
    let mut power = power();
    for (value, asked) in
        [(0, Asked::Nothing), (2, Asked::Nothing), (6, Asked::Reset), (0xe, Asked::Reset), (4, Asked::Reset)]
    {
        assert_eq!(power.write(RESET, B1, value), Some(asked), "{value}");
        assert_eq!(power.read(RESET, B1), Some(value & 0xa));
    }
}

#[test]
fn a_reset_leaves_nothing() {
    let mut power = power();
    power.press();
    power.write(ENABLE, B2, 0xffff);
    power.write(CONTROL, B2, 7 << 10);
    power.write(RESET, B1, 2);
    power.reset();
    assert_eq!(power, self::power());
}

#[test]
fn other_ports_are_nobodys() {
    let mut power = power();
    for port in [0, STATUS - 1, CONTROL + 2, RESET - 1, RESET + 1, u16::MAX] {
        assert_eq!(power.read(port, B1), None, "{port:#x}");
        assert_eq!(power.write(port, B1, 0xff), None, "{port:#x}");
    }
}

proptest! {
    /// Whatever a guest does, it asks for what it wrote, and for nothing else; and the line is what status and enable say.
    #[test]
    fn whatever_is_written_asks_for_what_it_says(
        writes in prop::collection::vec((prop::sample::select(vec![STATUS, ENABLE, CONTROL, CONTROL + 1, RESET, 0x603]), 0u64..3, any::<u32>()), 0..40),
    ) {
        let mut power = power();
        for (port, width, value) in writes {
            let width = Width::from_bytes(1 << width).unwrap();
            let asked = power.write(port, width, value).unwrap();
            let bytes = value.to_le_bytes();
            let byte_at = |at: u16| at.checked_sub(port).filter(|&at| u64::from(at) < width.bytes()).map(|at| bytes[usize::from(at)]);
            let off = byte_at(CONTROL + 1).is_some_and(|high| high >> 2 & 0xf == 0b1101);
            let reset = byte_at(RESET).is_some_and(|it| it & 4 != 0);
            prop_assert_eq!(asked, if reset { Asked::Reset } else if off { Asked::Off } else { Asked::Nothing });
            let (status, enable) = (power.read(STATUS, B2).unwrap(), power.read(ENABLE, B2).unwrap());
            prop_assert_eq!(power.line(), status & enable != 0);
        }
    }
}
