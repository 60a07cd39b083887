//! Freescale's LPUART, of which there are two. The 32-bit one is that of Layerscape and of i.MX 7ULP, 8 and 9 (NXP LS1028ARM, 20.2;
//! IMX8QXPRM, 16.14); on i.MX its registers come 16 bytes later, on the LS1021A they are big-endian. The 8-bit one is that of
//! Vybrid and its successors (NXP VFXXXRM, chapter UART; the registers are those of Kinetis' UART).

use crate::model::{Model, Step, Test};

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
    last: FIFO,
    transmit: DATA,
    receive: DATA,
    room: Test::set(STAT, STAT_ROOM),
    idle: Test::set(STAT, STAT_TRANSMITTED),
    // RDRF waits for the FIFO's watermark, this doesn't.
    received: Test::clear(FIFO, FIFO_RECEIVE_EMPTY),
    overrun: Test::set(STAT, STAT_OVERRUN),
    clear: &[Step::WriteBack { at: STAT }],
    enable: &[Step::Change { at: CTRL, clear: CTRL_INTERRUPTS, set: CTRL_ON }],
    listen: &[Step::Change { at: CTRL, clear: 0, set: CTRL_RECEIVED }],
    ignore: &[Step::Change { at: CTRL, clear: CTRL_RECEIVED, set: 0 }],
    ..Model::BARE
};

/// Control 2, status 1, data, and the state of the FIFOs of the 8-bit one.
const C2: u16 = 0x03;
const S1: u16 = 0x04;
const D: u16 = 0x07;
const SFIFO: u16 = 0x12;

/// TIE, TCIE, RIE, ILIE.
const C2_INTERRUPTS: u32 = 0xf << 4;
/// TE and RE.
const C2_ON: u32 = 1 << 3 | 1 << 2;
const S1_OVERRUN: u32 = 1 << 3;
const S1_TRANSMITTED: u32 = 1 << 6;
const S1_ROOM: u32 = 1 << 7;
const SFIFO_RECEIVE_EMPTY: u32 = 1 << 6;

pub(crate) const BYTES: Model = Model {
    last: SFIFO,
    transmit: D,
    receive: D,
    room: Test::set(S1, S1_ROOM),
    idle: Test::set(S1, S1_TRANSMITTED),
    received: Test::clear(SFIFO, SFIFO_RECEIVE_EMPTY),
    overrun: Test::set(S1, S1_OVERRUN),
    // It goes when the data register is read after the status. At an overrun there is something in it: an empty one must not be read.
    clear: &[Step::Read { at: D }],
    enable: &[Step::Change { at: C2, clear: C2_INTERRUPTS, set: C2_ON }],
    ..Model::BARE
};
