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
    assert_eq!(records[2].vm, Some(VmId(0)), "it says whose they were");
    ring.push(violation(0, 9, Kind::Msi, 9));
    assert_eq!(ring.pop().unwrap().kind, Kind::Msi, "there is room again and nothing is lost");
    assert_eq!(ring.pop(), None);
}

#[test]
fn a_ring_blames_no_vm_for_what_another_lost() {
    let ring = Ring::<1>::new();
    (0..4).for_each(|vm| ring.push(violation(vm / 2, vm, Kind::CpuRead, 0)));
    let records: Vec<Violation> = core::iter::from_fn(|| ring.pop()).collect();
    assert_eq!((records[1].kind, records[1].vm, records[1].count), (Kind::Lost, None, 3));
}

/// VM 0 does ten thousand things, no two in a row alike; later VM 1 does one, and a device that is no VM's another.
fn after_a_flood(mut log: Log) -> Vec<Violation> {
    for at in 0..10_000u16 {
        log.push(violation(0, at % 2_000, Kind::CpuRead, at.into()));
    }
    log.push(violation(1, 0, Kind::DmaWrite, 10_000));
    log.push(Violation { vm: None, ..violation(0, 7, Kind::DmaUnassigned, 10_001) });
    log.records()
}

fn of(records: &[Violation], vm: Option<VmId>) -> Vec<Violation> {
    records.iter().filter(|record| record.vm == vm).copied().collect()
}

#[test]
fn a_vm_that_floods_the_log_takes_no_room_from_others() {
    let records = after_a_flood(Log::new(2));
    assert!(records.len() <= Log::RECORDS);
    let flood = of(&records, Some(VmId(0)));
    assert_eq!(flood.iter().map(|record| record.count).sum::<u64>(), 10_000);
    assert_eq!((flood[0].time_ns, flood[1].time_ns), (0, 1), "how it began is kept");
    let lost: Vec<&Violation> = flood.iter().filter(|record| record.kind == Kind::Lost).collect();
    assert!(lost.len() == 1 && lost[0].count > 8_000, "{lost:?}");
    assert_eq!(of(&records, Some(VmId(1))), [violation(1, 0, Kind::DmaWrite, 10_000)]);
    assert_eq!(of(&records, None)[0].kind, Kind::DmaUnassigned);
    // The counterpart: without shares what comes later is hidden.
    let records = after_a_flood(Log::with_shares(1, Log::RECORDS));
    assert!(of(&records, Some(VmId(1))).is_empty() && of(&records, None).is_empty());
}

#[test]
fn however_many_vms_there_are_each_has_room() {
    let mut log = Log::new(255);
    let pushed =
        (0..255u16).flat_map(|vm| (0..16).map(move |device| violation(vm, device, Kind::CpuWrite, 0)));
    assert!(pushed.into_iter().all(|violation| log.push(violation)));
    assert_eq!(log.records().len(), 255 * Log::LEAST);
}

#[test]
fn a_vm_cant_hide_what_it_does_by_doing_something_else_often() {
    let mut log = Log::new(1);
    let mut is_new = Vec::new();
    for at in 0..10_000u16 {
        is_new.push(log.push(violation(0, at % 2, Kind::CpuRead, at.into())));
    }
    assert_eq!(is_new.iter().filter(|&&new| new).count(), 2, "each is said once");
    assert!(log.push(violation(0, 0, Kind::DmaWrite, 10_000)));
    let records = log.records();
    assert_eq!(records.last(), Some(&violation(0, 0, Kind::DmaWrite, 10_000)));
    assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 10_001);
    assert!(records.iter().all(|record| record.kind != Kind::Lost));
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
        let mut log = Log::with_shares(3, 5);
        let mut seen = 0;
        let mut drain = |ring: &Ring<8>| {
            while let Some(record) = ring.pop() {
                seen += record.count;
                log.push(record);
            }
        };
        for (at, &(vm, device, kind, drained)) in events.iter().enumerate() {
            rings[usize::from(vm)].push(violation(vm, device, kinds[kind], at as u64));
            if drained {
                rings.iter().for_each(&mut drain);
            }
        }
        rings.iter().for_each(drain);
        let records = log.records();
        for vm in 0..2 {
            let theirs = of(&records, Some(VmId(vm)));
            let happened = events.iter().filter(|event| event.0 == vm).count();
            prop_assert_eq!(theirs.iter().map(|record| record.count).sum::<u64>(), happened as u64);
            let lost = theirs.iter().filter(|record| record.kind == Kind::Lost).count();
            prop_assert!(lost <= 1 && theirs.len() <= 5 + lost);
        }
        let kept = records.iter().filter(|record| record.kind != Kind::Lost);
        prop_assert!(kept.map(|record| record.time_ns).is_sorted());
        prop_assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), events.len() as u64);
        prop_assert_eq!(seen, events.len() as u64);
    }
}
