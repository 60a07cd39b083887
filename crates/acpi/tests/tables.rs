//! Tables made up by hand from the manuals: what real machines have and QEMU's haven't, and what is wrong with them.

use std::collections::BTreeMap;

use axvm_acpi::dmar::{Dmar, ScopeKind};
use axvm_acpi::fadt::Fadt;
use axvm_acpi::ivrs::{Devices, Ivrs, Reserved, Special};
use axvm_acpi::madt::{Madt, Polarity, Sense, Usable};
use axvm_acpi::spcr::Spcr;
use axvm_acpi::srat::{NearCpu, NearMemory, Srat};
use axvm_acpi::{Error, GenericAddress, Memory, Signature, Space, Table, Tables, mcfg};
use axvm_addr::{Hpa, Span};
use proptest::prelude::*;

/// A table of these bytes behind the header, with the right length and checksum.
fn bytes(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([1, 0]);
    table.extend([b'T'; 26]);
    table.extend(body);
    fix(&mut table);
    table
}

fn fix(table: &mut [u8]) {
    table[9] = 0;
    table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
}

fn table(signature: &[u8; 4], body: &[u8]) -> Table {
    Table::new(bytes(signature, body)).unwrap()
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn an_srat_says_what_is_near_what() {
    let memory = |domain: u32, start: u64, size: u64, flags: u32| {
        let mut record = vec![1, 40];
        record.extend(domain.to_le_bytes());
        record.extend([0; 2]);
        record.extend(start.to_le_bytes());
        record.extend(size.to_le_bytes());
        record.extend([0; 4]);
        record.extend(flags.to_le_bytes());
        record.extend([0; 8]);
        record
    };
    let body = cat(&[
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Local APIC 5 is of domain 0x04030201, 6 is of none.
        &[0, 16, 1, 5, 1, 0, 0, 0, 0, 2, 3, 4, 0, 0, 0, 0],
        &[0, 16, 1, 6, 0, 0, 0, 0, 0, 2, 3, 4, 0, 0, 0, 0],
        &[2, 24, 0, 0, 9, 0, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Something of another architecture's.
        &[3, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &memory(0x101, 0x1_0000_0000, 0x4000_0000, 1),
        &memory(0x101, 0x8_0000_0000, 0x4000_0000, 0),
        &memory(0x101, 0x8_0000_0000, 0, 1),
        &memory(0x101, u64::MAX, 2, 1),
    ]);
    let read = |revision: u8| {
        let mut bytes = bytes(b"SRAT", &body);
        bytes[8] = revision;
        fix(&mut bytes);
        Srat::read(&Table::new(bytes).unwrap()).unwrap()
    };
    let span = Span::new(Hpa(0x1_0000_0000), 0x4000_0000).unwrap();
    let srat = |first, memory| Srat {
        cpus: vec![NearCpu { domain: first, apic: 5 }, NearCpu { domain: 9, apic: 0x1234 }],
        memory: vec![NearMemory { domain: memory, span }],
    };
    assert_eq!(read(3), srat(0x0403_0201, 0x101));
    // Of domains older tables have the lowest byte only.
    assert_eq!(read(1), srat(1, 1));
    let short = table(b"SRAT", &cat(&[&[0; 12], &[1, 8, 0, 0, 0, 0, 0, 0]]));
    assert!(matches!(Srat::read(&short), Err(Error::Record { .. })));
}

#[test]
fn a_madt_names_x2apics_and_a_cpu_twice() {
    let madt = table(
        b"APIC",
        &cat(&[
            &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0],
            // Local APIC 5: there, and again by its x2APIC; 6: to come; 7: never.
            &[0, 8, 1, 5, 1, 0, 0, 0],
            &[0, 8, 2, 6, 2, 0, 0, 0],
            &[0, 8, 3, 7, 0, 0, 0, 0],
            &[9, 16, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            &[9, 16, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0],
            // Two I/O APICs.
            &[1, 12, 8, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[1, 12, 9, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0],
            // ISA 9 is GSI 20, low, level; GSI 30 is an NMI.
            &[2, 10, 0, 9, 20, 0, 0, 0, 0x0f, 0],
            &[3, 8, 0, 0, 30, 0, 0, 0],
            // Something of another architecture's, and where the local APICs really are.
            &[0x0c, 4, 0, 0],
            &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0],
        ]),
    );
    let madt = Madt::read(&madt).unwrap();
    assert_eq!(madt.local_apic, Hpa(0x1_fee0_0000));
    assert!(!madt.pics);
    let cpus: Vec<_> = madt.cpus.iter().map(|cpu| (cpu.uid, cpu.apic, cpu.usable)).collect();
    let expected =
        [(1, 5, Usable::Now), (2, 6, Usable::Later), (3, 7, Usable::Never), (9, 0x1234, Usable::Now)];
    assert_eq!(cpus, expected);
    let of = |gsi| madt.io_apic_of(gsi).map(|it| it.id);
    assert_eq!((of(0), of(23), of(24), of(99)), (Some(8), Some(8), Some(9), Some(9)));
    let sci = madt.isa(9);
    assert_eq!((sci.gsi, sci.polarity, sci.sense), (20, Polarity::Low, Sense::Level));
    assert_eq!(madt.nmis, [30]);
    let none = Madt::read(&table(b"APIC", &[0; 8])).unwrap();
    assert!(none.io_apic_of(0).is_none());
}

#[test]
fn an_ivrs_has_ranges_aliases_and_what_is_not_known() {
    let entries = cat(&[
        &[3, 0x00, 0x01, 0x40, 4, 0xff, 0x01, 0],
        // 02:00.0 comes as 00:1c.0; a range that does.
        &[0x42, 0x00, 0x02, 0, 0, 0xe0, 0x00, 0],
        &[0x43, 0x00, 0x03, 0, 0, 0xe1, 0x00, 0, 4, 0xff, 0x03, 0],
        // An HPET, a device by ACPI's name with a UID of two bytes, and a kind that isn't known.
        &[0x48, 0, 0, 0x81, 7, 0xa1, 0x00, 2],
        &[0xf0, 0x34, 0x12, 0],
        b"AMDI0020",
        &[0; 8],
        &[2, 2, b'I', b'D'],
        &[0x45, 0, 0, 0, 0, 0, 0, 0],
        // Padding.
        &[0, 0, 0, 0],
    ]);
    let wide = |kind: u8, id: u8, entries: &[u8]| {
        let length = 40 + entries.len() as u16;
        cat(&[
            &[kind, 0xb0],
            &length.to_le_bytes(),
            &[id, 0, 0x40, 0],
            &0xfd20_0000u64.to_le_bytes(),
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &0x29d7u64.to_le_bytes(),
            &[0; 8],
            entries,
        ])
    };
    let memory = |kind: u8, first: u16, last: u16| {
        cat(&[
            &[kind, 3, 32, 0],
            &first.to_le_bytes(),
            &last.to_le_bytes(),
            &[0; 8],
            &0x8000_0000u64.to_le_bytes(),
            &0x1000u64.to_le_bytes(),
        ])
    };
    let head = [0; 12];
    let body = cat(&[
        &head,
        &wide(0x40, 2, &entries),
        // The same IOMMU in an older way counts less; another one doesn't.
        &wide(0x11, 2, &[1, 0, 0, 0]),
        &wide(0x11, 3, &[1, 0, 0, 0]),
        &memory(0x20, 1, 2),
        &memory(0x21, 0x10, 0),
        &memory(0x22, 0x20, 0x2f),
    ]);
    let ivrs = Ivrs::read(&table(b"IVRS", &body)).unwrap();
    assert_eq!(ivrs.iommus.len(), 2);
    let iommu = &ivrs.iommus[0];
    assert_eq!((iommu.segment, iommu.features, iommu.flags), (1, Some(0x29d7), 0xb0));
    let devices = [
        Devices { first: 0x100, last: 0x1ff, alias: None, settings: 0x40 },
        Devices { first: 0x200, last: 0x200, alias: Some(0xe0), settings: 0 },
        Devices { first: 0x300, last: 0x3ff, alias: Some(0xe1), settings: 0 },
    ];
    assert_eq!(iommu.devices, devices);
    assert_eq!((iommu.id_of(0x200), iommu.id_of(0x310), iommu.id_of(0x201)), (Some(0xe0), Some(0xe1), None));
    assert_eq!(
        (iommu.special[0].what, iommu.special[0].id, iommu.special[0].settings),
        (Special::Hpet(7), 0xa1, 0x81)
    );
    assert_eq!((&iommu.named[..], &iommu.unclear[..]), (&[0x1234][..], &[0x45][..]));
    let all = [Devices { first: 0, last: u16::MAX, alias: None, settings: 0 }];
    assert_eq!(ivrs.iommus[1].devices, all);
    let memory = |first, last| Reserved { first, last, start: Hpa(0x8000_0000), bytes: 0x1000, flags: 3 };
    assert_eq!(ivrs.reserved, [memory(0, u16::MAX), memory(0x10, 0x10), memory(0x20, 0x2f)]);
    // Half a range: never ended, ended twice, ended before it began, begun twice.
    for entries in
        [&[3, 0, 1, 0][..], &[4, 0, 1, 0], &[3, 0, 2, 0, 4, 0, 1, 0], &[3, 0, 1, 0, 3, 0, 2, 0, 4, 0, 3, 0]]
    {
        let error = Ivrs::read(&table(b"IVRS", &cat(&[&head, &wide(0x40, 2, entries)]))).unwrap_err();
        assert!(matches!(error, Error::Range { table: Signature(name), .. } if &name == b"IVRS"), "{error}");
    }
    // An entry that its block cuts off, and a block that the table does.
    let cut = Ivrs::read(&table(b"IVRS", &cat(&[&head, &wide(0x40, 2, &[0x42, 0, 2, 0])]))).unwrap_err();
    assert_eq!(cut, Error::Record { table: Signature(*b"IVRS"), offset: 48 + 40, bytes: 8 });
    let mut short = wide(0x40, 2, &[]);
    short[2] = 44;
    let cut = Ivrs::read(&table(b"IVRS", &cat(&[&head, &short]))).unwrap_err();
    assert_eq!(cut, Error::Record { table: Signature(*b"IVRS"), offset: 48, bytes: 44 });
}

#[test]
fn a_dmar_has_paths_and_reserved_memory() {
    let body = cat(&[
        &[63, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // DRHD with INCLUDE_PCI_ALL, an HPET and a function behind two bridges.
        &[0, 0, 34, 0, 1, 0, 2, 0],
        &0xfed9_0000u64.to_le_bytes(),
        &[4, 8, 0, 0, 3, 0xf0, 0x0f, 0],
        &[1, 10, 0, 0, 0, 0, 0x1c, 0, 0, 1],
        // RMRR of a USB controller, and a structure that isn't known.
        &[1, 0, 32, 0, 0, 0, 2, 0],
        &0x8000_0000u64.to_le_bytes(),
        &0x8000_ffffu64.to_le_bytes(),
        &[1, 8, 0, 0, 0, 0, 0x14, 0],
        &[9, 0, 4, 0],
    ]);
    let dmar = Dmar::read(&table(b"DMAR", &body)).unwrap();
    assert_eq!((dmar.address_bits, dmar.remaps_interrupts, dmar.no_x2apic), (64, false, true));
    let iommu = &dmar.iommus[0];
    assert!(iommu.includes_all && iommu.segment == 2);
    assert_eq!(iommu.scopes[0].kind, ScopeKind::Hpet(3));
    let path: Vec<_> = iommu.scopes[1].path.iter().map(|step| (step.device, step.function)).collect();
    assert_eq!(path, [(0x1c, 0), (0, 1)]);
    let reserved = &dmar.reserved[0];
    assert_eq!((reserved.segment, reserved.start, reserved.last), (2, Hpa(0x8000_0000), Hpa(0x8000_ffff)));
    assert_eq!(reserved.scopes[0].path[0].device, 0x14);
    // Half a step.
    let odd = cat(&[&body[..12], &[0, 0, 23, 0, 0, 0, 0, 0], &[0; 8], &[1, 7, 0, 0, 0, 0, 5]]);
    let error = Dmar::read(&table(b"DMAR", &odd)).unwrap_err();
    assert_eq!(error, Error::Record { table: Signature(*b"DMAR"), offset: 70, bytes: 2 });
}

#[test]
fn an_spcr_says_where_the_console_is() {
    let mut body = vec![0u8; 44];
    // A 16550 at port 0x2f8, GSI 3 by the I/O APIC, no PCI device.
    body[4..16].copy_from_slice(&[1, 8, 0, 1, 0xf8, 2, 0, 0, 0, 0, 0, 0]);
    body[16] = 2;
    body[18] = 3;
    body[28..32].copy_from_slice(&[0xff; 4]);
    let spcr = Spcr::read(&table(b"SPCR", &body)).unwrap();
    let registers = GenericAddress { space: Space::Port, bits: 8, access_bytes: 1, address: 0x2f8 };
    assert_eq!((spcr.kind, spcr.registers, spcr.gsi, spcr.function), (0, Some(registers), Some(3), None));
    // A PCI function, with an interrupt of the 8259's only.
    body[16] = 1;
    body[28..32].copy_from_slice(&[1, 0, 2, 0]);
    (body[32], body[33], body[34]) = (1, 2, 3);
    let spcr = Spcr::read(&table(b"SPCR", &body)).unwrap();
    assert_eq!((spcr.gsi, spcr.function.map(|it| it.to_string())), (None, Some("0000:01:02.3".into())));
}

/// The first FADT had 116 bytes and ports only; what isn't there is nothing.
#[test]
fn an_old_fadt_has_ports() {
    let mut body = vec![0u8; 80];
    body[4..8].copy_from_slice(&0x7ff0_0000u32.to_le_bytes());
    body[28..32].copy_from_slice(&0x404u32.to_le_bytes());
    body[53] = 2;
    // The flag of a reset register that the table is too short for.
    body[77] = 4;
    let fadt = Fadt::read(&table(b"FACP", &body)).unwrap();
    assert_eq!(fadt.dsdt, Hpa(0x7ff0_0000));
    assert_eq!(fadt.reset, None);
    let port = GenericAddress { space: Space::Port, bits: 16, access_bytes: 0, address: 0x404 };
    assert_eq!(fadt.pm1_control, [Some(port), None]);
    body.pop();
    let error = Fadt::read(&table(b"FACP", &body)).unwrap_err();
    assert_eq!(error, Error::Short { table: Signature(*b"FACP"), has: 115, needs: 116 });
}

#[test]
fn a_reader_reads_its_own_table_only() {
    let other = table(b"XXXX", &[0; 300]);
    let wrong = |wanted: &[u8; 4]| Error::OtherTable { is: Signature(*b"XXXX"), wanted: Signature(*wanted) };
    assert_eq!(Madt::read(&other), Err(wrong(b"APIC")));
    assert_eq!(Fadt::read(&other), Err(wrong(b"FACP")));
    assert_eq!(Ivrs::read(&other), Err(wrong(b"IVRS")));
    assert_eq!(Dmar::read(&other), Err(wrong(b"DMAR")));
    assert_eq!(Spcr::read(&other), Err(wrong(b"SPCR")));
    assert_eq!(mcfg::read(&other), Err(wrong(b"MCFG")));
}

/// Memory with things in it.
#[derive(Default)]
struct Sparse(BTreeMap<u64, Vec<u8>>);

impl Memory for Sparse {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let Some((start, bytes)) = self.0.range(..=at.0).next_back() else { return false };
        let from = (at.0 - start) as usize;
        let Some(found) = bytes.get(from..from + into.len()) else { return false };
        into.copy_from_slice(found);
        true
    }
}

fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR ".to_vec();
    bytes.extend([0; 7]);
    bytes.push(revision);
    bytes.extend(rsdt.to_le_bytes());
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[8] = 0u8.wrapping_sub(sum(&bytes));
    if revision >= 2 {
        bytes.extend(36u32.to_le_bytes());
        bytes.extend(xsdt.to_le_bytes());
        bytes.extend([0; 4]);
        bytes[32] = 0u8.wrapping_sub(sum(&bytes));
    }
    bytes
}

#[test]
fn the_rsdp_leads_to_the_tables() {
    let mut memory = Sparse::default();
    memory.0.insert(0x1000, bytes(b"ONE_", &[1]));
    memory.0.insert(0x2000, bytes(b"TWO_", &[2]));
    let mut damaged = bytes(b"BAD_", &[3]);
    damaged[36] = 4;
    memory.0.insert(0x3000, damaged);
    let old: Vec<u8> = [0x1000u32, 0, 0x3000, 0x9_0000].iter().flat_map(|at| at.to_le_bytes()).collect();
    memory.0.insert(0x4000, bytes(b"RSDT", &old));
    let new: Vec<u8> = [0x2000u64, 0x1000].iter().flat_map(|at| at.to_le_bytes()).collect();
    memory.0.insert(0x5000, bytes(b"XSDT", &new));
    let names =
        |tables: &Tables| tables.all().iter().map(|it| it.signature().to_string()).collect::<Vec<_>>();
    let mut read = |bytes: Vec<u8>| {
        memory.0.insert(0xe0000, bytes);
        Tables::read(&memory, Hpa(0xe0000))
    };
    // PVH's has revision 0 and an RSDT only.
    let tables = read(rsdp(0, 0x4000, 0)).unwrap();
    assert_eq!(names(&tables), ["ONE_"]);
    let wrong = [
        Error::Checksum { table: Signature(*b"BAD_"), by: 1 },
        Error::Unreadable { at: Hpa(0x9_0000), bytes: 36 },
    ];
    assert_eq!(tables.damaged(), wrong);
    // Where there is an XSDT it counts.
    let tables = read(rsdp(2, 0x4000, 0x5000)).unwrap();
    assert_eq!(names(&tables), ["TWO_", "ONE_"]);
    assert!(tables.find(b"ONE_").is_some() && tables.find(b"BAD_").is_none());
    // One whose second half is damaged has the first.
    let mut half = rsdp(2, 0x4000, 0x5000);
    half[33] = 7;
    assert_eq!(names(&read(half).unwrap()), ["ONE_"]);
    assert_eq!(read(rsdp(2, 0, 0)), Err(Error::NoRoot { at: Hpa(0xe0000) }));
    let mut none = rsdp(0, 0x4000, 0);
    none[3] = b'x';
    assert_eq!(read(none), Err(Error::NoRsdp { at: Hpa(0xe0000) }));
    assert_eq!(Tables::read(&Sparse::default(), Hpa(8)), Err(Error::Unreadable { at: Hpa(8), bytes: 20 }));
}

/// A table that says it has gigabytes isn't believed.
#[test]
fn a_table_that_is_too_long_is_not_read() {
    let mut memory = Sparse::default();
    let mut huge = bytes(b"HUGE", &[]);
    huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    memory.0.insert(0x1000, huge);
    memory.0.insert(0x4000, bytes(b"RSDT", &0x1000u32.to_le_bytes()));
    memory.0.insert(0xe0000, rsdp(0, 0x4000, 0));
    let tables = Tables::read(&memory, Hpa(0xe0000)).unwrap();
    assert_eq!(tables.damaged(), [Error::Unreadable { at: Hpa(0x1000), bytes: u64::from(u32::MAX) }]);
}

fn read_all(table: &Table) {
    let _ = (Madt::read(table), Fadt::read(table), Spcr::read(table), mcfg::read(table));
    let _ = Dmar::read(table);
    if let Ok(ivrs) = Ivrs::read(table) {
        assert!(ivrs.iommus.iter().all(|iommu| iommu.id_of(7) != Some(7) || !iommu.devices.is_empty()));
    }
}

proptest! {
    /// Whatever a table holds, its readers end and don't panic.
    #[test]
    fn any_bytes_are_read(
        name in prop_oneof![Just(b"APIC"), Just(b"FACP"), Just(b"SPCR"), Just(b"MCFG"), Just(b"DMAR"), Just(b"IVRS")],
        body in proptest::collection::vec(prop_oneof![0u8..72, any::<u8>()], 0..400),
    ) {
        read_all(&table(name, &body));
    }

    /// Real tables with some bytes changed, and cut off somewhere.
    #[test]
    fn damaged_tables_are_read(
        which in 0usize..4,
        changes in proptest::collection::vec((36usize..256, any::<u8>()), 0..8),
        end in 36usize..300,
    ) {
        let real: [&[u8]; 4] = [
            include_bytes!("data/q35-amd/IVRS.dat"),
            include_bytes!("data/q35-amd/APIC.dat"),
            include_bytes!("data/q35-amd/FACP.dat"),
            include_bytes!("data/q35-intel/DMAR.dat"),
        ];
        let mut bytes = real[which].to_vec();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(end);
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        fix(&mut bytes);
        read_all(&Table::new(bytes).unwrap());
    }
}
