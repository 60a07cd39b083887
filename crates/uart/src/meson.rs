//! The UART of Amlogic's Meson family (Amlogic S905X3 datasheet, 13.3). It tells of an overrun, but the mark goes only with a
//! change of a control register, so that it isn't asked.

use crate::model::{Model, Step, Test};

const WFIFO: u16 = 0x00;
const RFIFO: u16 = 0x04;
const CONTROL: u16 = 0x08;
const STATUS: u16 = 0x0c;
/// Levels at which the FIFOs interrupt: received in bits 7:0.
const MISC: u16 = 0x10;

/// Receiver and transmitter.
const CONTROL_ON: u32 = 1 << 13 | 1 << 12;
const CONTROL_INTERRUPTS: u32 = 1 << 28 | 1 << 27;
const CONTROL_RECEIVED: u32 = 1 << 27;
const STATUS_RECEIVE_EMPTY: u32 = 1 << 20;
const STATUS_TRANSMIT_FULL: u32 = 1 << 21;
const STATUS_TRANSMIT_EMPTY: u32 = 1 << 22;
const STATUS_TRANSMITTING: u32 = 1 << 25;

pub(crate) const MODEL: Model = Model {
    last: MISC,
    transmit: WFIFO,
    receive: RFIFO,
    room: Test::clear(STATUS, STATUS_TRANSMIT_FULL),
    idle: Test::equal(STATUS, STATUS_TRANSMIT_EMPTY | STATUS_TRANSMITTING, STATUS_TRANSMIT_EMPTY),
    received: Test::clear(STATUS, STATUS_RECEIVE_EMPTY),
    enable: &[
        Step::Change { at: CONTROL, clear: CONTROL_INTERRUPTS, set: CONTROL_ON },
        Step::Change { at: MISC, clear: 0xff, set: 1 },
    ],
    listen: &[Step::Change { at: CONTROL, clear: 0, set: CONTROL_RECEIVED }],
    ignore: &[Step::Change { at: CONTROL, clear: CONTROL_RECEIVED, set: 0 }],
    ..Model::BARE
};
