//! A PC that has in one place what real ones have in many (`tests/acpi/made-up.asl`), on the other tables of QEMU's q35.

use axvm_addr::{Hpa, Interrupt, Irq, PciBuses, PciSpace, PciWindow, Ports, Span, Trigger};
use axvm_platform::acpi::{MemoryKind, MemoryRange};
use axvm_platform::fake::{self, Pc};
use axvm_platform::model::*;

fn span(start: u64, end: u64) -> Span<Hpa> {
    Span::new(Hpa(start), end - start).unwrap()
}

fn level(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Level }
}

fn edge(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Edge }
}

fn device<'a>(platform: &'a Platform, path: &str) -> &'a PlatformDevice {
    platform.devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!("{path}"))
}

/// `tests/acpi/made-up.asl` on the q35's other tables, with memory that firmware keeps.
fn made_up() -> Pc {
    let fixed = fake::q35_amd();
    let tables: Vec<&[u8]> = fixed.contents[1..6].iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let mut pc = Pc::new(include_bytes!("acpi/made-up.dat"), &tables);
    pc.map.push(MemoryRange { span: span(0x7ff0_0000, 0x7ff0_1000), kind: MemoryKind::AcpiNvs });
    let mut own = 0x8800_0000u32.to_le_bytes().to_vec();
    own.resize(16, 0);
    pc.contents.push((Hpa(0x7ff0_0000), own));
    // The registers would answer, but aren't memory of firmware's own by the map.
    pc.contents.insert(0, (Hpa(0xfed4_0000), vec![1; 0x100]));
    pc
}

#[test]
fn windows_are_what_firmware_s_memory_makes_them_and_those_that_can_t_be_are_left_out() {
    let platform = made_up().platform().unwrap();
    let [host, other] = &platform.pci_hosts[..] else { panic!("{:?}", platform.pci_hosts) };
    assert_eq!((host.path.as_str(), host.buses), ("\\_SB.PCI0", PciBuses::new(0, 0x3f)));
    assert_eq!(host.ecam, span(0xb000_0000, 0xb400_0000));
    let window = |space, prefetchable, start, end| PciWindow {
        space,
        prefetchable,
        pci: start,
        cpu: span(start, end),
    };
    let windows = [
        window(PciSpace::Memory32, false, 0x8800_0000, 0x9000_0000),
        window(PciSpace::Memory64, true, 0x20_0000_0000, 0x21_0000_0000),
    ];
    assert_eq!(
        (&host.windows[..], &host.ports[..]),
        (&windows[..], &[Ports::new(0x1000, 0x1fff).unwrap()][..])
    );
    let kept = |at| platform.kept.iter().any(|it| it.span.contains(Hpa(at)));
    assert!(kept(0xfed1_0000) && kept(0x1000_0000) && kept(0xfed2_0000));
    // A host bridge whose windows hang on a register.
    assert_eq!((other.path.as_str(), other.buses), ("\\_SB.PCI1", PciBuses::new(0x40, 0xff)));
    assert_eq!((&other.windows[..], other.ecam), (&[][..], span(0xb400_0000, 0xc000_0000)));
    for said in ["over RAM", "over another", "\\_SB.PCI1: _CRS depends", "\\_SB.PCI2: its config space"] {
        assert!(platform.unclear.iter().any(|it| it.contains(said)), "{said}: {:#?}", platform.unclear);
    }
    let a = SleepRegister { register: Register { place: Place::Port(0x604), bits: 16 }, sleep_type: 5 };
    assert_eq!(platform.acpi().unwrap().power_off, Some(PowerOff::Pm1 { a, b: None }));
    // Without firmware's memory at hand, on a desk, not even the first one's are known.
    let mut pc = made_up();
    pc.contents.pop();
    assert!(pc.platform().unwrap().pci_hosts[0].windows.is_empty());
}

#[test]
fn lines_lead_where_links_say_and_otherwise_nowhere() {
    let platform = made_up().platform().unwrap();
    let host = &platform.pci_hosts[0];
    let route = |device, pin, irq| PinRoute { device, pin, line: level(irq) };
    let expected = [route(1, 1, 18), route(1, 2, 21), route(1, 3, 11), route(1, 4, 22), route(2, 2, 19)];
    assert_eq!(host.lines, expected);
    assert!(platform.unclear.iter().any(|it| it.contains("1 entries of _PRT")), "{:#?}", platform.unclear);
    let apic = platform.apic().unwrap();
    let polarity = |irq| apic.line(Irq(irq), Trigger::Level).polarity;
    assert_eq!(
        [18, 21, 11, 22].map(polarity),
        [Polarity::Low, Polarity::High, Polarity::High, Polarity::Low]
    );
    let bridge = vec![PciStep { device: 0x1c, function: 0 }];
    assert_eq!(host.bridge_lines, [BridgeLines { bridge, lines: vec![route(0, 1, 17)] }]);
}

#[test]
fn devices_that_are_not_clear_can_t_be_given_and_those_that_are_gone_are_gone() {
    let platform = made_up().platform().unwrap();
    let paths: Vec<&str> = platform.devices.iter().map(|device| device.path.as_str()).collect();
    let expected = ["com2", "\\_SB.UAR9", "\\_SB.GPIO", "\\_SB.ROAM", "\\_SB.ASKS", "\\_SB.OFF"];
    assert_eq!(paths, expected);
    assert_eq!(device(&platform, "com2").interrupts, [edge(3)]);
    let second = device(&platform, "\\_SB.UAR9");
    assert_eq!(second.compatible, ["ACME0501", "ACME0500", "PNP0501"]);
    assert!(second.uart().is_some());
    let gpio = device(&platform, "\\_SB.GPIO");
    assert_eq!(
        (&gpio.registers[..], &gpio.interrupts[..]),
        (&[span(0xfed8_1500, 0xfed8_1800)][..], &[level(7)][..])
    );
    assert_eq!((gpio.bus_master, gpio.foreign_interrupts.len()), (None, 0));
    assert_eq!(platform.apic().unwrap().line(Irq(7), Trigger::Level).polarity, Polarity::Low);
    for path in ["\\_SB.ROAM", "\\_SB.ASKS"] {
        let [ForeignInterrupt::Unclear(_)] = &device(&platform, path).foreign_interrupts[..] else {
            panic!("{path}")
        };
        assert!(device(&platform, path).registers.is_empty() && device(&platform, path).ports.is_empty());
    }
    assert!(!device(&platform, "\\_SB.OFF").enabled && gpio.enabled);
    for port in [0x680, 0x69f, 0x3f0, 0x3f1] {
        assert!(platform.kept_ports.iter().any(|kept| kept.ports.contains(port)), "{port:#x}");
    }
    assert_eq!(platform.console, None);
}
