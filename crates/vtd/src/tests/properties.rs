//! Whatever is done in whatever order, a device reaches what it was given last, and nothing else.

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Attach {
        device: u16,
        domain: u16,
    },
    Block {
        device: u16,
    },
    Route {
        index: u16,
        to: Option<(u16, u32)>,
    },
    /// The next descriptor of a kind is refused.
    Fail {
        kind: u8,
    },
}

/// Two functions of a bus, and one of another.
fn device() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0x10u16), Just(0x11), Just(0x110)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (device(), 0u16..3).prop_map(|(device, domain)| Step::Attach { device, domain }),
        device().prop_map(|device| Step::Block { device }),
        (0u16..3, proptest::option::of((device(), 0u32..4)))
            .prop_map(|(index, to)| Step::Route { index, to }),
        prop_oneof![Just(1u8), Just(2), Just(4)].prop_map(|kind| Step::Fail { kind }),
    ]
}

proptest! {
    #[test]
    fn each_device_has_what_it_was_given(steps in proptest::collection::vec(step(), 0..40)) {
        let fake = Fake::new();
        let mut unit = unit(&fake);
        let all: Vec<_> = (0..3).map(|n| tables(&fake, 0, 0x8000_0000 + n * PAGE)).collect();
        let mut reaches = std::collections::BTreeMap::new();
        let mut routed = [None; 3];
        for step in steps {
            match step {
                Step::Fail { kind } => {
                    fake.0.borrow_mut().misbehaviour.refuses = Some((kind, 1));
                    continue;
                }
                Step::Attach { device, domain } => {
                    let id = DeviceId(device);
                    match unit.attach(id, &all[usize::from(domain)].domain(domain)) {
                        Ok(()) => {
                            reaches.insert(device, 0x8000_0000 + u64::from(domain) * PAGE);
                        }
                        // Tried again, blocking works, and closes it whatever was left.
                        Err(_) => {
                            fake.0.borrow_mut().misbehaviour.refuses = None;
                            unit.block(id).unwrap();
                            reaches.remove(&device);
                        }
                    }
                }
                Step::Block { device } => {
                    if unit.block(DeviceId(device)).is_err() {
                        fake.0.borrow_mut().misbehaviour.refuses = None;
                        unit.block(DeviceId(device)).unwrap();
                    }
                    reaches.remove(&device);
                }
                Step::Route { index, to } => {
                    let route = to.map(|(device, cpu)| (DeviceId(device), fixed(0x41, cpu)));
                    routed[usize::from(index)] = to;
                    if unit.route(index, route).is_err() {
                        fake.0.borrow_mut().misbehaviour.refuses = None;
                        unit.route(index, None).unwrap();
                        routed[usize::from(index)] = None;
                    }
                }
            }
            for device in [0x10, 0x11, 0x110] {
                let found = match fake.dma(device, 0, true) {
                    Outcome::Reaches(to) => Some(to),
                    _ => None,
                };
                prop_assert_eq!(found, reaches.get(&device).copied(), "device {:#x}", device);
                prop_assert!(!matches!(fake.dma(device, PAGE, true), Outcome::Reaches(_)));
                for index in 0..3 {
                    let found = match fake.msi(device, msi_address(index)) {
                        Delivery::To { destination, .. } => Some(destination),
                        Delivery::Passes => panic!("it passes"),
                        Delivery::Faults => None,
                    };
                    let expected = routed[usize::from(index)].filter(|(owner, _)| *owner == device);
                    prop_assert_eq!(found, expected.map(|(_, cpu)| cpu), "{:#x} {}", device, index);
                }
            }
        }
    }
}
