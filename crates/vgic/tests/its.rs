//! The virtual ITS: what each command does.

mod common;

use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::CommandError;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{Intid, ItsDeviceId};
use common::commands::{DEVICE, bench, event, mapc, mapd, mapti, refused, run};
use common::{Bench, PRIORITY, TABLES, V0, V1, config};

fn listed(bench: &Bench, cpu: usize) -> Vec<u32> {
    bench.listed(cpu).iter().filter(|l| l.1).map(|l| l.0).collect()
}

#[test]
fn the_its_says_what_a_driver_needs() {
    let bench = Bench::new(config(2, vec![], 4));
    let typer = bench.its_read(8);
    assert_eq!(typer & 3, 1, "physical LPIs");
    assert_eq!(typer >> 8 & 0x1f, 4, "5 event id bits");
    assert_eq!(typer >> 13 & 0x1f, 4, "0x18 needs 5 device id bits");
    assert_eq!(bench.its_read(0x100) >> 48, 0x0107, "devices, 8 bytes");
    assert_eq!(bench.its_read(0x108) >> 48, 0x0407, "collections, 8 bytes");
    assert_eq!(bench.its_read(0x110), 0);
    for table in [0x100, 0x108] {
        assert_eq!(bench.its_read(table) & 0xffff_ffff_ffff, 2 << 8, "pages of 64 KiB, as on QEMU's board");
    }
    bench.its_write(0x100, u64::MAX);
    assert_eq!(bench.its_read(0x100) >> 62, 2, "valid, and never indirect");
    let gits = bench.gits.as_ref().unwrap();
    assert_eq!(gits.read(V0, 0xffe8, Width::B4), 0x3b);
    assert_eq!(gits.read(V0, 0, Width::B4), 1 << 31, "quiescent");
    gits.write(V0, 0, Width::B4, 1);
    assert_eq!(gits.read(V0, 0, Width::B4), 1);
}

#[test]
fn a_mapped_event_is_mapped_in_hardware_with_the_guests_configuration() {
    let bench = bench();
    let mapped = bench.machine.event(0x10, 1).unwrap();
    assert_eq!((mapped.lpi, mapped.vcpu, mapped.enabled, mapped.priority), (Intid(8193), V0, true, PRIORITY));
    assert_eq!(bench.machine.devices.lock().unwrap()[&0x10], 5);
}

#[test]
fn a_message_becomes_the_guests_lpi() {
    let mut bench = bench();
    assert!(bench.vgic.hardware_lpi(DEVICE, event(1)));
    bench.settle();
    assert_eq!(bench.acknowledge(0), Some(8193));
    bench.end(0);
    bench.settle();
    assert_eq!(bench.listed(0), []);
    assert!(!bench.vgic.hardware_lpi(DEVICE, event(2)), "not mapped");
    assert!(!bench.vgic.hardware_lpi(ItsDeviceId(8), event(0)), "not mapped");
    assert!(bench.vgic.inject(V1, Intid(8192)));
    bench.settle();
    assert_eq!(listed(&bench, 0), [8192]);
}

#[test]
fn a_redistributor_whose_lpis_are_disabled_ignores_messages() {
    let mut bench = bench();
    bench.gicr.write(V0, 0, Width::B4, 0);
    assert!(bench.vgic.hardware_lpi(DEVICE, event(0)));
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    bench.gicr.write(V0, 0, Width::B4, 1);
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    assert!(bench.vgic.hardware_lpi(DEVICE, event(0)));
    bench.cycle(0);
    assert_eq!(listed(&bench, 0), [8192]);
}

#[test]
fn movi_takes_what_is_pending_along() {
    let mut bench = bench();
    bench.vgic.hardware_lpi(DEVICE, event(0));
    bench.settle();
    run(&bench, &[Command::Movi { device: DEVICE, event: event(0), collection: 1 }]);
    bench.cycle(0);
    bench.settle();
    assert_eq!((listed(&bench, 0), listed(&bench, 1)), (vec![], vec![8192]));
    assert_eq!(bench.machine.event(0x10, 0).unwrap().vcpu, V1);
    assert_eq!(bench.machine.event(0x10, 1).unwrap().vcpu, V0);
}

#[test]
fn movall_and_mapc_move_all_lpis_of_a_vcpu() {
    let mut bench = bench();
    bench.vgic.hardware_lpi(DEVICE, event(0));
    bench.vgic.hardware_lpi(DEVICE, event(1));
    run(&bench, &[Command::Movall { from: 0, to: 1 }, mapc(0, 1)]);
    bench.cycle(0);
    bench.settle();
    assert_eq!((listed(&bench, 0), listed(&bench, 1)), (vec![], vec![8192, 8193]));
    assert_eq!(bench.machine.event(0x10, 1).unwrap().vcpu, V1);
}

