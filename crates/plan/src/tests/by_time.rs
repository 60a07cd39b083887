//! VMs that name the same things and take turns.

use axvm_addr::{DmaSource, Irq};
use axvm_platform::limits::Claims;

use super::*;

/// The board, on a host that holds things while VMs run.
fn by_time(mut platform: Platform) -> Platform {
    platform.limits.claims = Claims::ByTime;
    platform
}

fn waiting(vm: Vm) -> Vm {
    Vm { autostart: false, ..vm }
}

const PCI: u16 = 0;
const CLOCK: u16 = 1;

/// Two VMs on one CPU, with one disk and one clock, of which the first starts.
fn turns() -> System {
    let devices = || vec![pci(2, 0), node("/pl031@9010000")];
    system(vec![vm("a", &[1], devices()), waiting(vm("b", &[1], devices()))])
}

/// Two VMs with CPUs of their own, and one disk.
fn lenders() -> System {
    system(vec![vm("a", &[1], vec![pci(2, 0), pci(3, 0)]), waiting(vm("b", &[2], vec![pci(2, 0)]))])
}

fn running(vms: &[(u16, &[u16])]) -> Running {
    let holder = |&(vm, devices): &(u16, &[u16])| Holder { vm: VmId(vm), devices: devices.to_vec() };
    Running { holders: vms.iter().map(holder).collect(), withheld: vec![], assigned: vec![] }
}

fn disk() -> DeviceId {
    DeviceId::Function(address(2, 0))
}

