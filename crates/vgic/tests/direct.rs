//! Direct delivery: the register frames as a filter before the hardware.

mod common;

use axvm_addr::VcpuId;
use axvm_axdevice::{InterruptLine, MmioDevice, Width};
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{CommandError, ConfigError, Direct, VgicConfig};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use common::{Bench, Line, PRIORITY, TABLES, V0, V1, config, line};

const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
const RESERVED: u32 = 15;

/// Two vCPUs, a device's line 40 and an emulated device's line 41.
fn direct() -> VgicConfig {
    let lines = vec![line(40, Some(40), Trigger::Level), line(41, None, Trigger::Level)];
    VgicConfig { direct: Some(Direct { reserved_sgis: 1 << RESERVED }), ..config(2, lines, 4) }
}

fn spi(bench: &Bench, host: u32) -> Line {
    bench.machine.spis.lock().unwrap().get(&host).copied().unwrap_or_default()
}

fn private(bench: &Bench, vcpu: VcpuId, host: u32) -> Line {
    bench.machine.ppis.lock().unwrap().get(&(vcpu.0, host)).copied().unwrap_or_default()
}

fn run(bench: &Bench, commands: &[Command]) {
    for command in commands {
        bench.command(command.encode());
    }
}

#[test]
fn the_group_switch_reaches_the_hardware() {
    let bench = Bench::new(direct());
    bench.gicd.write(V0, 0x84, Width::B4, u32::MAX.into());
    bench.gicr.write(V0, 0x1_0080, Width::B4, u32::MAX.into());
    bench.enable(40);
    bench.gicr.write(V0, 0x1_0100, Width::B4, 1 << 27);
    assert!(!spi(&bench, 40).enabled, "the distributor's group 1 is off");
    assert!(!private(&bench, V0, 27).enabled);
    bench.gicd.write(V0, 0, Width::B4, 0x12);
    assert!(spi(&bench, 40).enabled);
    assert!(private(&bench, V0, 27).enabled && !private(&bench, V1, 27).enabled);
    bench.gicd.write(V0, 0x84, Width::B4, 0);
    assert!(!spi(&bench, 40).enabled, "group 0 isn't delivered");
    bench.gicd.write(V0, 0x84, Width::B4, u32::MAX.into());
    assert!(spi(&bench, 40).enabled);
    bench.gicd.write(V0, 0, Width::B4, 0x10);
    assert!(!spi(&bench, 40).enabled && !private(&bench, V0, 27).enabled);
}

#[test]
fn pending_and_active_are_the_hardwares() {
    let bench = Bench::started(direct());
    bench.machine.spis.lock().unwrap().insert(40, Line { pending: true, active: true, ..Line::default() });
    assert!(bench.is_pending(40) && bench.is_active(40));
    bench.clear_pending(40);
    assert!(!spi(&bench, 40).pending && spi(&bench, 40).active);
    bench.gicr.write(V0, 0x2_0000 + 0x1_0200, Width::B4, 1 << 3);
    assert!(private(&bench, V1, 3).pending, "an SGI of the other vCPU");
    assert_eq!(bench.gicr.read(V0, 0x2_0000 + 0x1_0200, Width::B4), 1 << 3);
}

#[test]
fn what_the_vm_has_not_does_not_exist() {
    let bench = Bench::started(direct());
    for intid in [RESERVED, 26] {
        let bit = 1 << intid;
        bench.gicr.write(V0, 0x1_0100, Width::B4, bit);
        bench.gicr.write(V0, 0x1_0200, Width::B4, bit);
        assert_eq!(bench.gicr.read(V0, 0x1_0100, Width::B4) & bit, 0);
        let touched = private(&bench, V0, intid);
        assert!(!touched.enabled && !touched.pending, "{intid}");
        assert!(!bench.vgic.may_deactivate(V0, Intid(intid)));
    }
    bench.enable(42);
    assert!(!bench.machine.spis.lock().unwrap().contains_key(&42));
    assert!(!bench.vgic.may_deactivate(V0, Intid(42)));
    assert!(bench.vgic.may_deactivate(V0, Intid(40)) && bench.vgic.may_deactivate(V1, Intid(27)));
    assert!(!bench.vgic.may_deactivate(V0, Intid(8192)));
}

#[test]
fn software_interrupts_are_raised_in_hardware_within_the_vm() {
    let bench = Bench::started(direct());
    // SGI 5 to affinity 1, and to affinities 0 to 15, of which the VM has two.
    bench.vgic.send_sgi(V0, 5 << 24 | 1 << 1);
    assert!(private(&bench, V1, 5).pending && !private(&bench, V0, 5).pending);
    bench.vgic.send_sgi(V0, 6 << 24 | 0xffff);
    assert!(private(&bench, V0, 6).pending && private(&bench, V1, 6).pending);
    assert!(bench.machine.ppis.lock().unwrap().keys().all(|(vcpu, _)| *vcpu < 2));
    bench.vgic.send_sgi(V0, u64::from(RESERVED) << 24 | 0xffff);
    assert!(!private(&bench, V1, RESERVED).pending, "the hypervisor's call can't be forged");
}

