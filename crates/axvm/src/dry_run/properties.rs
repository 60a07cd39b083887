//! Whatever system is planned on whatever functions: what no plan may ever say. Held against the platform itself, not
//! against the planner's own tables.

use axvm_addr::Irq;
use proptest::prelude::*;

use alloc::vec;
use alloc::vec::Vec;

use super::dry_run;
use axvm_addr::*;
use axvm_plan::fixtures::*;
use axvm_plan::*;
use axvm_platform::limits::GuestMachine;
use axvm_platform::model::*;
use axvm_system::model::*;

/// RAM is given in blocks of so many bytes.
const BLOCK: u64 = 2 << 20;

fn device() -> impl Strategy<Value = Device> {
    let paths = [
        "/pl031@9010000",
        "/pl061@9030000",
        "/pl011@9000000",
        "/pl011@9040000",
        "/virtio_mmio@a000000",
        "/virtio_mmio@a000200",
        "/fw-cfg@9020000",
        "/flash@0",
        "/nowhere",
    ];
    let address = prop_oneof![
        0u64..0x1_0000_0000,
        prop::sample::select(vec![
            0x0800_0000u64,
            0x080a_0000,
            0x0808_0000,
            0x0900_0000,
            0x0901_0000,
            0x0903_0000,
            0x0a00_0000,
            0x0a10_0000,
            0x1000_0000,
            0x4000_0000,
            0x40_1000_0000,
            0x80_0000_0000
        ]),
    ];
    let dma = prop_oneof![Just(Dma::None), Just(Dma::Unstated)];
    let access = prop_oneof![Just(RegisterAccess::Direct), Just(RegisterAccess::Trap)];
    let accept = prop_oneof![Just(vec![]), Just(vec![Hazard::Provider])];
    let mask = prop_oneof![Just(!0xfffu64), Just(!0u64)];
    let region =
        (address.clone(), address, 1u64..0x4000, prop::option::of(30u32..60), dma, access, accept, mask)
            .prop_map(|(gpa, hpa, length, irq, dma, access, accept, mask)| Device::Region {
                // Of few names, so that two VMs often have one in common.
                name: alloc::format!("raw{}", hpa & 1),
                base_gpa: Gpa(gpa & mask),
                base_hpa: Hpa(hpa & mask),
                length: (length & mask).max(1),
                irq: irq.map(Irq),
                access,
                dma,
                accept,
            });
    prop_oneof![
        4 => (0u8..8, any::<bool>(), any::<bool>())
            .prop_map(|(d, without_reset, without_intx)| Device::Pci { address: address_of(d, 0), without_reset, without_intx, in_use: InUse::Keep }),
        2 => prop::sample::select(paths.to_vec()).prop_map(node),
        2 => region,
    ]
}

fn address_of(device: u8, function: u8) -> PciAddress {
    address(device, function)
}

fn any_vm() -> impl Strategy<Value = Vm> {
    let base = prop_oneof![6 => Just(None), 1 => (0u64..0x400).prop_map(|block| Some(Gpa(block << 24)))];
    let tree = prop_oneof![4 => Just(None), 1 => (0u64..0x4_0000).prop_map(|at| Some(Gpa(0x4000_0000 + (at << 12))))];
    (
        proptest::collection::vec(0u16..5, 1..2),
        (30u64..600).prop_map(|blocks| blocks * BLOCK),
        base,
        tree,
        proptest::collection::vec(device(), 0..3),
    )
        .prop_map(|(cpus, memory, memory_base, device_tree, devices)| {
            let mut vm = vm("", &cpus, devices);
            (vm.memory, vm.memory_base, vm.device_tree) = (memory, memory_base, device_tree);
            vm
        })
}

fn any_system() -> impl Strategy<Value = System> {
    proptest::collection::vec(any_vm(), 1..4).prop_map(|mut vms| {
        for (index, vm) in vms.iter_mut().enumerate() {
            // Mostly a CPU of its own, so that more is tried than CPUs given twice.
            if vm.cpus != [CpuId(4)] {
                vm.cpus = vec![CpuId(index as u16 + 1)];
            }
            vm.name = alloc::format!("vm{index}");
        }
        system(vms)
    })
}

