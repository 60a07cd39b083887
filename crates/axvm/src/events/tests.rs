//! Nothing that happened is forgotten: it is a record, or counted in one.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn violation(vm: u16, device: u16, kind: Kind, address: u64) -> Violation {
    Violation {
        time_ns: address,
        vm: Some(VmId(vm)),
        device: Some(device),
        kind,
        address: Some(address),
        action: Action::Reported,
        count: 1,
    }
}

#[test]
fn kinds_and_actions_are_called_the_same_in_text_and_in_json() {
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    for action in Action::ALL {
        assert_eq!(serde_json::to_value(action).unwrap(), action.name());
    }
}

#[test]
fn a_stray_page_of_dma_is_one_record_with_the_first_address_and_a_count() {
    let ring = Ring::<4>::new();
    for word in 0..1024 {
        ring.push(violation(0, 1, Kind::DmaWrite, 0x8000_0000 + word * 4));
    }
    let record = ring.pop().unwrap();
    assert_eq!((record.address, record.count), (Some(0x8000_0000), 1024));
    assert_eq!(ring.pop(), None);
}

#[test]
fn records_that_found_no_room_are_one_record_that_says_how_many() {
    let ring = Ring::<2>::new();
    for device in 0..5 {
        ring.push(violation(0, device, Kind::DmaRead, u64::from(device)));
    }
    let records: Vec<Violation> = core::iter::from_fn(|| ring.pop()).collect();
    assert_eq!(records.len(), 3);
    assert_eq!((records[2].kind, records[2].count, records[2].time_ns), (Kind::Lost, 3, 2));
    ring.push(violation(0, 9, Kind::Msi, 9));
    assert_eq!(ring.pop().unwrap().kind, Kind::Msi, "there is room again and nothing is lost");
    assert_eq!(ring.pop(), None);
}

#[test]
fn a_record_reads_as_the_report_has_it() {
    let report = violation(0, 0, Kind::DmaWrite, 0x8000_0000).report(|vm, device| {
        assert_eq!((vm, device), (Some(VmId(0)), Some(0)));
        ("linux".into(), "0000:00:02.0".into())
    });
    assert_eq!((report.kind.as_str(), report.address.as_str()), ("dma-write", "0x80000000"));
    assert_eq!((report.vm.as_str(), report.device.as_str(), report.count), ("linux", "0000:00:02.0", 1));
}

#[test]
fn policy_decides_what_dma_leads_to_and_what_was_decided_stays() {
    let judge = |policy, kind| Governor::default().judge(policy, kind, 0, 1);
    assert_eq!(judge(ViolationPolicy::QuarantineDevice, Kind::DmaWrite), Action::Quarantined);
    assert_eq!(
        judge(ViolationPolicy::QuarantineDevice, Kind::CpuRead),
        Action::Reported,
        "there is no device to blame"
    );
    assert_eq!(judge(ViolationPolicy::Report, Kind::DmaWrite), Action::Reported);
    assert_eq!(judge(ViolationPolicy::StopVm, Kind::CpuRead), Action::VmStopped);
    let mut governor = Governor::default();
    governor.judge(ViolationPolicy::QuarantineDevice, Kind::DmaWrite, 0, 1);
    let later = governor.judge(ViolationPolicy::QuarantineDevice, Kind::DmaRead, 5 * WINDOW_NS, 1);
    assert_eq!(later, Action::Quarantined);
    governor.restart();
    assert_eq!(governor.judge(ViolationPolicy::Report, Kind::DmaRead, 0, 1), Action::Reported);
}

#[test]
fn too_many_in_a_second_block_the_stream_whatever_the_policy() {
    let mut governor = Governor::default();
    let mut judge = |now, count| governor.judge(ViolationPolicy::Report, Kind::DmaWrite, now, count);
    assert_eq!(judge(0, MOST_IN_WINDOW), Action::Reported);
    assert_eq!(judge(WINDOW_NS, 1), Action::Reported, "another second");
    assert_eq!(judge(WINDOW_NS + 1, MOST_IN_WINDOW), Action::Blocked);
    assert_eq!(judge(9 * WINDOW_NS, 1), Action::Blocked, "until the VM is restarted");
}

proptest! {
    #[test]
    fn counts_in_the_log_add_up_to_what_happened(
        events in proptest::collection::vec((0u16..2, 0u16..3, 0usize..3, any::<bool>()), 0..300)
    ) {
        let kinds = [Kind::DmaRead, Kind::DmaWrite, Kind::Msi];
        let rings = [Ring::<8>::new(), Ring::<8>::new()];
        let mut log = Log::<16>::new();
        let mut seen = 0;
        for (at, &(vm, device, kind, drain)) in events.iter().enumerate() {
            rings[usize::from(vm)].push(violation(vm, device, kinds[kind], at as u64));
            if drain {
                rings.iter().for_each(|ring| log.drain(ring, |record| seen += record.count));
            }
        }
        rings.iter().for_each(|ring| log.drain(ring, |record| seen += record.count));
        let records = log.records();
        prop_assert!(records.len() <= 17);
        prop_assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), events.len() as u64);
        prop_assert_eq!(seen, events.len() as u64);
        prop_assert!(records.iter().filter(|record| record.kind == Kind::Lost).count() <= 1);
    }
}