/// The line of an emulated device is a physical interrupt that software makes pending: as long as it is high it
/// must come again after the guest has ended it.
#[test]
fn an_emulated_level_is_neither_lost_nor_left_behind() {
    let bench = Bench::started(direct());
    bench.enable(41);
    assert!(spi(&bench, 41).enabled && spi(&bench, 41).edge);
    bench.vgic.set_level(axvm_addr::Irq(41), true);
    assert!(spi(&bench, 41).pending);
    // The guest takes it, and accesses the device, which is still not content.
    bench.machine.spis.lock().unwrap().get_mut(&41).unwrap().pending = false;
    bench.vgic.repeat_levels();
    assert!(spi(&bench, 41).pending);
    bench.vgic.set_level(axvm_addr::Irq(41), false);
    assert!(!spi(&bench, 41).pending, "content: it doesn't come again");
    bench.vgic.repeat_levels();
    assert!(!spi(&bench, 41).pending);
}

/// Both ways in which the hardware delivers LPIs: physical ones, and GICv4's virtual ones beside list registers.
fn with_lpis_in_hardware() -> [Bench; 2] {
    let mut beside_lists = config(2, vec![line(40, Some(40), Trigger::Level)], 4);
    if let Some(its) = &mut beside_lists.its {
        its.virtual_lpis = true;
    }
    [direct(), beside_lists].map(|config| {
        let bench = Bench::started(config);
        bench.start_its();
        bench.set_property(8200, PRIORITY | 1);
        let mapd = Command::Mapd { device: DEVICE, bits: 5, table: TABLES + 0x2000, valid: true };
        let mapc = |collection, target| Command::Mapc { collection, target, valid: true };
        run(&bench, &[mapc(0, 0), mapc(1, 1), mapd, mapti(0, 8200)]);
        assert_eq!(bench.vgic.statistics().last_command_error, None);
        bench
    })
}

fn mapti(event: u32, lpi: u32) -> Command {
    Command::Mapti { device: DEVICE, event: ItsEventId(event), lpi, collection: 0 }
}

#[test]
fn an_lpi_is_enabled_where_every_switch_is_on() {
    for bench in with_lpis_in_hardware() {
        let reached = || bench.machine.lpis_reach.lock().unwrap().contains(&V0.0);
        let enabled = || reached() && bench.machine.event(DEVICE.0, 0).unwrap().enabled;
        assert!(enabled());
        bench.gicr.write(V0, 0, Width::B4, 0);
        assert!(!enabled(), "the redistributor's LPIs are off");
        bench.gicr.write(V0, 0, Width::B4, 1);
        assert!(enabled());
        bench.gicd.write(V0, 0, Width::B4, 0x10);
        assert!(!enabled(), "group 1 is off");
        bench.gicd.write(V0, 0, Width::B4, 0x12);
        assert!(enabled());
        bench.set_property(8200, PRIORITY);
        run(&bench, &[Command::Inv { device: DEVICE, event: ItsEventId(0) }]);
        assert!(!enabled());
    }
}

#[test]
fn an_lpi_that_moves_is_enabled_as_its_new_redistributor_says() {
    for bench in with_lpis_in_hardware() {
        bench.gicr.write(V0, 0x2_0000, Width::B4, 0);
        let movi = |collection| Command::Movi { device: DEVICE, event: ItsEventId(0), collection };
        run(&bench, &[movi(1)]);
        let moved = bench.machine.event(DEVICE.0, 0).unwrap();
        assert!(moved.vcpu == V1 && !moved.enabled, "V1's LPIs are off");
        run(&bench, &[movi(0)]);
        let back = bench.machine.event(DEVICE.0, 0).unwrap();
        assert!(back.vcpu == V0 && back.enabled);
    }
}

#[test]
fn two_events_of_one_lpi_are_refused() {
    for bench in with_lpis_in_hardware() {
        run(&bench, &[mapti(1, 8200)]);
        assert_eq!(bench.vgic.statistics().last_command_error, Some(CommandError::LpiTwice(Intid(8200))));
        assert_eq!(bench.machine.event(DEVICE.0, 1), None);
        // The same event anew is no second one.
        run(&bench, &[mapti(0, 8200)]);
        assert_eq!(bench.errors(), 1);
    }
}

#[test]
fn movall_moves_in_hardware() {
    for bench in with_lpis_in_hardware() {
        run(&bench, &[Command::Movall { from: 0, to: 1 }]);
        assert_eq!(bench.machine.event(DEVICE.0, 0).unwrap().vcpu, V1);
        assert!(bench.vgic.inject(V1, Intid(8200)));
        assert_eq!(*bench.machine.triggered.lock().unwrap(), [(DEVICE.0, 0)]);
        assert!(!bench.vgic.inject(V1, Intid(8201)));
    }
}

#[test]
fn a_line_has_its_own_number() {
    let wrong = VgicConfig { lines: vec![line(40, Some(50), Trigger::Level)], ..direct() };
    assert_eq!(wrong.check(), Err(ConfigError::NotTheSame { guest: Intid(40), host: Intid(50) }));
}
