//! The virtual ITS: what each command does, what is refused, and how it compares with a map.

mod common;

use std::collections::BTreeMap;

use axvm_addr::{Gpa, Intid, ItsDeviceId, ItsEventId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{Backend, CommandError, Violation};
use common::{Bench, PRIORITY, QUEUE, RAM, RAM_BYTES, TABLES, V0, V1, config};
use proptest::prelude::*;

const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
const ITT: u64 = TABLES + 0x2000;

fn event(number: u32) -> ItsEventId {
    ItsEventId(number)
}

fn mapd(device: ItsDeviceId, bits: u32) -> Command {
    Command::Mapd { device, bits, table: ITT, valid: true }
}

fn mapc(collection: u16, target: u64) -> Command {
    Command::Mapc { collection, target, valid: true }
}

fn mapti(number: u32, lpi: u32, collection: u16) -> Command {
    Command::Mapti { device: DEVICE, event: event(number), lpi, collection }
}

fn run(bench: &Bench, commands: &[Command]) {
    for command in commands {
        bench.command(command.encode());
    }
}

/// Two vCPUs with a collection each, and one device with two enabled LPIs on vCPU 0.
fn bench() -> Bench {
    let bench = Bench::started(config(2, vec![], 4));
    bench.start_its();
    bench.set_property(8192, PRIORITY | 1);
    bench.set_property(8193, PRIORITY | 1);
    run(&bench, &[mapc(0, 0), mapc(1, 1), mapd(DEVICE, 5), mapti(0, 8192, 0), mapti(1, 8193, 0)]);
    assert_eq!(bench.vgic.statistics().last_command_error, None);
    bench
}

fn listed(bench: &Bench, cpu: usize) -> Vec<u32> {
    bench.listed(cpu).iter().filter(|l| l.1).map(|l| l.0).collect()
}

fn refused(bench: &Bench, command: Command, why: CommandError) {
    let before = bench.errors();
    run(bench, &[command]);
    assert_eq!(bench.errors(), before + 1, "{command:?}");
    assert_eq!(bench.vgic.statistics().last_command_error, Some(why), "{command:?}");
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

/// A guest's commands, mostly sensible.
fn command() -> impl Strategy<Value = Command> {
    let device =
        prop_oneof![Just(ItsDeviceId(8)), Just(DEVICE), Just(ItsDeviceId(0x18)), Just(ItsDeviceId(9))];
    let pair = (device, (0u32..10).prop_map(ItsEventId));
    let collection = 0u16..5;
    prop_oneof![
        (pair.clone(), 1u32..7, any::<bool>()).prop_map(|((device, _), bits, valid)| Command::Mapd {
            device,
            bits,
            table: ITT,
            valid
        }),
        (collection.clone(), 0u64..4, any::<bool>()).prop_map(|(collection, target, valid)| Command::Mapc {
            collection,
            target,
            valid
        }),
        (pair.clone(), 8185u32..8210, collection.clone()).prop_map(|((device, event), lpi, collection)| {
            Command::Mapti { device, event, lpi, collection }
        }),
        (pair.clone(), collection.clone()).prop_map(|((device, event), collection)| Command::Movi {
            device,
            event,
            collection
        }),
        pair.clone().prop_map(|(device, event)| Command::Discard { device, event }),
        pair.clone().prop_map(|(device, event)| Command::Inv { device, event }),
        pair.clone().prop_map(|(device, event)| Command::Clear { device, event }),
        pair.prop_map(|(device, event)| Command::Int { device, event }),
        collection.prop_map(|collection| Command::Invall { collection }),
    ]
}

/// The ITS as a few maps: no registers, no queue, no interrupts.
#[derive(Default)]
struct Model {
    devices: BTreeMap<u32, u32>,
    collections: BTreeMap<u16, u16>,
    events: BTreeMap<(u32, u32), (u32, u16)>,
}

impl Model {
    fn inside(&self, device: ItsDeviceId, event: ItsEventId) -> bool {
        self.devices.get(&device.0).is_some_and(|bits| event.0 < 1 << bits)
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Mapd { device, bits, valid, .. } => {
                if device.0 == 9 || (valid && bits > 5) {
                    return;
                }
                self.events.retain(|(d, _), _| *d != device.0);
                self.devices.remove(&device.0);
                if valid {
                    self.devices.insert(device.0, bits);
                }
            }
            Command::Mapc { collection, target, valid } if collection < 3 => {
                if !valid {
                    self.collections.remove(&collection);
                } else if target < 2 {
                    self.collections.insert(collection, target as u16);
                }
            }
            Command::Mapti { device, event, lpi, collection }
                if self.inside(device, event) && lpi >= 8192 && collection < 3 =>
            {
                self.events.insert((device.0, event.0), (lpi, collection));
            }
            Command::Movi { device, event, collection } if self.collections.contains_key(&collection) => {
                if let Some(mapped) = self.events.get_mut(&(device.0, event.0)) {
                    mapped.1 = collection;
                }
            }
            Command::Discard { device, event } => {
                self.events.remove(&(device.0, event.0));
            }
            _ => {}
        }
    }

    /// What hardware should have: event -> LPI, vCPU.
    fn physical(&self) -> BTreeMap<(u32, u32), (u32, u16)> {
        self.events
            .iter()
            .filter_map(|(event, (lpi, collection))| {
                Some((*event, (*lpi, *self.collections.get(collection)?)))
            })
            .collect()
    }
}

proptest! {
    #[test]
    fn any_sequence_of_commands_maps_what_a_simple_model_maps(
        commands in prop::collection::vec(command(), 1..120),
    ) {
        let bench = Bench::started(config(2, vec![], 4));
        bench.start_its();
        let mut model = Model::default();
        for command in commands {
            run(&bench, &[command]);
            model.apply(command);
            let physical: BTreeMap<_, _> = bench
                .machine
                .events
                .lock()
                .unwrap()
                .iter()
                .map(|(event, mapped)| (*event, (mapped.lpi.0, mapped.vcpu.0)))
                .collect();
            prop_assert_eq!(&physical, &model.physical(), "after {:?}", command);
            prop_assert_eq!(&*bench.machine.devices.lock().unwrap(), &model.devices);
        }
        for device in [8, 9, 0x10, 0x18] {
            for number in 0..40 {
                prop_assert_eq!(
                    bench.vgic.hardware_lpi(ItsDeviceId(device), event(number)),
                    model.events.contains_key(&(device, number))
                );
            }
        }
    }

    #[test]
    fn a_queue_of_any_bytes_is_consumed_and_harms_nothing(
        bytes in prop::collection::vec(any::<u8>(), 64 * 32),
        opcodes in prop::collection::vec((0u8..0x12, 0u8..0x20), 64),
        messages in prop::collection::vec((0u32..0x20, 0u32..64), 20),
    ) {
        let mut bench = Bench::started(config(2, vec![], 2));
        bench.start_its();
        let mut bytes = bytes;
        for (command, (opcode, device)) in bytes.chunks_mut(32).zip(opcodes) {
            // Half of them near enough to what is right to get past the first check.
            if opcode.is_multiple_of(2) {
                command[..8].copy_from_slice(&[opcode, 0, 0, 0, device, 0, 0, 0]);
                command[9..16].fill(0);
                command[17..19].fill(0);
            } else {
                command[0] = opcode;
            }
        }
        bench.machine.write_guest(Gpa(QUEUE), &bytes).unwrap();
        bench.its_write(0x88, 64 * 32);
        prop_assert_eq!(bench.its_read(0x90), 64 * 32);
        for (device, number) in messages {
            bench.vgic.hardware_lpi(ItsDeviceId(device), event(number));
        }
        bench.settle();
        for device in bench.machine.devices.lock().unwrap().keys() {
            prop_assert!([8, 0x10, 0x18].contains(device));
        }
    }
}
