//! When BARs are in the second stage, and when a function masters the bus.

use core::sync::atomic::Ordering;
use std::vec;

use axvm_addr::Gpa;
use axvm_axdevice::Width;

use super::{ACCELERATOR, EDU, Guest, IGB, LOW_GPA, LOW_SIZE, NIC, NVME, WIDE, WIDE_SIZE};

const IO: u16 = 1;
const MEMORY: u16 = 2;
const MASTER: u16 = 4;

#[test]
fn memory_decode_maps_the_bars_where_the_guest_has_them_and_unmaps_them() {
    let guest = Guest::new();
    assert!(guest.mapped(NIC).is_empty());
    guest.w16(NIC, 4, MEMORY);
    let expected = guest.function(NIC).bars.iter().filter(|bar| bar.index != 2);
    let expected: vec::Vec<_> = expected.map(|bar| (bar.index, Guest::low(bar.address.unwrap()))).collect();
    assert_eq!(guest.mapped(NIC), expected);
    assert_eq!(guest.hardware(NIC, 4, Width::B2) as u16, MEMORY);
    guest.w16(NIC, 4, 0);
    assert!(guest.mapped(NIC).is_empty());
    assert_eq!(guest.hardware(NIC, 4, Width::B2), 0);
}

#[test]
fn a_bar_smaller_than_a_page_is_mapped_as_the_page_that_it_has_for_itself() {
    let guest = Guest::new();
    guest.w16(ACCELERATOR, 4, MEMORY);
    let mapped = guest.bridge.backend().mapped.lock().unwrap();
    let bar = guest.function(ACCELERATOR).bars.iter().find(|bar| bar.index == 4).unwrap();
    assert_eq!(bar.size, 0x200);
    let (_, hpa, size) = mapped[&(ACCELERATOR, 4)];
    assert_eq!((hpa, size), (bar.address.unwrap() + super::HPA_OFFSET, 0x1000));
}

#[test]
fn a_bar_moves_with_what_the_guest_writes() {
    let guest = Guest::new();
    guest.w16(EDU, 4, MEMORY);
    guest.w32(EDU, 0x10, 0x2000_0000);
    assert_eq!(guest.mapped(EDU), [(0, Guest::low(0x2000_0000))]);
    guest.w32(EDU, 0x10, 0x2010_1000);
    assert_eq!(guest.mapped(EDU), [(0, Guest::low(0x2010_0000))], "the low bits are the size's");
    guest.w16(NVME, 4, MEMORY);
    guest.w32(NVME, 0x14, 0x1);
    assert!(guest.mapped(NVME).is_empty(), "neither window has it");
    guest.w32(NVME, 0x14, 0);
    guest.w32(NVME, 0x10, 0x3000_0000);
    assert_eq!(guest.mapped(NVME), [(0, Guest::low(0x3000_0000))]);
}

#[test]
fn a_bar_outside_its_window_is_not_mapped() {
    let guest = Guest::new();
    guest.w16(EDU, 4, MEMORY);
    for address in [0, 0x0ff0_0000, 0x3ef0_0000, 0x3f00_0000, 0xfff0_0000] {
        guest.w32(EDU, 0x10, address);
        assert!(guest.mapped(EDU).is_empty(), "{address:#x}");
    }
    guest.w32(EDU, 0x10, 0x3ee0_0000);
    assert_eq!(guest.mapped(EDU).len(), 1);
}

#[test]
fn bars_on_top_of_each_other_are_both_unmapped_until_one_goes() {
    let guest = Guest::new();
    guest.w16(EDU, 4, MEMORY);
    guest.w16(NIC, 4, MEMORY);
    guest.w32(EDU, 0x10, 0x2000_0000);
    guest.w32(NIC, 0x10, 0x2002_0000);
    assert!(guest.mapped(EDU).is_empty());
    assert!(guest.mapped(NIC).iter().all(|bar| bar.0 != 0));
    guest.w16(NIC, 4, 0);
    assert_eq!(guest.mapped(EDU), [(0, Guest::low(0x2000_0000))]);
    guest.w32(NIC, 0x10, 0x3000_0000);
    guest.w16(NIC, 4, MEMORY);
    assert_eq!(guest.mapped(NIC).len(), 3);
}

