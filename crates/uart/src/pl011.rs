//! PL011 (Arm DDI 0183G, 3.3) and the SBSA's generic UART, which is the part of it that needs no set-up (Arm DEN 0029, B).

use crate::model::{Model, Setting, Step, Test};
use crate::{Registers, Uart};

/// Data, with the overrun beside it (3.3.1).
const DR: u16 = 0x00;
/// Flags (3.3.3).
const FR: u16 = 0x18;
/// Divisor, integer and fraction (3.3.5, 3.3.6).
const IBRD: u16 = 0x24;
const FBRD: u16 = 0x28;
/// Line control: a write of it makes the divisor count (3.3.7).
const LCR_H: u16 = 0x2c;
/// Control (3.3.8).
const CR: u16 = 0x30;
/// The FIFOs' levels for interrupts (3.3.9).
const IFLS: u16 = 0x34;
/// Interrupt mask (3.3.10).
const IMSC: u16 = 0x38;
/// Interrupt clear (3.3.13).
const ICR: u16 = 0x44;
/// DMA control (3.3.14).
const DMACR: u16 = 0x48;

const DR_OVERRUN: u32 = 1 << 11;
const FR_BUSY: u32 = 1 << 3;
const FR_RECEIVE_EMPTY: u32 = 1 << 4;
const FR_TRANSMIT_FULL: u32 = 1 << 5;
/// Eight bits, FIFOs on.
const LCR_H_8_BITS: u32 = 3 << 5 | 1 << 4;
const CR_UARTEN: u32 = 1;
const CR_BOTH: u32 = 1 << 9 | 1 << 8;
/// Received, and received but no more for a while.
const IMSC_RECEIVED: u32 = 1 << 6 | 1 << 4;

/// All interrupts.
const ICR_ALL: u32 = 0x7ff;

const RATE: u32 = 115_200;

pub(crate) const SBSA: Model = Model {
    last: IMSC,
    transmit: DR,
    receive: DR,
    room: Test::clear(FR, FR_TRANSMIT_FULL),
    idle: Test::clear(FR, FR_BUSY),
    received: Test::clear(FR, FR_RECEIVE_EMPTY),
    overrun: Test::set(DR, DR_OVERRUN),
    listen: &[Step::Write { at: IMSC, value: IMSC_RECEIVED }],
    ignore: &[Step::Write { at: IMSC, value: 0 }],
    ..Model::BARE
};

pub(crate) const MODEL: Model = Model {
    last: DMACR,
    enable: &[Step::Change { at: CR, clear: 0, set: CR_UARTEN | CR_BOTH }],
    // Off before anything else, and without FIFOs, which empties them (3.3.8).
    stop: &[
        Step::Write { at: CR, value: 0 },
        Step::Write { at: IMSC, value: 0 },
        Step::Write { at: LCR_H, value: 0 },
        Step::Write { at: ICR, value: ICR_ALL },
    ],
    // The divisor counts from the write of LCR_H on; it is turned on last.
    settings: &[
        Setting::Register(IBRD),
        Setting::Register(FBRD),
        Setting::Register(LCR_H),
        Setting::Register(IFLS),
        Setting::Register(DMACR),
        Setting::Register(CR),
    ],
    ..SBSA
};

/// Sets 115,200 baud, eight bits, no parity, unless somebody has turned the UART on before.
pub(crate) fn set_rate<R: Registers>(uart: &Uart<R>, clock_hz: u32) {
    // 3.3.6: the divisor is clock / (16 · rate), in 64ths; a clock too slow for the rate gives none.
    let divisor = (clock_hz.saturating_mul(4) + RATE / 2) / RATE;
    if uart.get(CR) & CR_UARTEN != 0 || !(64..=0xffff * 64).contains(&divisor) {
        return;
    }
    uart.set(IBRD, divisor >> 6);
    uart.set(FBRD, divisor & 0x3f);
    uart.set(LCR_H, LCR_H_8_BITS);
}
