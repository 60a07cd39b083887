//! Cadence's UART in Zynq and Zynq UltraScale+ (Xilinx UG1087, module UART).

use crate::model::{Model, Step, Test};

/// Control.
const CR: u16 = 0x00;
/// Interrupt enable, disable, status.
const IER: u16 = 0x08;
const IDR: u16 = 0x0c;
const ISR: u16 = 0x14;
/// Receiver time-out, in units of four bit times.
const RXTOUT: u16 = 0x1c;
/// Receiver FIFO trigger level.
const RXWM: u16 = 0x20;
/// Channel status.
const SR: u16 = 0x2c;
const FIFO: u16 = 0x30;

/// RXEN and TXEN.
const CR_ON: u32 = 1 << 4 | 1 << 2;
/// RXDIS and TXDIS.
const CR_OFF: u32 = 1 << 5 | 1 << 3;
/// RXTRIG and TOUT.
const INTERRUPT_RECEIVED: u32 = 1 << 8 | 1;
const INTERRUPT_OVERRUN: u32 = 1 << 5;
const SR_RECEIVE_EMPTY: u32 = 1 << 1;
const SR_TRANSMIT_EMPTY: u32 = 1 << 3;
const SR_TRANSMIT_FULL: u32 = 1 << 4;
const SR_TRANSMITTING: u32 = 1 << 11;

pub(crate) const MODEL: Model = Model {
    last: FIFO,
    transmit: FIFO,
    receive: FIFO,
    room: Test::clear(SR, SR_TRANSMIT_FULL),
    idle: Test::equal(SR, SR_TRANSMIT_EMPTY | SR_TRANSMITTING, SR_TRANSMIT_EMPTY),
    received: Test::clear(SR, SR_RECEIVE_EMPTY),
    overrun: Test::set(ISR, INTERRUPT_OVERRUN),
    clear: &[Step::Write { at: ISR, value: INTERRUPT_OVERRUN }],
    enable: &[
        Step::Change { at: CR, clear: CR_OFF, set: CR_ON },
        Step::Write { at: RXTOUT, value: 10 },
        Step::Write { at: RXWM, value: 1 },
    ],
    listen: &[Step::Write { at: IER, value: INTERRUPT_RECEIVED }],
    ignore: &[Step::Write { at: IDR, value: 0xffff_ffff }],
    // A status bit stays until it is written, whatever has been read.
    acknowledge: &[Step::Write { at: ISR, value: INTERRUPT_RECEIVED }],
    ..Model::BARE
};
