//! Registers of the PL011 as data (Arm DDI 0183G, chapter 3): offsets, bits, values at reset.

/// Data: pops the receive FIFO, pushes the transmit FIFO (3.3.1).
pub const DR: u64 = 0x000;
/// Receive status (read) and error clear (write) (3.3.2).
pub const RSR_ECR: u64 = 0x004;
/// Flags (3.3.3).
pub const FR: u64 = 0x018;
/// IrDA low-power counter (3.3.4).
pub const ILPR: u64 = 0x020;
/// Integer part of the baud rate divisor (3.3.5).
pub const IBRD: u64 = 0x024;
/// Fractional part of the baud rate divisor (3.3.6).
pub const FBRD: u64 = 0x028;
/// Line control (3.3.7).
pub const LCR_H: u64 = 0x02c;
/// Control (3.3.8).
pub const CR: u64 = 0x030;
/// FIFO levels at which interrupts are raised (3.3.9).
pub const IFLS: u64 = 0x034;
/// Interrupt mask: a set bit lets the interrupt through (3.3.10).
pub const IMSC: u64 = 0x038;
/// Interrupts before the mask (3.3.11).
pub const RIS: u64 = 0x03c;
/// Interrupts behind the mask (3.3.12).
pub const MIS: u64 = 0x040;
/// Interrupt clear (3.3.13).
pub const ICR: u64 = 0x044;
/// DMA control (3.3.14).
pub const DMACR: u64 = 0x048;
/// The first of the eight identification registers UARTPeriphID0-3, UARTPCellID0-3 (3.3.15 to 3.3.22).
pub const ID: u64 = 0xfe0;

/// The size of the register block.
pub const SIZE: u64 = 0x1000;

/// UARTPeriphID0-3 and UARTPCellID0-3, one byte a register: part 0x011, designer 0x41 (Arm), revision 1 (r1p1 to r1p3,
/// whose FIFOs have 16 entries; from revision 3 on drivers expect 32).
pub const ID_BYTES: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Entries in each FIFO.
pub const FIFO_DEPTH: usize = 16;

/// Bits of [`FR`].
pub mod fr {
    /// Clear to send: the other side is ready.
    pub const CTS: u16 = 1 << 0;
    /// Data set ready.
    pub const DSR: u16 = 1 << 1;
    /// Data carrier detect.
    pub const DCD: u16 = 1 << 2;
    /// Transmitting.
    pub const BUSY: u16 = 1 << 3;
    /// Receive FIFO empty.
    pub const RXFE: u16 = 1 << 4;
    /// Transmit FIFO full.
    pub const TXFF: u16 = 1 << 5;
    /// Receive FIFO full.
    pub const RXFF: u16 = 1 << 6;
    /// Transmit FIFO empty.
    pub const TXFE: u16 = 1 << 7;
}

/// Bits of [`LCR_H`].
pub mod lcr_h {
    /// FIFOs on.
    pub const FEN: u16 = 1 << 4;
    /// The bits that exist.
    pub const MASK: u16 = 0xff;
}

/// Bits of [`CR`].
pub mod cr {
    /// UART on.
    pub const UARTEN: u16 = 1 << 0;
    /// Loop back.
    pub const LBE: u16 = 1 << 7;
    /// Transmitter on.
    pub const TXE: u16 = 1 << 8;
    /// Receiver on.
    pub const RXE: u16 = 1 << 9;
    /// The bits that exist: all but the reserved 6:3.
    pub const MASK: u16 = 0xff87;
    /// At reset.
    pub const RESET: u16 = TXE | RXE;
}

/// Fields of [`IFLS`].
pub mod ifls {
    /// The bits that exist: RXIFLSEL 5:3, TXIFLSEL 2:0.
    pub const MASK: u16 = 0x3f;
    /// At reset: both at half.
    pub const RESET: u16 = 0x12;
}

/// Bits of [`IMSC`], [`RIS`], [`MIS`] and [`ICR`].
pub mod int {
    /// Receive.
    pub const RX: u16 = 1 << 4;
    /// Transmit.
    pub const TX: u16 = 1 << 5;
    /// Receive timeout.
    pub const RT: u16 = 1 << 6;
    /// Overrun.
    pub const OE: u16 = 1 << 10;
    /// The bits that exist: four of the modem, three above, four errors.
    pub const MASK: u16 = 0x7ff;
}

/// Bits of [`DR`] and [`RSR_ECR`] that tell errors.
pub mod error {
    /// Overrun, in [`DR`](super::DR).
    pub const DR_OE: u16 = 1 << 11;
    /// Overrun, in [`RSR_ECR`](super::RSR_ECR).
    pub const RSR_OE: u16 = 1 << 3;
}

/// The bits of [`DMACR`] that exist.
pub const DMACR_MASK: u16 = 0x7;
/// The bits of [`FBRD`] that exist.
pub const FBRD_MASK: u16 = 0x3f;
/// The bits of [`ILPR`] that exist.
pub const ILPR_MASK: u16 = 0xff;

/// How many entries each value of RXIFLSEL or TXIFLSEL stands for: 1/8, 1/4, 1/2, 3/4, 7/8; reserved ones as the largest.
pub const fn trigger_level(select: u16) -> usize {
    match select & 7 {
        0 => FIFO_DEPTH / 8,
        1 => FIFO_DEPTH / 4,
        2 => FIFO_DEPTH / 2,
        3 => FIFO_DEPTH * 3 / 4,
        _ => FIFO_DEPTH * 7 / 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_levels_are_those_of_table_3_13() {
        assert_eq!([0, 1, 2, 3, 4, 7].map(trigger_level), [2, 4, 8, 12, 14, 14]);
    }

    #[test]
    fn registers_at_reset_have_the_values_of_table_3_1() {
        assert_eq!((cr::RESET, ifls::RESET), (0x300, 0x12));
    }

    #[test]
    fn the_revision_tells_drivers_that_fifos_have_16_entries() {
        // Linux, amba-pl011: below revision 3 the FIFO has 16 entries. The revision is PeriphID2[7:4].
        assert!(ID_BYTES[2] >> 4 < 3);
        assert_eq!(FIFO_DEPTH, 16);
    }
}
