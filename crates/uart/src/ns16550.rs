//! 8250, 16450, 16550 and what is compatible with them (National Semiconductor PC16550D, 8; Synopsys DW_apb_uart databook). Two
//! have the same bits in other registers: UniPhier's and the one of EMMA Mobile and RZ/V2M (there is no public manual of either; the
//! registers are those of Linux's `8250_uniphier.c` and `8250_em.c`).

use crate::Width;
use crate::model::{Model, Setting, Step, Test};

/// Receiver buffer and transmitter holding register, while LCR.DLAB is clear (8.0).
const DATA: u16 = 0;
/// Interrupt enable (8.7).
const IER: u16 = 1;
/// FIFO control (8.5).
const FCR: u16 = 2;
/// Line control (8.1).
const LCR: u16 = 3;
/// Modem control (8.8).
const MCR: u16 = 4;
/// Line status (8.4): reading it clears the overrun.
const LSR: u16 = 5;

const IER_RECEIVED: u32 = 1;
const FCR_ENABLE: u32 = 1;
/// Both FIFOs are emptied.
const FCR_EMPTY: u32 = 6;
const LCR_DLAB: u32 = 0x80;
/// DTR, RTS, and OUT2, which on many boards lets the interrupt out.
const MCR_READY: u32 = 0xb;
const LSR_RECEIVED: u32 = 1;
const LSR_OVERRUN: u32 = 1 << 1;
const LSR_HOLDING_EMPTY: u32 = 1 << 5;
const LSR_EMPTY: u32 = 1 << 6;

pub(crate) const MODEL: Model = Model {
    last: LSR,
    transmit: DATA,
    receive: DATA,
    room: Test::set(LSR, LSR_HOLDING_EMPTY),
    idle: Test::set(LSR, LSR_EMPTY),
    received: Test::set(LSR, LSR_RECEIVED),
    overrun: Test::set(LSR, LSR_OVERRUN),
    enable: &[
        // The DesignWare UART ignores writes of LCR while it is busy, so it is written only if the divisor is in the way (a change that
        // changes nothing is none).
        Step::Change { at: LCR, clear: LCR_DLAB, set: 0 },
        Step::Write { at: FCR, value: FCR_ENABLE },
        Step::Change { at: MCR, clear: 0, set: MCR_READY },
    ],
    listen: &[Step::Write { at: IER, value: IER_RECEIVED }],
    ignore: &[Step::Write { at: IER, value: 0 }],
    // It hears itself no more, and has nothing to send, so that a DesignWare UART takes what is written to LCR.
    stop: &[
        Step::Change { at: LCR, clear: LCR_DLAB, set: 0 },
        Step::Write { at: IER, value: 0 },
        Step::Write { at: MCR, value: 0 },
        Step::Write { at: FCR, value: FCR_ENABLE | FCR_EMPTY },
    ],
    // The divisor's halves lie where data and IER do otherwise (8.3).
    settings: &[
        Setting::Behind { at: DATA, switch: LCR, bit: LCR_DLAB },
        Setting::Behind { at: IER, switch: LCR, bit: LCR_DLAB },
        Setting::Register(LCR),
        Setting::Register(MCR),
    ],
    ..Model::BARE
};

/// A character, and FIFO control, which can be read.
const UNIPHIER_FCR: u16 = 3;
/// Line control in bits 15:8, modem control in bits 7:0. The divisor has a register of its own.
const UNIPHIER_LCR_MCR: u16 = 4;

pub(crate) const UNIPHIER: Model = Model {
    enable: &[
        Step::Change { at: UNIPHIER_FCR, clear: 0, set: FCR_ENABLE },
        Step::Change { at: UNIPHIER_LCR_MCR, clear: 0, set: MCR_READY },
    ],
    stop: &[],
    settings: &[],
    ..MODEL
};

/// Line status, after the FIFO's control at 3, line control and modem control. These three can't be changed without a reset, which
/// firmware has done; the divisor has registers of its own.
const EMMA_LSR: u16 = 6;

pub(crate) const EMMA: Model = Model {
    last: EMMA_LSR,
    data: Some(Width::Byte),
    room: Test::set(EMMA_LSR, LSR_HOLDING_EMPTY),
    idle: Test::set(EMMA_LSR, LSR_EMPTY),
    received: Test::set(EMMA_LSR, LSR_RECEIVED),
    overrun: Test::set(EMMA_LSR, LSR_OVERRUN),
    enable: &[],
    stop: &[],
    settings: &[],
    ..MODEL
};
