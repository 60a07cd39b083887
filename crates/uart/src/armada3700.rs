//! The two UARTs of Marvell's Armada 3700 (the functional specification isn't public; the registers are those of Linux's
//! `mvebu-uart.c`). The second, the "extended" one, has most of them elsewhere.

use crate::model::{Model, Step, Test};

/// Receiver with marks of errors beside the byte, transmitter, control.
const RBR: u16 = 0x00;
const TSH: u16 = 0x04;
const CTRL: u16 = 0x08;
/// Status, of both.
const STAT: u16 = 0x0c;

const RBR_OVERRUN: u32 = 1 << 12;
/// Loopback, a break that is being sent, and all interrupts.
const CTRL_AWAY: u32 = 1 << 12 | 1 << 11 | 0x1ff;
const STAT_OVERRUN: u32 = 1;
const STAT_RECEIVED: u32 = 1 << 4;
const STAT_TRANSMITTED: u32 = 1 << 6;
const STAT_TRANSMIT_FULL: u32 = 1 << 11;

pub(crate) const MODEL: Model = Model {
    last: STAT,
    transmit: TSH,
    receive: RBR,
    room: Test::clear(STAT, STAT_TRANSMIT_FULL),
    idle: Test::set(STAT, STAT_TRANSMITTED),
    received: Test::set(STAT, STAT_RECEIVED),
    overrun: Test::set(RBR, RBR_OVERRUN),
    enable: &[Step::Change { at: CTRL, clear: CTRL_AWAY, set: 0 }],
    ..Model::BARE
};

/// Control 1, receiver and transmitter of single bytes, control 2.
const CTRL1: u16 = 0x04;
const RBR_BYTE: u16 = 0x18;
const TSH_BYTE: u16 = 0x1c;
const CTRL2: u16 = 0x20;

/// A break that is being sent, and the interrupts on errors.
const CTRL1_AWAY: u32 = 1 << 11 | 0xf;
/// Interrupts when there is room, and when something has come.
const CTRL2_INTERRUPTS: u32 = 1 << 6 | 1 << 5;
const STAT_RECEIVED_BYTE: u32 = 1 << 14;

pub(crate) const EXTENDED: Model = Model {
    last: CTRL2,
    transmit: TSH_BYTE,
    receive: RBR_BYTE,
    received: Test::set(STAT, STAT_RECEIVED_BYTE),
    // Here reading the byte doesn't take the marks away.
    overrun: Test::set(STAT, STAT_OVERRUN),
    clear: &[Step::Write { at: STAT, value: STAT_OVERRUN }],
    enable: &[
        Step::Change { at: CTRL1, clear: CTRL1_AWAY, set: 0 },
        Step::Change { at: CTRL2, clear: CTRL2_INTERRUPTS, set: 0 },
    ],
    ..MODEL
};
