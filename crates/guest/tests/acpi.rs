//! What the ACPI tables of a guest say, read by the reader of the host's, and by ACPICA's disassembler where that is installed.

use std::path::Path;
use std::process::Command;

use axvm_acpi::fadt::Fadt;
use axvm_acpi::madt::Madt;
use axvm_acpi::spcr::Spcr;
use axvm_acpi::{Memory, Tables, mcfg};
use axvm_addr::{Gpa, Hpa, Interrupt, Irq, PciAddress, PciBuses, PciSpace, PciWindow, Ports, Span, Trigger};
use axvm_guest::x86_64::acpi::{self, AcpiWriteError};
use axvm_guest::{
    AcpiDescription, ConsoleDescription, Description, DeviceDescription, IoApicDescription, PciDescription,
    PinDescription, Place, PowerDescription, WatchdogDescription,
};
use proptest::prelude::*;

const AT: Gpa = Gpa(0xe_0000);
const ROOM: u64 = 0x2_0000;

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

fn line(irq: u32, trigger: Trigger) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger }
}

fn pin(device: u8, function: u8, pin: u8, irq: u32) -> PinDescription {
    let function = PciAddress::new(0, 0, device, function).unwrap();
    PinDescription { function, pin, line: line(irq, Trigger::Level) }
}

fn device(name: &str, ids: &[&str]) -> DeviceDescription {
    DeviceDescription {
        name: name.into(),
        registers: vec![],
        ports: vec![],
        ids: ids.iter().map(|&id| id.into()).collect(),
        interrupts: vec![],
        clocks: vec![],
        coherent: true,
        properties: vec![],
        children: vec![],
    }
}

/// A machine with two processors, PCI, a console and a UART that it is given.
fn machine() -> Description {
    let window =
        |space, start, size| PciWindow { space, prefetchable: false, pci: start, cpu: span(start, size) };
    let com2 = DeviceDescription {
        ports: vec![Ports::of(0x2f8, 8).unwrap()],
        interrupts: vec![line(3, Trigger::Edge)],
        ..device("com2", &["PNP0501", "QEMU0002"])
    };
    Description {
        cpus: vec![0, 1],
        memory: vec![span(0, 512 << 20)],
        acpi: Some(AcpiDescription {
            local_apic: Gpa(0xfee0_0000),
            io_apic: IoApicDescription { id: 2, registers: Gpa(0xfec0_0000), first: Irq(0) },
            power: PowerDescription {
                event: Ports::of(0x600, 4).unwrap(),
                control: Ports::of(0x604, 2).unwrap(),
                timer: Ports::of(0x608, 4).unwrap(),
                sci: Irq(9),
                s5: 5,
                reset: 0xcf9,
                reset_value: 6,
            },
        }),
        console: Some(ConsoleDescription { at: Place::Ports(Ports::of(0x3f8, 8).unwrap()), irq: Irq(4) }),
        pci: vec![PciDescription {
            segment: 0,
            ecam: span(0xe000_0000, 1 << 20),
            buses: PciBuses::new(0, 0),
            windows: vec![
                window(PciSpace::Memory32, 0xc000_0000, 0x2000_0000),
                window(PciSpace::Memory64, 0x60_0000_0000, 0x10_0000_0000),
            ],
            ports: Ports::of(0x1000, 0xf000),
            coherent: true,
            msi: vec![],
            lines: vec![pin(1, 0, 1, 16), pin(1, 1, 1, 16), pin(2, 0, 4, 10)],
        }],
        devices: vec![
            com2,
            DeviceDescription { registers: vec![span(0xd000_0000, 0x400)], ..device("odd", &["AXVM0001"]) },
        ],
        ..Description::default()
    }
}

/// The tables where a guest has them.
struct Ram(Vec<u8>);

impl Memory for Ram {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let start = at.0.checked_sub(AT.0).and_then(|offset| usize::try_from(offset).ok());
        let found = start.and_then(|start| self.0.get(start..start.checked_add(into.len())?));
        found.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

struct Read {
    ram: Ram,
    tables: Tables,
}

fn read(description: &Description) -> Read {
    let ram = Ram(acpi::write(description, AT, ROOM).unwrap());
    let tables = Tables::read(&ram, Hpa(AT.0)).unwrap();
    assert_eq!(tables.damaged(), []);
    Read { ram, tables }
}

impl Read {
    fn fadt(&self) -> Fadt {
        Fadt::read(self.tables.find(b"FACP").unwrap()).unwrap()
    }

