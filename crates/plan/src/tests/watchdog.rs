//! An emulated watchdog has pages and a line of its own, and its guest is told of it.

use axvm_platform::limits::{GuestMachine, Serves};

use super::*;

fn file(interrupts: InterruptChoice) -> System {
    let mut one = vm("a", &[1], vec![node("/pl031@9010000")]);
    one.watchdog = Some(AfterEnd::Restart);
    one.interrupts = interrupts;
    system(vec![one])
}

fn served(machine: GuestMachine) -> Platform {
    let mut platform = board();
    platform.limits.watchdogs = Serves::Yes;
    platform.limits.guest_machine = machine;
    platform
}

/// All that is in the map beside the watchdog.
fn others(plan: &VmPlan) -> Vec<Span<Gpa>> {
    let mut spans = VmPlan { watchdog: None, ..plan.clone() }.emulated();
    spans.extend(plan.ram.iter().map(|piece| piece.gpa));
    spans.extend(plan.registers.iter().map(|block| block.gpa));
    spans.extend(plan.pci.iter().flat_map(|bridge| bridge.windows.iter().map(|window| window.cpu)));
    spans
}

#[test]
fn it_has_pages_and_a_line_that_nothing_else_has_and_the_tree_says_so() {
    for machine in [GuestMachine::MirrorsBoard, GuestMachine::Own] {
        let plan = planned(&file(InterruptChoice::Emulated), &served(machine));
        let plan = &plan.vms[0];
        let watchdog = plan.watchdog.unwrap();
        assert_eq!(watchdog.then, AfterEnd::Restart);
        for page in [watchdog.control, watchdog.refresh] {
            assert!(page.is_aligned(0x1000) && page.size() == 0x1000);
            assert!(others(plan).iter().all(|other| !other.overlaps(&page)), "{page}");
            assert!(plan.emulated().contains(&page));
        }
        assert!(!watchdog.control.overlaps(&watchdog.refresh));
        let irq = watchdog.irq.unwrap();
        assert_ne!(irq, plan.console.unwrap().irq);
        assert!(plan.lines.iter().all(|line| line.irq != irq));
        let spis = plan.aarch64().unwrap().gic.as_ref().unwrap().spis;
        assert!(irq.0 < 32 + u32::from(spis), "the interrupt controller has the line");
        let described = plan.description.watchdog.unwrap();
        assert_eq!(
            (described.control, described.refresh, described.irq),
            (watchdog.control, watchdog.refresh, Some(irq))
        );
    }
}

#[test]
fn where_lines_are_the_boards_it_has_none() {
    let plan = planned(&file(InterruptChoice::Passthrough), &served(GuestMachine::MirrorsBoard));
    assert_eq!(plan.vms[0].watchdog.unwrap().irq, None);
}

#[test]
fn who_asks_for_none_has_none() {
    let mut file = file(InterruptChoice::Emulated);
    file.vms[0].watchdog = None;
    let plan = planned(&file, &served(GuestMachine::MirrorsBoard));
    assert_eq!((plan.vms[0].watchdog, plan.vms[0].description.watchdog), (None, None));
}
