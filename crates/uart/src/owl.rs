//! The UART of Actions' Owl family, S700 and S900 among them (Actions S900 datasheet, UART; the bits are those of Linux's
//! `owl-uart.c`).

use crate::model::{Model, Step, Test};

const CTL: u16 = 0x00;
const RXDAT: u16 = 0x04;
const TXDAT: u16 = 0x08;
const STAT: u16 = 0x0c;

const CTL_ENABLE: u32 = 1 << 15;
/// Loopback, and the interrupts of transmitter and receiver.
const CTL_AWAY: u32 = 1 << 20 | 1 << 19 | 1 << 18;
/// A byte found the receive FIFO full. Like those of interrupts this mark goes by writing a 1.
const STAT_OVERRUN: u32 = 1 << 2;
const STAT_RECEIVE_EMPTY: u32 = 1 << 5;
const STAT_TRANSMIT_FULL: u32 = 1 << 6;
const STAT_TRANSMIT_EMPTY: u32 = 1 << 10;
const STAT_TRANSMITTING: u32 = 1 << 17;

pub(crate) const MODEL: Model = Model {
    last: STAT,
    transmit: TXDAT,
    receive: RXDAT,
    room: Test::clear(STAT, STAT_TRANSMIT_FULL),
    idle: Test::equal(STAT, STAT_TRANSMIT_EMPTY | STAT_TRANSMITTING, STAT_TRANSMIT_EMPTY),
    received: Test::clear(STAT, STAT_RECEIVE_EMPTY),
    overrun: Test::set(STAT, STAT_OVERRUN),
    clear: &[Step::Write { at: STAT, value: STAT_OVERRUN }],
    enable: &[Step::Change { at: CTL, clear: CTL_AWAY, set: CTL_ENABLE }],
    ..Model::BARE
};
