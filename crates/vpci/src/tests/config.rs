//! Which reads pass, and which writes.

use std::vec;
use std::vec::Vec;

use axvm_addr::{PciAddress, PciBuses, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_pci::fake::Away;
use axvm_pci::spec::{capability, express, extended, header, msi, power};
use axvm_pci::{BarKind, ConfigSpace, ResetMethod};

use super::{ACCELERATOR, EDU, FOREIGN, Fake, Guest, IGB, NIC, NVME, machine, windows};
use crate::{AssignedFunction, BridgeConfig, BridgeError, HostBridge};

#[test]
fn only_the_vms_own_functions_answer() {
    let guest = Guest::new();
    let found: Vec<PciAddress> = (0..512)
        .map(|id| PciAddress::from_requester_id(0, id))
        .filter(|&address| guest.r16(address, 0) != 0xffff)
        .collect();
    assert_eq!(found, [NIC, NVME, IGB, EDU, ACCELERATOR]);
    assert_eq!(guest.bridge.refused(), 0, "looking is no offence");
    let before = guest.hardware(FOREIGN, 4, Width::B4);
    guest.w32(FOREIGN, 4, 0xffff_ffff);
    assert_eq!(guest.hardware(FOREIGN, 4, Width::B4), before);
    assert_eq!(guest.bridge.refused(), 1);
    let end = guest.bridge.ecam_size();
    assert_eq!(end, 0x20_0000);
    for offset in [end, end + 4, u64::MAX, 1 << 28 | 2 << 15] {
        assert_eq!(guest.bridge.read(VcpuId(0), offset, Width::B4), 0xffff_ffff);
        guest.bridge.write(VcpuId(0), offset, Width::B4, 0);
    }
}

#[test]
fn the_header_reads_as_the_function_has_it_without_ports_and_rom() {
    let guest = Guest::new();
    assert_eq!(guest.r32(NIC, 0), 0x10d3_8086);
    assert_eq!(guest.r32(NIC, 8), 0x0200_0002);
    assert_eq!(guest.read(NIC, 0x3d, Width::B1), 1);
    assert_eq!(guest.r32(NIC, 0x18), 0, "the I/O BAR");
    assert_eq!(guest.r32(NIC, 0x30), 0, "the ROM");
    for register in [0x18, 0x30] {
        guest.w32(NIC, register, u32::MAX);
        assert_eq!(guest.r32(NIC, register), 0);
        assert_eq!(guest.hardware(NIC, 0x30, Width::B4), 0);
    }
    assert_eq!(guest.r16(EDU, 6) & 0x10, 0x10);
}

#[test]
fn a_line_that_is_withheld_stays_off_and_has_no_pin() {
    let guest = Guest::new();
    let off = |function| guest.hardware(function, 4, Width::B2) >> 10 & 1;
    for (function, pin) in [(NVME, 1), (ACCELERATOR, 0)] {
        assert_eq!(guest.read(function, 0x3d, Width::B1), pin);
        assert_eq!(off(function), 1 - pin, "as it is handed over");
        for command in [0x402, 0x2, 0x406, 0] {
            guest.w16(function, 4, command);
            assert_eq!(u32::from(guest.r16(function, 4)), u32::from(command), "as on any function");
            assert_eq!(off(function), if pin == 0 { 1 } else { u32::from(command) >> 10 & 1 });
        }
        guest.bridge.quarantine(function).unwrap();
        assert_eq!(off(function), 1 - pin);
        guest.bridge.reset_function(function).unwrap();
        assert_eq!(off(function), 1 - pin, "after a reset");
    }
}

#[test]
fn bars_are_sized_as_a_driver_does_it_and_the_hardware_never_moves() {
    let guest = Guest::new();
    for function in &guest.functions {
        for bar in function.bars.iter().filter(|bar| bar.kind != BarKind::Io) {
            let offset = 0x10 + u16::from(bar.index) * 4;
            let before = guest.hardware(function.address, offset, Width::B4);
            assert_eq!(guest.r32(function.address, offset), before);
            guest.w32(function.address, offset, u32::MAX);
            let low = guest.r32(function.address, offset);
            assert_eq!(low & 0xf, bar.kind.flags());
            let mut mask = u64::from(low & !0xf) | 0xffff_ffff_0000_0000;
            if bar.kind.is_wide() {
                guest.w32(function.address, offset + 4, u32::MAX);
                mask = u64::from(low & !0xf) | u64::from(guest.r32(function.address, offset + 4)) << 32;
            }
            assert_eq!(mask.wrapping_neg(), bar.size.max(0x1000), "{} BAR {}", function.address, bar.index);
            assert_eq!(guest.hardware(function.address, offset, Width::B4), before);
            guest.w32(function.address, offset, before);
            assert_eq!(guest.r32(function.address, offset), before);
        }
    }
    assert_eq!(guest.bridge.refused(), 0);
}

#[test]
fn what_the_hypervisor_keeps_is_not_in_the_lists() {
    let guest = Guest::new();
    assert!(guest.extended(IGB).is_empty());
    assert_eq!(guest.extended(NIC), [extended::SERIAL_NUMBER], "reached past a hidden first one");
    assert_eq!(guest.extended(ACCELERATOR), [extended::VENDOR]);
    let ids: Vec<u8> = guest.capabilities(ACCELERATOR).iter().map(|found| found.0).collect();
    assert_eq!(ids, [capability::VENDOR, capability::EXPRESS, capability::POWER], "0x7e is unknown");
    let ids: Vec<u8> = guest.capabilities(IGB).iter().map(|found| found.0).collect();
    assert_eq!(ids, [capability::POWER, capability::MSI, capability::MSIX, capability::EXPRESS]);
    let hidden = guest.function(ACCELERATOR).capability(0x7e).unwrap();
    let sriov = guest.function(IGB).extended_capability(extended::SRIOV).unwrap();
    for (function, offset) in [(ACCELERATOR, hidden + 4), (IGB, sriov + extended::SRIOV_CONTROL)] {
        let before = guest.hardware(function, offset, Width::B2);
        guest.w16(function, offset, 0x9);
        assert_eq!(guest.hardware(function, offset, Width::B2), before);
        assert_eq!(guest.r16(function, offset), 0);
    }
    assert_eq!(guest.bridge.refused(), 2);
}

#[test]
fn a_vendors_capability_can_be_read_and_not_written() {
    let guest = Guest::new();
    let offset = guest.capability(ACCELERATOR, capability::VENDOR).unwrap();
    assert_eq!(guest.read(ACCELERATOR, offset + 2, Width::B1), 0x14);
    guest.w32(ACCELERATOR, offset + 4, 0x1234_5678);
    assert_eq!(guest.hardware(ACCELERATOR, offset + 4, Width::B4), 0);
    assert_eq!(guest.bridge.refused(), 1);
}

#[test]
fn messages_are_the_guests_to_set_up() {
    let guest = Guest::new();
    let offset = guest.capability(IGB, capability::MSI).unwrap();
    guest.w32(IGB, offset + 4, 0x0809_0040);
    guest.w32(IGB, offset + 8, 0x1);
    guest.w16(IGB, offset + 12, 0x55);
    guest.w32(IGB, offset + 16, 1);
    let control = guest.r16(IGB, offset + msi::CONTROL);
    guest.w16(IGB, offset + msi::CONTROL, control | msi::MSI_ENABLE);
    assert_eq!(guest.hardware(IGB, offset + 4, Width::B4), 0x0809_0040);
    assert_eq!(guest.hardware(IGB, offset + 12, Width::B2), 0x55);
    assert_eq!(guest.hardware(IGB, offset + 16, Width::B4), 1);
    assert_eq!(guest.hardware(IGB, offset + msi::CONTROL, Width::B2) & 1, 1);
    assert_eq!(guest.bridge.refused(), 0);
    guest.w16(IGB, offset + msi::CONTROL, control | 1 << 4);
    assert_eq!(guest.hardware(IGB, offset + msi::CONTROL, Width::B2) & 0x70, 0, "it has one vector, not two");
    assert_eq!(guest.bridge.refused(), 1);
    let offset = guest.capability(NVME, capability::MSIX).unwrap();
    assert_eq!(guest.r32(NVME, offset + msi::MSIX_TABLE), 0x2000);
    let control = guest.r16(NVME, offset + msi::CONTROL);
    guest.w16(NVME, offset + msi::CONTROL, control | msi::MSIX_ENABLE | msi::MSIX_MASK_ALL);
    assert_eq!(guest.hardware(NVME, offset + msi::CONTROL, Width::B2), 0xc040);
    guest.w32(NVME, offset + msi::MSIX_TABLE, 0);
    assert_eq!(guest.hardware(NVME, offset + msi::MSIX_TABLE, Width::B4), 0x2000);
}

#[test]
fn a_driver_can_turn_link_power_saving_off_and_not_on() {
    let guest = Guest::new();
    let link = guest.capability(NIC, capability::EXPRESS).unwrap() + express::LINK_CONTROL;
    guest.bridge.backend().bus.write(NIC, link, Width::B2, 0x0143);
    guest.w16(NIC, link, 0x0040);
    assert_eq!(guest.hardware(NIC, link, Width::B2), 0x0040);
    assert_eq!(guest.bridge.refused(), 0);
    guest.w16(NIC, link, 0x0043);
    assert_eq!(guest.hardware(NIC, link, Width::B2), 0x0040);
    assert_eq!(guest.bridge.refused(), 1);
}

#[test]
fn the_payload_size_and_error_reporting_stay_the_hypervisors() {
    let guest = Guest::new();
    let control = guest.capability(NVME, capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let before = guest.r16(NVME, control);
    guest.w16(NVME, control, 0x5000 | 0x00ef);
    assert_eq!(guest.hardware(NVME, control, Width::B2) as u16, before & !0x7810 | 0x5000);
    assert_eq!(guest.bridge.refused(), 1);
    guest.w16(NVME, control, before);
    assert_eq!(guest.hardware(NVME, control, Width::B2) as u16, before);
    assert_eq!(guest.bridge.refused(), 1, "what was read may be written back");
}

#[test]
fn error_bits_are_cleared_by_ones_and_by_nothing_else() {
    let guest = Guest::new();
    let status = guest.capability(NVME, capability::EXPRESS).unwrap() + express::DEVICE_STATUS;
    let bus = &guest.bridge.backend().bus;
    bus.function(NVME, |fake| fake.set(status, Width::B2, 0xf));
    let control = guest.r16(NVME, status - 2);
    guest.w16(NVME, status - 2, control);
    assert_eq!(guest.hardware(NVME, status, Width::B2), 0xf, "a write to device control leaves them");
    guest.w32(NVME, status - 2, u32::from(control) | 0x3 << 16);
    assert_eq!(guest.hardware(NVME, status, Width::B2), 0xc);
    let power = guest.capability(NIC, capability::POWER).unwrap() + 4;
    bus.function(NIC, |fake| fake.set(power, Width::B2, 0x8000));
    guest.w16(NIC, power, 0);
    assert_eq!(guest.hardware(NIC, power, Width::B2), 0x8000);
    guest.w16(NIC, power, 0x8000);
    assert_eq!(guest.hardware(NIC, power, Width::B2), 0);
}

#[test]
fn the_interrupt_line_is_the_guests_own_and_byte_registers_pass() {
    let guest = Guest::new();
    guest.write(NIC, 0x3c, Width::B1, 0x2a);
    assert_eq!(guest.r16(NIC, 0x3c), 0x012a);
    assert_eq!(guest.hardware(NIC, 0x3c, Width::B1), 0);
    guest.write(NIC, 0x0c, Width::B1, 0x10);
    guest.write(NIC, 0x0d, Width::B1, 0x40);
    assert_eq!(guest.hardware(NIC, 0x0c, Width::B4), 0x4010);
    assert_eq!(guest.bridge.refused(), 0);
    guest.write(NIC, 0x0f, Width::B1, 0x40);
    assert_eq!(guest.bridge.refused(), 1, "the built-in self test");
}

#[test]
fn crooked_accesses_read_all_ones_and_write_nothing() {
    let guest = Guest::new();
    guest.bridge.backend().bus.take_writes();
    let offset = |register: u64| u64::from(NIC.requester_id()) << 12 | register;
    assert_eq!(guest.bridge.read(VcpuId(0), offset(1), Width::B2), 0xffff);
    assert_eq!(guest.bridge.read(VcpuId(0), offset(8), Width::B8), u64::MAX);
    guest.bridge.write(VcpuId(0), offset(5), Width::B4, 0xffff_ffff);
    guest.bridge.write(VcpuId(0), offset(0), Width::B8, u64::MAX);
    assert!(guest.bridge.backend().bus.take_writes().is_empty());
    assert_eq!(guest.bridge.refused(), 4);
    assert_eq!(guest.bridge.accesses(NIC), Some(4));
    assert_eq!(guest.bridge.accesses(FOREIGN), None);
}

#[test]
fn a_reset_that_the_function_lacks_is_not_shown() {
    let guest = Guest::with(|functions| functions.iter_mut().for_each(|function| function.resets.clear()));
    let offset = guest.capability(NVME, capability::EXPRESS).unwrap();
    assert_eq!(guest.r32(NVME, offset + express::DEVICE_CAPABILITIES) & express::FLR_CAPABLE, 0);
    guest.w16(NVME, offset + express::DEVICE_CONTROL, 0x8000);
    assert_eq!(guest.resets(NVME), 0);
    assert!(guest.bridge.refused() > 0);
    let shown = Guest::new();
    assert!(shown.function(NVME).resets.contains(&ResetMethod::FunctionLevel));
    assert_ne!(shown.r32(NVME, offset + express::DEVICE_CAPABILITIES) & express::FLR_CAPABLE, 0);
}

#[test]
fn a_bridge_that_cannot_be_is_refused_with_the_reason() {
    let make = |change: fn(&mut BridgeConfig)| {
        let (bus, functions) = machine();
        let assign = |function: axvm_pci::Function| AssignedFunction {
            shown: function.address,
            function,
            bars: vec![],
            ports: vec![],
            intx: true,
            line: 0,
        };
        let functions = functions.into_iter().map(assign).collect();
        let mut config =
            BridgeConfig { segment: 0, buses: PciBuses::new(0, 0), windows: windows(), functions };
        change(&mut config);
        let backend = Fake::new(bus);
        HostBridge::new(config, backend).map(|_| ())
    };
    assert_eq!(make(|_| ()), Ok(()));
    let twice = make(|config| config.functions.push(config.functions[1].clone()));
    assert_eq!(twice, Err(BridgeError::Twice(NVME)));
    let bridge = make(|config| config.functions[0].function.bridge = true);
    assert_eq!(bridge, Err(BridgeError::IsBridge(NIC)));
    let elsewhere = make(|config| config.segment = 1);
    assert!(matches!(elsewhere, Err(BridgeError::OutOfRange { function: NIC, segment: 1, .. })));
    let overlap = make(|config| config.windows[1].pci = config.windows[0].pci + 0x1000);
    assert!(matches!(overlap, Err(BridgeError::Window(_))));
}

/// What a root port makes up for a function in a reset of its own: nobody is there, or try again (PCIe 2.3.2).
const AWAY: [u32; 2] = [u32::MAX, 0xffff_0001];

#[test]
fn of_a_function_that_does_not_answer_reads_nothing_is_written_back() {
    for answer in AWAY {
        // It may be back at the very next read.
        for reads in [1, 2, 3, u32::MAX] {
            let guest = Guest::new();
            let bus = &guest.bridge.backend().bus;
            let express = guest.capability(NVME, capability::EXPRESS).unwrap();
            let of = |id, register| guest.capability(NVME, id).unwrap() + register;
            let registers = [
                (express + express::DEVICE_CONTROL, 0x0010),
                (express + express::DEVICE_STATUS, 0x000f),
                (express + express::LINK_CONTROL, 0),
                (express + express::DEVICE_CONTROL_2, 5),
                (of(capability::MSIX, msi::CONTROL), msi::MSIX_ENABLE),
                (of(capability::POWER, power::CONTROL), power::D3HOT),
                (header::STATUS, 0xf900),
            ];
            for (offset, value) in registers {
                // No BAR is mapped, for which the backend would read too.
                guest.w16(NVME, 4, 0x4);
                let before = guest.hardware(NVME, offset & !3, Width::B4);
                let refused = guest.bridge.refused();
                bus.function(NVME, |fake| fake.away = Some(Away { answer, reads }));
                guest.w16(NVME, offset, value);
                bus.function(NVME, |fake| fake.away = None);
                assert_eq!(guest.hardware(NVME, offset & !3, Width::B4), before, "{offset:#x}");
                assert!(guest.bridge.refused() > refused, "{offset:#x}");
            }
            assert_eq!(guest.resets(NVME), 0);
            assert_eq!(guest.r16(NVME, of(capability::POWER, power::CONTROL)) & 3, 0);
        }
    }
}

#[test]
fn a_power_state_that_could_not_be_written_is_not_taken_for_changed() {
    let guest = Guest::new();
    let control = guest.capability(NIC, capability::POWER).unwrap() + power::CONTROL;
    guest.w16(NIC, 4, 0x6);
    let mapped = guest.mapped(NIC);
    let away = |reads| {
        let away = Some(Away { answer: u32::MAX, reads });
        guest.bridge.backend().bus.function(NIC, |fake| fake.away = away);
    };
    let back = || guest.bridge.backend().bus.function(NIC, |fake| fake.away = None);
    away(u32::MAX);
    guest.w16(NIC, control, power::D3HOT);
    back();
    assert_eq!(guest.mapped(NIC), mapped);
    assert_eq!(guest.hardware(NIC, control, Width::B2), 0);
    guest.w16(NIC, control, power::D3HOT);
    assert_eq!(guest.mapped(NIC), []);
    // All ones say, too, that it keeps its state on the way back, which this one doesn't.
    away(1);
    guest.w16(NIC, control, 0);
    assert_eq!(guest.mapped(NIC), []);
    assert_eq!(guest.hardware(NIC, control, Width::B2) as u16 & 3, power::D3HOT);
    guest.w16(NIC, control, 0);
    assert_eq!((guest.resets(NIC), guest.r16(NIC, 4)), (1, 0));
}

#[test]
fn a_reset_is_never_initiated_by_a_write_back_whatever_the_control_register_reads() {
    let guest = Guest::new();
    let control = guest.capability(NVME, capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let bus = &guest.bridge.backend().bus;
    bus.function(NVME, |fake| fake.away = Some(Away { answer: 0xdead_beef, reads: 1 }));
    guest.w16(NVME, control, 0x10);
    assert_eq!(guest.resets(NVME), 0);
}

#[test]
fn a_mask_of_all_ones_is_a_value_like_any_other() {
    let guest = Guest::new();
    let (function, at) = [NIC, IGB]
        .into_iter()
        .find_map(|function| {
            let offset = guest.capability(function, capability::MSI)?;
            let layout = msi::MsiLayout::new(guest.r16(function, offset + msi::CONTROL));
            Some((function, offset + layout.mask?))
        })
        .unwrap();
    guest.w32(function, at, u32::MAX);
    assert_eq!(guest.hardware(function, at, Width::B4), u32::MAX);
    guest.write(function, at, Width::B1, 0);
    assert_eq!(guest.hardware(function, at, Width::B4), 0xffff_ff00);
}
