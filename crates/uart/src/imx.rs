//! The UART of i.MX21 and later, i.MX 6, 7 and 8M among them (NXP IMX8MMRM, 16.2.14).

use crate::model::{Model, Step, Test};

/// Receiver, transmitter.
const URXD: u16 = 0x00;
const UTXD: u16 = 0x40;
/// Control 1, 2 and 4.
const UCR1: u16 = 0x80;
const UCR2: u16 = 0x84;
const UCR4: u16 = 0x8c;
/// Status 2.
const USR2: u16 = 0x98;
/// Test, which has the state of the FIFOs.
const UTS: u16 = 0xb4;

const UCR1_UARTEN: u32 = 1;
/// RRDYEN, IDEN, TRDYEN, TXMPTYEN, RTSDEN: the interrupts of control 1.
const UCR1_INTERRUPTS: u32 = 1 << 13 | 1 << 12 | 1 << 9 | 1 << 6 | 1 << 5;
/// RXEN, TXEN; ignore the other side's RTS; out of reset.
const UCR2_ON: u32 = 1 << 14 | 1 << 2 | 1 << 1 | 1;
/// DREN: an interrupt while a byte is there.
const UCR4_RECEIVED: u32 = 1;
const USR2_RECEIVED: u32 = 1;
const USR2_OVERRUN: u32 = 1 << 1;
const USR2_TRANSMITTED: u32 = 1 << 3;
const UTS_TRANSMIT_FULL: u32 = 1 << 4;

pub(crate) const MODEL: Model = Model {
    last: UTS,
    transmit: UTXD,
    receive: URXD,
    room: Test::clear(UTS, UTS_TRANSMIT_FULL),
    idle: Test::set(USR2, USR2_TRANSMITTED),
    received: Test::set(USR2, USR2_RECEIVED),
    overrun: Test::set(USR2, USR2_OVERRUN),
    clear: &[Step::Write { at: USR2, value: USR2_OVERRUN }],
    enable: &[
        Step::Change { at: UCR1, clear: UCR1_INTERRUPTS, set: UCR1_UARTEN },
        Step::Change { at: UCR2, clear: 0, set: UCR2_ON },
    ],
    listen: &[Step::Change { at: UCR4, clear: 0, set: UCR4_RECEIVED }],
    ignore: &[Step::Change { at: UCR4, clear: UCR4_RECEIVED, set: 0 }],
    ..Model::BARE
};