    /// The DSDT in ACPI's language, if its disassembler is installed.
    fn dsl(&self, name: &str) -> Option<String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let table = self.fadt().dsdt(&self.ram).unwrap();
        std::fs::write(folder.join("dsdt.dat"), table.bytes()).unwrap();
        for other in self.tables.all() {
            let file = format!("{}.dat", String::from_utf8_lossy(&other.signature().0).to_lowercase());
            std::fs::write(folder.join(&file), other.bytes()).unwrap();
            let ran = Command::new("iasl").arg("-d").arg(&file).current_dir(&folder).output().ok()?;
            let said =
                String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success(), "{file}: {said}");
            let dsl = std::fs::read_to_string(folder.join(&file).with_extension("dsl")).unwrap();
            assert!(!dsl.contains("Invalid") && !dsl.contains("Unknown"), "{file}: {dsl}");
        }
        let run = |arguments: &[&str]| {
            let ran = Command::new("iasl").args(arguments).current_dir(&folder).output().unwrap();
            let said =
                String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
            assert!(
                ran.status.success()
                    && (!said.contains("Compilation") || said.contains(" 0 Warnings, 0 Remarks")),
                "{said}"
            );
        };
        run(&["-d", "dsdt.dat"]);
        let dsl = std::fs::read_to_string(folder.join("dsdt.dsl")).unwrap();
        // What it has read it can compile again, without a word.
        run(&["-p", "again", "dsdt.dsl"]);
        let mut words = dsl.split_whitespace().collect::<Vec<_>>().join(" ");
        words.retain(|letter| letter != '\n');
        Some(words)
    }
}

#[test]
fn the_static_tables_say_the_machine() {
    let read = read(&machine());
    let signatures: Vec<_> = read.tables.all().iter().map(|table| table.signature().0).collect();
    assert_eq!(signatures, [*b"FACP", *b"APIC", *b"MCFG", *b"SPCR"]);

    let fadt = read.fadt();
    assert!(!fadt.hardware_reduced && !fadt.keyboard_controller && !fadt.no_msi && fadt.no_cmos_clock);
    assert_eq!(fadt.sci, 9);
    let reset = fadt.reset.unwrap();
    assert_eq!((reset.register.address, reset.value), (0xcf9, 6));
    let blocks: Vec<_> =
        fadt.blocks.iter().map(|block| (block.name, block.at.address, block.bytes)).collect();
    assert_eq!(
        blocks,
        [("PM1a_EVT", 0x600, 4), ("PM1a_CNT", 0x604, 2), ("PM_TMR", 0x608, 4), ("RESET_REG", 0xcf9, 1)]
    );
    assert_eq!(fadt.dsdt(&read.ram).unwrap().signature().0, *b"DSDT");

    let madt = Madt::read(read.tables.find(b"APIC").unwrap()).unwrap();
    let ids: Vec<u32> = madt.cpus.iter().map(|cpu| cpu.apic).collect();
    assert_eq!(ids, [0, 1]);
    assert_eq!(madt.io_apics.len(), 1);
    assert_eq!((madt.isa(9).gsi, madt.isa(4).gsi), (9, 4));
    // Of ISA's lines those that signal by their level are said to.
    let levels: Vec<u8> = madt.overrides.iter().map(|it| it.isa).collect();
    assert_eq!(levels, [9, 10]);

    let found = mcfg::read(read.tables.find(b"MCFG").unwrap()).unwrap();
    assert_eq!((found[0].base.0, found[0].segment, found[0].buses), (0xe000_0000, 0, PciBuses::new(0, 0)));

    let spcr = Spcr::read(read.tables.find(b"SPCR").unwrap()).unwrap();
    assert_eq!((spcr.kind, spcr.registers.unwrap().address, spcr.gsi), (0, 0x3f8, Some(4)));
    assert_eq!(spcr.function, None);
}

