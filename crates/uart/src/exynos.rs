//! The UART of Samsung's Exynos (Samsung Exynos 5 Dual user's manual, chapter UART; those of later chips differ in the FIFOs' depth).

use crate::model::{Model, Step, Test};

/// Control, FIFO control.
const UCON: u16 = 0x04;
const UFCON: u16 = 0x08;
/// State of the transmitter, errors, state of the FIFOs.
const UTRSTAT: u16 = 0x10;
const UERSTAT: u16 = 0x14;
const UFSTAT: u16 = 0x18;
/// Transmit, receive.
const UTXH: u16 = 0x20;
const URXH: u16 = 0x24;
/// Interrupt mask: what is set doesn't interrupt.
const UINTM: u16 = 0x38;

/// Receive and transmit mode: by whoever asks, not by DMA.
const UCON_MODES: u32 = 0xf;
const UCON_ASKED: u32 = 1 << 2 | 1;
const UFCON_ENABLE: u32 = 1;
/// The transmit buffer and the shifter are empty.
const UTRSTAT_EMPTY: u32 = 1 << 2;
/// Reading the register clears it.
const UERSTAT_OVERRUN: u32 = 1;
/// How much has come, and that the FIFO is full of it: then the number is 0.
const UFSTAT_RECEIVED: u32 = 1 << 8 | 0xff;
const UFSTAT_TRANSMIT_FULL: u32 = 1 << 24;

pub(crate) const MODEL: Model = Model {
    last: UINTM,
    transmit: UTXH,
    receive: URXH,
    room: Test::clear(UFSTAT, UFSTAT_TRANSMIT_FULL),
    idle: Test::set(UTRSTAT, UTRSTAT_EMPTY),
    received: Test::any(UFSTAT, UFSTAT_RECEIVED),
    overrun: Test::set(UERSTAT, UERSTAT_OVERRUN),
    enable: &[
        Step::Change { at: UCON, clear: UCON_MODES, set: UCON_ASKED },
        Step::Change { at: UFCON, clear: 0, set: UFCON_ENABLE },
    ],
    ignore: &[Step::Write { at: UINTM, value: 0xf }],
    ..Model::BARE
};