fn any_platform() -> impl Strategy<Value = Platform> {
    let mostly = || prop::bool::weighted(0.9);
    let slot = (mostly(), 0u32..8, mostly(), mostly());
    let high = prop::bool::weighted(0.2);
    let own = prop::bool::weighted(0.3);
    (high, own, proptest::collection::vec(slot, 8)).prop_map(|(high, own, slots)| {
        let mut functions = Vec::new();
        let mut groups = Vec::new();
        for (device, (there, group, resets, behind_iommu)) in (0..).zip(slots) {
            if there {
                let mut function = endpoint(device, 0);
                if !resets {
                    function.resets.clear();
                }
                functions.push((function, behind_iommu));
                groups.push(if group == 0 { 0 } else { u32::from(device) + 1 });
            }
        }
        let mut platform = with_functions(functions.iter().map(|(f, _)| f.clone()).collect(), &groups);
        for (device, (_, behind)) in platform.functions.iter_mut().flatten().zip(functions) {
            if !behind {
                device.sources.clear();
            }
        }
        if high {
            raise(&mut platform);
        }
        if own {
            platform.limits.guest_machine = GuestMachine::Own;
        }
        platform
    })
}

/// Everything of the host that this VM's CPUs or devices reach.
fn reach(vm: &VmPlan) -> Vec<Span<Hpa>> {
    let ram = vm.ram.iter().map(|piece| Span::new(piece.hpa, piece.gpa.size()).unwrap());
    let registers = vm.registers.iter().map(|block| {
        let span = Span::new(block.hpa, block.gpa.size()).unwrap();
        if block.direct { span.to_pages() } else { span }
    });
    ram.chain(registers).collect()
}

fn check(plan: &Plan, platform: &Platform) -> Result<(), TestCaseError> {
    let gic = platform.gic().unwrap();
    let mut kept: Vec<Span<Hpa>> = vec![gic.distributor];
    kept.extend(&gic.redistributors);
    kept.extend(gic.its.iter().map(|its| its.registers));
    kept.extend(platform.iommus.iter().map(|smmu| smmu.registers));
    kept.extend(platform.pci_hosts.iter().map(|host| host.ecam));
    kept.extend(platform.pci_hosts.iter().flat_map(|host| host.windows.iter().map(|window| window.cpu)));
    kept.extend(platform.reserved.iter().map(|reserved| reserved.span));
    let masters = platform.devices.iter().filter(|d| d.bus_master == Some(true) && d.sources.is_empty());
    kept.extend(masters.flat_map(|d| d.registers.iter().copied()));
    // Where the hypervisor speaks while they run.
    let console = match &plan.console_lent {
        Some(lent) => lent.aside.as_deref(),
        None => platform.console.as_deref(),
    };
    kept.extend(
        platform
            .devices
            .iter()
            .filter(|d| console == Some(d.path.as_str()))
            .flat_map(|d| d.registers.clone()),
    );

    for (index, vm) in plan.vms.iter().enumerate() {
        let mine = reach(vm);
        for span in &mine {
            for own in &kept {
                prop_assert!(!span.overlaps(own), "{span} of {} reaches {own}", vm.name);
            }
            for other in plan.vms.iter().skip(index + 1) {
                for theirs in reach(other) {
                    prop_assert!(!span.overlaps(&theirs), "{} and {} share {span}", vm.name, other.name);
                }
            }
        }
        for other in plan.vms.iter().skip(index + 1) {
            prop_assert!(vm.cpus.iter().all(|mine| other.cpus.iter().all(|theirs| mine.cpu != theirs.cpu)));
            prop_assert!(vm.lines.iter().all(|line| other.lines.iter().all(|l| l.irq != line.irq)));
            for (mine, theirs) in vm.devices.iter().flat_map(|d| other.devices.iter().map(move |o| (d, o))) {
                prop_assert!(mine.pci.is_none() || mine.pci != theirs.pci);
                prop_assert!(mine.group.is_none() || mine.group != theirs.group);
                prop_assert!(mine.sources.iter().all(|source| !theirs.sources.contains(source)));
            }
        }
        prop_assert!(vm.cpus.iter().all(|vcpu| Some(vcpu.cpu) != plan.hypervisor_cpu));
        for device in vm.devices.iter().filter(|device| device.pci.is_some()) {
            prop_assert!(!device.sources.is_empty(), "a function without a stream was given");
        }
        check_guest_map(vm, platform)?;
    }
    Ok(())
}

