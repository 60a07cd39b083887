//! Waits end by the clock.

use super::*;

/// Each look at a function that doesn't answer takes this long on real machines (a completion timeout).
const TIMEOUT_US: u64 = 50_000;

#[test]
fn a_function_that_stays_silent_costs_bounded_time_however_long_each_look_takes() {
    for (method, bound) in [
        (ResetMethod::FunctionLevel, 1_900_000),
        (ResetMethod::PowerState, 1_900_000),
        (ResetMethod::SecondaryBus, 2_300_000),
    ] {
        let end = FakeFunction::new(0x1234, 2, 0x02_00_00).bar(0, 0x4000, 0b100).power(false).msi(0, true);
        let end = end.msix(10, (0, 0), (0, 0x2000)).express(0, true).acs(0x0c);
        let bus = FakeBus::new(0, 0)
            .with(1, 0, FakeFunction::root_port(ISOLATION))
            .with_behind(&[1], 0, 0, end.multifunction())
            .with_behind(&[1], 0, 1, FakeFunction::e1000e());
        let mut functions = enumerate(&bus, &board(), &bus);
        functions[1].resets = vec![method];
        let neighbours = [&functions[2]];
        for function in &functions[1..] {
            bus.function(function.address, |fake| fake.silence_us = u64::MAX / 2);
        }
        bus.set_timeout_us(TIMEOUT_US);
        let started = bus.microseconds();
        let lost = ResetError::Lost { function: functions[1].address, method };
        assert_eq!(reset(&bus, &functions[1], &neighbours, method, &bus), Err(lost));
        let taken = bus.microseconds() - started;
        assert!(taken < bound, "{method:?} took {taken} us");
        // The next time it is silent from the beginning: only its bus can be reset then.
        let again = match method {
            ResetMethod::SecondaryBus => lost,
            _ => ResetError::Absent { function: functions[1].address, method },
        };
        let started = bus.microseconds();
        assert_eq!(reset(&bus, &functions[1], &neighbours, method, &bus), Err(again));
        let taken = bus.microseconds() - started;
        assert!(taken < bound + 1_000_000, "{method:?} of a silent function took {taken} us");
    }
}

#[test]
fn a_function_that_asks_to_be_tried_again_is_found_when_it_is_ready() {
    let bus = FakeBus::new(0, 0).with(1, 0, FakeFunction::nvme()).with(2, 0, FakeFunction::nvme());
    let functions = enumerate(&bus, &board(), &bus);
    for (function, silence_us) in functions.iter().zip([500_000, u64::MAX / 2]) {
        bus.function(function.address, |fake| {
            fake.silence_us = silence_us;
            fake.asks_again = true;
        });
        let control = function.capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
        bus.write(function.address, control, Width::B2, 0x8000);
    }
    let started = bus.microseconds();
    let found = enumerate(&bus, &board(), &bus);
    assert_eq!(found, functions[..1], "the other isn't there");
    assert!((1_500_000..1_600_000).contains(&(bus.microseconds() - started)));
}
