//! Power states and resets that the guest asks for.

use core::sync::atomic::Ordering;

use axvm_axdevice::Width;
use axvm_pci::spec::{capability, express, msi, power};

use super::{Guest, IGB, NIC, NVME};

const D3: u16 = power::D3HOT;

fn power_control(guest: &Guest, function: axvm_addr::PciAddress) -> u16 {
    guest.capability(function, capability::POWER).unwrap() + power::CONTROL
}

fn initiate(guest: &Guest, function: axvm_addr::PciAddress) {
    let control = guest.capability(function, capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let before = guest.r16(function, control);
    guest.w16(function, control, before | 0x8000);
}

/// All hardware BARs are where enumeration put them.
fn hardware_bars_are_in_place(guest: &Guest, function: axvm_addr::PciAddress) {
    for bar in &guest.function(function).bars {
        let low = guest.hardware(function, 0x10 + u16::from(bar.index) * 4, Width::B4);
        assert_eq!(u64::from(low), bar.address.unwrap() & 0xffff_ffff | u64::from(bar.kind.flags()));
    }
}

#[test]
fn in_d3hot_the_bars_are_unmapped_and_come_back_where_the_function_keeps_its_state() {
    let guest = Guest::new();
    let control = power_control(&guest, NVME);
    guest.w16(NVME, 4, 0x6);
    let mapped = guest.mapped(NVME);
    guest.w16(NVME, control, D3);
    assert_eq!(guest.hardware(NVME, control, Width::B2) as u16 & 3, D3);
    assert!(guest.mapped(NVME).is_empty());
    assert_eq!(guest.r16(NVME, control) & 3, D3);
    guest.w16(NVME, 4, 0x4);
    guest.w16(NVME, 4, 0x6);
    assert!(guest.mapped(NVME).is_empty(), "memory decode doesn't wake it");
    guest.w16(NVME, control, 0);
    assert_eq!(guest.mapped(NVME), mapped);
    assert_eq!(guest.r16(NVME, 4), 0x6);
    assert!(guest.bridge.backend().bus.microseconds() >= 20_000, "10 ms each way");
}

#[test]
fn a_function_that_loses_its_state_in_d3hot_is_as_after_a_reset_with_its_bars_in_place() {
    let guest = Guest::new();
    let control = power_control(&guest, NIC);
    guest.w16(NIC, 4, 0x6);
    guest.write(NIC, 0x3c, Width::B1, 0x20);
    guest.w16(NIC, control, D3);
    guest.w16(NIC, control, 0);
    assert_eq!(guest.resets(NIC), 1);
    assert_eq!(guest.r16(NIC, 4), 0);
    assert_eq!(guest.hardware(NIC, 4, Width::B2), 0);
    assert!(guest.mapped(NIC).is_empty());
    assert!(guest.masters().is_empty());
    assert_eq!(guest.r32(NIC, 0x10), 0);
    assert_eq!(guest.read(NIC, 0x3c, Width::B1), 0);
    hardware_bars_are_in_place(&guest, NIC);
    guest.w32(NIC, 0x10, 0x2000_0000);
    guest.w16(NIC, 4, 0x2);
    assert_eq!(guest.mapped(NIC), [(0, Guest::low(0x2000_0000))]);
}

#[test]
fn power_states_that_are_not_shown_are_refused() {
    let guest = Guest::new();
    let control = power_control(&guest, NIC);
    assert_eq!(guest.r16(NIC, control - 2) & 0xfe00, 0, "no D1, D2 or PME");
    for state in [1, 2] {
        guest.w16(NIC, control, state);
        assert_eq!(guest.r16(NIC, control) & 3, 0);
    }
    guest.w16(NIC, control, power::PME_ENABLE);
    assert_eq!(guest.hardware(NIC, control, Width::B2) as u16 & power::PME_ENABLE, 0);
    assert_eq!(guest.bridge.refused(), 3);
}

#[test]
fn a_function_level_reset_is_performed_and_leaves_the_bars_in_place() {
    let guest = Guest::new();
    for function in [NVME, IGB] {
        let msix = guest.capability(function, capability::MSIX).unwrap() + msi::CONTROL;
        guest.w16(function, 4, 0x6);
        guest.w16(function, msix, guest.r16(function, msix) | msi::MSIX_ENABLE);
        initiate(&guest, function);
        assert_eq!(guest.resets(function), 1);
        assert!(guest.mapped(function).is_empty());
        assert!(!guest.masters().contains(&function));
        assert_eq!(guest.r16(function, 4), 0);
        assert_eq!(guest.hardware(function, 4, Width::B2), 0);
        assert_eq!(guest.r16(function, msix) & msi::MSIX_ENABLE, 0);
        hardware_bars_are_in_place(&guest, function);
    }
    assert_eq!(guest.bridge.refused(), 0);
}

#[test]
fn a_byte_write_to_the_reset_bit_resets_too() {
    let guest = Guest::new();
    let control = guest.capability(NVME, capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    guest.write(NVME, control + 1, Width::B1, 0x80);
    assert_eq!(guest.resets(NVME), 1);
    guest.write(NVME, control, Width::B1, 0x80);
    assert_eq!(guest.resets(NVME), 1, "that is the other byte");
}

#[test]
fn a_function_that_does_not_come_back_is_gone_for_the_guest() {
    let guest = Guest::new();
    guest.w16(NVME, 4, 0x6);
    guest.bridge.backend().bus.function(NVME, |fake| fake.silence_us = 10_000_000);
    initiate(&guest, NVME);
    let waited = guest.bridge.backend().bus.microseconds();
    assert!(waited < 1_500_000, "{waited}");
    assert_eq!(guest.r32(NVME, 0), u32::MAX);
    guest.w16(NVME, 4, 0x6);
    assert!(guest.mapped(NVME).is_empty());
    assert!(guest.masters().is_empty());
    assert!(guest.bridge.reset_function(NVME).is_err());
    let bus = &guest.bridge.backend().bus;
    bus.delay(10_000_000);
    bus.function(NVME, |fake| fake.silence_us = 0);
    guest.bridge.reset_function(NVME).unwrap();
    assert_eq!(guest.r32(NVME, 0), 0x0010_1b36);
}

#[test]
fn a_function_that_comes_back_with_other_bars_is_gone_for_the_guest() {
    // By its reset, and by way of D3hot where that is one.
    for function in [NVME, NIC] {
        let guest = Guest::new();
        guest.w16(function, 4, 0x6);
        let bus = &guest.bridge.backend().bus;
        bus.function(function, |fake| {
            fake.on_reset = Some(|fake| fake.allow(0x10, Width::B4, 0xfffe_0000 << 1))
        });
        if function == NVME {
            initiate(&guest, function);
        } else {
            guest.w16(function, power_control(&guest, function), D3);
            guest.w16(function, power_control(&guest, function), 0);
        }
        assert_eq!(guest.resets(function), 1);
        assert_eq!(guest.r32(function, 0), u32::MAX);
        guest.w16(function, 4, 0x6);
        assert!(guest.mapped(function).is_empty());
        assert!(guest.masters().is_empty());
    }
}

#[test]
fn a_restart_shows_the_function_as_it_was_at_first() {
    let guest = Guest::new();
    for function in [NIC, NVME, IGB, super::EDU] {
        let first = guest.r32(function, 0x10);
        guest.w32(function, 0x10, 0x2000_0000);
        guest.w16(function, 4, 0x6);
        if let Some(offset) = guest.capability(function, capability::POWER) {
            guest.w16(function, offset + power::CONTROL, D3);
        }
        guest.bridge.reset_function(function).unwrap();
        assert_eq!(guest.r32(function, 0x10), first);
        assert_eq!(guest.r16(function, 4), 0);
        hardware_bars_are_in_place(&guest, function);
        guest.w16(function, 4, 0x6);
        assert!(!guest.mapped(function).is_empty());
        guest.w16(function, 4, 0);
    }
}

#[test]
fn when_the_vm_stops_only_the_reset_that_is_under_way_is_waited_for() {
    let guest = Guest::new();
    let control = guest.capability(NVME, capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let power = power_control(&guest, NVME);
    let go = guest.r16(NVME, control) | 0x8000;
    let backend = guest.bridge.backend();
    backend.bus.function(NVME, |fake| fake.silence_us = 900_000);
    backend.stops.store(true, Ordering::SeqCst);
    // Whichever is first: the others wait for it, or come after the stop.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| guest.w16(NVME, control, go));
        }
    });
    assert_eq!(guest.resets(NVME), 1);
    assert!(backend.bus.microseconds() < 1_300_000, "{}", backend.bus.microseconds());
    // Nor is anything else carried out.
    backend.bus.take_writes();
    guest.w16(NVME, 4, 0x6);
    guest.w16(NVME, power, D3);
    assert_eq!(guest.r32(NVME, 0), u32::MAX);
    assert_eq!(backend.bus.take_writes(), []);
    assert!(guest.masters().is_empty() && guest.mapped(NVME).is_empty());
    // A new start is.
    backend.stops.store(false, Ordering::SeqCst);
    backend.stopping.store(false, Ordering::SeqCst);
    guest.bridge.reset_function(NVME).unwrap();
    assert_eq!(guest.r32(NVME, 0), 0x0010_1b36);
}