#[test]
fn the_dsdt_says_the_devices() {
    let read = read(&machine());
    let Some(dsl) = read.dsl("whole") else { return };
    for expected in [
        "Name (_S5, Package (0x04) // _S5_: S5 System State { 0x05, 0x05, Zero, Zero })",
        "Name (_HID, EisaId (\"PNP0A08\") /* PCI Express Bus */)",
        "Name (_HID, EisaId (\"PNP0501\") /* 16550A-compatible COM Serial Port */)",
        "Name (_CID, \"QEMU0002\")",
        "Name (_HID, \"AXVM0001\")",
        "Memory32Fixed (ReadWrite, 0xE0000000, // Address Base 0x00100000, // Address Length )",
        "Memory32Fixed (ReadWrite, 0xD0000000, // Address Base 0x00000400, // Address Length )",
        "0x0001FFFF, Zero, Zero, 0x10",
        "0x0002FFFF, 0x03, Zero, 0x0A",
        "0x0000000000000000, // Granularity 0x0000006000000000, // Range Minimum 0x0000006FFFFFFFFF, // Range Maximum",
        "0x00000000, // Granularity 0xC0000000, // Range Minimum 0xDFFFFFFF, // Range Maximum",
        "0x00000000, // Granularity 0x00001000, // Range Minimum 0x0000FFFF, // Range Maximum",
        "IO (Decode16, 0x03F8, // Range Minimum 0x03F8, // Range Maximum 0x01, // Alignment 0x08, // Length )",
        "IO (Decode16, 0x02F8, // Range Minimum",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000003, }",
        "ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")",
    ] {
        assert!(dsl.contains(expected), "{expected}: {dsl}");
    }
    assert_eq!(dsl.matches("0x0001FFFF").count(), 1, "two functions in a slot share its pins");
}

#[test]
fn a_machine_without_pci_and_console_has_tables_without_them() {
    let description = Description { console: None, pci: vec![], devices: vec![], ..machine() };
    let read = read(&description);
    assert!(read.tables.find(b"MCFG").is_none() && read.tables.find(b"SPCR").is_none());
    if let Some(dsl) = read.dsl("bare") {
        assert!(!dsl.contains("PNP0A08") && !dsl.contains("PNP0501"), "{dsl}");
    }
}

#[test]
fn a_clock_that_is_given_is_said_to_be_there() {
    let mut description = machine();
    let clock = DeviceDescription { ports: vec![Ports::of(0x70, 2).unwrap()], ..device("rtc", &["PNP0B00"]) };
    description.devices.push(clock);
    assert!(!read(&description).fadt().no_cmos_clock);
}

#[test]
fn processors_past_what_a_byte_names_have_records_of_their_own() {
    let description = Description { cpus: (0..300).collect(), ..machine() };
    let read = read(&description);
    let madt = Madt::read(read.tables.find(b"APIC").unwrap()).unwrap();
    let ids: Vec<u32> = madt.cpus.iter().map(|cpu| cpu.apic).collect();
    assert_eq!(ids, (0..300).collect::<Vec<u32>>());
}

