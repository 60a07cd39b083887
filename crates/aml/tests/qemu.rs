//! The DSDT of QEMU's q35.

use axvm_aml::resource::{self, Polarity, Range, Resource, Sense};
use axvm_aml::{Aml, Data, Hardware, NodeId, Nothing, PciFunction, Space, eisa_id};

const DSDT: &[u8] = include_bytes!("data/q35-dsdt.dat");

fn q35<H: Hardware>(hardware: H) -> Aml<H> {
    let mut aml = Aml::new(hardware);
    aml.load(DSDT);
    assert_eq!(aml.failures(), []);
    aml
}

fn at<H: Hardware>(aml: &Aml<H>, path: &str) -> NodeId {
    aml.find(aml.root(), path).unwrap_or_else(|| panic!("{path}"))
}

fn crs<H: Hardware>(aml: &mut Aml<H>, path: &str) -> Vec<Resource> {
    let id = at(aml, &format!("{path}._CRS"));
    let answer = aml.evaluate(id, &[]).unwrap();
    assert!(answer.is_sure, "{path}");
    resource::read(answer.value.bytes().unwrap()).unwrap()
}

#[test]
fn devices_and_their_resources_are_what_iasl_shows() {
    let mut aml = q35(Nothing);
    let devices: Vec<String> = aml.devices().map(|id| aml.path(id)).collect();
    for path in ["\\_SB.PCI0", "\\_SB.PCI0.SF8.COM1", "\\_SB.PCI0.SF8.RTC", "\\_SB.LNKA", "\\_SB.HPET"] {
        assert!(devices.iter().any(|it| it == path), "{path}: {devices:?}");
    }
    let hid = at(&aml, "\\_SB.PCI0.SF8.COM1._HID");
    let Data::Integer(hid) = aml.evaluate(hid, &[]).unwrap().value else { panic!() };
    assert_eq!(eisa_id(hid as u32), "PNP0501");
    assert_eq!(
        crs(&mut aml, "\\_SB.PCI0.SF8.COM1"),
        [
            Resource::Ports { first: 0x3f8, last: 0x3f8, count: 8 },
            Resource::Irq { lines: vec![4], signals: Some((Sense::Level, Polarity::Low)) },
        ]
    );
    let window =
        |first, last| Range { first, last, translation: 0, length: last - first + 1, produced: true };
    let root = crs(&mut aml, "\\_SB.PCI0");
    assert_eq!(root[0], Resource::Buses(window(0, 255)));
    assert_eq!(root[3], Resource::PortRange { range: window(0xd00, 0xffff), translated: false });
    let memory = |first, last| Resource::Memory { range: window(first, last), prefetchable: false };
    assert!(root.contains(&memory(0xc000_0000, 0xfebf_ffff)), "{root:?}");
}

#[test]
fn the_interrupt_model_decides_which_routes_there_are() {
    let mut aml = q35(Nothing);
    let source = |aml: &mut Aml<Nothing>, entry: usize| {
        let prt = at(aml, "\\_SB.PCI0._PRT");
        let answer = aml.evaluate(prt, &[]).unwrap();
        assert!(answer.is_sure);
        let Data::Object(source) = answer.value.list().unwrap()[entry].list().unwrap()[2] else { panic!() };
        aml.path(source)
    };
    assert_eq!(source(&mut aml, 0), "\\_SB.LNKE");
    let pic = at(&aml, "\\_PIC");
    aml.evaluate(pic, &[1]).unwrap();
    assert_eq!(source(&mut aml, 0), "\\_SB.GSIE");
    let line = Resource::Interrupt { lines: vec![20], sense: Sense::Level, polarity: Polarity::High };
    assert_eq!(crs(&mut aml, "\\_SB.GSIE"), [line]);
}

#[test]
fn what_comes_of_hardware_that_does_not_answer_is_in_doubt() {
    let mut aml = q35(Nothing);
    let (link, sta) = (at(&aml, "\\_SB.LNKA._CRS"), at(&aml, "\\_SB.HPET._STA"));
    assert!(!aml.evaluate(link, &[]).unwrap().is_sure);
    let answer = aml.evaluate(sta, &[]).unwrap();
    assert_eq!((answer.value, answer.is_sure), (Data::Integer(0), false));
    // The next evaluation has its own.
    let s5 = at(&aml, "\\_S5_");
    assert!(aml.evaluate(s5, &[]).unwrap().is_sure);
    // What is written is counted, and is nowhere.
    let dis = at(&aml, "\\_SB.LNKA._DIS");
    aml.evaluate(dis, &[]).unwrap();
    assert_eq!(aml.writes(), 1);
}

