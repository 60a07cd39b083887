//! The UART of Unisoc, once Spreadtrum (there is no public manual; the registers are those of Linux's `sprd_serial.c`). Nothing says
//! how the mark of an overrun goes, so that it isn't asked.

use crate::model::{Model, Step, Test};

const TXD: u16 = 0x00;
const RXD: u16 = 0x04;
/// Status of the line.
const STS0: u16 = 0x08;
/// How much is in the FIFOs, of 128 bytes each: received in bits 7:0, to transmit in bits 15:8.
const STS1: u16 = 0x0c;
/// Interrupt enable.
const IEN: u16 = 0x10;

const STS0_TRANSMITTED: u32 = 1 << 15;
const STS1_RECEIVED: u32 = 0xff;
const STS1_TRANSMIT_128: u32 = 1 << 15;

pub(crate) const MODEL: Model = Model {
    last: IEN,
    transmit: TXD,
    receive: RXD,
    room: Test::clear(STS1, STS1_TRANSMIT_128),
    idle: Test::set(STS0, STS0_TRANSMITTED),
    received: Test::any(STS1, STS1_RECEIVED),
    ignore: &[Step::Write { at: IEN, value: 0 }],
    ..Model::BARE
};
