//! Whatever streams are attached and blocked, and whatever record comes.

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Attach(u32, usize),
    Block(u32),
    Dma(u32),
    Fail(u32),
}

fn stream() -> impl Strategy<Value = u32> {
    prop_oneof![0..3u32, 0xfe..0x102u32, Just(0xfff), Just(0x1000)]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (stream(), 0..3usize).prop_map(|(stream, domain)| Action::Attach(stream, domain)),
        3 => stream().prop_map(Action::Block),
        3 => stream().prop_map(Action::Dma),
        1 => stream().prop_map(Action::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The table serves 12 bits: 0x1000 is out of range.
    #[test]
    fn any_sequence_opens_exactly_the_streams_that_a_map_says(
        two_level: bool,
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let fake = Fake::new();
        if !two_level {
            fake.set(idr0::OFFSET, IDR0 & !(3 << 27));
        }
        fake.set(idr1::OFFSET, IDR1 & !63 | 12);
        let mut smmu = Smmu::new(&fake, &fake, Options::new(StreamId(0xfff))).unwrap();
        let mappers: Vec<_> = (0..3u64).map(|n| tables(&fake, 0, (n + 1) << 32)).collect();
        let mut model = BTreeMap::new();
        let mut silent = BTreeSet::new();
        for action in actions {
            match action {
                Action::Attach(stream, number) => {
                    let result = smmu.attach(StreamId(stream), &domain(number as u16, &mappers[number]));
                    if stream < 0x1000 {
                        prop_assert_eq!(result, Ok(()));
                        model.insert(stream, number as u64);
                        silent.remove(&stream);
                    } else {
                        prop_assert!(result.is_err());
                    }
                }
                Action::Block(stream) => {
                    prop_assert_eq!(smmu.block(StreamId(stream)).is_ok(), stream < 0x1000);
                    model.remove(&stream);
                    if stream < 0x1000 {
                        silent.insert(stream);
                    }
                }
                Action::Dma(stream) => {
                    fake.dma(stream, 0, true);
                }
                Action::Fail(stream) => {
                    let wrong = Domain { ipa_bits: 48, ..domain(7, &mappers[0]) };
                    prop_assert!(smmu.attach(StreamId(stream), &wrong).is_err());
                }
            }
            for stream in [0, 1, 2, 3, 0xfd, 0xfe, 0xff, 0x100, 0x101, 0x102, 0xffe, 0xfff, 0x1000, 0x1_0000] {
                let outcome = fake.dma(stream, 0x10, true);
                match model.get(&stream) {
                    Some(number) => prop_assert_eq!(outcome, Outcome::Reaches((number + 1) << 32 | 0x10)),
                    None if silent.contains(&stream) => prop_assert_eq!(outcome, Outcome::Aborts),
                    None => {
                        let recorded = outcome == Outcome::Faults(0x04) || outcome == Outcome::Faults(0x02);
                        prop_assert!(recorded, "stream {:#x} gives {:?}", stream, outcome);
                    }
                }
                prop_assert_eq!(smmu.domain(StreamId(stream)).is_some(), model.contains_key(&stream));
            }
        }
    }

    #[test]
    fn any_record_is_decoded_with_its_own_stream(raw: [u64; 4]) {
        let event = Event::decode(raw);
        prop_assert_eq!(event.raw, raw);
        prop_assert_eq!(u64::from(event.stream.0), raw[0] >> 32);
    }
}
