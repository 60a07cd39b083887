//! The virtual ITS compared with a map, by any sequence of commands.

mod common;

use std::collections::BTreeMap;

use axvm_addr::Gpa;
use axvm_vgic::GuestMemory;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{ItsDeviceId, ItsEventId};
use common::commands::{DEVICE, ITT, event, run};
use common::{Bench, QUEUE, config};
use proptest::prelude::*;

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
