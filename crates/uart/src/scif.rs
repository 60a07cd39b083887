//! Renesas' serial interface with FIFO, SCIF and HSCIF (Renesas R-Car series, 3rd generation, user's manual: hardware, chapters
//! SCIF and HSCIF; RZ/G2L group user's manual: hardware, chapter SCIFA). Registers are 16 bits wide, the two of data 8, in the same order four or two bytes
//! apart.

use crate::Width;
use crate::model::{Model, Step, Test};

/// Control.
const SCSCR: u16 = 2;
/// Transmit FIFO.
const SCFTDR: u16 = 3;
/// Status.
const SCFSR: u16 = 4;
/// Receive FIFO.
const SCFRDR: u16 = 5;
/// How much is in the FIFOs: to transmit from bit 8 on, received from bit 0 on.
const SCFDR: u16 = 7;
/// Line status.
const SCLSR: u16 = 9;

/// TE and RE.
const SCSCR_ON: u32 = 1 << 5 | 1 << 4;
/// TIE, RIE, REIE, and TOIE where it is there.
const SCSCR_INTERRUPTS: u32 = 1 << 7 | 1 << 6 | 1 << 3 | 1 << 2;
/// TEND and TDFE: they stay until 0 is written after 1 was read.
const SCFSR_TRANSMITTED: u32 = 1 << 6;
const SCFSR_ROOM: u32 = 1 << 5;
/// The other flags, which a 1 leaves alone.
const SCFSR_OTHERS: u32 = 1 << 7 | 0x1f;
/// SCIF's transmit FIFO holds 16, HSCIF's 128: 16 is enough for both.
const SCFDR_TRANSMIT_16: u32 = 0xf0 << 8;
const SCFDR_RECEIVED: u32 = 0xff;
/// ORER: nothing more is received until 0 is written after 1 was read.
const SCLSR_OVERRUN: u32 = 1;

pub(crate) const MODEL: Model = Model {
    last: SCLSR,
    transmit: SCFTDR,
    receive: SCFRDR,
    data: Some(Width::Byte),
    room: Test::clear(SCFDR, SCFDR_TRANSMIT_16),
    idle: Test::set(SCFSR, SCFSR_TRANSMITTED),
    received: Test::any(SCFDR, SCFDR_RECEIVED),
    overrun: Test::set(SCLSR, SCLSR_OVERRUN),
    clear: &[Step::Change { at: SCLSR, clear: SCLSR_OVERRUN, set: 0 }],
    enable: &[Step::Change { at: SCSCR, clear: SCSCR_INTERRUPTS, set: SCSCR_ON }],
    // Or the end of the last transmission would be taken for that of this one.
    sent: &[Step::Change { at: SCFSR, clear: SCFSR_TRANSMITTED | SCFSR_ROOM, set: SCFSR_OTHERS }],
    ..Model::BARE
};
