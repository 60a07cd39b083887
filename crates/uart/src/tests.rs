//! Each kind against a fake that behaves as its manual says: FIFOs, flags that are cleared by reading or by writing, settings
//! beside them, and (GENI) commands without which nothing moves.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::vec::Vec;

use super::*;

/// A UART's inside, the same for all: what differs is in which bits it shows.
#[derive(Default)]
struct Wire {
    sent: RefCell<Vec<u8>>,
    incoming: RefCell<VecDeque<u8>>,
    full: Cell<bool>,
    overrun: Cell<bool>,
    /// Other registers, by offset.
    others: RefCell<std::collections::BTreeMap<u32, u32>>,
    wrong: RefCell<Vec<(u32, Width)>>,
}

struct Fake<'a> {
    description: Description,
    wire: &'a Wire,
}

impl Fake<'_> {
    fn bit(condition: bool, bit: u32) -> u32 {
        u32::from(condition) << bit
    }

    fn other(&self, at: u32) -> u32 {
        self.wire.others.borrow().get(&at).copied().unwrap_or(0)
    }

    fn take(&self) -> u32 {
        self.wire.incoming.borrow_mut().pop_front().map_or(0, u32::from)
    }

    /// The register's value, as the manual has it.
    fn value(&self, at: u32) -> u32 {
        let wire = self.wire;
        let (empty, full, overrun) = (wire.incoming.borrow().is_empty(), wire.full.get(), wire.overrun.get());
        match (self.description.kind, at) {
            (Kind::Ns16550, 0) if self.other(3) & 0x80 != 0 => 0xdd, // the divisor
            (Kind::Ns16550, 0) => self.take(),
            (Kind::Ns16550, 5) => {
                wire.overrun.set(false);
                Self::bit(!empty, 0) | Self::bit(overrun, 1) | Self::bit(!full, 5) | Self::bit(!full, 6)
            }
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
            (Kind::Geni, 0x804) if self.other(0x630) == 1 << 27 => wire.incoming.borrow().len() as u32,
            (Kind::Geni, 0x804) => 0,
            // Four bytes a word, unless it was told otherwise.
            (Kind::Geni, 0x780) if self.other(0x284) == 0xf => self.take(),
            (Kind::Geni, 0x780) => 0xeeee_eeee,
            (_, at) => self.other(at),
        }
    }

    fn put(&self, at: u32, value: u32) {
        let wire = self.wire;
        let send = |byte: u32| wire.sent.borrow_mut().push(byte as u8);
        match (self.description.kind, at) {
            (Kind::Ns16550, 0) if self.other(3) & 0x80 != 0 => {}
            (Kind::Ns16550 | Kind::Pl011 | Kind::Sbsa | Kind::Meson, 0) => send(value),
            (Kind::Cadence, 0x30) | (Kind::Imx, 0x40) | (Kind::Lpuart, 0x0c) => send(value),
            (Kind::Cadence, 0x14) if value & 1 << 5 != 0 => wire.overrun.set(false),
            (Kind::Imx, 0x98) if value & 2 != 0 => wire.overrun.set(false),
            (Kind::Lpuart, 0x04) => {
                if value & 1 << 19 != 0 {
                    wire.overrun.set(false);
                }
                wire.others.borrow_mut().insert(4, value & 0x3e00_0000);
            }
            (Kind::Geni, 0x648) if value & 1 << 25 != 0 => wire.overrun.set(false),
            (Kind::Geni, 0x618) => {}
            (Kind::Geni, 0x700) if self.other(0x600) == 1 << 27 && self.other(0x270) == 1 => {
                send(value);
                wire.others.borrow_mut().insert(0x600, 0);
                wire.others.borrow_mut().insert(0x270, 0);
            }
            (Kind::Geni, 0x700) => {}
            (_, at) => drop(wire.others.borrow_mut().insert(at, value)),
        }
    }

    /// The register's number, of an access as this UART wants it.
    fn register(&self, offset: u32, width: Width) -> u32 {
        let d = &self.description;
        let at = offset.wrapping_sub(d.offset);
        if width != d.width || at & ((1 << d.shift) - 1) != 0 || offset >= d.size() {
            self.wire.wrong.borrow_mut().push((offset, width));
        }
        at >> d.shift
    }
}

