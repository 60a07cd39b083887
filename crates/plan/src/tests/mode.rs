//! Which mode interrupts get, and why.

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::Irq;
use axvm_system::model::{Device, InterruptChoice};

use super::{board, node, pci, planned, refusals, region, system, vm};
use crate::config::VMInterruptMode::{self, Emulated, NoIrq, Passthrough};
use crate::problem::Rule;
use crate::{Plan, VmPlan, plan};

fn modes(plan: &Plan) -> Vec<VMInterruptMode> {
    plan.vms.iter().map(|vm| vm.mode).collect()
}

fn nvme() -> Vec<Device> {
    vec![pci(2, 0)]
}

fn card() -> Vec<Device> {
    vec![pci(3, 0)]
}

fn clock() -> Vec<Device> {
    vec![node("/pl031@9010000")]
}

fn says(plan: &Plan, words: &[&str]) -> bool {
    plan.notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
}

fn console_line(vm: &VmPlan) -> Irq {
    vm.console.unwrap().irq
}

#[test]
fn a_vm_alone_is_passthrough_with_a_console_line_that_no_device_has() {
    let plan = planned(&system(vec![vm("linux", &[1], vec![pci(2, 0), node("/pl031@9010000")])]), &board());
    assert_eq!(modes(&plan), [Passthrough]);
    assert!(says(&plan, &["linux", "passthrough"]));
    let line = console_line(&plan.vms[0]);
    let board = board();
    assert!(board.devices.iter().flat_map(|it| &it.interrupts).all(|used| used.irq != line), "{line}");
    assert!(board.functions.iter().flatten().all(|it| it.line.is_none_or(|used| used.irq != line)));
    assert!(plan.vms[0].lines.iter().all(|route| route.irq != line && !route.masked));
}

#[test]
fn only_one_vm_has_its_own_lpis_in_hardware() {
    let vms = || vec![vm("a", &[1], nvme()), vm("b", &[2], card())];
    let plan = planned(&system(vms()), &board());
    assert_eq!(modes(&plan), [Passthrough, Emulated]);
    assert!(says(&plan, &["\"b\"", "emulated", "\"a\""]));
    // What the file asks for comes first.
    let mut asked = vms();
    asked[1].interrupts = InterruptChoice::Passthrough;
    let plan = planned(&system(asked.clone()), &board());
    assert_eq!(modes(&plan), [Emulated, Passthrough]);
    asked[0].interrupts = InterruptChoice::Passthrough;
    assert_eq!(refusals(&system(asked), &board()), [(Rule::InterruptMode, of_vm(1, "interrupts"))]);
}

#[test]
fn who_has_no_lpis_of_its_own_in_hardware_has_virtual_ones_where_there_are_any() {
    let vms = vec![vm("a", &[1], nvme()), vm("b", &[2], card()), vm("c", &[3], clock())];
    for (hardware, word) in [
        (Some(true), "without the hypervisor (GICv4)"),
        (Some(false), "no virtual LPIs"),
        (None, "unless the GIC has virtual LPIs"),
    ] {
        let mut board = board();
        if let Some(gic) = board.gic_mut() {
            gic.virtual_lpis = hardware;
        }
        let plan = planned(&system(vms.clone()), &board);
        assert_eq!(modes(&plan), [Passthrough, Emulated, Emulated]);
        let chosen: Vec<bool> = plan.vms.iter().map(|vm| vm.aarch64().unwrap().virtual_lpis).collect();
        assert_eq!(chosen, [false, hardware == Some(true), false], "the last has no MSIs");
        assert!(says(&plan, &["\"b\"", word]), "{:?}", plan.notes);
        assert!(says(&plan, &["\"c\": its timer, SGIs and lines are injected"]));
    }
}

