//! What the core relies on of each part of a host, on both fakes.

use super::*;
use crate::vcpu::{Answer, Exit, IpiRequest, MmioAccess, PowerRequest, Slept, Vcpu};
use script::Step;

const SOURCE: DmaSource = DmaSource::new(0, 0x20);
const NO_SOURCE: DmaSource = DmaSource::new(0, 0xffff);

fn an_iommu_opens_what_is_attached_and_says_what_it_has_blocked_if_it_can<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let iommu = hal.iommu();
    let domain = vm.with_maps(|_, dma| dma.domain(SOURCE.iommu)).unwrap();
    assert_eq!(hal.opened(), [DmaSource::new(0, 0x10)], "{}: the plan's alone", H::NAME);
    assert!(iommu.attach(NO_SOURCE, &domain).is_err());
    iommu.attach(SOURCE, &domain).unwrap();
    assert!(hal.opened().contains(&SOURCE));
    for _ in 0..2 {
        iommu.block(SOURCE).unwrap();
        assert!(!hal.opened().contains(&SOURCE));
    }
    let told = || {
        let mut told = vec![];
        let drained = iommu.drain(SOURCE.iommu, 2, |fault| told.push(fault));
        (told.len(), drained.more)
    };
    let reports = iommu.abilities(SOURCE.iommu).reports_faults;
    (0..3).for_each(|page| hal.stray(SOURCE, page << 12));
    assert_eq!(told(), if reports { (2, true) } else { (0, false) }, "{}", H::NAME);
    assert_eq!(told(), if reports { (1, false) } else { (0, false) }, "{}", H::NAME);
    iommu.silence(SOURCE).unwrap();
    hal.stray(SOURCE, 0);
    assert_eq!(told(), (0, false), "{}: it was silenced", H::NAME);
}

fn what_is_recorded_late_is_charged_to_who_had_the_device<H: Fake>() {
    const DISK: DmaSource = DmaSource::new(0, 0x10);
    let (vm, hal, registry) = created::<H>();
    let reports = hal.iommu().abilities(DISK.iommu).reports_faults;
    hal.stray(DISK, 0x1000);
    hal.stray_late(DISK, 0x2000);
    hal.stray(SOURCE, 0x3000);
    let before = vm.plan().id;
    let plan = vm.dispose(&registry).unwrap().plan;
    let charged: Vec<_> =
        hal.lab().violations.borrow().iter().map(|it| (it.vm, it.device, it.address)).collect();
    let all = [0x1000, 0x2000].map(|address| (Some(before), Some(0), Some(address)));
    assert_eq!(charged, if reports { &all[..] } else { &[] }, "{}", H::NAME);
    // And who comes next finds nothing but others'.
    let _again = AxVM::new(plan, hal.clone(), &registry).unwrap();
    let mut left = vec![];
    let _ = hal.iommu().drain(DISK.iommu, usize::MAX, |fault| left.push(fault.source));
    assert_eq!(left, if reports { vec![SOURCE] } else { vec![] }, "{}", H::NAME);
}

fn a_device_is_kept_from_the_bus_and_all_is_tried<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let disk = &vm.plan().devices[0];
    hal.lab().faults.fail_named.set(Some("keep off the bus"));
    assert!(keep_off_bus(&*hal, vm.id(), disk).is_err());
    assert!(hal.opened().is_empty(), "{}: its sources are blocked whatever else fails", H::NAME);
    hal.lab().faults.fail_named.set(Some("block a source"));
    assert!(keep_off_bus(&*hal, vm.id(), disk).is_err());
    hal.lab().faults.fail_named.set(None);
    assert_eq!(keep_off_bus(&*hal, vm.id(), disk), Ok(()));
}