fn check_guest_map(vm: &VmPlan, platform: &Platform) -> Result<(), TestCaseError> {
    let mut map: Vec<Span<Gpa>> = vm.ram.iter().map(|piece| piece.gpa).collect();
    map.extend(vm.registers.iter().map(|block| block.gpa));
    map.extend(vm.emulated());
    // Config space counts whether or not the VM has functions there.
    let planned = |ecam: &Span<Gpa>| vm.pci.iter().any(|bridge| bridge.ecam == *ecam);
    let mirrored = platform.limits.guest_machine == GuestMachine::MirrorsBoard;
    let hosts = || platform.pci_hosts.iter().filter(|_| mirrored);
    let ecams = hosts().map(|host| Span::new(Gpa(host.ecam.start().0), host.ecam.size()).unwrap());
    map.extend(ecams.filter(|ecam| !planned(ecam)));
    map.extend(vm.pci.iter().flat_map(|bridge| bridge.windows.iter().map(|window| window.cpu)));
    // Whatever machine the guest sees, a device's DMA to these doesn't come to the IOMMU. An I/O window's addresses are of a space of
    // their own, to which no DMA goes.
    let all = platform.pci_hosts.iter().flat_map(|host| &host.windows);
    let all = all.filter(|window| window.space != PciSpace::Io);
    for window in all.map(|window| Span::new(Gpa(window.pci), window.cpu.size()).unwrap()) {
        for ram in vm.ram.iter().map(|piece| &piece.gpa) {
            prop_assert!(!ram.overlaps(&window), "RAM {ram} in a window {window}");
        }
    }
    for (position, span) in map.iter().enumerate() {
        for other in &map[position + 1..] {
            prop_assert!(!span.overlaps(other), "{span} and {other} in the map of {}", vm.name);
        }
    }
    let load = &vm.load;
    let ram = vm.description.memory[0];
    let images: Vec<Span<Gpa>> = [Some(load.description), load.initrd].into_iter().flatten().collect();
    prop_assert!(ram.contains(load.kernel) && images.iter().all(|span| ram.encloses(span)));
    prop_assert!(images.len() < 2 || !images[0].overlaps(&images[1]));
    let kernel = Span::new(load.kernel, KERNEL_SIZE).unwrap();
    prop_assert!(images.iter().all(|span| !span.overlaps(&kernel)));
    prop_assert!(vm.blobs[0].bytes.len() as u64 <= load.description.size());
    Ok(())
}

/// An I/O window's addresses on the bus begin at 0, where a VM's RAM may lie as well.
#[test]
fn ram_may_lie_where_only_ports_are() {
    let mut low = vm("low", &[1], vec![]);
    (low.memory, low.memory_base) = (60 << 20, Some(Gpa(0)));
    let (system, platform) = (system(vec![low]), with_functions(vec![], &[]));
    let ports =
        platform.pci_hosts.iter().flat_map(|host| &host.windows).find(|window| window.space == PciSpace::Io);
    assert_eq!(ports.map(|window| window.pci), Some(0));
    let plan = plan(&system, &platform, &images(1)).unwrap();
    assert_eq!(plan.vms[0].ram[0].gpa.start(), Gpa(0));
    check(&plan, &platform).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_plan_lets_a_vm_reach_what_is_anothers(system in any_system(), platform in any_platform()) {
        match plan(&system, &platform, &images(system.vms.len())) {
            Ok(plan) => {
                check(&plan, &platform)?;
                let built = dry_run(&plan, &platform);
                prop_assert!(built.is_ok(), "{built:?}");
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    let line = alloc::string::ToString::to_string(&problem);
                    prop_assert!(!line.contains('\n') && line.len() < 600, "{line}");
                    prop_assert!(!line.contains("  "), "{line}");
                }
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_answer(system in any_system(), platform in any_platform()) {
        let images = images(system.vms.len());
        prop_assert_eq!(plan(&system, &platform, &images), plan(&system, &platform, &images));
    }

    #[test]
    fn a_system_that_takes_less_than_one_that_is_accepted_is_accepted(system in any_system(), platform in any_platform()) {
        let all = images(system.vms.len());
        if let Ok(plan_of_all) = plan(&system, &platform, &all) {
            let mut less = system.clone();
            for (vm, planned) in less.vms.iter_mut().zip(&plan_of_all.vms) {
                vm.devices.clear();
                // Without a region in its way RAM could be elsewhere, and the place that the file has for a device tree outside.
                vm.memory_base = Some(planned.ram[0].gpa.start());
            }
            prop_assert!(plan(&less, &platform, &all).is_ok());
        }
    }
}
