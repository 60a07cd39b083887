//! The 32-bit LPUART of Layerscape and of i.MX 7ULP, 8 and 9 (NXP LS1028ARM, 20.2; IMX8QXPRM, 16.14). On i.MX its registers
//! come 16 bytes later, on the LS1021A they are big-endian.

use crate::model::{Acknowledge, Model, Step, Test};

/// Status: flags beside settings.
const STAT: u16 = 0x04;
/// Control.
const CTRL: u16 = 0x08;
/// Data.
const DATA: u16 = 0x0c;
/// FIFO.
const FIFO: u16 = 0x18;

const STAT_OVERRUN: u32 = 1 << 19;
const STAT_TRANSMITTED: u32 = 1 << 22;
const STAT_ROOM: u32 = 1 << 23;
/// TE and RE.
const CTRL_ON: u32 = 1 << 19 | 1 << 18;
/// RIE.
const CTRL_RECEIVED: u32 = 1 << 21;
/// TIE, TCIE, RIE, ILIE and the interrupts on errors.
const CTRL_INTERRUPTS: u32 = 0xff << 20 & !(1 << 28);
const FIFO_RECEIVE_EMPTY: u32 = 1 << 22;

pub(crate) const MODEL: Model = Model {
    transmit: DATA,
    receive: DATA,
    room: Test::set(STAT, STAT_ROOM),
    idle: Test::set(STAT, STAT_TRANSMITTED),
    // RDRF waits for the FIFO's watermark, this doesn't.
    received: Test::clear(FIFO, FIFO_RECEIVE_EMPTY),
    overrun: Test::set(STAT, STAT_OVERRUN),
    clear: Acknowledge::Whole,
    enable: &[Step::Change { at: CTRL, clear: CTRL_INTERRUPTS, set: CTRL_ON }],
    listen: &[Step::Change { at: CTRL, clear: 0, set: CTRL_RECEIVED }],
    ignore: &[Step::Change { at: CTRL, clear: CTRL_RECEIVED, set: 0 }],
    acknowledge: &[],
};