fn mappings_are_taken_away_as_they_were_made_or_cut_where_that_is_said<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
    vm.map_registers(0, Region::Bar(2), 0, Gpa(BAR_2), 0x4000, flags).unwrap();
    let page = Span::new(Gpa(BAR_2 + 0x1000), 0x1000).unwrap();
    let cuts = hal.iommu().abilities(IommuId(0)).cuts_mappings;
    assert_eq!(vm.unmap_registers(page).is_ok(), cuts, "{}", H::NAME);
    assert_eq!(hal.cpu_reaches(BAR_2 + 0x1000), !cuts);
    assert!(hal.cpu_reaches(BAR_2) && hal.cpu_reaches(BAR_2 + 0x2000), "{}: the rest stays", H::NAME);
}

fn an_irqchip_keeps_what_comes_for_a_vcpu_until_that_takes_it<H: Fake>() {
    let (vm, _hal, _registry) = created::<H>();
    let (chip, first, second) = (vm.irqchip(), VcpuId(0), VcpuId(1));
    // Before it is there.
    vm.inject(first, Irq(34)).unwrap();
    let seat = chip.enter(first).unwrap();
    assert!(chip.enter(first).is_err(), "{}: it is there once", H::NAME);
    assert!(chip.enter(VcpuId(2)).is_err());
    // And while it is away.
    chip.leave(first, seat);
    let seat = chip.enter(first).unwrap();
    assert!(chip.take(first, Irq(34)) && !chip.take(first, Irq(34)), "{}: an edge comes once", H::NAME);
    for _ in 0..2 {
        vm.set_irq_level(CONSOLE_IRQ, true).unwrap();
        assert!(chip.take(first, CONSOLE_IRQ), "{}: a level stays", H::NAME);
    }
    vm.set_irq_level(CONSOLE_IRQ, false).unwrap();
    assert!(!chip.take(first, CONSOLE_IRQ));
    chip.send_ipi(first, IpiRequest(1));
    assert!(chip.has_pending(second) && !chip.has_pending(first));
    assert!(vm.inject(VcpuId(2), Irq(34)).is_err() && vm.inject(first, Irq(FIRST_MESSAGE)).is_err());
    assert!(vm.set_irq_level(Irq(1), true).is_err());
    chip.leave(first, seat);
    chip.reset();
    assert!(!chip.has_pending(second), "{}: and nothing stays behind a reset", H::NAME);
}

fn a_message_comes_where_the_guest_has_armed_it_and_by_who_may_send_it<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let chip = vm.irqchip();
    assert!(hal.fire(&vm, 0).is_err(), "{}: nobody has armed it", H::NAME);
    let message = MsiMessage { address: MSI_ADDRESS, data: MESSAGES };
    assert!(vm.send_msi(Some(SENDER), message).is_err(), "{}: nor set that one up", H::NAME);
    vm.send_msi(Some(SENDER), MsiMessage { data: 1, ..message }).unwrap();
    let seat = chip.enter(VcpuId(0)).unwrap();
    assert!(chip.take(VcpuId(0), Irq(FIRST_MESSAGE + 1)));
    chip.leave(VcpuId(0), seat);
    assert!(vm.route_message(9, 0, None).is_err(), "{}: there is no such device", H::NAME);
    let before = hal.told_messages();
    vm.route_message(0, 1, Some(message)).unwrap();
    vm.route_message(0, 1, Some(MsiMessage { data: 2, ..message })).unwrap();
    vm.route_message(0, 1, None).unwrap();
    assert_eq!(hal.told_messages(), before);
}

fn routes_of_messages_end_with_their_vm<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    for vector in 0..3 {
        vm.route_message(0, vector, Some(MsiMessage { address: MSI_ADDRESS, data: 1 })).unwrap();
    }
    vm.dispose(&registry).unwrap();
    is_clean(&*hal);
}

