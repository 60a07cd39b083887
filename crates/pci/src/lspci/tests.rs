use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{Hpa, PciAddress, PciBuses, PciSpace, PciWindow, Span};
use proptest::prelude::*;

use super::{Lspci, Q35};
use crate::clock::Clock;
use crate::recorded::Recorded;
use crate::spec::express::PortType;
use crate::{HostBridge, ResetMethod, enumerate, groups};

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function).unwrap()
}

struct Still;

impl Clock for Still {
    fn now_us(&self) -> u64 {
        u64::MAX
    }

    fn delay_us(&self, _: u64) {}
}

#[test]
fn every_function_is_read_with_the_sizes_of_its_bars() {
    let read = Lspci::read(Q35).unwrap();
    assert_eq!(read.lacks, Vec::<alloc::string::String>::new());
    let addresses: Vec<_> = read.records.iter().map(|record| record.address).collect();
    let root = [(0, 0), (1, 0), (3, 0), (4, 0), (5, 0), (6, 0), (0x1f, 0), (0x1f, 2), (0x1f, 3)];
    let mut expected: Vec<_> = root.iter().map(|(device, function)| at(0, *device, *function)).collect();
    expected.push(at(1, 0, 0));
    assert_eq!(addresses, expected);
    let bars = |address| read.records.iter().find(|record| record.address == address).unwrap().bars;
    assert_eq!(bars(at(0, 3, 0)), [16 << 10, 0, 0, 0, 0, 0]);
    assert_eq!(bars(at(0, 4, 0)), [128 << 10, 128 << 10, 32, 16 << 10, 0, 0]);
    assert_eq!(bars(at(0, 0x1f, 2)), [0, 0, 0, 0, 32, 4096]);
    // Those of the igb's virtual functions are none of its own.
    assert_eq!(bars(at(1, 0, 0)), [128 << 10, 128 << 10, 32, 16 << 10, 0, 0]);
    // Conventional ones have no more than 256.
    let sizes: Vec<_> = read.records.iter().map(|record| record.config.len()).collect();
    assert_eq!(sizes, [256, 256, 512, 512, 512, 256, 256, 256, 256, 512]);
}

#[test]
fn enumeration_finds_in_it_what_the_machine_has() {
    let recorded = Recorded::new(Lspci::read(Q35).unwrap().records);
    let window = PciWindow {
        space: PciSpace::Memory32,
        prefetchable: false,
        pci: 0xc000_0000,
        cpu: Span::new(Hpa(0xc000_0000), 0x3000_0000).unwrap(),
    };
    let host = HostBridge { segment: 0, buses: PciBuses::new(0, 255), windows: vec![window] };
    let functions = enumerate(&recorded, &host, &Still);
    let groups = groups(&functions, &recorded);
    let of = |address| {
        let position = functions.iter().position(|function| function.address == address).unwrap();
        (&functions[position], groups[position].group)
    };
    let (nvme, nvme_group) = of(at(0, 3, 0));
    assert_eq!((nvme.vendor, nvme.class, nvme.msix.unwrap().vectors), (0x1b36, 0x01_0802, 65));
    assert_eq!(nvme.resets, [ResetMethod::FunctionLevel]);
    assert_eq!((nvme.bars[0].size, nvme.bars[0].address.is_some()), (16 << 10, true));
    let (port, _) = of(at(0, 5, 0));
    assert_eq!(port.port, Some(PortType::RootPort));
    let (igb, igb_group) = of(at(1, 0, 0));
    assert_eq!((igb.parent, igb.msix.unwrap().vectors), (Some(at(0, 5, 0)), 10));
    assert!(igb.resets.contains(&ResetMethod::FunctionLevel));
    // The functions of one device reach each other; those that are alone stand alone, behind a port with ACS too.
    assert_eq!(of(at(0, 0x1f, 0)).1, of(at(0, 0x1f, 2)).1);
    let alone = |group| groups.iter().filter(|member| member.group == group).count() == 1;
    assert!(alone(nvme_group) && alone(igb_group));
    assert!(functions.iter().all(|function| function.stuck.is_none()));
}

#[test]
fn segments_may_be_missing_and_those_that_config_space_has_not_are_passed_by() {
    let short = Q35.replace("0000:0", "0");
    assert_eq!(Lspci::read(&short), Lspci::read(Q35));
    let mut vmd = Q35.replace("0000:01:00.0", "10000:01:00.0");
    let read = Lspci::read(&vmd).unwrap();
    assert!(read.records.iter().all(|record| record.address.bus == 0) && read.records.len() == 9);
    vmd = Q35.replace("0000:01:00.0", "000a:01:00.0");
    assert_eq!(Lspci::read(&vmd).unwrap().records[9].address.segment, 10);
}

#[test]
fn what_a_text_lacks_is_said() {
    let without_sizes: alloc::string::String =
        Q35.lines().filter(|line| !line.contains("Region")).flat_map(|line| [line, "\n"]).collect();
    let read = Lspci::read(&without_sizes).unwrap();
    // The NVMe's BAR is above 4 GiB: its lower half is zero.
    assert_eq!(read.lacks.len(), 1);
    assert!(read.lacks[0].contains("of 7 functions"), "{}", read.lacks[0]);
    // What everybody may read: four rows.
    let is_further = |line: &&str| super::row(line).is_some_and(|(offset, _)| offset >= 64);
    let headers: alloc::string::String =
        Q35.lines().filter(|line| !is_further(line)).flat_map(|line| [line, "\n"]).collect();
    let read = Lspci::read(&headers).unwrap();
    assert!(read.records.iter().all(|record| record.config.len() == 64));
    assert!(read.lacks[0].contains("of 10 functions"), "{}", read.lacks[0]);
    for none in ["", "Nothing of the kind.\n", "00:1f.0 ISA bridge: Intel Corporation 82801IB\n"] {
        assert_eq!(Lspci::read(none), None);
    }
}

#[test]
fn a_function_that_did_not_answer_is_none() {
    let text = "00:02.0 0200: ffff:ffff (rev ff)\n00: ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff\n";
    assert_eq!(Lspci::read(text), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_not(
        lines in prop::collection::vec(
            prop_oneof![
                "[0-9a-f:. ]{0,60}",
                "[0-9a-f]{2}: ([0-9a-f]{2} ){15}[0-9a-f]{2}",
                "([0-9a-f]{1,5}:)?[0-9a-f]{2}:[0-9a-f]{2}\\.[0-9] x",
                "\tRegion [0-9]{1,3}: Memory at [0-9a-f]{1,16} \\[size=[0-9]{1,20}[KMGT]?\\]",
                any::<alloc::string::String>(),
            ],
            0..40,
        ),
    ) {
        if let Some(read) = Lspci::read(&lines.join("\n")) {
            for record in read.records {
                assert!(!record.config.is_empty() && record.config.len() <= 4096);
            }
        }
    }
}