#[test]
fn what_no_table_can_say_is_an_error_that_names_it() {
    let refused = |change: &dyn Fn(&mut Description)| {
        let mut description = machine();
        change(&mut description);
        acpi::write(&description, AT, ROOM).unwrap_err()
    };
    assert_eq!(refused(&|it| it.acpi = None), AcpiWriteError::NoAcpi);
    let id = |id: &str| AcpiWriteError::Id { device: "com2".into(), id: id.into() };
    for wrong in ["", "PNP", "PNP050", "pnp0501", "PNP050g", "PNPX0501Y", "ns16550a", "PN\u{e9}0501"] {
        assert_eq!(refused(&|it| it.devices[0].ids = vec![wrong.into()]), id(wrong));
    }
    let pins = refused(&|it| it.pci[0].lines.push(pin(1, 2, 1, 17)));
    assert!(matches!(pins, AcpiWriteError::Pin { pin: 1, lines: [Irq(16), Irq(17)], .. }), "{pins}");
    assert!(matches!(refused(&|it| it.cpus[1] = 1 << 33), AcpiWriteError::TooMuch(_)));
    assert!(matches!(
        refused(&|it| it.acpi.as_mut().unwrap().local_apic = Gpa(1 << 32)),
        AcpiWriteError::TooMuch(_)
    ));
    let window =
        |pci, size| PciWindow { space: PciSpace::Memory64, prefetchable: false, pci, cpu: span(0, size) };
    for window in [window(0, 0), window(u64::MAX, 2)] {
        assert!(
            matches!(refused(&|it| it.pci[0].windows[0] = window), AcpiWriteError::TooMuch(_)),
            "{window:?}"
        );
    }
    let short = acpi::write(&machine(), AT, 0x200).unwrap_err();
    assert!(matches!(short, AcpiWriteError::Room { room: 0x200, .. }), "{short}");
    for at in [Gpa(0xe_0010), Gpa(u64::MAX - 63), Gpa(0xffff_0000)] {
        assert_eq!(acpi::write(&machine(), at, ROOM), Err(AcpiWriteError::Place(at)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever a machine has, the reader finds it, and no table is damaged.
    #[test]
    fn whatever_is_written_is_read(
        cpus in prop::collection::vec(0u64..0x1_0000_0000, 1..40),
        lines in prop::collection::vec((0u8..32, 0u8..8, 1u8..5, 0u32..24), 0..40),
        ports in prop::collection::vec((any::<u16>(), 1u32..0x400), 0..8),
        registers in prop::collection::vec((0u64..1 << 40, 1u64..1 << 34), 0..8),
        irqs in prop::collection::vec((0u32..24, any::<bool>()), 0..6),
    ) {
        let mut description = machine();
        description.cpus = cpus.clone();
        description.pci[0].lines = lines.iter().map(|&(device, function, number, irq)| pin(device, function, number, irq)).collect();
        let trigger = |level| if level { Trigger::Level } else { Trigger::Edge };
        description.devices.push(DeviceDescription {
            ports: ports.iter().filter_map(|&(first, count)| Ports::of(first, count)).collect(),
            registers: registers.iter().map(|&(start, size)| span(start, size)).collect(),
            interrupts: irqs.iter().map(|&(irq, level)| line(irq, trigger(level))).collect(),
            ..device("any", &[])
        });
        match acpi::write(&description, AT, ROOM) {
            Ok(bytes) => {
                let ram = Ram(bytes);
                let tables = Tables::read(&ram, Hpa(AT.0)).unwrap();
                prop_assert_eq!(tables.damaged(), []);
                let madt = Madt::read(tables.find(b"APIC").unwrap()).unwrap();
                prop_assert_eq!(madt.cpus.iter().map(|cpu| u64::from(cpu.apic)).collect::<Vec<_>>(), cpus);
                prop_assert!(Fadt::read(tables.find(b"FACP").unwrap()).unwrap().dsdt(&ram).is_ok());
            }
            Err(error) => prop_assert!(matches!(error, AcpiWriteError::Pin { .. }), "{}", error),
        }
    }
}

#[test]
fn a_watchdog_is_described_by_what_is_to_be_written_where() {
    let mut description = machine();
    assert!(read(&description).tables.find(b"WDAT").is_none());
    description.watchdog = Some(WatchdogDescription {
        control: span(0xe800_0000, 0x1000),
        refresh: span(0xe801_0000, 0x1000),
        irq: None,
    });
    let read = read(&description);
    let table = read.tables.find(b"WDAT").unwrap().bytes().to_vec();
    let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
    // The header's length, no PCI function, a count of 2 ms, the most and the least of them, there and on, so many instructions.
    assert_eq!(word(36), 0x20);
    assert_eq!(table[40..48], [0xff, 0, 0xff, 0xff, 0xff, 0, 0, 0]);
    assert_eq!([word(48), word(52), word(56), word(60)], [2, 0xf_ffff, 1, 1]);
    let count = word(64) as usize;
    assert_eq!(table.len(), 68 + count * 24);
    let instructions: Vec<(u8, u8, u32, u32, u32)> = (0..count)
        .map(|nth| {
            let at = 68 + nth * 24;
            // A register of 32 bits in memory, accessed as such.
            assert_eq!((&table[at + 4..at + 8], word(at + 12)), (&[0, 32, 0, 3][..], 0));
            (table[at], table[at + 1], word(at + 8), word(at + 16), word(at + 20))
        })
        .collect();
    // What Linux's wdat_wdt asks for: ping, count, start, stop, and whether it runs.
    for asked in [
        (0x01, 2, 0xe801_0000, 1, u32::MAX),
        (0x06, 3, 0xe800_0008, 0, 0xf_ffff),
        (0x08, 0, 0xe800_0000, 1, 1),
        (0x09, 2, 0xe800_0000, 1, 1),
        (0x0b, 2, 0xe800_0000, 0, 1),
    ] {
        assert!(instructions.contains(&asked), "{asked:x?} is none of {instructions:x?}");
    }
    read.dsl("watchdog");
}
