//! The virtual ITS: what is refused of commands, and what bounds them.

mod common;

use axvm_addr::Gpa;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{CommandError, Violation};
use axvm_vgic::{Intid, ItsDeviceId};
use common::commands::{DEVICE, bench, event, mapc, mapd, mapti, refused, run};
use common::{Bench, QUEUE, RAM, RAM_BYTES, V0, config};

#[test]
fn what_the_hypervisor_cannot_do_is_counted_apart_from_the_guests_mistakes() {
    let bench = bench();
    bench.machine.no_lpis.store(true, std::sync::atomic::Ordering::Relaxed);
    run(&bench, &[mapd(ItsDeviceId(8), 5), mapti(9, 27, 0)]);
    let statistics = bench.vgic.statistics();
    assert_eq!((statistics.failed_commands, statistics.command_errors), (1, 1));
}

#[test]
fn a_command_on_anothers_device_is_a_violation() {
    let bench = bench();
    let foreign = ItsDeviceId(0x11);
    for command in [
        mapd(foreign, 5),
        Command::Mapti { device: foreign, event: event(0), lpi: 8192, collection: 0 },
        Command::Int { device: foreign, event: event(0) },
        Command::Discard { device: foreign, event: event(0) },
    ] {
        refused(&bench, command, CommandError::ForeignDevice(foreign));
    }
    assert_eq!(*bench.machine.violations.lock().unwrap(), [Violation::ForeignItsDevice(foreign); 4]);
}

#[test]
fn each_field_of_a_command_has_its_bound() {
    let bench = bench();
    refused(&bench, mapd(DEVICE, 6), CommandError::TooManyEvents(6));
    let outside = RAM + RAM_BYTES as u64;
    let table = Command::Mapd { device: DEVICE, bits: 5, table: outside, valid: true };
    refused(&bench, table, CommandError::TableNotMemory(Gpa(outside)));
    refused(&bench, mapti(32, 8194, 0), CommandError::EventOutOfRange(event(32)));
    refused(&bench, mapti(u32::MAX, 8194, 0), CommandError::EventOutOfRange(event(u32::MAX)));
    refused(&bench, mapti(2, 8191, 0), CommandError::LpiOutOfRange(Intid(8191)));
    refused(&bench, mapti(2, 1 << 14, 0), CommandError::LpiOutOfRange(Intid(1 << 14)));
    refused(&bench, mapti(2, 27, 0), CommandError::LpiOutOfRange(Intid(27)));
    refused(&bench, mapti(2, 8194, 3), CommandError::CollectionOutOfRange(3));
    let mapi = Command::Mapi { device: DEVICE, event: event(3), collection: 0 };
    refused(&bench, mapi, CommandError::LpiOutOfRange(Intid(3)));
    refused(&bench, mapc(3, 0), CommandError::CollectionOutOfRange(3));
    refused(&bench, mapc(0, 2), CommandError::NoSuchRedistributor(2));
    refused(&bench, Command::Movall { from: 0, to: 9 }, CommandError::NoSuchRedistributor(9));
    refused(&bench, Command::Sync { target: 2 }, CommandError::NoSuchRedistributor(2));
    refused(&bench, Command::Invall { collection: 2 }, CommandError::CollectionNotMapped(2));
    let movi = Command::Movi { device: DEVICE, event: event(0), collection: 2 };
    refused(&bench, movi, CommandError::CollectionNotMapped(2));
    for command in [
        Command::Inv { device: DEVICE, event: event(9) },
        Command::Clear { device: DEVICE, event: event(9) },
        Command::Discard { device: DEVICE, event: event(9) },
        Command::Int { device: DEVICE, event: event(9) },
        Command::Movi { device: DEVICE, event: event(9), collection: 1 },
    ] {
        refused(&bench, command, CommandError::EventNotMapped(event(9)));
    }
    assert!(bench.vgic.hardware_lpi(DEVICE, event(0)), "what was mapped still is");
}

#[test]
fn the_guests_tables_bound_devices_and_collections() {
    let bench = bench();
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 0);
    bench.its_write(0x108, 0);
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    refused(&bench, mapc(0, 0), CommandError::CollectionOutOfRange(0));
}

#[test]
fn an_lpi_whose_configuration_is_not_in_memory_is_not_mapped() {
    let bench = Bench::started(config(1, vec![], 4));
    bench.gicr.write(V0, 0x70, Width::B8, 13);
    bench.start_its();
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.gicr.write(V0, 0x70, Width::B8, 0x1000_0000 | 13);
    bench.gicr.write(V0, 0, Width::B4, 1);
    run(&bench, &[mapc(0, 0), mapd(DEVICE, 5)]);
    refused(&bench, mapti(0, 8192, 0), CommandError::TableNotMemory(Gpa(0x1000_0000)));
    assert_eq!(bench.machine.event(0x10, 0), None);
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.gicr.write(V0, 0x70, Width::B8, common::PROPERTIES | 13);
    run(&bench, &[mapti(0, 8192, 0)]);
    assert_eq!(bench.errors(), 1);
    assert_ne!(bench.machine.event(0x10, 0), None);
}

#[test]
fn a_queue_that_is_not_memory_is_skipped() {
    let bench = Bench::started(config(1, vec![], 4));
    bench.its_write(0x80, 1 << 63 | 0x1000_0000);
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    bench.its_write(0x88, 0x40);
    assert_eq!(bench.its_read(0x90), 0x40);
    assert_eq!(bench.errors(), 2);
    bench.its_write(0x88, 0x2000);
    assert_eq!(bench.its_read(0x88), 0x40, "outside the queue");
}

#[test]
fn a_full_queue_is_worked_off_in_bounded_pieces() {
    let mut bench = Bench::started(config(1, vec![], 4));
    bench.its_write(0x80, 1 << 63 | QUEUE | 0xff);
    bench.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    bench.its_write(0x88, 0xf_ffe0);
    let first = bench.errors();
    assert!(first < 4096, "one exit did {first} commands");
    for _ in 0..4 {
        bench.cycle(0);
    }
    assert!(bench.errors() > first, "entries go on with it");
    for _ in 0..64 {
        bench.its_read(0x90);
    }
    assert_eq!(bench.its_read(0x90), 0xf_ffe0, "a waiting guest sees it end");
    assert_eq!(bench.errors(), 32767);
}

#[test]
fn a_processor_cannot_send_messages() {
    let bench = bench();
    bench.gits.as_ref().unwrap().write(V0, 0x1_0040, Width::B4, 0);
    assert_eq!(bench.vgic.statistics().translater_writes, 1);
    assert!(!bench.vgic.has_pending(V0));
}
