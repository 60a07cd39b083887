//! A UART of each kind as its manual has it.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use super::super::*;

/// A UART's inside, the same for all: what differs is in which bits it shows.
#[derive(Default)]
pub struct Wire {
    pub sent: RefCell<Vec<u8>>,
    pub incoming: RefCell<VecDeque<u8>>,
    /// The transmit FIFO is full, and nothing leaves it.
    pub full: Cell<bool>,
    pub overrun: Cell<bool>,
    /// Other registers, by number.
    pub others: RefCell<BTreeMap<u32, u32>>,
    /// Accesses that such a UART doesn't take.
    pub wrong: RefCell<Vec<(u32, Width)>>,
    /// The last register that was read, for marks that go by reading one after another.
    last_read: Cell<(u32, u32)>,
}

pub struct Fake<'a> {
    pub description: Description,
    pub wire: &'a Wire,
}

/// Commands that a UARTDM was given, under a register number that it doesn't have.
const COMMANDS: u32 = 0xffff;

impl Fake<'_> {
    fn bit(condition: bool, bit: u32) -> u32 {
        u32::from(condition) << bit
    }

    fn other(&self, at: u32) -> u32 {
        self.wire.others.borrow().get(&at).copied().unwrap_or(0)
    }

    fn keep(&self, at: u32, value: u32) {
        self.wire.others.borrow_mut().insert(at, value);
    }

    fn take(&self) -> u32 {
        self.wire.incoming.borrow_mut().pop_front().map_or(0, u32::from)
    }

    fn count(&self) -> u32 {
        self.wire.incoming.borrow().len() as u32
    }

    fn send(&self, byte: u32) {
        self.wire.sent.borrow_mut().push(byte as u8);
    }

    fn refuse(&self, at: u32) -> u32 {
        self.wire.wrong.borrow_mut().push((at, self.description.width));
        0
    }

    /// The register's value, as the manual has it.
    fn value(&self, at: u32) -> u32 {
        let wire = self.wire;
        let (empty, full, overrun) = (wire.incoming.borrow().is_empty(), wire.full.get(), wire.overrun.get());
        let line_status = || {
            wire.overrun.set(false);
            Self::bit(!empty, 0) | Self::bit(overrun, 1) | Self::bit(!full, 5) | Self::bit(!full, 6)
        };
        match (self.description.kind, at) {
            (Kind::Ns16550, 0) if self.other(3) & 0x80 != 0 => 0xdd, // the divisor
            (Kind::Ns16550 | Kind::UniPhier | Kind::Emma, 0) => self.take(),
            (Kind::Ns16550 | Kind::UniPhier, 5) | (Kind::Emma, 6) => line_status(),
            (Kind::Pl011 | Kind::Sbsa, 0) => {
                wire.overrun.set(false);
                self.take() | Self::bit(overrun, 11)
            }
            (Kind::Pl011 | Kind::Sbsa, 0x18) => Self::bit(full, 3) | Self::bit(empty, 4) | Self::bit(full, 5),
            (Kind::Cadence, 0x30) => self.take(),
            (Kind::Cadence, 0x2c) => Self::bit(empty, 1) | Self::bit(!full, 3) | Self::bit(full, 4),
            (Kind::Cadence, 0x14) => Self::bit(overrun, 5) | self.other(0x14),
            (Kind::Imx, 0) => self.take() | 1 << 15,
            (Kind::Imx, 0x98) => Self::bit(!empty, 0) | Self::bit(overrun, 1) | Self::bit(!full, 3),
            (Kind::Imx, 0xb4) => Self::bit(full, 4) | Self::bit(empty, 5),
            (Kind::Lpuart, 0x0c) => self.take() | Self::bit(empty, 12),
            (Kind::Lpuart, 0x04) => {
                self.other(4) | Self::bit(overrun, 19) | Self::bit(!full, 22) | Self::bit(!full, 23)
            }
            (Kind::Lpuart, 0x18) => Self::bit(empty, 22) | 1 << 23,
            (Kind::LpuartBytes, 4) => {
                Self::bit(overrun, 3) | Self::bit(!empty, 5) | Self::bit(!full, 6) | Self::bit(!full, 7)
            }
            // An empty one loses its place when it is read.
            (Kind::LpuartBytes, 7) if empty => self.refuse(at),
            (Kind::LpuartBytes, 7) => {
                let (at, status) = wire.last_read.get();
                if at == 4 && status & 8 != 0 {
                    wire.overrun.set(false);
                }
                self.take()
            }
            (Kind::LpuartBytes, 0x12) => Self::bit(empty, 6) | Self::bit(!full, 7),
            (Kind::Meson, 4) => self.take(),
            (Kind::Meson, 0xc) => {
                Self::bit(empty, 20) | Self::bit(full, 21) | Self::bit(!full, 22) | Self::bit(full, 25)
            }
            // Busy while a command has bytes to send.
            (Kind::Geni, 0x040) => {
                Self::bit(full || self.other(0x270) != 0, 0) | Self::bit(self.other(0x630) != 0, 12)
            }
            // Room is only said up to a mark, which starts at none.
            (Kind::Geni, 0x610) => Self::bit(self.other(0x600) == 1 << 27 && self.other(0x80c) > 0, 30),
            (Kind::Geni, 0x640) => Self::bit(overrun, 25),
            // Nothing is received before the command for it.
            (Kind::Geni, 0x804) if self.other(0x630) == 1 << 27 => self.count(),
            (Kind::Geni, 0x804) => 0,
            // Four bytes a word, unless it was told otherwise.
            (Kind::Geni, 0x780) if self.other(0x284) == 0xf => self.take(),
            (Kind::Geni, 0x780) => 0xeeee_eeee,
            (Kind::Uartdm, 0xa4) => {
                Self::bit(!empty, 0) | Self::bit(!full, 2) | Self::bit(!full, 3) | Self::bit(overrun, 4)
            }
            // Four characters a word, unless it was told otherwise; none before it is on.
            (Kind::Uartdm, 0x140) if self.other(0x3c) & 0x20 != 0 && self.other(COMMANDS) & 1 != 0 => {
                self.take()
            }
            (Kind::Uartdm, 0x140) => 0xeeee_eeee,
            (Kind::Exynos, 0x10) => Self::bit(!full, 1) | Self::bit(!full, 2),
            (Kind::Exynos, 0x14) => {
                wire.overrun.set(false);
                Self::bit(overrun, 0)
            }
            // The FIFOs are somewhere only while they are on, and 256 bytes are a full one that counts as 0.
            (Kind::Exynos, 0x18) if self.other(8) & 1 == 0 => 0,
            (Kind::Exynos, 0x18) => {
                self.count() & 0xff | Self::bit(self.count() >= 256, 8) | Self::bit(full, 24)
            }
            (Kind::Exynos, 0x24) if self.other(4) & 3 == 1 => self.take(),
            (Kind::Exynos, 0x24) => 0xee,
            // The flags of an empty FIFO come back by themselves, and go only as below.
            (Kind::Scif, 4) => {
                if !full {
                    self.keep(4, self.other(4) | 0x60);
                }
                self.other(4)
            }
            (Kind::Scif, 5) => self.take(),
            (Kind::Scif, 7) => Self::bit(full, 12) | self.count(),
            (Kind::Scif, 9) => Self::bit(overrun, 0),
            (Kind::Stm32, 0x1c) => {
                let on = self.other(0) & 0xd == 0xd;
                let room = on && !full;
                Self::bit(overrun, 3)
                    | Self::bit(!empty, 5)
                    | Self::bit(room, 6)
                    | Self::bit(room, 7)
                    | 3 << 16
            }
            (Kind::Stm32, 0x24) => self.take(),
            (Kind::Armada3700, 0) => {
                wire.overrun.set(false);
                self.take() | Self::bit(overrun, 12)
            }
            (Kind::Armada3700Extended, 0x18) => self.take(),
            (Kind::Armada3700 | Kind::Armada3700Extended, 0xc) => {
                let received = if self.description.kind == Kind::Armada3700 { 4 } else { 14 };
                Self::bit(overrun, 0)
                    | Self::bit(!empty, received)
                    | Self::bit(!full, 6)
                    | Self::bit(full, 11)
                    | Self::bit(empty, 12)
                    | Self::bit(!full, 13)
            }
            (Kind::Unisoc, 4) => self.take(),
            (Kind::Unisoc, 8) => Self::bit(!full, 15),
            (Kind::Unisoc, 0xc) => self.count() | Self::bit(full, 15),
            (Kind::Owl, 4) => self.take(),
            (Kind::Owl, 0xc) => {
                // RIP and TIP are interrupts that wait, which whoever doesn't serve them must leave alone.
                3 | Self::bit(overrun, 2)
                    | Self::bit(empty, 5)
                    | Self::bit(full, 6)
                    | Self::bit(!full, 10)
                    | Self::bit(full, 17)
            }
            (_, at) => self.other(at),
        }
    }

    fn put(&self, at: u32, value: u32) {
        let wire = self.wire;
        match (self.description.kind, at) {
            (Kind::Ns16550, 0) if self.other(3) & 0x80 != 0 => {}
            (Kind::Ns16550 | Kind::UniPhier | Kind::Emma, 0) => self.send(value),
            // FIFO, line and modem control: only in reset.
            (Kind::Emma, 3..=5) => drop(self.refuse(at)),
            (Kind::Pl011 | Kind::Sbsa | Kind::Meson | Kind::Unisoc, 0) => self.send(value),
            (Kind::Cadence, 0x30) | (Kind::Imx, 0x40) | (Kind::Lpuart, 0x0c) => self.send(value),
            (Kind::Cadence, 0x14) if value & 1 << 5 != 0 => wire.overrun.set(false),
            (Kind::Imx, 0x98) if value & 2 != 0 => wire.overrun.set(false),
            (Kind::Lpuart, 0x04) => {
                if value & 1 << 19 != 0 {
                    wire.overrun.set(false);
                }
                self.keep(4, value & 0x3e00_0000);
            }
            (Kind::LpuartBytes, 7) if self.other(3) & 8 != 0 => self.send(value),
            (Kind::LpuartBytes, 7) => {}
            (Kind::Geni, 0x648) if value & 1 << 25 != 0 => wire.overrun.set(false),
            (Kind::Geni, 0x618) => {}
            (Kind::Geni, 0x700) if self.other(0x600) == 1 << 27 && self.other(0x270) == 1 => {
                self.send(value);
                self.keep(0x600, 0);
                self.keep(0x270, 0);
            }
            (Kind::Geni, 0x700) => {}
            (Kind::Uartdm, 0xa8) => match (value & 0xff0, self.other(COMMANDS)) {
                (0, on) => self.keep(COMMANDS, on | value & 5),
                (0x10, on) => self.keep(COMMANDS, on & !1),
                (0x20, on) => self.keep(COMMANDS, on & !4),
                (0x30, _) => wire.overrun.set(false),
                (0x600, _) => {}
                _ => drop(self.refuse(at)),
            },
            // Without the mode of single characters nothing leaves before the number is said.
            (Kind::Uartdm, 0x100) if self.other(0x3c) & 0x10 != 0 && self.other(COMMANDS) & 4 != 0 => {
                self.send(value);
            }
            (Kind::Uartdm, 0x100) => {}
            (Kind::Exynos, 0x20) if self.other(4) >> 2 & 3 == 1 => self.send(value),
            (Kind::Exynos, 0x20) => {}
            (Kind::Scif, 3) if self.other(2) & 0x20 != 0 => {
                self.send(value);
                // It has left at once: there is room, and the transmission has ended.
                self.keep(4, self.other(4) | 0x60);
            }
            (Kind::Scif, 3) => {}
            (Kind::Scif, 4) => {
                let (at, read) = wire.last_read.get();
                let may_go = if at == 4 { read & 0xf3 } else { 0 };
                self.keep(4, self.other(4) & (value | !may_go));
            }
            (Kind::Scif, 9) => {
                let (at, read) = wire.last_read.get();
                if at == 9 && read & 1 != 0 && value & 1 == 0 {
                    wire.overrun.set(false);
                }
            }
            (Kind::Stm32, 0x28) if self.other(0) & 9 == 9 => self.send(value),
            (Kind::Stm32, 0x28) => {}
            (Kind::Stm32, 0x20) if value & 8 != 0 => wire.overrun.set(false),
            (Kind::Armada3700, 4) | (Kind::Armada3700Extended, 0x1c) | (Kind::Owl, 8) => self.send(value),
            (Kind::Armada3700Extended, 0xc) if value & 1 != 0 => wire.overrun.set(false),
            (Kind::Owl, 0xc) => {
                if value & 3 != 0 {
                    self.refuse(at);
                }
                if value & 4 != 0 {
                    wire.overrun.set(false);
                }
            }
            (_, at) => self.keep(at, value),
        }
    }

    /// The width that the register wants.
    fn width(&self, register: u32) -> Width {
        match (self.description.kind, register) {
            (Kind::Scif, 1 | 3 | 5) | (Kind::Emma, 0) => Width::Byte,
            _ => self.description.width,
        }
    }

    /// The register's number, of an access as this UART wants it.
    fn register(&self, offset: u32, width: Width) -> u32 {
        let d = &self.description;
        let at = offset.wrapping_sub(d.offset);
        if width != self.width(at >> d.shift) || at & ((1 << d.shift) - 1) != 0 || offset >= d.size() {
            self.wire.wrong.borrow_mut().push((offset, width));
        }
        at >> d.shift
    }
}

impl Registers for Fake<'_> {
    fn read(&self, offset: u32, width: Width) -> u32 {
        let at = self.register(offset, width);
        let value = self.value(at);
        self.wire.last_read.set((at, value));
        if self.description.big_endian { value.swap_bytes() } else { value }
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        let value = if self.description.big_endian { value.swap_bytes() } else { value };
        self.put(self.register(offset, width), value);
    }
}
