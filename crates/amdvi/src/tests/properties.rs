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
    Silence {
        device: u16,
    },
    Route {
        device: u16,
        index: u16,
        cpu: Option<u32>,
    },
    /// The next command of a kind is refused.
    Fail {
        opcode: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u16..4, 0u16..3).prop_map(|(device, domain)| Step::Attach { device, domain }),
        (0u16..4).prop_map(|device| Step::Block { device }),
        (0u16..4).prop_map(|device| Step::Silence { device }),
        (0u16..4, 0u16..3, proptest::option::of(0u32..4)).prop_map(|(device, index, cpu)| Step::Route {
            device,
            index,
            cpu
        }),
        prop_oneof![Just(2u8), Just(3), Just(5)].prop_map(|opcode| Step::Fail { opcode }),
    ]
}

proptest! {
    #[test]
    fn each_device_has_what_it_was_given(steps in proptest::collection::vec(step(), 0..40)) {
        let fake = Fake::new();
        let mut iommu = Iommu::new(&fake, &fake, Options::new(DeviceId(0x7f))).unwrap();
        let all: Vec<_> = (0..3).map(|n| tables(&fake, 0, 0x8000_0000 + n * PAGE)).collect();
        let mut reaches = [None; 4];
        let mut routed = [[None; 3]; 4];
        for step in steps {
            let device = match step {
                Step::Fail { opcode } => {
                    fake.0.borrow_mut().misbehaviour.refuses = Some((opcode, 1));
                    continue;
                }
                Step::Attach { device, .. } | Step::Block { device } | Step::Silence { device } | Step::Route { device, .. } => device,
            };
            let id = DeviceId(device);
            let at = usize::from(device);
            let done = match step {
                Step::Attach { domain, .. } => iommu.attach(id, &all[usize::from(domain)].domain(domain)),
                Step::Block { .. } => iommu.block(id),
                // Only of a device that nobody has.
                Step::Silence { .. } if reaches[at].is_some() || routed[at] != [None; 3] => continue,
                Step::Silence { .. } => iommu.silence(id),
                Step::Route { index, cpu, .. } => iommu.route(id, index, cpu.and_then(|cpu| fixed(0x41, cpu))),
                Step::Fail { .. } => unreachable!(),
            };
            if done.is_err() {
                // Tried again, blocking works, and closes it whatever was left.
                fake.0.borrow_mut().misbehaviour.refuses = None;
                iommu.block(id).unwrap();
                (reaches[at], routed[at]) = (None, [None; 3]);
            } else {
                match step {
                    Step::Attach { domain, .. } => {
                        // One that was attached is blocked first, with its interrupts.
                        if reaches[at].is_some() {
                            routed[at] = [None; 3];
                        }
                        reaches[at] = Some(0x8000_0000 + u64::from(domain) * PAGE);
                    }
                    Step::Block { .. } => (reaches[at], routed[at]) = (None, [None; 3]),
                    Step::Route { index, cpu, .. } => routed[at][usize::from(index)] = cpu,
                    _ => {}
                }
            }
            for device in 0..4u16 {
                let found = match fake.dma(device, 0, true) {
                    Outcome::Reaches(to) => Some(to),
                    _ => None,
                };
                prop_assert_eq!(found, reaches[usize::from(device)], "device {}", device);
                prop_assert!(!matches!(fake.dma(device, PAGE, true), Outcome::Reaches(_)));
                for index in 0..3 {
                    let found = match fake.msi(device, index) {
                        Delivery::To { destination, .. } => Some(destination),
                        Delivery::Passes => panic!("it passes"),
                        _ => None,
                    };
                    prop_assert_eq!(found, routed[usize::from(device)][index as usize], "{} {}", device, index);
                }
            }
        }
    }
}
