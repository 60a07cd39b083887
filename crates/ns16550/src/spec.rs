//! Registers of the 16550A (National Semiconductor PC16550D, section 8).

/// Receiver buffer when read, transmitter holding when written; with DLAB the divisor's lower byte.
pub const DATA: u8 = 0;
/// Interrupt enable; with DLAB the divisor's upper byte.
pub const IER: u8 = 1;
/// Interrupt identification when read, FIFO control when written.
pub const IIR_FCR: u8 = 2;
/// Line control.
pub const LCR: u8 = 3;
/// Modem control.
pub const MCR: u8 = 4;
/// Line status.
pub const LSR: u8 = 5;
/// Modem status.
pub const MSR: u8 = 6;
/// Scratch.
pub const SCR: u8 = 7;
/// How many registers there are, a byte each.
pub const REGISTERS: u16 = 8;

/// Entries of each FIFO.
pub const FIFO_DEPTH: usize = 16;

/// Interrupt enable (8.7).
pub mod ier {
    /// Received data, and the timeout.
    pub const RECEIVED: u8 = 1 << 0;
    /// Transmitter holding register empty.
    pub const EMPTY: u8 = 1 << 1;
    /// Receiver line status.
    pub const LINE: u8 = 1 << 2;
    /// Modem status.
    pub const MODEM: u8 = 1 << 3;
    /// The bits that there are.
    pub const MASK: u8 = 0xf;
}

/// Interrupt identification (8.6, table IV), in the order of priority.
pub mod iir {
    /// Receiver line status.
    pub const LINE: u8 = 0x06;
    /// Received data is available, as much as the FIFO's trigger says.
    pub const RECEIVED: u8 = 0x04;
    /// Less than that is there, and nothing more has come for four characters' time.
    pub const TIMEOUT: u8 = 0x0c;
    /// Transmitter holding register empty.
    pub const EMPTY: u8 = 0x02;
    /// Modem status.
    pub const MODEM: u8 = 0x00;
    /// Nothing is pending.
    pub const NONE: u8 = 0x01;
    /// The FIFOs are on.
    pub const FIFOS: u8 = 0xc0;
}

/// FIFO control (8.5).
pub mod fcr {
    /// The FIFOs are on. The other bits count with it only.
    pub const ENABLE: u8 = 1 << 0;
    /// Empties the receiver's.
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    /// Empties the transmitter's.
    pub const CLEAR_TRANSMITTER: u8 = 1 << 2;

    /// How many characters in the receiver's FIFO raise the interrupt.
    pub const fn trigger(value: u8) -> usize {
        match value >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}

/// Line control (8.1).
pub mod lcr {
    /// The divisor is seen at offsets 0 and 1.
    pub const DLAB: u8 = 1 << 7;
}

/// Modem control (8.8).
pub mod mcr {
    /// Data terminal ready.
    pub const DTR: u8 = 1 << 0;
    /// Request to send.
    pub const RTS: u8 = 1 << 1;
    /// The first output.
    pub const OUT1: u8 = 1 << 2;
    /// The second output.
    pub const OUT2: u8 = 1 << 3;
    /// Loop-back.
    pub const LOOP: u8 = 1 << 4;
    /// The bits that there are.
    pub const MASK: u8 = 0x1f;
}

/// Line status (8.4).
pub mod lsr {
    /// Something was received.
    pub const READY: u8 = 1 << 0;
    /// Something that was received is lost.
    pub const OVERRUN: u8 = 1 << 1;
    /// The transmitter holding register, or its FIFO, is empty.
    pub const HOLDING_EMPTY: u8 = 1 << 5;
    /// The whole transmitter is.
    pub const EMPTY: u8 = 1 << 6;
}

/// Modem status (8.9).
pub mod msr {
    /// CTS has changed.
    pub const CTS_CHANGED: u8 = 1 << 0;
    /// DSR has changed.
    pub const DSR_CHANGED: u8 = 1 << 1;
    /// RI has gone off.
    pub const RING_ENDED: u8 = 1 << 2;
    /// DCD has changed.
    pub const DCD_CHANGED: u8 = 1 << 3;
    /// Clear to send.
    pub const CTS: u8 = 1 << 4;
    /// Data set ready.
    pub const DSR: u8 = 1 << 5;
    /// Ring.
    pub const RI: u8 = 1 << 6;
    /// Carrier.
    pub const DCD: u8 = 1 << 7;
}
