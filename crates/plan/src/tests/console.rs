//! The hypervisor's own console.

use axvm_platform::model::PlatformDevice;

use super::*;

/// The board with one more UART, and its own console of another kind.
fn board_with(own: &str, other: Option<&str>) -> Platform {
    let mut platform = board();
    let console = platform.devices.iter().position(|device| device.path == "/pl011@9000000").unwrap();
    if let Some(kind) = other {
        let registers = vec![Span::new(Hpa(0x0b00_0000), 0x1000).unwrap()];
        let other = PlatformDevice {
            path: "/serial@b000000".into(),
            compatible: vec![kind.into()],
            registers,
            interrupts: vec![],
            ..platform.devices[console].clone()
        };
        platform.devices.push(other);
    }
    platform.devices[console].compatible = vec![own.into()];
    platform
}

#[test]
fn a_console_that_cannot_be_driven_is_replaced_by_one_that_can_and_that_is_said() {
    let plan = planned(&demo(), &board_with("acme,uart", Some("ns16550a")));
    assert_eq!(plan.console.as_deref(), Some("/serial@b000000"));
    let note = plan.notes.iter().find(|note| note.contains("acme,uart")).unwrap();
    assert!(note.contains("/pl011@9000000") && note.contains("/serial@b000000"), "{note}");
}

#[test]
fn without_another_the_plan_says_that_messages_stay_in_memory() {
    for other in [None, Some("acme,other")] {
        let plan = planned(&demo(), &board_with("acme,uart", other));
        assert_eq!(plan.console, None);
        assert!(plan.notes.iter().any(|note| note.contains("acme,uart") && note.contains("memory only")));
    }
    let mut silent = board();
    silent.devices.retain(|device| device.uart().is_none());
    silent.console = None;
    assert!(planned(&demo(), &silent).notes.iter().any(|note| note.contains("names no console")));
}

#[test]
fn a_uart_that_a_vm_has_or_whose_clock_may_be_off_is_not_taken_instead() {
    let platform = board_with("acme,uart", Some("ns16550a"));
    let region = given_region();
    for system in [system(vec![vm("a", &[1], vec![node("/serial@b000000")])]), region] {
        assert_eq!(planned(&system, &platform).console, None);
    }
    let mut clocked = platform;
    clocked.devices.last_mut().unwrap().providers[0].fixed_clock = None;
    assert_eq!(planned(&demo(), &clocked).console, None);
}

fn given_region() -> System {
    system(vec![vm("a", &[1], vec![region("uart", 0x0b00_0000, 0x0b00_0000, 0x1000)])])
}

#[test]
fn a_named_console_must_be_one_that_can_be_driven() {
    let mut system = demo();
    system.hypervisor.console = Some("/pl061@9030000".into());
    assert_eq!(refusals(&system, &board()), [(Rule::Hypervisor, Item::Hypervisor("console".into()))]);
    assert!(lines(&system, &board())[0].contains("arm,pl061"));
    system.hypervisor.console = Some("/serial@b000000".into());
    let plan = planned(&system, &board_with("arm,pl011", Some("fsl,imx6q-uart")));
    assert_eq!(plan.console.as_deref(), Some("/serial@b000000"));
}

/// A VM that is given the console, beside one that isn't.
fn lending() -> System {
    let second = Vm { interrupts: InterruptChoice::Emulated, ..vm("other", &[2], vec![]) };
    let first =
        Vm { interrupts: InterruptChoice::Emulated, ..vm("owner", &[1], vec![node("/pl011@9000000")]) };
    system(vec![first, second])
}

#[test]
fn a_vm_may_have_the_console_and_the_hypervisor_speaks_elsewhere_meanwhile() {
    let plan = planned(&lending(), &board_with("arm,pl011", Some("ns16550a")));
    assert_eq!(plan.console.as_deref(), Some("/pl011@9000000"), "it is the hypervisor's before and after");
    let aside = plan.console_lent.as_ref().and_then(|lent| lent.aside.as_deref());
    assert_eq!(aside, Some("/serial@b000000"));
    assert!(plan.notes.iter().any(|note| note.contains("\"owner\"") && note.contains("/serial@b000000")));
    let [owner, other] = &plan.vms[..] else { panic!("two") };
    // The board's own is its only one, and is where its kernel speaks; the other has an emulated one as ever.
    assert!(owner.console.is_none() && owner.lines.iter().any(|line| line.irq == Irq(33)));
    assert_eq!(owner.description.stdout.as_deref(), Some("pl011@9000000"));
    assert!(other.console.is_some() && other.description.stdout.is_none());
}

#[test]
fn without_another_uart_it_speaks_to_memory_meanwhile() {
    let plan = planned(&lending(), &board());
    assert_eq!(plan.console_lent, Some(ConsoleLent { aside: None }));
    assert!(plan.notes.iter().any(|note| note.contains("kept in memory")));
    assert_eq!(planned(&demo(), &board()).console_lent, None);
}

#[test]
fn one_that_could_not_be_taken_back_is_kept_and_so_is_where_it_speaks_meanwhile() {
    let mut twice = lending();
    twice.vms[1].devices.push(node("/serial@b000000"));
    let aside = planned(&twice, &board_with("arm,pl011", Some("ns16550a"))).console_lent.unwrap().aside;
    assert_eq!(aside, None, "a VM has the other");
    let kept = refusals(&lending(), &board_with("arm,sbsa-uart", None));
    assert!(kept.iter().any(|(rule, _)| *rule == Rule::DeviceReserved), "{kept:?}");
    let mut region = lending();
    region.vms[1].devices.push(self::region("uart", 0x0b00_0000, 0x0b00_0000, 0x1000));
    let aside = planned(&region, &board_with("arm,pl011", Some("ns16550a"))).console_lent.unwrap().aside;
    assert_eq!(aside, None);
}