#[test]
fn what_two_vms_name_is_refused_where_the_host_holds_it_for_the_whole_run() {
    let board = for_the_whole_run(board());
    assert_eq!(
        refusals(&turns(), &board),
        [
            (Rule::CpuTwice, Item::Cpu(1, 0)),
            (Rule::DeviceTwice, Item::Device(1, 0, String::new())),
            (Rule::DeviceTwice, Item::Device(1, 1, String::new())),
        ]
    );
    assert_eq!(refusals(&lenders(), &board), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
}

#[test]
fn vms_that_take_turns_are_planned_and_the_plan_says_who_they_are() {
    let plan = planned(&turns(), &by_time(board()));
    assert!(
        plan.notes.iter().any(|note| {
            note == "vm \"a\" and vm \"b\" can't run together: both name CPU 1, 0000:00:02.0 and /pl031@9010000"
        }),
        "{:?}",
        plan.notes
    );
    let plan = planned(&lenders(), &by_time(board()));
    let said = |note: &String| {
        note == "vm \"a\" and vm \"b\" can't run together unless one of them is without 0000:00:02.0"
    };
    assert!(plan.notes.iter().any(said), "{:?}", plan.notes);
    let apart = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
    let once = for_the_whole_run(board());
    assert_eq!(planned(&apart, &by_time(board())), planned(&apart, &once), "those that share nothing");
}

#[test]
fn of_vms_that_name_one_thing_at_most_one_starts_by_itself() {
    for file in [turns(), lenders()] {
        let mut both = file.clone();
        both.vms[1].autostart = true;
        let platform = by_time(board());
        assert_eq!(refusals(&both, &platform), [(Rule::Autostart, Item::Vm(1, "autostart".into()))]);
        let line = &lines(&both, &platform)[0];
        assert!(line.contains("vm \"b\"") && line.contains("vm \"a\""), "{line}");
        both.vms[0].autostart = false;
        planned(&both, &platform);
        both.vms[1].autostart = false;
        planned(&both, &platform);
    }
}

#[test]
fn one_vm_names_nothing_twice_whatever_the_host() {
    let mut file = turns();
    file.vms[1].cpus.push(CpuId(1));
    file.vms[1].devices.push(pci(2, 0));
    assert_eq!(
        refusals(&file, &by_time(board())),
        [(Rule::CpuTwice, Item::Cpu(1, 1)), (Rule::DeviceTwice, Item::Device(1, 2, String::new()))]
    );
}

#[test]
fn ram_is_shared_only_by_vms_that_never_run_together_and_only_where_it_is_short() {
    let ram = |plan: &Plan| plan.vms.iter().map(|vm| vm.ram[0].hpa).collect::<Vec<_>>();
    let platform = by_time(board());
    let plan = planned(&turns(), &platform);
    assert_ne!(ram(&plan)[0], ram(&plan)[1], "there is enough for both");
    let large = |mut file: System| {
        file.vms.iter_mut().for_each(|vm| vm.memory = 1200 << 20);
        file
    };
    let plan = planned(&large(turns()), &platform);
    assert_eq!(ram(&plan)[0], ram(&plan)[1]);
    // They share a disk only: once one has given it up both can run.
    let refused = refusals(&large(lenders()), &platform);
    assert_eq!(refused, [(Rule::MemoryFit, Item::Vm(1, "memory".into()))]);
}

#[test]
fn of_vms_that_take_turns_the_most_that_one_needs_counts() {
    let mut platform = by_time(board());
    let mut file = turns();
    for vm in &mut file.vms {
        vm.interrupts = InterruptChoice::Emulated;
    }
    file.vms.push(vm("c", &[2], vec![pci(3, 0)]));
    file.vms[2].interrupts = InterruptChoice::Emulated;
    // 128 of the disk's, once, and 8 of the network card's.
    platform.limits.messages = 136;
    let plan = planned(&file, &platform);
    let messages: Vec<_> = plan.vms.iter().map(|vm| vm.messages.clone()).collect();
    assert_eq!(messages, [0..128, 0..128, 128..136]);
    platform.limits.messages = 135;
    assert_eq!(refusals(&file, &platform), [(Rule::Limit, Item::Vm(2, "".into()))]);
    // Those that share a function only may both run, so that both count.
    let mut file = lenders();
    for vm in &mut file.vms {
        vm.interrupts = InterruptChoice::Emulated;
    }
    platform.limits.messages = 256 + 127;
    assert_eq!(refusals(&file, &platform), [(Rule::Limit, Item::Vm(1, "".into()))]);
    platform.limits.messages = 256 + 128;
    planned(&file, &platform);
}

#[test]
fn modes_are_judged_beside_those_that_may_run_together() {
    let modes = |file: &System| {
        planned(file, &by_time(board())).vms.iter().map(|vm| vm.mode.name()).collect::<Vec<_>>()
    };
    assert_eq!(modes(&turns()), ["passthrough", "passthrough"]);
    assert_eq!(modes(&lenders()), ["passthrough", "emulated"], "both have MSIs");
}

#[test]
fn a_group_is_each_vms_as_a_whole() {
    let platform = by_time(with_functions(vec![endpoint(4, 0), endpoint(4, 1)], &[7, 7]));
    let both = || vec![pci(4, 0), pci(4, 1)];
    planned(&system(vec![vm("a", &[1], both()), waiting(vm("b", &[2], both()))]), &platform);
    for part in 0..2 {
        let mut half = vec![vm("a", &[1], both()), waiting(vm("b", &[2], vec![pci(4, part)]))];
        assert_eq!(
            refusals(&system(half.clone()), &platform),
            [(Rule::Group, Item::Device(1, 0, "pci".into()))]
        );
        half.reverse();
        assert_eq!(refusals(&system(half), &platform), [(Rule::Group, Item::Device(0, 0, "pci".into()))]);
    }
    let halves = system(vec![vm("a", &[1], vec![pci(4, 0)]), waiting(vm("b", &[2], vec![pci(4, 1)]))]);
    assert_eq!(refusals(&halves, &platform), [(Rule::Group, Item::Device(1, 0, "pci".into()))]);
}

#[test]
fn what_cannot_be_told_apart_is_each_vms_as_a_whole() {
    let mut platform = by_time(with_functions(vec![endpoint(4, 0), endpoint(5, 0)], &[0, 1]));
    for function in platform.functions.as_mut().unwrap() {
        (function.sources, function.line) = (vec![DmaSource::new(0, 9)], None);
    }
    let both = || vec![pci(4, 0), pci(5, 0)];
    planned(&system(vec![vm("a", &[1], both()), waiting(vm("b", &[2], both()))]), &platform);
    for part in [4, 5] {
        let mut half = vec![vm("a", &[1], both()), waiting(vm("b", &[2], vec![pci(part, 0)]))];
        for _ in 0..2 {
            let refused = refusals(&system(half.clone()), &platform);
            assert!(refused.iter().all(|(rule, _)| *rule == Rule::Group), "{refused:?}");
            half.reverse();
        }
    }
}

#[test]
fn what_lies_in_one_page_is_each_vms_as_a_whole() {
    let low = || region("low", 0x0a40_0000, 0x0a20_0000, 0x800);
    let high = || region("high", 0x0a40_0800, 0x0a20_0800, 0x800);
    let platform = by_time(board());
    let both = || vec![low(), high()];
    planned(&system(vec![vm("a", &[1], both()), waiting(vm("b", &[2], both()))]), &platform);
    let mut half = vec![vm("a", &[1], both()), waiting(vm("b", &[2], vec![high()]))];
    for _ in 0..2 {
        let refused = refusals(&system(half.clone()), &platform);
        assert!(refused.iter().all(|(rule, _)| *rule == Rule::PageShared), "{refused:?}");
        half.reverse();
    }
}

#[test]
fn functions_on_one_line_take_turns_and_platform_devices_do_not() {
    // Slots 2 and 6 have the same line on this board.
    let mut platform = by_time(with_functions(vec![endpoint(2, 0), endpoint(6, 0)], &[0, 1]));
    let file = system(vec![vm("a", &[1], vec![pci(2, 0)]), waiting(vm("b", &[2], vec![pci(6, 0)]))]);
    let plan = planned(&file, &platform);
    let refused = replan(&plan.vms, &running(&[(0, &[0])]), &Change::Start(VmId(1))).unwrap_err();
    assert_eq!(refused, Refusal::Held(VmId(0), vec![Thing::Line(plan.vms[0].lines[0].irq)]));
    // One whose line can't be turned off raises it whether or not anybody has it.
    platform.functions.as_mut().unwrap()[1].function.intx_disable = false;
    assert_eq!(refusals(&file, &platform)[0].0, Rule::InterruptShared);
}

#[test]
fn a_vm_starts_once_nobody_has_what_it_needs() {
    let plan = planned(&turns(), &by_time(board()));
    let start = |running: &Running, vm| replan(&plan.vms, running, &Change::Start(VmId(vm)));
    let first = start(&Running::default(), 0).unwrap();
    assert_eq!((&first.running, first.devices), (&running(&[(0, &[PCI, CLOCK])]), vec![disk(), clock()]));
    assert_eq!(in_force(&plan.vms, &first.running), plan.vms[..1]);
    let refused = start(&first.running, 1).unwrap_err();
    assert_eq!(refused.say(&plan.vms), "vm \"a\" has CPU 1, 0000:00:02.0 and /pl031@9010000");
    assert_eq!(start(&first.running, 0), Err(Refusal::Runs(VmId(0))));
    assert_eq!(start(&first.running, 2), Err(Refusal::NoSuchVm(VmId(2))));
    assert_eq!(in_force(&plan.vms, &start(&Running::default(), 1).unwrap().running), plan.vms[1..]);
    for thing in [
        Thing::Cpu(CpuId(1)),
        Thing::Device(disk()),
        Thing::Ram(Span::new(plan.vms[0].ram[0].hpa, 1).unwrap()),
    ] {
        // Whoever hasn't given it back, that VM among them: nobody gets it.
        for vm in [0, 1] {
            let withheld = Withheld { vm: VmId(vm), thing: thing.clone() };
            let running = Running { withheld: vec![withheld.clone()], ..Running::default() };
            assert_eq!(start(&running, 0), Err(Refusal::Withheld(withheld)), "{thing}");
        }
    }
    let lost = Withheld { vm: VmId(1), thing: Thing::Cpu(CpuId(1)) };
    assert_eq!(
        Refusal::Withheld(lost).say(&plan.vms),
        "vm \"b\" hasn't given back CPU 1: nobody gets it until the machine is reset"
    );
}

#[test]
fn who_stands_alone_shares_nothing_with_anybody_whether_or_not_that_runs() {
    let mut file = turns();
    file.vms.push(waiting(vm("c", &[2], vec![pci(3, 0)])));
    let plan = planned(&file, &by_time(board()));
    assert_eq!([0, 1, 2].map(|vm| stands_alone(&plan.vms, VmId(vm))), [false, false, true]);
    let plan = planned(&lenders(), &by_time(board()));
    assert_eq!([0, 1].map(|vm| stands_alone(&plan.vms, VmId(vm))), [false, false]);
}

const FIRST: VmId = VmId(0);
const SECOND: VmId = VmId(1);

fn clock() -> DeviceId {
    DeviceId::Node("/pl031@9010000".into())
}

fn card() -> DeviceId {
    DeviceId::Function(address(3, 0))
}

/// What changes are made to, and asked of.
struct Desk {
    plan: Plan,
    running: Running,
}

impl Desk {
    fn new(file: &System) -> Self {
        Self { plan: planned(file, &by_time(board())), running: Running::default() }
    }

    fn change(&mut self, change: Change) -> Result<Vec<DeviceId>, Refusal> {
        let replanned = replan(&self.plan.vms, &self.running, &change)?;
        self.running = replanned.running;
        Ok(replanned.devices)
    }

    fn start(&mut self, vm: VmId) -> Result<Vec<DeviceId>, Refusal> {
        self.change(Change::Start(vm))
    }

    fn stop(&mut self, vm: VmId) {
        self.running.holders.retain(|holder| holder.vm != vm);
    }

    fn assign(&mut self, vm: VmId, device: DeviceId) -> Result<Vec<DeviceId>, Refusal> {
        self.change(Change::Assign { vm, device })
    }

    fn release(&mut self, device: DeviceId) -> Result<Vec<DeviceId>, Refusal> {
        self.change(Change::Release { device })
    }

    /// What is refused, in words, and that it has changed nothing.
    fn refused(&mut self, change: Change) -> String {
        let before = self.running.clone();
        let refusal = self.change(change).unwrap_err();
        assert_eq!(self.running, before);
        refusal.say(&self.plan.vms)
    }
}

#[test]
fn a_device_goes_from_a_stopped_vm_to_another_and_the_first_starts_without_it() {
    let mut desk = Desk::new(&lenders());
    desk.start(FIRST).unwrap();
    let device = disk();
    assert_eq!(desk.refused(Change::Start(SECOND)), "vm \"a\" has 0000:00:02.0");
    assert_eq!(desk.refused(Change::Assign { vm: SECOND, device }), "vm \"a\" has 0000:00:02.0");
    desk.stop(FIRST);
    assert_eq!(desk.assign(SECOND, disk()), Ok(vec![disk()]));
    // Now both may run, the first without.
    assert_eq!(desk.start(FIRST), Ok(vec![card()]));
    assert_eq!(desk.start(SECOND), Ok(vec![disk()]));
    let device = disk();
    assert_eq!(
        desk.refused(Change::Assign { vm: FIRST, device }),
        "vm \"a\" runs, and its guest can't be told \
        that 0000:00:02.0 comes or goes: its PCI bridge has no hot-plug; stop it first"
    );
    desk.stop(FIRST);
    let device = disk();
    assert_eq!(desk.refused(Change::Assign { vm: FIRST, device }), "vm \"b\" has 0000:00:02.0");
    desk.stop(SECOND);
    assert_eq!(desk.assign(FIRST, disk()), Ok(vec![disk()]));
    assert_eq!(desk.start(FIRST), Ok(vec![disk(), card()]));
    assert_eq!(desk.start(SECOND), Ok(vec![]));
}

#[test]
fn one_that_has_a_device_while_it_runs_may_be_given_it_for_good() {
    let mut desk = Desk::new(&lenders());
    desk.start(FIRST).unwrap();
    assert_eq!(desk.assign(FIRST, disk()), Ok(vec![disk()]));
    assert_eq!(desk.start(SECOND), Ok(vec![]), "it doesn't wait for the disk any more");
    let device = disk();
    assert_eq!(
        desk.refused(Change::Assign { vm: FIRST, device }),
        "0000:00:02.0 is assigned to vm \"a\" already"
    );
}

#[test]
fn what_is_released_is_nobodys_until_it_is_assigned() {
    let mut desk = Desk::new(&lenders());
    desk.start(FIRST).unwrap();
    let device = card();
    let said = desk.refused(Change::Release { device });
    assert!(said.contains("vm \"a\" runs") && said.contains("stop it first"), "{said}");
    desk.stop(FIRST);
    assert_eq!(desk.release(card()), Ok(vec![card()]));
    let device = card();
    assert_eq!(desk.refused(Change::Release { device }), "0000:00:03.0 is nobody's already");
    assert_eq!(desk.start(FIRST), Ok(vec![disk()]));
    desk.stop(FIRST);
    let device = card();
    assert_eq!(
        desk.refused(Change::Assign { vm: SECOND, device }),
        "the file doesn't name 0000:00:03.0 for vm \"b\": name it there"
    );
    desk.assign(FIRST, card()).unwrap();
    assert_eq!(desk.start(FIRST), Ok(vec![disk(), card()]));
    let device = DeviceId::Function(address(9, 0));
    assert_eq!(desk.refused(Change::Release { device }), "the file names 0000:00:09.0 for no VM");
}

#[test]
fn a_plan_without_a_device_has_nothing_that_reaches_it_and_tells_the_guest_nothing_of_it() {
    let file = system(vec![vm("a", &[1], vec![node("/pl031@9010000"), pci(2, 0), pci(3, 0)])]);
    let plan = planned(&file, &by_time(board()));
    let full = &plan.vms[0];
    assert_eq!(plan_with(full, &[0, 1, 2]).as_ref(), Ok(full));
    for away in [0u16, 1, 2] {
        let left: Vec<u16> = (0..3).filter(|&device| device != away).collect();
        let without = plan_with(full, &left).unwrap();
        let named: Vec<Device> =
            left.iter().map(|&device| file.vms[0].devices[usize::from(device)].clone()).collect();
        // What a VM is given whose file doesn't name it, in other places.
        let never = planned(&system(vec![vm("a", &[1], named)]), &by_time(board()));
        let never = &never.vms[0];
        assert_eq!(without.description, never.description);
        assert_eq!(without.blobs, never.blobs);
        assert_ne!(without.blobs, full.blobs);
        let present: Vec<DevicePlan> = without.present().map(|(_, device)| device.clone()).collect();
        assert_eq!(present, never.devices);
        let place = |device: u16| without.present().position(|(own, _)| own == device).unwrap() as u16;
        assert!(without.registers.iter().all(|block| block.device != away));
        let lines = without.lines.iter().map(|route| LineRoute { device: place(route.device), ..*route });
        assert_eq!(lines.collect::<Vec<_>>(), never.lines);
        let functions =
            without.pci.iter().map(|bridge| bridge.functions.iter().map(|&it| place(it)).collect());
        assert_eq!(
            functions.collect::<Vec<Vec<u16>>>(),
            never.pci.iter().map(|bridge| bridge.functions.clone()).collect::<Vec<_>>()
        );
        let gone = &without.devices[usize::from(away)];
        assert_eq!((&gone.id, gone.presence), (&full.devices[usize::from(away)].id, Presence::Away));
        assert!(gone.pci.is_none() && gone.sources.is_empty() && gone.msi.is_none());
    }
}

#[test]
fn vms_that_were_planned_never_to_run_together_do_not_whoever_has_what_both_name() {
    // The clock can't come or go while they run, so that they may have the same RAM, and both take interrupts themselves.
    let both = || vec![node("/pl031@9010000"), pci(2, 0)];
    let mut desk = Desk::new(&system(vec![vm("a", &[1], both()), waiting(vm("b", &[2], both()))]));
    desk.assign(SECOND, clock()).unwrap();
    desk.assign(SECOND, disk()).unwrap();
    assert_eq!(desk.start(FIRST), Ok(vec![]));
    assert_eq!(
        desk.refused(Change::Start(SECOND)),
        "vm \"a\" runs, and the two can't run together, as the file names /pl031@9010000 for both"
    );
    desk.stop(FIRST);
    desk.start(SECOND).unwrap();
    assert!(desk.refused(Change::Start(FIRST)).starts_with("vm \"b\" runs, and the two can't run together"));
}

#[test]
fn a_vm_with_a_tree_of_its_own_does_without_functions_only() {
    let mut file = system(vec![vm("a", &[1], vec![node("/pl031@9010000"), pci(2, 0)])]);
    file.vms[0].dtb = Some("own.dtb".into());
    file.vms[0].interrupts = InterruptChoice::Emulated;
    let mut desk = Desk::new(&file);
    let device = clock();
    assert_eq!(
        desk.refused(Change::Release { device }),
        "vm \"a\" brings a device tree of its own, which says that it has /pl031@9010000"
    );
    desk.release(disk()).unwrap();
    assert_eq!(desk.start(FIRST), Ok(vec![clock()]));
}

#[test]
fn what_is_withheld_is_assigned_to_nobody() {
    let mut desk = Desk::new(&lenders());
    desk.running.withheld.push(Withheld { vm: FIRST, thing: Thing::Device(disk()) });
    let device = disk();
    assert_eq!(
        desk.refused(Change::Assign { vm: SECOND, device }),
        "vm \"a\" hasn't given back 0000:00:02.0: nobody gets it until the machine is reset"
    );
    // Without it, its VM may start all the same.
    desk.release(disk()).unwrap();
    assert_eq!(desk.start(FIRST), Ok(vec![card()]));
}

#[test]
fn what_cannot_be_told_apart_comes_and_goes_together() {
    let platform = by_time(with_functions(vec![endpoint(4, 0), endpoint(4, 1), endpoint(5, 0)], &[7, 7, 8]));
    let file = system(vec![
        vm("a", &[1], vec![pci(4, 0), pci(5, 0), pci(4, 1)]),
        waiting(vm("b", &[2], vec![pci(4, 1), pci(4, 0)])),
    ]);
    let plan = planned(&file, &platform);
    let mut desk = Desk { plan, running: Running::default() };
    let parts = [0, 1].map(|function| DeviceId::Function(address(4, function)));
    for part in &parts {
        let sorted = |mut devices: Vec<DeviceId>| {
            devices.sort();
            devices
        };
        assert_eq!(desk.assign(SECOND, part.clone()).map(sorted), Ok(parts.to_vec()));
        assert_eq!(desk.start(FIRST), Ok(vec![DeviceId::Function(address(5, 0))]));
        assert_eq!(desk.start(SECOND).map(|devices| devices.len()), Ok(2));
        desk.stop(FIRST);
        desk.stop(SECOND);
        assert_eq!(desk.assign(FIRST, part.clone()).map(sorted), Ok(parts.to_vec()));
    }
    assert_eq!(desk.release(parts[0].clone()), Ok(parts.to_vec()));
}

#[test]
fn what_is_reset_together_in_one_vm_comes_and_goes_together_for_all() {
    // Behind one bridge, each in a group of its own; the first VM's file has them reset by the bus.
    let mut functions = vec![port(1), behind(1, 1, 0), behind(1, 1, 1)];
    functions[1].resets = vec![ResetMethod::SecondaryBus];
    let platform = by_time(with_functions(functions, &[0, 1, 2]));
    let file = system(vec![
        vm("a", &[1], vec![on_bus(1, 0), on_bus(1, 1)]),
        waiting(vm("b", &[2], vec![on_bus(1, 1)])),
    ]);
    let plan = planned(&file, &platform);
    let mut desk = Desk { plan, running: Running::default() };
    let device = desk.plan.vms[1].devices[0].id.clone();
    assert_eq!(
        desk.refused(Change::Assign { vm: SECOND, device }),
        "0000:01:01.0 comes only together with 0000:01:00.0, which the file doesn't name for vm \"b\""
    );
}

mod properties {
    //! Whatever VMs share and whatever is asked for: held against the platform, not against what the planner noted.

    use proptest::prelude::*;

    use super::*;

    const CLOCK_PATH: &str = "/pl031@9010000";

    fn any_device() -> impl Strategy<Value = Device> {
        prop_oneof![4 => (1u8..7).prop_map(|slot| pci(slot, 0)), 1 => Just(node(CLOCK_PATH))]
    }

    fn any_vm() -> impl Strategy<Value = Vm> {
        let cpus = prop::sample::subsequence(vec![1u16, 2, 3], 1..3);
        let modes = prop_oneof![
            Just(InterruptChoice::Auto),
            Just(InterruptChoice::Emulated),
            Just(InterruptChoice::None)
        ];
        (cpus, prop::collection::vec(any_device(), 0..4), 40u64..500, modes).prop_map(
            |(cpus, mut devices, blocks, interrupts)| {
                let mut seen = Vec::new();
                devices.retain(|device| {
                    !seen.contains(device) && {
                        seen.push(device.clone());
                        true
                    }
                });
                Vm { memory: blocks << 21, interrupts, ..waiting(vm("", &cpus, devices)) }
            },
        )
    }

    fn any_system() -> impl Strategy<Value = System> {
        prop::collection::vec(any_vm(), 2..5).prop_map(|mut vms| {
            for (position, vm) in vms.iter_mut().enumerate() {
                vm.name = alloc::format!("vm{position}");
            }
            system(vms)
        })
    }

    /// Functions in six slots, whose lines come twice, some of them in one group or with one id.
    fn any_platform() -> impl Strategy<Value = Platform> {
        let sometimes = || prop::bool::weighted(0.15);
        prop::collection::vec((sometimes(), sometimes(), sometimes()), 6).prop_map(|slots| {
            let functions = (1..7).map(|slot| endpoint(slot, 0)).collect();
            let groups: Vec<u32> =
                (1..).zip(&slots).map(|(own, (grouped, ..))| if *grouped { 0 } else { own }).collect();
            let mut platform = by_time(with_functions(functions, &groups));
            for (device, (_, alike, by_bus)) in platform.functions.iter_mut().flatten().zip(slots) {
                if alike {
                    device.sources = vec![DmaSource::new(0, 0x77)];
                }
                if by_bus {
                    device.function.resets = vec![ResetMethod::SecondaryBus];
                }
            }
            platform
        })
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let device = prop_oneof![
            5 => (1u8..7).prop_map(|slot| DeviceId::Function(address(slot, 0))),
            1 => Just(DeviceId::Node(CLOCK_PATH.into())),
        ];
        let vm = || (0u16..5).prop_map(VmId);
        prop_oneof![
            vm().prop_map(Change::Start),
            (vm(), device.clone()).prop_map(|(vm, device)| Change::Assign { vm, device }),
            device.prop_map(|device| Change::Release { device }),
        ]
    }

    /// A change, or a VM that stops.
    fn any_step() -> impl Strategy<Value = Result<Change, VmId>> {
        prop_oneof![3 => any_change().prop_map(Ok), 1 => (0u16..5).prop_map(VmId).prop_map(Err)]
    }

    /// What of the machine a VM with these devices can use, as the platform has it.
    #[derive(Default)]
    struct Used {
        spans: Vec<Span<Hpa>>,
        groups: Vec<u32>,
        sources: Vec<DmaSource>,
        lines: Vec<Irq>,
    }

    fn used(vm: &VmPlan, platform: &Platform) -> Used {
        let mut used = Used::default();
        used.spans.extend(vm.ram.iter().map(|piece| Span::new(piece.hpa, piece.gpa.size()).unwrap()));
        for (_, device) in vm.present() {
            match &device.id {
                DeviceId::Function(address) => {
                    let functions = platform.functions.iter().flatten();
                    let found = functions.clone().find(|it| it.function.address == *address).unwrap();
                    used.groups.push(found.group);
                    used.sources.extend(&found.sources);
                    if device.intx {
                        used.lines.extend(found.line.map(|line| line.irq));
                    }
                    let alike = |other: &&PciDevice| {
                        let shares = other.sources.iter().any(|source| found.sources.contains(source));
                        other.group == found.group || shares
                    };
                    for other in functions.filter(alike) {
                        let other = DeviceId::Function(other.function.address);
                        assert!(
                            vm.present().any(|(_, own)| own.id == other),
                            "{other:?} isn't {}'s",
                            vm.name
                        );
                    }
                }
                DeviceId::Node(path) => {
                    let found = platform.devices.iter().find(|it| it.path == *path).unwrap();
                    used.spans.extend(found.registers.iter().map(Span::to_pages));
                    if vm.mode != config::VMInterruptMode::NoIrq {
                        used.lines.extend(found.interrupts.iter().map(|line| line.irq));
                    }
                }
                DeviceId::Registers(_) | DeviceId::Ports(_) => panic!(),
            }
        }
        used
    }

    fn check(vms: &[VmPlan], platform: &Platform) {
        for (position, vm) in vms.iter().enumerate() {
            let mine = used(vm, platform);
            assert!(mine.lines.iter().all(|line| vm.lines.iter().any(|route| route.irq == *line)));
            assert!(vm.lines.iter().all(|route| usize::from(route.device) < vm.devices.len()));
            for other in &vms[position + 1..] {
                let theirs = used(other, platform);
                let both = alloc::format!("{} and {}", vm.name, other.name);
                assert!(vm.cpus.iter().all(|a| other.cpus.iter().all(|b| a.cpu != b.cpu)), "{both}");
                assert!(mine.spans.iter().all(|a| theirs.spans.iter().all(|b| !a.overlaps(b))), "{both}");
                assert!(mine.groups.iter().all(|group| !theirs.groups.contains(group)), "{both}");
                assert!(mine.sources.iter().all(|source| !theirs.sources.contains(source)), "{both}");
                assert!(vm.lines.iter().all(|a| other.lines.iter().all(|b| a.irq != b.irq)), "{both}");
                assert!(vm.present().all(|(_, a)| other.present().all(|(_, b)| a.id != b.id)), "{both}");
                let (a, b) = (&vm.messages, &other.messages);
                assert!(a.end <= b.start || b.end <= a.start || a.is_empty() || b.is_empty(), "{both}");
            }
        }
        let tables: u64 = vms.iter().map(|vm| vm.table_bytes).sum();
        assert!(tables <= platform.limits.table_bytes);
        assert!(vms.iter().all(|vm| vm.messages.end <= platform.limits.messages));
        let numbered = vms.iter().filter(|vm| vm.mode == config::VMInterruptMode::Passthrough);
        let numbered = numbered.filter(|vm| vm.devices.iter().any(|device| device.msi.is_some()));
        assert!(numbered.count() <= 1, "two have their own LPIs in hardware");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn no_two_vms_that_run_share_anything(
            system in any_system(),
            platform in any_platform(),
            steps in prop::collection::vec(any_step(), 1..32),
        ) {
            let Ok(plan) = plan(&system, &platform, &images(system.vms.len())) else { return Ok(()) };
            let mut running = Running::default();
            for step in steps {
                let change = match step {
                    Ok(change) => change,
                    Err(vm) => {
                        running.holders.retain(|holder| holder.vm != vm);
                        continue;
                    }
                };
                match replan(&plan.vms, &running, &change) {
                    Ok(replanned) => {
                        prop_assert_ne!(&replanned.running, &running);
                        running = replanned.running;
                        let plans = in_force(&plan.vms, &running);
                        check(&plans, &platform);
                        for (now, holder) in plans.iter().zip(&running.holders) {
                            let full = plan.vms.iter().find(|vm| vm.id == holder.vm).unwrap();
                            // What its guest is told is what it has.
                            let told = plan_with(full, &holder.devices).unwrap();
                            prop_assert_eq!(told.present().count(), holder.devices.len());
                            prop_assert_eq!(&told.devices, &now.devices);
                        }
                    }
                    Err(refusal) => {
                        let line = refusal.say(&plan.vms);
                        prop_assert!(!line.contains('\n') && line.len() < 300, "{}", line);
                    }
                }
            }
        }
    }
}