#[test]
fn without_a_maintenance_interrupt_only_passthrough_is_served() {
    use axvm_platform::model::Interrupt;
    let with = |maintenance: Option<Interrupt>| {
        let mut board = board();
        if let Some(gic) = board.gic_mut() {
            gic.maintenance = maintenance;
        }
        board
    };
    let own = board().gic().unwrap().maintenance;
    // None, and one that isn't each CPU's own.
    for maintenance in [None, own.map(|it| Interrupt { irq: Irq(40), ..it })] {
        let board = with(maintenance);
        let alone = planned(&system(vec![vm("a", &[1], nvme())]), &board);
        assert_eq!(modes(&alone), [Passthrough]);
        let two = system(vec![vm("a", &[1], nvme()), vm("b", &[2], card())]);
        assert_eq!(refusals(&two, &board), [(Rule::InterruptMode, of_vm(1, "interrupts"))]);
        for asked in [InterruptChoice::Emulated, InterruptChoice::None] {
            let mut one = vm("a", &[1], vec![]);
            one.interrupts = asked;
            assert_eq!(refusals(&system(vec![one]), &board), [(Rule::InterruptMode, of_vm(0, "interrupts"))]);
        }
    }
    let two = system(vec![vm("a", &[1], nvme()), vm("b", &[2], card())]);
    assert_eq!(modes(&planned(&two, &with(own))), [Passthrough, Emulated]);
}

fn of_vm(vm: u16, key: &str) -> axvm_system::model::Item {
    axvm_system::model::Item::Vm(vm, key.into())
}

/// Any CPU interface in passthrough mode ends the active state of any line.
#[test]
fn lines_are_direct_beside_trusted_vms_only() {
    let mut vms = vec![vm("a", &[1], clock()), vm("b", &[2], vec![])];
    let plan = planned(&system(vms.clone()), &board());
    assert_eq!(modes(&plan), [Passthrough, Emulated]);
    assert!(says(&plan, &["\"b\"", "emulated", "could end the interrupts of vm \"a\"'s lines"]));
    vms[1].trusted = true;
    let plan = planned(&system(vms.clone()), &board());
    assert_eq!(modes(&plan), [Passthrough, Passthrough]);
    assert_ne!(console_line(&plan.vms[0]), console_line(&plan.vms[1]), "each its own");
    // The other way round: the one with lines comes second.
    let mut vms = vec![vm("a", &[1], vec![]), vm("b", &[2], clock())];
    let plan = planned(&system(vms.clone()), &board());
    assert_eq!(modes(&plan), [Passthrough, Emulated]);
    assert!(plan.vms[1].lines.iter().all(|line| line.masked), "beside an untrusted neighbour");
    vms[0].trusted = true;
    let plan = planned(&system(vms.clone()), &board());
    assert_eq!(modes(&plan), [Passthrough, Passthrough]);
    vms[1].interrupts = InterruptChoice::Emulated;
    let plan = planned(&system(vms), &board());
    assert!(plan.vms[1].lines.iter().all(|line| !line.masked), "beside a trusted neighbour");
}

#[test]
fn what_the_file_says_is_what_is_done() {
    let mut one = vm("a", &[1], nvme());
    one.interrupts = InterruptChoice::Emulated;
    let mut none = vm("b", &[2], vec![region("gpio", 0x903_0000, 0x903_0000, 0x1000)]);
    none.interrupts = InterruptChoice::None;
    let plan = planned(&system(vec![one, none]), &board());
    assert_eq!(modes(&plan), [Emulated, NoIrq]);
    assert!(!says(&plan, &["interrupts are"]), "nothing was chosen: {:?}", plan.notes);
}

#[test]
fn a_vm_with_its_own_device_tree_keeps_the_line_that_it_says() {
    let mut own = vm("a", &[1], nvme());
    own.dtb = Some("own.dtb".into());
    let mut images = super::images(1);
    images.vms[0].dtb_len = Some(1000);
    let chosen = plan(&system(vec![own.clone()]), &board(), &images).unwrap();
    assert_eq!(modes(&chosen), [Emulated]);
    assert!(says(&chosen, &["own device tree"]));
    own.interrupts = InterruptChoice::Passthrough;
    let plan = plan(&system(vec![own]), &board(), &images).unwrap();
    assert_eq!(modes(&plan), [Passthrough]);
    let line = console_line(&plan.vms[0]);
    assert!(says(&plan, &["own device tree", &alloc::format!("{line}")]));
}