#[test]
fn the_fault_path_learns_which_addresses_are_the_bus() {
    let guest = Guest::new();
    for address in [LOW_GPA, LOW_GPA + LOW_SIZE - 1, WIDE, WIDE + WIDE_SIZE - 1] {
        assert!(guest.bridge.claims(Gpa(address)));
    }
    for address in [LOW_GPA - 1, LOW_GPA + LOW_SIZE, WIDE - 1, WIDE + WIDE_SIZE, 0, u64::MAX] {
        assert!(!guest.bridge.claims(Gpa(address)));
    }
}

#[test]
fn ports_and_error_reports_stay_off_in_the_command_register() {
    let guest = Guest::new();
    guest.w16(IGB, 4, 0xffff);
    assert_eq!(guest.r16(IGB, 4), 0x0406);
    assert_eq!(guest.hardware(IGB, 4, Width::B2), 0x0406);
    assert_eq!(guest.bridge.refused(), 1);
    guest.w16(IGB, 4, IO);
    assert_eq!(guest.hardware(IGB, 4, Width::B2), 0);
}

#[test]
fn bus_mastering_needs_the_hosts_agreement() {
    let guest = Guest::new();
    guest.w16(NVME, 4, MASTER);
    assert_eq!(guest.masters(), [NVME]);
    assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MASTER);
    guest.w16(NVME, 4, 0);
    assert!(guest.masters().is_empty());
    guest.bridge.backend().stream_blocked.store(true, Ordering::Relaxed);
    guest.w16(NVME, 4, MASTER | MEMORY);
    assert_eq!(guest.r16(NVME, 4), MEMORY);
    assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MEMORY);
    assert_eq!(guest.bridge.refused(), 1);
}

#[test]
fn a_quarantined_function_masters_the_bus_only_after_a_restart() {
    let guest = Guest::new();
    guest.w16(NVME, 4, MASTER | MEMORY);
    guest.bridge.quarantine(NVME).unwrap();
    assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MEMORY);
    assert!(guest.masters().is_empty());
    guest.w16(NVME, 4, MASTER | MEMORY);
    assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MEMORY);
    assert_eq!(guest.r16(NVME, 4), MEMORY);
    guest.bridge.quarantine(NVME).unwrap();
    guest.bridge.reset_function(NVME).unwrap();
    assert!(guest.mapped(NVME).is_empty());
    guest.w16(NVME, 4, MASTER | MEMORY);
    assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MASTER | MEMORY);
    assert!(guest.bridge.quarantine(super::FOREIGN).is_err());
}

#[test]
fn a_function_with_a_bar_without_a_place_never_decodes() {
    let guest = Guest::with(|functions| functions[3].bars[0].address = None);
    guest.w16(EDU, 4, MEMORY | MASTER);
    assert_eq!(guest.hardware(EDU, 4, Width::B2) as u16, MASTER);
    assert_eq!(guest.r32(EDU, 0x10), 0);
    assert_eq!(guest.bridge.refused(), 1);
}

#[test]
fn a_quarantine_from_another_cpu_takes_effect_whatever_the_guest_is_doing() {
    for _ in 0..200 {
        let guest = Guest::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    guest.w16(NVME, 4, MASTER | MEMORY);
                    guest.w16(NVME, 4, MEMORY);
                    guest.w16(NVME, 4, MASTER | MEMORY);
                }
            });
            scope.spawn(|| guest.bridge.quarantine(NVME).unwrap());
        });
        assert_eq!(guest.hardware(NVME, 4, Width::B2) as u16, MEMORY);
        assert!(guest.masters().is_empty());
    }
}
