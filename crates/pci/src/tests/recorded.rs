//! A recorded machine is enumerated as the machine itself.

use super::*;
use crate::recorded::{Record, Recorded};

/// All of a machine's functions as they are now, as a program would read them that changes nothing.
fn record(bus: &FakeBus, functions: &[Function]) -> Vec<Record> {
    let records = functions.iter().map(|function| {
        let bytes = (0..0x1000).map(|offset| bus.read(function.address, offset, Width::B1) as u8);
        let mut bars = [0; 6];
        for bar in &function.bars {
            bars[usize::from(bar.index)] = bar.size;
        }
        Record { address: function.address, config: bytes.collect(), bars }
    });
    records.collect()
}

/// What is found, and in which groups.
fn found<C: ConfigSpace>(config: &C, bus: &FakeBus) -> (Vec<Function>, Vec<u32>) {
    let functions = enumerate(config, &board(), bus);
    let groups = groups(&functions, config).iter().map(|member| member.group).collect();
    (functions, groups)
}

#[test]
fn a_recorded_machine_shows_what_the_machine_does() {
    for bus in [endpoints(), switched()] {
        let expected = found(&bus, &bus);
        let recorded = Recorded::new(record(&bus, &expected.0));
        assert_eq!(found(&recorded, &bus), expected);
        // What was written the first time changes nothing.
        assert_eq!(found(&recorded, &bus), expected);
    }
}

#[test]
fn a_function_is_known_by_where_it_was_recorded_whatever_number_its_bus_gets() {
    let bus = switched();
    let expected = found(&bus, &bus);
    let mut records = record(&bus, &expected.0);
    // As if firmware had left room: all buses but the root have numbers that are 16 higher.
    for record in &mut records {
        if record.address.bus != 0 {
            record.address.bus += 16;
        }
        if record.config[0xe] & 0x7f == 1 {
            record.config[0x19] += 16;
            record.config[0x1a] += 16;
        }
    }
    let recorded = Recorded::new(records);
    assert_eq!(found(&recorded, &bus), expected);
    for function in &expected.0 {
        let mut there = function.address;
        if there.bus != 0 {
            there.bus += 16;
        }
        assert_eq!(recorded.recorded_at(function.address), Some(there));
    }
    assert_eq!(recorded.recorded_at(at(0, 9, 0)), None);
    assert_eq!(recorded.recorded_at(at(40, 0, 0)), None);
}

#[test]
fn what_was_not_recorded_reads_as_of_nobody() {
    let record = Record { address: at(0, 1, 0), config: vec![0x86; 64], bars: [0; 6] };
    let recorded = Recorded::new(vec![record]);
    assert_eq!(recorded.read(at(0, 1, 0), 0x3c, Width::B4), 0x8686_8686);
    assert_eq!(recorded.read(at(0, 1, 0), 0x40, Width::B4), u32::MAX);
    assert_eq!(recorded.read(at(0, 1, 0), 0x3e, Width::B4), u32::MAX);
    assert_eq!(recorded.read(at(0, 2, 0), 0, Width::B2), 0xffff);
    recorded.write(at(0, 2, 0), 4, Width::B2, 0);
    recorded.write(at(0, 1, 0), 0xffff, Width::B4, 0);
    recorded.write(at(0, 1, 0), header::INTERRUPT_LINE, Width::B1, 0);
    assert_eq!(recorded.read(at(0, 1, 0), 0x3c, Width::B2), 0x8600);
    assert_eq!(recorded.as_recorded(at(0, 1, 0), 0x3c, Width::B2), Some(0x8686));
    assert_eq!(recorded.as_recorded(at(0, 1, 0), 0x3e, Width::B4), None);
}

proptest! {
    /// Bridges may lead anywhere, in circles as well.
    #[test]
    fn whatever_was_recorded_enumeration_ends(
        records in prop::collection::vec(
            (0u8..4, 0u8..32, prop::collection::vec(any::<u8>(), 0..300), prop::array::uniform6(any::<u64>())),
            0..24,
        )
    ) {
        let records = records.into_iter().map(|(bus, device, mut config, bars)| {
            if let Some(kind) = config.get_mut(0xe) {
                *kind &= 0x81;
            }
            Record { address: at(bus, device, 0), config, bars }
        });
        let recorded = Recorded::new(records.collect());
        let clock = FakeBus::new(0, 0);
        let functions = enumerate(&recorded, &board(), &clock);
        let _ = groups(&functions, &recorded);
    }
}