#[test]
fn inv_and_invall_read_the_configuration_again() {
    let mut bench = bench();
    bench.set_property(8192, PRIORITY);
    bench.set_property(8193, PRIORITY);
    run(&bench, &[Command::Inv { device: DEVICE, event: event(0) }]);
    assert!(!bench.machine.event(0x10, 0).unwrap().enabled);
    assert!(bench.machine.event(0x10, 1).unwrap().enabled, "not yet read");
    bench.vgic.hardware_lpi(DEVICE, event(0));
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    run(&bench, &[Command::Invall { collection: 0 }]);
    assert!(!bench.machine.event(0x10, 1).unwrap().enabled);
    bench.set_property(8192, PRIORITY | 1);
    run(&bench, &[Command::Invall { collection: 0 }]);
    bench.cycle(0);
    assert_eq!(listed(&bench, 0), [8192], "it was pending all the time");
}

#[test]
fn discard_and_clear_drop_what_is_pending_even_from_a_list_register() {
    let mut bench = bench();
    bench.vgic.hardware_lpi(DEVICE, event(0));
    bench.vgic.hardware_lpi(DEVICE, event(1));
    bench.settle();
    assert_eq!(listed(&bench, 0), [8192, 8193]);
    run(
        &bench,
        &[
            Command::Discard { device: DEVICE, event: event(0) },
            Command::Clear { device: DEVICE, event: event(1) },
        ],
    );
    bench.cycle(0);
    assert_eq!(bench.listed(0), []);
    assert_eq!(bench.machine.event(0x10, 0), None);
    assert!(!bench.vgic.hardware_lpi(DEVICE, event(0)));
    assert!(bench.vgic.hardware_lpi(DEVICE, event(1)));
    // The place of the LPI that went serves another one.
    run(&bench, &[mapti(3, 8192, 1)]);
    bench.vgic.hardware_lpi(DEVICE, event(3));
    bench.settle();
    assert_eq!(listed(&bench, 1), [8192]);
}

#[test]
fn int_makes_the_lpi_pending_without_the_hardware_and_on_the_caller_without_a_kick() {
    let mut bench = bench();
    let int = Command::Int { device: DEVICE, event: event(1) };
    let kicked = |bench: &Bench| core::mem::take(&mut *bench.machine.kicked.lock().unwrap());
    bench.settle();
    // vCPU 0 writes the commands, and looks at its own state before it enters the guest again.
    run(&bench, &[int, Command::Sync { target: 0 }]);
    assert!(kicked(&bench).is_empty());
    bench.cycle(0);
    assert_eq!(listed(&bench, 0), [8193]);
    assert_eq!(bench.acknowledge(0), Some(8193));
    bench.end(0);
    bench.cycle(0);
    run(&bench, &[Command::Movi { device: DEVICE, event: event(1), collection: 1 }, int]);
    assert_eq!(kicked(&bench).into_iter().collect::<Vec<_>>(), [1]);
    bench.cycle(1);
    assert_eq!(listed(&bench, 1), [8193]);
    assert!(bench.machine.triggered.lock().unwrap().is_empty());
    assert_eq!(bench.errors(), 0);
}

#[test]
fn events_of_a_collection_that_is_mapped_later_come_alive_then() {
    let bench = Bench::started(config(2, vec![], 4));
    bench.start_its();
    run(&bench, &[mapd(DEVICE, 3), mapti(0, 8200, 1)]);
    assert_eq!(bench.machine.event(0x10, 0), None);
    run(&bench, &[mapc(1, 1)]);
    assert_eq!(bench.machine.event(0x10, 0).unwrap().vcpu, V1);
    run(&bench, &[Command::Mapc { collection: 1, target: 0, valid: false }]);
    assert_eq!(bench.machine.event(0x10, 0), None);
    assert_eq!(bench.errors(), 0);
}

#[test]
fn unmapping_a_device_unmaps_its_events() {
    let bench = bench();
    run(&bench, &[Command::Mapd { device: DEVICE, bits: 1, table: 0, valid: false }]);
    assert!(bench.machine.devices.lock().unwrap().is_empty());
    assert!(!bench.vgic.hardware_lpi(DEVICE, event(0)));
    assert!(!bench.vgic.inject_lpi(Intid(8192)));
    refused(&bench, mapti(0, 8192, 0), CommandError::DeviceNotMapped);
}

#[test]
fn an_invalid_device_table_or_a_reset_unmaps_everything() {
    let bench = bench();
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 0);
    assert!(!bench.vgic.hardware_lpi(DEVICE, event(0)), "the ITS is off");
    bench.its_write(0x100, 0);
    assert!(bench.machine.devices.lock().unwrap().is_empty());
    let bench = self::bench();
    bench.vgic.reset();
    assert!(bench.machine.devices.lock().unwrap().is_empty());
    assert_eq!(bench.its_read(0x80), 0);
}

#[test]
fn another_device_table_has_nothing_mapped() {
    let bench = bench();
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 0);
    bench.its_write(0x100, 1 << 63 | TABLES);
    assert_eq!(bench.machine.devices.lock().unwrap().len(), 1, "the same as before");
    bench.its_write(0x100, 1 << 63 | (TABLES + 0x1_0000));
    assert!(bench.machine.devices.lock().unwrap().is_empty());
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    refused(&bench, mapti(0, 8192, 0), CommandError::DeviceNotMapped);
}