/// An HPET, and a router whose registers all say 11.
struct Answers(Vec<(Space, u64, u8)>);

impl Hardware for Answers {
    fn read(&mut self, space: Space, address: u64, bytes: u8) -> Option<u64> {
        self.0.push((space, address, bytes));
        match (space, address) {
            (Space::Memory, 0xfed0_0000) => Some(0x8086_a201),
            (Space::Memory, 0xfed0_0004) => Some(10_000_000),
            _ => None,
        }
    }

    fn config(&mut self, function: PciFunction, offset: u16, _: u8) -> Option<u64> {
        match (function, offset) {
            (PciFunction { segment: 0, bus: 0, device: 0x1f, function: 0 }, 0x60..0x6c) => Some(11),
            _ => None,
        }
    }
}

#[test]
fn hardware_that_answers_decides() {
    let mut aml = q35(Answers(Vec::new()));
    let sta = at(&aml, "\\_SB.HPET._STA");
    let answer = aml.evaluate(sta, &[]).unwrap();
    assert_eq!((answer.value, answer.is_sure), (Data::Integer(15), true));
    assert_eq!(
        aml.hardware_mut().0,
        [(Space::Memory, 0xfed0_0000, 4), (Space::Memory, 0xfed0_0004, 4)],
        "with the width that the field has"
    );
    let line = Resource::Interrupt { lines: vec![11], sense: Sense::Level, polarity: Polarity::High };
    assert_eq!(crs(&mut aml, "\\_SB.LNKA"), [line]);
}

/// A machine with a bridge at 1c.3, behind which bus 5 is.
#[derive(Default)]
struct Bridge {
    is_none: bool,
    secondary: u64,
}

impl Hardware for Bridge {
    fn read(&mut self, _: Space, _: u64, _: u8) -> Option<u64> {
        None
    }

    fn config(&mut self, function: PciFunction, offset: u16, bytes: u8) -> Option<u64> {
        let PciFunction { segment, bus, device, function } = function;
        Some(match (segment, bus, device, function, offset, bytes) {
            (0, 0, 0x1c, 3, 0x0e, 1) => u64::from(!self.is_none) | 0x80,
            (0, 0, 0x1c, 3, 0x19, 1) => self.secondary,
            // Which register of which function was asked.
            _ => {
                u64::from(bus) << 24 | u64::from(device) << 16 | u64::from(function) << 12 | u64::from(offset)
            }
        })
    }
}

#[test]
fn config_space_is_that_of_the_function_which_the_device_is() {
    let ask = |hardware: Bridge| {
        let mut aml = Aml::new(hardware);
        aml.load(include_bytes!("data/config-space.aml"));
        assert_eq!(aml.failures(), []);
        ["HOST", "SLOT", "BELO", "METH", "NOWH", "LOOP", "BASE", "NEXT", "ITS0", "BUS0"].map(|name| {
            let path = format!("\\{name}");
            let id = at(&aml, &path);
            let answer = aml.evaluate(id, &[]).unwrap();
            answer.is_sure.then_some(answer.value)
        })
    };
    let number = |number: u64| Some(Data::Integer(number));
    // Of a host bridge whose bus a method says: its own function, and one of its bus. Of one whose bus would have to be known before it is
    // asked for: neither its own function, nor the bus.
    let by_method = [number(0x2000_0050), number(0x2003_0054), None, None];
    // The host bridge's own function; one of its bus; one behind the bridge; from within a method; a device without an address between; an
    // address that a method makes of config space itself.
    let first = [number(0x40), number(0x1f_0044), number(0x500_0048), number(0x500_004c), None, None];
    let whole = Bridge { is_none: false, secondary: 5 };
    assert_eq!(ask(whole), [&first[..], &by_method[..]].concat()[..]);
    for none in [Bridge { is_none: true, secondary: 5 }, Bridge { is_none: false, secondary: 0 }] {
        let first = [number(0x40), number(0x1f_0044), None, None, None, None];
        assert_eq!(ask(none), [&first[..], &by_method[..]].concat()[..]);
    }
}