/// Runs `with` on vCPU 0, whose guest has this program.
fn resident<H: Fake>(program: &[Step], with: impl FnOnce(&H, &mut H::Vcpu<'_>)) {
    let (vm, hal, _registry) = created::<H>();
    hal.lab().programs.borrow_mut().insert(RAM, program.to_vec());
    let start = Start { entry: RAM, argument: 7 };
    let seat = vm.irqchip().enter(VcpuId(0)).unwrap();
    let left = hal.reside(&vm, VcpuId(0), start, seat, |vcpu| {
        assert_eq!(vcpu.pc(), RAM, "{}: it begins where it was told", H::NAME);
        with(&hal, vcpu);
    });
    assert_eq!(left.result, Ok(()));
    vm.irqchip().leave(VcpuId(0), left.seat);
    assert_eq!(*hal.lab().complaints.borrow(), Vec::<String>::new(), "{}", H::NAME);
    assert!(hal.lab().resident.borrow().is_empty());
}

fn a_vcpu_goes_on_with_the_answer_that_it_is_given<H: Fake>() {
    let program =
        [Step::Argument(7), Step::Load(CONSOLE, Answer::Value(5)), Step::Load(CONSOLE, Answer::Nobody)];
    resident::<H>(&program, |_, vcpu| {
        let access = MmioAccess { gpa: Gpa(CONSOLE), width: Width::B4, write: None, continues: false };
        for answer in [Answer::Value(5), Answer::Nobody] {
            assert_eq!(vcpu.run(), Exit::Mmio(access));
            vcpu.complete(answer);
        }
        assert_eq!(vcpu.run(), Exit::Power(PowerRequest::CpuOff));
    });
}

fn a_vcpu_leaves_for_a_call_also_if_that_came_first<H: Fake>() {
    resident::<H>(&[Step::Spin], |hal, vcpu| {
        hal.kick(VmId(0), VcpuId(1));
        hal.kick(VmId(0), VcpuId(0));
        assert_eq!(vcpu.run(), Exit::Interrupted);
        hal.kick(VmId(0), VcpuId(0));
        assert_ne!(vcpu.sleep(None), Slept::Forged, "{}: and wakes for it", H::NAME);
    });
}

fn a_vcpu_is_held_until_a_call_comes_and_the_guests_interrupts_wait<H: Fake>() {
    resident::<H>(&[Step::Await(Irq(34)), Step::Spin], |hal, vcpu| {
        hal.kick(VmId(0), VcpuId(0));
        assert_ne!(vcpu.hold(), Slept::Forged, "{}", H::NAME);
        // One that comes when it goes on already is forgotten, so that the guest isn't left for it.
        hal.kick(VmId(0), VcpuId(0));
        vcpu.let_go();
        assert_eq!(vcpu.run(), Exit::Halt { deadline: None }, "{}", H::NAME);
        assert!(hal.lab().violations.borrow().is_empty());
    });
}

fn what_is_shut_is_opened_as_it_was_unless_it_was_revoked<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let id = vm.id();
    let reaches = || hal.cpu_reaches(RAM) && hal.cpu_reaches(CLOCK);
    for _ in 0..2 {
        vm.with_maps(|space, _| hal.shut(id, space));
        assert_eq!(reaches(), hal.comes_when_called(), "{}", H::NAME);
        assert!(hal.device_reaches(RAM), "{}: devices reach what they did", H::NAME);
        vm.with_maps(|space, _| hal.open(id, space));
        assert!(reaches(), "{}", H::NAME);
    }
    vm.with_maps(|space, _| {
        hal.shut(id, space);
        hal.revoke(id, space);
        hal.open(id, space);
    });
    assert_eq!(reaches(), hal.comes_when_called(), "{}: for good", H::NAME);
}

on_both_hosts! {
    a_vcpu_is_held_until_a_call_comes_and_the_guests_interrupts_wait,
    what_is_shut_is_opened_as_it_was_unless_it_was_revoked,
    an_iommu_opens_what_is_attached_and_says_what_it_has_blocked_if_it_can,
    what_is_recorded_late_is_charged_to_who_had_the_device,
    a_device_is_kept_from_the_bus_and_all_is_tried,
    mappings_are_taken_away_as_they_were_made_or_cut_where_that_is_said,
    an_irqchip_keeps_what_comes_for_a_vcpu_until_that_takes_it,
    a_message_comes_where_the_guest_has_armed_it_and_by_who_may_send_it,
    routes_of_messages_end_with_their_vm,
    a_vcpu_goes_on_with_the_answer_that_it_is_given,
    a_vcpu_leaves_for_a_call_also_if_that_came_first,
}
