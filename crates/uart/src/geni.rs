//! Qualcomm's GENI serial engine as a UART, which is driven by commands: one to transmit so many bytes, one to receive until
//! further notice (there is no public manual; the registers are those of Linux's `linux/soc/qcom/geni-se.h`).

use crate::model::{Model, Step, Test};
use crate::{Full, Registers, Uart};

/// Which commands are under way.
const STATUS: u16 = 0x040;
/// Bytes a FIFO word and how they lie in it.
const BYTE_GRAN: u16 = 0x254;
const TX_PACKING0: u16 = 0x260;
const TX_PACKING1: u16 = 0x264;
const RX_PACKING0: u16 = 0x284;
const RX_PACKING1: u16 = 0x288;
/// How many bytes the next command transmits.
const TX_LENGTH: u16 = 0x270;
/// The main sequencer, which transmits.
const M_COMMAND: u16 = 0x600;
const M_IRQ_STATUS: u16 = 0x610;
const M_IRQ_ENABLE: u16 = 0x614;
const M_IRQ_CLEAR: u16 = 0x618;
/// The secondary one, which receives.
const S_COMMAND: u16 = 0x630;
const S_IRQ_STATUS: u16 = 0x640;
const S_IRQ_ENABLE: u16 = 0x644;
const S_IRQ_CLEAR: u16 = 0x648;
const TX_FIFO: u16 = 0x700;
const RX_FIFO: u16 = 0x780;
const RX_FIFO_STATUS: u16 = 0x804;
/// M_IRQ_WATERMARK says that there is room while the FIFO holds fewer words than this.
const TX_WATERMARK: u16 = 0x80c;

const RX_FIFO_WORDS: u32 = 0x1ff_ffff;
const STATUS_M_ACTIVE: u32 = 1;
const STATUS_S_ACTIVE: u32 = 1 << 12;
/// UART_START_TX and UART_START_READ, each the first operation of its sequencer.
const START: u32 = 1 << 27;
const M_IRQ_WATERMARK: u32 = 1 << 30;
/// S_RX_FIFO_WR_ERR: a byte came when the FIFO was full.
const S_IRQ_OVERRUN: u32 = 1 << 25;
/// One byte a word: eight bits from bit 0 on, and no more vectors.
const ONE_BYTE: u32 = 7 << 1 | 1;
/// How often the FIFO is asked for room after a command: it is empty, so that the answer is a matter of a few clocks.
const ASKED: usize = 10_000;

pub(crate) const MODEL: Model = Model {
    last: TX_WATERMARK,
    transmit: TX_FIFO,
    receive: RX_FIFO,
    room: Test::clear(STATUS, STATUS_M_ACTIVE),
    idle: Test::clear(STATUS, STATUS_M_ACTIVE),
    received: Test::any(RX_FIFO_STATUS, RX_FIFO_WORDS),
    overrun: Test::set(S_IRQ_STATUS, S_IRQ_OVERRUN),
    clear: &[Step::Write { at: S_IRQ_CLEAR, value: S_IRQ_OVERRUN }],
    enable: &[
        Step::Write { at: BYTE_GRAN, value: 0 },
        Step::Write { at: TX_PACKING0, value: ONE_BYTE },
        Step::Write { at: TX_PACKING1, value: 0 },
        Step::Write { at: RX_PACKING0, value: ONE_BYTE },
        Step::Write { at: RX_PACKING1, value: 0 },
        Step::Write { at: TX_WATERMARK, value: 2 },
    ],
    ignore: &[Step::Write { at: M_IRQ_ENABLE, value: 0 }, Step::Write { at: S_IRQ_ENABLE, value: 0 }],
    ..Model::BARE
};

/// Has the secondary sequencer receive, unless it does already.
pub(crate) fn start_receiver<R: Registers>(uart: &Uart<R>) {
    if uart.get(STATUS) & STATUS_S_ACTIVE == 0 {
        uart.set(S_COMMAND, START);
    }
}

/// Transmits one byte; the main sequencer is idle.
pub(crate) fn send<R: Registers>(uart: &Uart<R>, byte: u8) -> Result<(), Full> {
    uart.set(M_IRQ_CLEAR, u32::MAX);
    uart.set(TX_LENGTH, 1);
    uart.set(M_COMMAND, START);
    let has_room = |_: &usize| uart.get(M_IRQ_STATUS) & M_IRQ_WATERMARK != 0;
    (0..ASKED).find(has_room).ok_or(Full)?;
    uart.set(TX_FIFO, u32::from(byte));
    Ok(())
}
