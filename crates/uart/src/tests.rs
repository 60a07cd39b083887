//! Each kind against a fake that behaves as its manual says: FIFOs, flags that are cleared by reading or by writing, settings
//! beside them, and (GENI) commands without which nothing moves.

extern crate std;

use std::vec::Vec;

use super::*;
use fake::{Fake, Wire};

mod fake;

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
    (&["socionext,uniphier-uart"], None, None),
    (&["renesas,r9a09g011-uart", "renesas,em-uart"], None, None),
    (&["fsl,vf610-lpuart"], None, None),
    (&["qcom,msm-uartdm-v1.4", "qcom,msm-uartdm"], None, None),
    (&["samsung,exynos7-uart", "samsung,exynos4210-uart"], None, None),
    (&["google,gs101-uart"], None, Some(4)),
    (&["renesas,scif-r8a774a1", "renesas,rcar-gen3-scif", "renesas,scif"], None, None),
    (&["renesas,scif-r9a07g054", "renesas,scif-r9a07g044"], None, None),
    (&["st,stm32h7-uart"], None, None),
    (&["marvell,armada-3700-uart"], None, None),
    (&["marvell,armada-3700-uart-ext"], None, None),
    (&["sprd,sc9863a-uart", "sprd,sc9836-uart"], None, None),
    (&["actions,s900-uart", "actions,owl-uart"], None, None),
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
        // From here on nothing leaves.
        wire.full.set(true);
        assert!(!uart.is_idle(), "{kind:?}");
        assert_eq!(uart.write(b'!'), Err(Full), "{kind:?}");
        wire.full.set(false);
        assert!(uart.is_idle(), "{kind:?}");
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
        assert_eq!(first == Received::Lost, !matches!(kind, Kind::Meson | Kind::Unisoc), "{kind:?}");
        assert_eq!(wire.overrun.get(), first != Received::Lost, "{kind:?}");
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
        Kind::UniPhier | Kind::Emma => Some((1, 1)),
        Kind::Stm32 => Some((0, 1 << 5)),
        _ => None,
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
fn interrupts_that_firmware_left_on_are_off_after() {
    // Where each kind enables interrupts, and the bits; of Exynos' and UARTDM's registers what is left then.
    let places: &[(&str, u32, u32, u32)] = &[
        ("fsl,vf610-lpuart", 3, 0xfc, 0x0c),
        ("qcom,msm-uartdm-v1.4", 0xb0, 0xffff, 0),
        ("samsung,exynos4210-uart", 0x38, 0, 0xf),
        ("renesas,scif", 2, 0xff, 0x33),
        ("st,stm32h7-uart", 0, 0xcc00_41fc, 0xd),
        ("st,stm32h7-uart", 8, 0x11c0_0401, 0),
        ("marvell,armada-3700-uart", 8, 0x19ff, 0),
        ("marvell,armada-3700-uart-ext", 4, 0x80f, 0),
        ("marvell,armada-3700-uart-ext", 0x20, 0x60, 0),
        ("sprd,sc9836-uart", 0x10, 0x2083, 0),
        ("actions,owl-uart", 0, 0x1c_0003, 0x8003),
        ("socionext,uniphier-uart", 1, 0xf, 0),
        ("renesas,em-uart", 1, 0xf, 0),
    ];
    for &(name, at, left_on, after) in places {
        let (description, wire) = (describe(&(&[name], None, None)), Wire::default());
        wire.others.borrow_mut().insert(at, left_on);
        Uart::new(description, Fake { description, wire: &wire }).set_up(None);
        assert_eq!(wire.others.borrow()[&at], after, "{name}");
    }
}

#[test]
fn a_register_that_two_settings_share_keeps_the_other() {
    let wire = Wire::default();
    let description = describe(&(&["socionext,uniphier-uart"], None, None));
    // Eight bits, no parity in its upper half.
    wire.others.borrow_mut().insert(4, 0x300);
    Uart::new(description, Fake { description, wire: &wire }).set_up(None);
    assert_eq!(wire.others.borrow()[&4], 0x30b);
}

#[test]
fn a_full_receive_fifo_that_counts_as_nothing_is_read() {
    let wire = Wire::default();
    let description = describe(&(&["samsung,exynos4210-uart"], None, None));
    let uart = Uart::new(description, Fake { description, wire: &wire });
    uart.set_up(None);
    wire.incoming.borrow_mut().extend([b'x'; 256]);
    assert_eq!((0..256).filter(|_| uart.read() == Received::Byte(b'x')).count(), 256);
}

#[test]
fn registers_need_no_more_room_than_they_take() {
    let size = |names: &'static [&'static str]| describe(&(names, None, None)).size();
    assert_eq!(size(&["ns16550a"]), 6);
    assert_eq!(size(&["renesas,scif-r9a07g044"]), 0x14);
    assert_eq!(size(&["renesas,scif"]), 0x26);
    assert_eq!(size(&["qcom,msm-uartdm-v1.4"]), 0x144);
    assert_eq!(size(&["fsl,imx8qxp-lpuart"]), 0x2c);
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
    // The first version has other registers, and packs characters.
    assert_eq!(find("qcom,msm-uartdm", None, None, None), None);
    assert_eq!(find("fsl,vf610-lpuart", None, Some(4), None), None);
    assert_eq!(find("renesas,scif", None, Some(4), None), None);
    assert_eq!(find("nonsense", None, None, None), None);
}

