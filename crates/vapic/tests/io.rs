//! The I/O APIC, by Intel's 82093AA.

use axvm_vapic::spec::io;
use axvm_vapic::{Delivery, Destination, IoApic, Message, Signal};

/// An I/O APIC and what it has sent.
struct Bench {
    io: IoApic,
    sent: Vec<Message>,
}

impl Bench {
    fn new() -> Self {
        Self { io: IoApic::new(0), sent: Vec::new() }
    }

    fn write(&mut self, register: u8, value: u32) {
        let Self { io, sent } = self;
        io.write(io::SELECT, register.into(), |_| -> bool { panic!() });
        io.write(io::WINDOW, value, |message| {
            sent.push(message);
            true
        });
    }

    fn read(&mut self, register: u8) -> u32 {
        self.io.write(io::SELECT, register.into(), |_| -> bool { panic!() });
        assert_eq!(self.io.read(io::SELECT), register.into());
        self.io.read(io::WINDOW)
    }

    fn entry(&mut self, pin: u8, low: u32, high: u32) {
        self.write(io::ENTRIES + 2 * pin + 1, high);
        self.write(io::ENTRIES + 2 * pin, low);
    }

    fn line(&mut self, pin: u8, active: bool) {
        let Self { io, sent } = self;
        io.set_line(pin, active, |message| {
            sent.push(message);
            true
        });
    }

    fn end(&mut self, vector: u8) {
        let Self { io, sent } = self;
        io.end(vector, |message| {
            sent.push(message);
            true
        });
    }

    fn sent(&mut self) -> Vec<u8> {
        let vector = |message: Message| match message.signal {
            Signal::Vector { vector, .. } => vector,
            other => panic!("{other:?}"),
        };
        self.sent.drain(..).map(vector).collect()
    }
}

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

