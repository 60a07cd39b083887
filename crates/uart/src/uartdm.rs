//! Qualcomm's UARTDM 1.4 (Qualcomm APQ8016E technical reference manual, 6.2.5.3). It moves words of four characters and counts
//! them, unless it is told that a word is one character.

use crate::model::{Model, Step, Test};

/// How many characters the receiver moves before it has to be told again.
const DMRX: u16 = 0x34;
/// How the FIFOs are moved.
const DMEN: u16 = 0x3c;
/// Status.
const SR: u16 = 0xa4;
/// Commands: those of bits 11:4 are numbers, those of bits 3:0 bits.
const CR: u16 = 0xa8;
/// Interrupt mask: what is set interrupts.
const IMR: u16 = 0xb0;
/// Transmit and receive FIFO.
const TF: u16 = 0x100;
const RF: u16 = 0x140;

/// RX_SC_ENABLE and TX_SC_ENABLE: a word is a character; and no BAM.
const DMEN_CHARACTERS: u32 = 1 << 5 | 1 << 4;
const SR_RECEIVED: u32 = 1;
const SR_ROOM: u32 = 1 << 2;
const SR_EMPTY: u32 = 1 << 3;
const SR_OVERRUN: u32 = 1 << 4;
const CR_RESET_RECEIVER: u32 = 1 << 4;
const CR_RESET_TRANSMITTER: u32 = 2 << 4;
const CR_RESET_ERROR: u32 = 3 << 4;
/// A pause in what comes doesn't end the receiver's transfer.
const CR_STALE_OFF: u32 = 6 << 8;
/// Receiver and transmitter on.
const CR_ON: u32 = 1 << 2 | 1;

pub(crate) const MODEL: Model = Model {
    last: RF,
    transmit: TF,
    receive: RF,
    room: Test::set(SR, SR_ROOM),
    idle: Test::set(SR, SR_EMPTY),
    received: Test::set(SR, SR_RECEIVED),
    overrun: Test::set(SR, SR_OVERRUN),
    clear: &[Step::Write { at: CR, value: CR_RESET_ERROR }],
    enable: &[
        // What is half-way through the FIFOs was packed in the other way.
        Step::Write { at: CR, value: CR_RESET_RECEIVER },
        Step::Write { at: CR, value: CR_RESET_TRANSMITTER },
        Step::Write { at: DMEN, value: DMEN_CHARACTERS },
        Step::Write { at: CR, value: CR_STALE_OFF },
        Step::Write { at: DMRX, value: 0xff_ffff },
        Step::Write { at: CR, value: CR_ON },
    ],
    ignore: &[Step::Write { at: IMR, value: 0 }],
    ..Model::BARE
};
