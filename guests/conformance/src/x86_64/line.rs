//! A line that is raised and lowered at will: that of the console's 16550 (National Semiconductor PC16550D), which is active while the
//! UART may tell that it has room. Nothing is printed while it is active.

use core::sync::atomic::{AtomicU16, Ordering};

use axvm_acpi::madt::IoApic;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{SURELY_S, in8, load32, out8, store32, within};

const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const HAS_ROOM: u8 = 1 << 1;
/// DTR, RTS, and OUT2, which lets interrupts out of a PC's UART.
const LETS_OUT: u8 = 0xb;
const SENT_ALL: u8 = 0x60;

/// What a PC's first serial port interrupts by.
const CONSOLE: u8 = 4;

static PORT: AtomicU16 = AtomicU16::new(0);

/// Begins with it lowered.
pub fn set_up(board: &Board) {
    PORT.store(board.console as u16, Ordering::Relaxed);
    out8(board.console as u16 + MODEM_CONTROL, LETS_OUT);
    set(false);
}

/// Raises or lowers it.
pub fn set(active: bool) {
    let port = PORT.load(Ordering::Relaxed);
    if active {
        within(SURELY_S, || in8(port + LINE_STATUS) & SENT_ALL == SENT_ALL);
    }
    out8(port + INTERRUPT_ENABLE, if active { HAS_ROOM } else { 0 });
    if !active {
        in8(port + INTERRUPT_ID);
    }
}

/// A redirection entry's bits (Intel 82093AA, 3.2.4).
pub mod entry {
    pub const LOGICAL: u32 = 1 << 11;
    pub const REMOTE: u32 = 1 << 14;
    pub const BY_LEVEL: u32 = 1 << 15;
    pub const MASKED: u32 = 1 << 16;
}

/// A pin of an I/O APIC.
#[derive(Clone, Copy)]
pub struct Pin {
    registers: u64,
    number: u32,
}

impl Pin {
    /// That of the console's line.
    pub fn of_console(board: &Board) -> Option<Self> {
        Self::of(board, board.madt.isa(CONSOLE).gsi)
    }

    /// By the number of the interrupt.
    pub fn of(board: &Board, gsi: u32) -> Option<Self> {
        let IoApic { registers, first, .. } = board.madt.io_apic_of(gsi)?;
        Some(Self { registers: registers.0, number: gsi - first })
    }

    fn select(self, half: u32) {
        let _ = store32(self.registers, 0x10 + self.number * 2 + half);
    }

    /// The lower half of its entry.
    pub fn low(self) -> u32 {
        self.select(0);
        load32(self.registers + 0x10).unwrap_or(u32::MAX)
    }

    /// Writes the lower half.
    pub fn set_low(self, value: u32) {
        self.select(0);
        let _ = store32(self.registers + 0x10, value);
    }

    /// Writes the upper half: whom it names.
    pub fn aim(self, destination: u32) {
        self.select(1);
        let _ = store32(self.registers + 0x10, destination << 24);
    }

    /// The upper half.
    pub fn destination(self) -> u32 {
        self.select(1);
        load32(self.registers + 0x10).unwrap_or(u32::MAX)
    }

    /// Whether an interrupt of it hasn't ended.
    pub fn waits(self) -> bool {
        self.low() & entry::REMOTE != 0
    }
}