#[test]
fn after_reset_all_pins_are_masked() {
    let mut bench = Bench::new();
    assert_eq!((bench.read(io::VERSION), bench.read(io::ID)), (0x0017_0020, 0));
    for pin in 0..24 {
        assert_eq!((bench.read(io::ENTRIES + 2 * pin), bench.read(io::ENTRIES + 2 * pin + 1)), (MASKED, 0));
        bench.line(pin, true);
    }
    assert_eq!(bench.sent(), []);
    bench.write(io::ID, 0xf5 << 24);
    assert_eq!((bench.read(io::ID), bench.read(io::ARBITRATION)), (5 << 24, 5 << 24));
    bench.write(io::VERSION, 0);
    assert_eq!(bench.read(io::VERSION), 0x0017_0020);
    // Registers and pins that there aren't.
    assert_eq!((bench.read(0x40), bench.read(0xff), bench.io.read(0x20)), (0, 0, 0));
    bench.write(0x40, 0x41);
    bench.line(24, true);
    bench.line(255, true);
    assert_eq!(bench.sent(), []);
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let mut bench = Bench::new();
    bench.entry(4, 0x941, 3 << 24);
    bench.line(4, true);
    let destination = Destination { id: 3, logical: true, narrow: true };
    let signal = Signal::Vector { vector: 0x41, level: false };
    assert_eq!(bench.sent, [Message { destination, delivery: Delivery::Lowest, signal }]);
    bench.sent.clear();
    bench.line(4, true);
    bench.line(4, false);
    assert_eq!(bench.sent(), []);
    bench.line(4, true);
    assert_eq!(bench.sent(), [0x41]);
    bench.line(4, false);
    bench.entry(4, 0x941 | MASKED, 3 << 24);
    bench.line(4, true);
    bench.entry(4, 0x941, 3 << 24);
    assert_eq!(bench.sent(), []);
    bench.end(0x41);
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_level_comes_again_until_it_is_inactive() {
    let mut bench = Bench::new();
    bench.entry(9, 0x51 | LEVEL, 0);
    bench.line(9, true);
    assert_eq!(
        bench.sent,
        [Message {
            destination: Destination { id: 0, logical: false, narrow: true },
            delivery: Delivery::All,
            signal: Signal::Vector { vector: 0x51, level: true },
        }]
    );
    bench.sent.clear();
    assert_eq!(bench.read(io::ENTRIES + 18), 0x51 | LEVEL | 1 << 14, "remote IRR");
    bench.line(9, true);
    bench.end(0x50);
    assert_eq!(bench.sent(), []);
    bench.end(0x51);
    assert_eq!(bench.sent(), [0x51]);
    bench.line(9, false);
    bench.end(0x51);
    assert_eq!((bench.sent(), bench.read(io::ENTRIES + 18)), (vec![], 0x51 | LEVEL));
    // Masked it waits, and comes when it is unmasked, if it is still there.
    bench.entry(9, 0x51 | LEVEL | MASKED, 0);
    bench.line(9, true);
    assert_eq!(bench.sent(), []);
    bench.entry(9, 0x51 | LEVEL, 0);
    assert_eq!(bench.sent(), [0x51]);
    // Ended by the EOI register while masked, it comes after that.
    bench.entry(9, 0x51 | LEVEL | MASKED, 0);
    let Bench { io, sent } = &mut bench;
    io.write(io::EOI, 0x51, |message| {
        sent.push(message);
        true
    });
    assert_eq!(bench.sent(), []);
    bench.entry(9, 0x51 | LEVEL, 0);
    assert_eq!(bench.sent(), [0x51]);
}

/// That is how Linux gets rid of a level that nobody ends.
#[test]
fn made_an_edge_a_level_is_forgotten() {
    let mut bench = Bench::new();
    bench.entry(9, 0x51 | LEVEL, 0);
    bench.line(9, true);
    bench.entry(9, 0x51 | MASKED, 0);
    assert_eq!(bench.read(io::ENTRIES + 18), 0x51 | MASKED);
    bench.sent.clear();
    bench.entry(9, 0x51 | LEVEL, 0);
    assert_eq!(bench.sent(), [0x51], "the line is still active");
}

#[test]
fn read_only_bits_and_those_that_there_are_not_stay() {
    let mut bench = Bench::new();
    bench.entry(0, 0xffff_ffff, 0xffff_ffff);
    assert_eq!(bench.read(io::ENTRIES), 0x1_afff);
    assert_eq!(bench.read(io::ENTRIES + 1), 0xff00_0000);
}

/// Two pins of one vector both end.
#[test]
fn pins_that_share_a_vector_end_together() {
    let mut bench = Bench::new();
    bench.entry(3, 0x51 | LEVEL, 0);
    bench.entry(5, 0x51 | LEVEL, 0);
    bench.line(3, true);
    bench.line(5, true);
    bench.line(3, false);
    bench.sent.clear();
    bench.end(0x51);
    assert_eq!(bench.sent(), [0x51]);
    assert_eq!(bench.io.entry(3).map(|it| it.remote()), Some(false));
    assert_eq!(bench.io.entry(5).map(|it| it.remote()), Some(true));
    assert_eq!(bench.io.entry(24), None);
}

#[test]
fn what_has_no_vector_comes_as_what_it_is() {
    let mut bench = Bench::new();
    let mut comes = |low| {
        bench.entry(2, low, 0);
        bench.line(2, true);
        bench.line(2, false);
        bench.sent.pop().map(|message| message.signal)
    };
    assert_eq!(comes(0x400), Some(Signal::Nmi));
    assert_eq!(comes(0x700), Some(Signal::External));
    assert_eq!(comes(0x200), None, "SMIs aren't served");
    assert_eq!(comes(0x00f), None, "nor vectors below 16");
    assert_eq!(comes(0x010), Some(Signal::Vector { vector: 0x10, level: false }));
}

#[test]
fn an_msi_is_an_address_and_data() {
    let vector = |vector, level| Signal::Vector { vector, level };
    let message = |id, logical, delivery, signal| {
        Some(Message { destination: Destination { id, logical, narrow: true }, delivery, signal })
    };
    let msi = Message::from_msi;
    assert_eq!(msi(0xfee0_3000, 0x41), message(3, false, Delivery::All, vector(0x41, false)));
    assert_eq!(msi(0xfee0_3004, 0x4141), message(3, true, Delivery::Lowest, vector(0x41, false)));
    assert_eq!(msi(0xfeef_f00c, 0x41), message(0xff, true, Delivery::Lowest, vector(0x41, false)), "RH");
    assert_eq!(msi(0xfee0_3008, 0x41), message(3, false, Delivery::All, vector(0x41, false)));
    assert_eq!(msi(0xfee0_0000, 0xc041), message(0, false, Delivery::All, vector(0x41, true)));
    assert_eq!(msi(0xfee0_0000, 0x400), message(0, false, Delivery::All, Signal::Nmi));
    for (address, data) in [
        (0xfef0_0000, 0x41),
        (0xfed0_0000, 0x41),
        (0x1_fee0_0000, 0x41),
        (0xfee0_0000, 0x200),
        (0xfee0_0000, 0x541),
        (0xfee0_0000, 0x641),
        (0xfee0_0000, 0x0f),
    ] {
        assert_eq!(msi(address, data), None, "{address:#x} {data:#x}");
    }
}