/// A PL011's registers as plain memory, but that the divisor counts only once LCR_H is written.
#[derive(Default)]
struct Plain {
    words: core::cell::RefCell<std::collections::BTreeMap<u32, u32>>,
    divisor: core::cell::Cell<(u32, u32)>,
}

impl Registers for &Plain {
    fn read(&self, offset: u32, _: Width) -> u32 {
        self.words.borrow().get(&offset).copied().unwrap_or(0)
    }

    fn write(&self, offset: u32, _: Width, value: u32) {
        self.words.borrow_mut().insert(offset, value);
        if offset == 0x2c {
            self.divisor.set((self.read(0x24, Width::Word), self.read(0x28, Width::Word)));
        }
    }
}

#[test]
fn one_that_was_lent_is_made_again_what_it_was() {
    let description = Description::find(["arm,pl011"], &Properties::default()).unwrap();
    assert!(description.can_be_restored());
    let registers = Plain::default();
    let uart = Uart::new(description, &registers);
    uart.set_up(Some(24_000_000));
    uart.listen(true);
    let divisor = registers.divisor.get();
    let settings = uart.settings().unwrap();
    let before: Vec<u32> =
        [0x24, 0x28, 0x2c, 0x30, 0x34, 0x48].map(|offset| (&registers).read(offset, Width::Word)).into();
    // Another rate, five bits, no FIFOs, flow control, DMA, off: whatever a guest may have left, with all its interrupts on.
    for offset in [0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x48] {
        (&&registers).write(offset, Width::Word, 0xff00 | offset);
    }
    uart.restore(&settings);
    let after: Vec<u32> =
        [0x24, 0x28, 0x2c, 0x30, 0x34, 0x48].map(|offset| (&registers).read(offset, Width::Word)).into();
    assert_eq!((after, registers.divisor.get()), (before, divisor));
    assert_eq!((&registers).read(0x38, Width::Word), 0, "its interrupts are off until they are asked for");
    let sbsa = Description::find(["arm,sbsa-uart"], &Properties::default()).unwrap();
    assert!(!sbsa.can_be_restored() && Uart::new(sbsa, &registers).settings().is_none());
}

/// A 16550's registers, whose divisor lies behind two others while LCR's bit 7 is set.
#[derive(Default)]
struct Pc {
    registers: core::cell::RefCell<[u8; 8]>,
    divisor: core::cell::Cell<[u8; 2]>,
}

impl Pc {
    fn is_divisor(&self, offset: u32) -> bool {
        offset < 2 && self.registers.borrow()[3] & 0x80 != 0
    }
}

impl Registers for &Pc {
    fn read(&self, offset: u32, _: Width) -> u32 {
        let at = offset as usize;
        if self.is_divisor(offset) {
            self.divisor.get()[at].into()
        } else {
            self.registers.borrow()[at].into()
        }
    }

    fn write(&self, offset: u32, _: Width, value: u32) {
        let (at, value) = (offset as usize, value as u8);
        if self.is_divisor(offset) {
            let mut divisor = self.divisor.get();
            divisor[at] = value;
            self.divisor.set(divisor);
        } else {
            self.registers.borrow_mut()[at] = value;
        }
    }
}

#[test]
fn a_16550_that_was_lent_has_its_divisor_again() {
    let description = Description::find(["ns16550a"], &Properties::default()).unwrap();
    assert!(description.can_be_restored());
    let registers = Pc::default();
    registers.divisor.set([12, 1]);
    (&&registers).write(3, Width::Byte, 3);
    let uart = Uart::new(description, &registers);
    uart.set_up(None);
    uart.listen(true);
    let settings = uart.settings().unwrap();
    let before = (registers.divisor.get(), [3, 4].map(|at| (&registers).read(at, Width::Byte)));
    assert_eq!(before, ([12, 1], [3, 0xb]), "looking changes nothing");
    // Another rate and format, hearing itself, with its divisor in the way and all interrupts on.
    registers.divisor.set([0xff, 0xff]);
    *registers.registers.borrow_mut() = [0, 0xf, 0, 0x9f, 0x1f, 0, 0, 0];
    uart.restore(&settings);
    assert_eq!((registers.divisor.get(), [3, 4].map(|at| (&registers).read(at, Width::Byte))), before);
    assert_eq!((&registers).read(1, Width::Byte), 0, "its interrupts are off until they are asked for");
    for other in ["socionext,uniphier-uart", "renesas,em-uart"] {
        assert!(!Description::find([other], &Properties::default()).unwrap().can_be_restored(), "{other}");
    }
}