impl Registers for Fake<'_> {
    fn read(&self, offset: u32, width: Width) -> u32 {
        let value = self.value(self.register(offset, width));
        if self.description.big_endian { value.swap_bytes() } else { value }
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        let value = if self.description.big_endian { value.swap_bytes() } else { value };
        self.put(self.register(offset, width), value);
    }
}

/// Nodes of real boards: `compatible`, `reg-shift`, `reg-io-width`.
const BOARDS: &[(&[&str], Option<u32>, Option<u32>)] = &[
    (&["arm,pl011", "arm,primecell"], None, None),
    (&["arm,sbsa-uart"], None, None),
    (&["ns16550a"], None, None),
    (&["rockchip,rk3588-uart", "snps,dw-apb-uart"], Some(2), Some(4)),
    (&["brcm,bcm2835-aux-uart"], None, None),
    (&["ti,am64-uart", "ti,am654-uart"], None, None),
    (&["xlnx,zynqmp-uart", "cdns,uart-r1p12"], None, None),
    (&["fsl,imx8mp-uart", "fsl,imx6q-uart"], None, None),
    (&["fsl,imx8qxp-lpuart", "fsl,imx7ulp-lpuart"], None, None),
    (&["fsl,ls1021a-lpuart"], None, None),
    (&["amlogic,meson-gx-uart"], None, None),
    (&["qcom,geni-debug-uart"], None, None),
];

fn describe(board: &(&[&str], Option<u32>, Option<u32>)) -> Description {
    let properties = Properties { shift: board.1, width: board.2, ..Properties::default() };
    Description::find(board.0.iter().copied(), &properties).unwrap()
}

