//! What the host that carries plans out can't hold.

use super::*;

#[test]
fn what_its_executors_cannot_hold_is_refused_before() {
    use axvm_platform::limits::{Limits, MsiLimits};
    let file = given(pci(2, 0));
    let with = |limits: Limits| {
        let mut platform = board();
        platform.limits = limits;
        lines(&file, &platform)
    };
    let one = |limits: Limits, says: &str| {
        let said = with(limits);
        assert!(said.len() == 1 && said[0].contains(says) && said[0].ends_with("[limit]"), "{said:#?}");
    };
    let least = |source_bits, message_bits| vec![MsiLimits { source_bits, message_bits }];
    // The disk is stream and device 0x10, sends 65 MSIs by a block of 128, and has a line.
    one(
        Limits { source_bits: vec![4], ..Limits::default() },
        "stream 0x10 is above those that SMMU 0 can serve",
    );
    one(Limits { msi: least(4, 16), ..Limits::default() }, "device id 0x10 is above those that ITS 0");
    one(Limits { msi: least(16, 6), ..Limits::default() }, "can send 65, but ITS 0 tells 64 apart");
    one(Limits { lines: 32..37, ..Limits::default() }, "its interrupt 37 is above the lines");
    one(Limits { guest_messages: 127, ..Limits::default() }, "can send 128 MSIs");
    one(Limits { table_bytes: 128 << 10, ..Limits::default() }, "the hypervisor has 128K for them");
    one(Limits { vcpus: 0, ..Limits::default() }, "a virtual interrupt controller serves 0");
    let mut platform = board();
    platform.limits = Limits {
        source_bits: vec![5],
        msi: least(5, 7),
        lines: 32..38,
        guest_messages: 128,
        ..Limits::default()
    };
    planned(&file, &platform);
}

#[test]
fn what_vms_share_is_held_against_their_sum() {
    let mut platform = board();
    let mut file = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
    for vm in &mut file.vms {
        vm.interrupts = InterruptChoice::Emulated;
    }
    // 128 of the disk's, 8 of the network card's.
    platform.limits.messages = 135;
    let said = &lines(&file, &platform)[0];
    assert!(
        said.contains("vm \"b\"") && said.contains("can send 8 MSIs and those of the VMs before it 128"),
        "{said}"
    );
    platform.limits.messages = 136;
    let plan = planned(&file, &platform);
    assert_eq!([&plan.vms[0].messages, &plan.vms[1].messages], [&(0..128), &(128..136)], "each has its own");
}

#[test]
fn there_are_as_many_vms_as_vmids() {
    let many =
        |count: usize| system((0..count).map(|id| vm(&alloc::format!("vm{id}"), &[1], vec![])).collect());
    let limits = |file: &System| {
        let found = refusals(file, &board()).into_iter();
        found.filter(|(rule, _)| *rule == Rule::Limit).map(|(_, item)| item).collect::<Vec<_>>()
    };
    assert_eq!(limits(&many(255)), []);
    assert_eq!(limits(&many(256)), [Item::Vm(255, "".into())]);
}

#[test]
fn what_follows_an_end_is_said_where_the_host_does_not_do_it() {
    use axvm_platform::limits::Serves;
    let board = || {
        let mut board = board();
        (board.limits.restarts, board.limits.watchdogs) = (Serves::No, Serves::No);
        board
    };
    let mut file = system(vec![vm("a", &[1], vec![]), vm("b", &[2], vec![])]);
    let says = |file: &System, platform: &Platform| {
        let notes = planned(file, platform).notes.into_iter();
        notes.filter(|note| note.contains("on_reset")).collect::<Vec<_>>()
    };
    let mut platform = board();
    platform.limits.restarts = Serves::No;
    let [note] = &says(&file, &platform)[..] else { panic!() };
    assert!(note.starts_with("vm \"a\" and vm \"b\": on_reset = \"restart\""), "{note}");
    for vm in &mut file.vms {
        vm.on_reset = AfterEnd::Stop;
    }
    assert!(says(&file, &platform).is_empty(), "nothing is promised");
    file.vms[1].on_crash = AfterEnd::Restart;
    file.vms[1].watchdog = Some(AfterEnd::Stop);
    let of_second = |key: &str| (Rule::Limit, Item::Vm(1, key.into()));
    assert_eq!(refusals(&file, &platform), [of_second("on_crash"), of_second("watchdog")]);
    platform.limits.restarts = Serves::Yes;
    assert_eq!(refusals(&file, &platform), [of_second("watchdog")]);
    platform.limits.watchdogs = Serves::Yes;
    file.vms[1].on_reset = AfterEnd::Restart;
    assert!(says(&file, &platform).is_empty());
    let plan = planned(&file, &platform);
    let life = |vm: &VmPlan| (vm.on_reset, vm.on_crash, vm.watchdog.map(|watchdog| watchdog.then));
    assert_eq!(life(&plan.vms[0]), (AfterEnd::Stop, AfterEnd::Stop, None));
    assert_eq!(life(&plan.vms[1]), (AfterEnd::Restart, AfterEnd::Restart, Some(AfterEnd::Stop)));
}
