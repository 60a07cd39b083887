//! Tables of QEMU's q35 machine, 11.1.3, as a Linux on it has shown them: with `amd-iommu` and with `intel-iommu`, 4 CPUs, and an NVMe at
//! 00:06.0, an e1000e at 00:03.0, an rtl8139 at 00:05.0 and a root port at 00:04.0. What they hold was read with ACPICA's `iasl -d`.

use axvm_acpi::dmar::{Dmar, ScopeKind, Step};
use axvm_acpi::fadt::Fadt;
use axvm_acpi::ivrs::{Devices, Ivrs, Special, SpecialDevice};
use axvm_acpi::madt::{Cpu, IoApic, Madt, Override, Polarity, Sense, Usable};
use axvm_acpi::{GenericAddress, Space, Table, mcfg};
use axvm_addr::{Hpa, PciBuses};

fn table(bytes: &[u8]) -> Table {
    Table::new(bytes).unwrap()
}

fn port(address: u64, bits: u8) -> GenericAddress {
    GenericAddress { space: Space::Port, bits, access_bytes: 0, address }
}

#[test]
fn the_madt_has_four_cpus_and_an_io_apic() {
    for bytes in [&include_bytes!("data/q35-amd/APIC.dat")[..], include_bytes!("data/q35-intel/APIC.dat")] {
        let madt = Madt::read(&table(bytes)).unwrap();
        assert_eq!(madt.local_apic, Hpa(0xfee0_0000));
        assert!(madt.pics);
        let cpu = |id| Cpu { uid: id, apic: id, usable: Usable::Now };
        assert_eq!(madt.cpus, [cpu(0), cpu(1), cpu(2), cpu(3)]);
        assert_eq!(madt.io_apics, [IoApic { id: 0, registers: Hpa(0xfec0_0000), first: 0 }]);
        assert_eq!(madt.nmis, []);
        let isa = |isa, gsi, polarity, sense| Override { isa, gsi, polarity, sense };
        // The PIT's is at pin 2, the SCI is a level, and what isn't named is as ISA has it.
        assert_eq!(madt.isa(0), isa(0, 2, Polarity::High, Sense::Edge));
        assert_eq!(madt.isa(9), isa(9, 9, Polarity::High, Sense::Level));
        assert_eq!(madt.isa(3), isa(3, 3, Polarity::High, Sense::Edge));
        assert_eq!(madt.io_apic_of(23).map(|it| it.id), Some(0));
    }
}

#[test]
fn the_mcfg_has_all_buses() {
    let found = mcfg::read(&table(include_bytes!("data/q35-amd/MCFG.dat"))).unwrap();
    let buses = PciBuses::new(0, 255);
    assert_eq!(found, [mcfg::Allocation { base: Hpa(0xb000_0000), segment: 0, buses }]);
}

#[test]
fn the_fadt_says_what_is_acpi_s() {
    let fadt = Fadt::read(&table(include_bytes!("data/q35-amd/FACP.dat"))).unwrap();
    assert_eq!((fadt.dsdt, fadt.sci), (Hpa(0x7ffe_0040), 9));
    assert!(fadt.keyboard_controller && !fadt.legacy_devices);
    assert!(!fadt.hardware_reduced && !fadt.no_msi && !fadt.no_cmos_clock);
    let reset = fadt.reset.unwrap();
    assert_eq!((reset.register, reset.value), (port(0xcf9, 8), 0x0f));
    assert_eq!(fadt.pm1_control, [Some(port(0x604, 16)), None]);
    let blocks: Vec<_> = fadt.blocks.iter().map(|it| (it.name, it.at.address, it.bytes)).collect();
    let expected = [
        ("PM1a_EVT", 0x600, 4),
        ("PM1a_CNT", 0x604, 2),
        ("PM_TMR", 0x608, 4),
        ("GPE0", 0x620, 16),
        ("RESET_REG", 0xcf9, 1),
        ("SMI_CMD", 0xb2, 1),
    ];
    assert_eq!(blocks, expected);
}

#[test]
fn the_ivrs_has_one_iommu_that_serves_each_function() {
    let ivrs = Ivrs::read(&table(include_bytes!("data/q35-amd/IVRS.dat"))).unwrap();
    let [iommu] = &ivrs.iommus[..] else { panic!("{ivrs:?}") };
    // Of both blocks the second has the features (kind 0x11).
    assert_eq!((iommu.id, iommu.capability, iommu.segment), (0x08, 0x40, 0));
    assert_eq!((iommu.registers, iommu.flags, iommu.features), (Hpa(0xfed8_0000), 0x11, Some(0x29d3)));
    let one = |id| Devices { first: id, last: id, alias: None, settings: 0 };
    let mut expected = [0x00, 0x08, 0x18, 0x20, 0x28, 0x30, 0xf8, 0xfa, 0xfb].map(one).to_vec();
    expected.insert(4, Devices { first: 0x100, last: 0x1ff, alias: None, settings: 0 });
    assert_eq!(iommu.devices, expected);
    let io_apic = SpecialDevice { what: Special::IoApic(0), id: 0xa0, settings: 0 };
    assert_eq!((&iommu.special[..], &iommu.named[..]), (&[io_apic][..], &[][..]));
    assert!(iommu.unclear.is_empty() && ivrs.reserved.is_empty());
    assert_eq!((iommu.id_of(0x30), iommu.id_of(0x1ab), iommu.id_of(0x38)), (Some(0x30), Some(0x1ab), None));
}

#[test]
fn the_dmar_has_one_iommu_and_its_scopes() {
    let dmar = Dmar::read(&table(include_bytes!("data/q35-intel/DMAR.dat"))).unwrap();
    assert_eq!((dmar.address_bits, dmar.remaps_interrupts, dmar.no_x2apic), (48, true, false));
    let [iommu] = &dmar.iommus[..] else { panic!("{dmar:?}") };
    assert_eq!((iommu.segment, iommu.registers), (0, Hpa(0xfed9_0000)));
    assert!(!iommu.includes_all);
    let of = |at: usize| {
        let scope = &iommu.scopes[at];
        (scope.kind, scope.bus, scope.path.clone())
    };
    let step = |device, function| vec![Step { device, function }];
    assert_eq!(of(0), (ScopeKind::IoApic(0), 0xff, step(0, 0)));
    assert_eq!(of(1), (ScopeKind::Function, 0, step(0, 0)));
    assert_eq!(of(3), (ScopeKind::Bridge, 0, step(4, 0)));
    assert_eq!(iommu.scopes.len(), 9);
    assert!(dmar.reserved.is_empty());
}