fn each(test: impl Fn(&Uart<Fake<'_>>, &Wire, Kind)) {
    for board in BOARDS {
        let (description, wire) = (describe(board), Wire::default());
        let uart = Uart::new(description, Fake { description, wire: &wire });
        uart.set_up(None);
        test(&uart, &wire, description.kind);
        assert!(wire.wrong.borrow().is_empty(), "{board:?}: {:x?}", wire.wrong.borrow());
    }
}

#[test]
fn bytes_go_out_while_there_is_room() {
    each(|uart, wire, kind| {
        for byte in *b"AxVM" {
            assert_eq!(uart.write(byte), Ok(()), "{kind:?}");
        }
        assert!(uart.is_idle(), "{kind:?}");
        wire.full.set(true);
        assert_eq!(uart.write(b'!'), Err(Full), "{kind:?}");
        assert!(!uart.is_idle(), "{kind:?}");
        assert_eq!(*wire.sent.borrow(), b"AxVM", "{kind:?}");
    });
}

#[test]
fn bytes_come_in_one_by_one_and_then_there_is_nothing() {
    each(|uart, wire, kind| {
        assert_eq!(uart.read(), Received::Nothing, "{kind:?}");
        wire.incoming.borrow_mut().extend(b"\x1dq\xff");
        let read = [(); 4].map(|()| uart.read());
        let byte = Received::Byte;
        assert_eq!(read, [byte(0x1d), byte(b'q'), byte(0xff), Received::Nothing], "{kind:?}");
    });
}

#[test]
fn an_overrun_is_said_once_where_the_uart_tells() {
    each(|uart, wire, kind| {
        wire.overrun.set(true);
        wire.incoming.borrow_mut().extend(b"ab");
        let first = uart.read();
        assert_eq!(first == Received::Lost, kind != Kind::Meson, "{kind:?}");
        let next: Vec<_> = (0..2).map(|_| uart.read()).collect();
        assert!(
            !next.contains(&Received::Lost) && next.contains(&Received::Byte(b'b')),
            "{kind:?}: {next:?}"
        );
    });
}

#[test]
fn settings_beside_a_mark_stay_when_it_is_cleared() {
    let wire = Wire::default();
    let description = describe(&(&["fsl,imx7ulp-lpuart"], None, None));
    let uart = Uart::new(description, Fake { description, wire: &wire });
    wire.others.borrow_mut().insert(4, 1 << 28);
    wire.overrun.set(true);
    assert_eq!((uart.read(), wire.overrun.get()), (Received::Lost, false));
    assert_eq!(wire.others.borrow()[&4], 1 << 28);
}

#[test]
fn interrupts_are_off_until_somebody_listens_and_off_again_after() {
    // Where each kind's receive interrupt is let through, and the bits.
    let place = |kind| match kind {
        Kind::Ns16550 => Some((1, 1)),
        Kind::Pl011 | Kind::Sbsa => Some((0x38, 0x50)),
        Kind::Cadence => Some((0x08, 0x101)),
        Kind::Imx => Some((0x8c, 1)),
        Kind::Lpuart => Some((0x08, 1 << 21)),
        Kind::Meson => Some((0x08, 1 << 27)),
        Kind::Geni => None,
    };
    each(|uart, wire, kind| {
        let on = |at: u32, bits: u32| wire.others.borrow().get(&at).is_some_and(|value| value & bits != 0);
        assert!(!place(kind).is_some_and(|(at, bits)| on(at, bits)), "{kind:?}");
        assert_eq!(uart.listen(true), place(kind).is_some(), "{kind:?}");
        assert!(place(kind).is_none_or(|(at, bits)| on(at, bits)), "{kind:?}");
        assert!(!uart.listen(false));
        match kind {
            // A register of its own takes interrupts away.
            Kind::Cadence => assert!(on(0x0c, 0x101)),
            _ => assert!(!place(kind).is_some_and(|(at, bits)| on(at, bits)), "{kind:?}"),
        }
    });
}

#[test]
fn a_divisor_in_the_way_is_put_away() {
    let wire = Wire::default();
    let description = describe(&(&["ns16550a"], None, None));
    wire.others.borrow_mut().insert(3, 0x83);
    let uart = Uart::new(description, Fake { description, wire: &wire });
    uart.set_up(None);
    assert_eq!((uart.write(b'x'), wire.sent.borrow().as_slice()), (Ok(()), &b"x"[..]));
    assert_eq!(wire.others.borrow()[&3], 3);
}

#[test]
fn a_pl011_gets_a_rate_only_if_nobody_has_set_one() {
    for (control, rate) in [(0, true), (1, false)] {
        let wire = Wire::default();
        let description = describe(&BOARDS[0]);
        wire.others.borrow_mut().insert(0x30, control);
        Uart::new(description, Fake { description, wire: &wire }).set_up(Some(24_000_000));
        let others = wire.others.borrow();
        // 24 MHz / (16 · 115200) = 13.02: 13 and 1/64 (Arm DDI 0183G, 3.3.6).
        let set = |at: u32| others.get(&at).copied();
        let expected = if rate { (Some(13), Some(1), Some(0x70)) } else { (None, None, None) };
        assert_eq!((set(0x24), set(0x28), set(0x2c)), expected);
        assert_eq!(set(0x30), Some(0x301));
    }
}

#[test]
fn layouts_are_those_of_the_node() {
    let find = |name, shift, width, offset| {
        Description::find([name], &Properties { shift, width, offset, big_endian: false })
    };
    let layout = |d: Description| (d.width, d.shift, d.offset);
    assert_eq!(find("ns16550a", None, None, None).map(layout), Some((Width::Byte, 0, 0)));
    assert_eq!(find("ns16550a", Some(2), Some(4), Some(0x100)).map(layout), Some((Width::Word, 2, 0x100)));
    assert_eq!(find("fsl,imx7ulp-lpuart", None, None, None).map(layout), Some((Width::Word, 0, 0x10)));
    // What isn't understood isn't driven.
    assert_eq!(find("ns16550a", Some(9), None, None), None);
    assert_eq!(find("ns16550a", None, Some(3), None), None);
    assert_eq!(find("arm,pl011", Some(1), None, None), None);
    assert_eq!(find("fsl,vf610-lpuart", None, None, None), None);
    assert_eq!(find("nonsense", None, None, None), None);
}
