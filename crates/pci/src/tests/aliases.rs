//! Requester ids that aren't the function's own.

use super::*;
use crate::RequesterIds;

/// The ids of a function on a machine.
fn ids(bus: &FakeBus, address: PciAddress) -> RequesterIds {
    let functions = enumerate(bus, &board(), bus);
    requester_ids(&functions, find(&functions, address))
}

fn function(vendor: u16, device: u16) -> FakeFunction {
    FakeFunction::new(vendor, device, 0x01_06_01)
}

/// A root port, and behind it a bridge that says nothing of Express, and a device on the bus behind that.
fn behind(vendor: u16, device: u16) -> RequesterIds {
    let bridge = FakeFunction::new(vendor, device, 0x06_04_01).bridge();
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1], 0, 0, bridge)
        .with_behind(&[1, 0], 5, 0, FakeFunction::edu());
    ids(&bus, at(2, 5, 0))
}

#[test]
fn a_function_known_to_send_as_another_has_that_ones_id_too() {
    let bus = FakeBus::new(0, 0)
        .with(1, 0, function(0x1b4b, 0x9230).multifunction())
        .with(1, 1, function(0x1b4b, 0x91a4))
        .with(2, 0, function(0x1180, 0xe822).multifunction())
        .with(2, 3, function(0x1180, 0xe832))
        .with(3, 0, function(0x1103, 0x0645))
        .with(4, 0, function(0x1b4b, 0x9231))
        .with(5, 0, function(0x1180, 0xe476));
    let of = |address| ids(&bus, address);
    let disk = of(at(0, 1, 0));
    assert_eq!((disk.requests, disk.messages), (vec![at(0, 1, 0), at(0, 1, 1)], at(0, 1, 0)));
    assert_eq!(of(at(0, 1, 1)).requests, [at(0, 1, 1)], "the other doesn't send as the first");
    let reader = of(at(0, 2, 3));
    assert_eq!((reader.requests, reader.messages), (vec![at(0, 2, 3), at(0, 2, 0)], at(0, 2, 3)));
    assert_eq!(of(at(0, 3, 0)).requests, [at(0, 3, 0), at(0, 3, 1)], "one that isn't there");
    assert_eq!(of(at(0, 4, 0)).requests, [at(0, 4, 0)], "another number");
    assert_eq!(of(at(0, 5, 0)).requests, [at(0, 5, 0)], "it is function 0 itself");
}

#[test]
fn one_that_sends_as_others_of_its_bus_has_all_their_ids() {
    let bus = FakeBus::new(0, 0).with(14, 0, function(0x9005, 0x0285)).with(2, 0, function(0x8086, 0x2264));
    assert_eq!(ids(&bus, at(0, 14, 0)).requests, [at(0, 14, 0), at(0, 1, 0)]);
    let others = [at(0, 2, 0), at(0, 0x10, 0), at(0, 0x11, 0), at(0, 0x12, 3)];
    assert_eq!(ids(&bus, at(0, 2, 0)).requests, others);
    let bus = FakeBus::new(0, 0).with(2, 0, function(0x8086, 0x2955));
    let all = ids(&bus, at(0, 2, 0)).requests;
    assert_eq!((all.len(), all[0]), (32 * 5, at(0, 2, 0)));
    assert!(all.contains(&at(0, 31, 4)) && !all.contains(&at(0, 0, 5)));
}

#[test]
fn what_a_function_sends_as_a_bridge_takes_over_like_all_else() {
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1], 0, 0, FakeFunction::conventional_bridge())
        .with_behind(&[1, 0], 14, 0, function(0x9005, 0x0285));
    let card = ids(&bus, at(2, 14, 0));
    assert_eq!((card.requests, card.messages), (vec![at(2, 14, 0), at(2, 1, 0), at(2, 0, 0)], at(2, 0, 0)));
}

#[test]
fn a_bridge_on_a_link_that_says_nothing_of_express_may_send_as_itself_or_as_the_bus_below() {
    // Nothing is known of this one, and ASMedia's is known to do the second.
    let both = vec![at(2, 5, 0), at(2, 0, 0), at(1, 0, 0)];
    let unknown = behind(0x1234, 0x5678);
    assert_eq!((unknown.requests, unknown.messages), (both.clone(), at(1, 0, 0)));
    let known = behind(0x1b21, 0x1080);
    assert_eq!((known.requests, known.messages), (both, at(2, 0, 0)));
}

#[test]
fn bridges_that_change_no_id_are_known() {
    let aspeed = FakeFunction::new(0x1a03, 0x1150, 0x06_04_00).bridge().express(7, false);
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1], 0, 0, aspeed)
        .with_behind(&[1, 0], 0, 0, FakeFunction::edu())
        .with_behind(&[1, 0], 2, 0, FakeFunction::edu());
    let screen = ids(&bus, at(2, 2, 0));
    assert_eq!((screen.requests, screen.messages), (vec![at(2, 2, 0), at(2, 0, 0)], at(2, 2, 0)));
    // The IOMMU is at the inner bridge of ThunderX2, which has another one above it.
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::new(0x14e4, 0x9084, 0x06_04_00).bridge())
        .with_behind(&[1], 0, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1, 0], 0, 0, FakeFunction::nvme());
    let disk = ids(&bus, at(2, 0, 0));
    assert_eq!((disk.requests, disk.messages), (vec![at(2, 0, 0)], at(2, 0, 0)));
}
