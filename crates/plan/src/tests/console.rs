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
