//! The USART of STM32 from the F7 on, STM32MP1 and MP2 among them (STMicroelectronics RM0436 and RM0457, chapter USART).

use crate::model::{Model, Step, Test};

/// Control 1 and 3.
const CR1: u16 = 0x00;
const CR3: u16 = 0x08;
/// Status, and what clears its flags.
const ISR: u16 = 0x1c;
const ICR: u16 = 0x20;
/// Received, to transmit.
const RDR: u16 = 0x24;
const TDR: u16 = 0x28;

/// TE, RE, UE.
const CR1_ON: u32 = 1 << 3 | 1 << 2 | 1;
/// RXFFIE, TXFEIE, EOBIE, RTOIE, CMIE, PEIE, TXEIE, TCIE, RXNEIE, IDLEIE.
const CR1_INTERRUPTS: u32 = 3 << 30 | 3 << 26 | 1 << 14 | 0x1f << 4;
/// RXNEIE.
const CR1_RECEIVED: u32 = 1 << 5;
/// RXFTIE, TCBGTIE, TXFTIE, WUFIE, CTSIE, EIE.
const CR3_INTERRUPTS: u32 = 1 << 28 | 1 << 24 | 1 << 23 | 1 << 22 | 1 << 10 | 1;
const ISR_OVERRUN: u32 = 1 << 3;
const ISR_RECEIVED: u32 = 1 << 5;
const ISR_TRANSMITTED: u32 = 1 << 6;
/// TXE, or TXFNF where the FIFO is on.
const ISR_ROOM: u32 = 1 << 7;

pub(crate) const MODEL: Model = Model {
    last: TDR,
    transmit: TDR,
    receive: RDR,
    room: Test::set(ISR, ISR_ROOM),
    idle: Test::set(ISR, ISR_TRANSMITTED),
    received: Test::set(ISR, ISR_RECEIVED),
    overrun: Test::set(ISR, ISR_OVERRUN),
    clear: &[Step::Write { at: ICR, value: ISR_OVERRUN }],
    enable: &[
        Step::Change { at: CR1, clear: CR1_INTERRUPTS, set: CR1_ON },
        Step::Change { at: CR3, clear: CR3_INTERRUPTS, set: 0 },
    ],
    listen: &[Step::Change { at: CR1, clear: 0, set: CR1_RECEIVED }],
    ignore: &[Step::Change { at: CR1, clear: CR1_RECEIVED, set: 0 }],
    ..Model::BARE
};
