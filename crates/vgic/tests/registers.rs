//! The register frames as a driver sees them.

mod common;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::Trigger;
use common::{Bench, V0, V1, config, line};
use proptest::prelude::*;

fn bench() -> Bench {
    Bench::new(config(2, vec![line(40, Some(50), Trigger::Level), line(41, None, Trigger::Edge)], 4))
}

#[test]
fn the_distributor_shows_one_security_state_with_affinity_routing() {
    let bench = bench();
    assert_eq!(bench.gicd.read(V0, 0, Width::B4), 0x50, "DS and ARE");
    bench.gicd.write(V0, 0, Width::B4, 0x2);
    assert_eq!(bench.gicd.read(V0, 0, Width::B4), 0x52, "and no write takes them away");
    let typer = bench.gicd.read(V0, 4, Width::B4);
    assert_eq!(typer & 0x1f, 2, "96 INTIDs");
    assert_eq!(typer >> 10 & 1, 0, "no security extension");
    assert_eq!(typer >> 16 & 1, 0, "MBIS");
    assert_eq!(typer >> 17 & 1, 1, "LPIS");
    assert_eq!(typer >> 19 & 0x1f, 13, "IDbits");
    assert_eq!(bench.gicd.read(V0, 0xc, Width::B4), 0, "TYPER2");
    assert_eq!(bench.gicd.read(V0, 0xffe8, Width::B4), 0x3b, "PIDR2");
}

/// As on QEMU's `virt` board, which `guests/conformance` compares: nothing is enabled, and all is of group 0.
#[test]
fn banks_are_zero_after_a_reset_and_after_the_next() {
    let bench = bench();
    for _ in 0..2 {
        for offset in (0x80..0x800).chain(0xc00..0xd00).step_by(4) {
            let edge = if offset == 0xc08 { 2 << 18 } else { 0 };
            assert_eq!(bench.gicd.read(V0, offset, Width::B4), edge, "GICD, {offset:#x}");
            let edges = if offset == 0xc00 { 0xaaaa_aaaa } else { 0 };
            assert_eq!(bench.gicr.read(V0, 0x3_0000 + offset, Width::B4), edges, "GICR, {offset:#x}");
        }
        for offset in [0x80, 0x100] {
            bench.gicd.write(V0, offset + 4, Width::B4, 0xffff_ffff);
            bench.gicr.write(V0, 0x3_0000 + offset, Width::B4, 0xffff_ffff);
            assert_eq!(bench.gicr.read(V0, 0x3_0000 + offset, Width::B4), 0xffff_ffff);
        }
        bench.vgic.reset();
    }
}

#[test]
fn a_redistributor_says_whose_it_is_and_which_is_the_last() {
    let bench = bench();
    assert_eq!(bench.gicr.read(V1, 8, Width::B8), 1);
    assert_eq!(bench.gicr.read(V0, 0x2_0008, Width::B8), 1 << 32 | 1 << 8 | 0x11);
    assert_eq!(bench.gicr.read(V0, 0x2_000c, Width::B4), 1, "the upper half is the affinity");
    assert_eq!(bench.gicr.read(V0, 0xffe8, Width::B4), 0x3b);
    assert_eq!(bench.gicr.read(V0, 0x4_0008, Width::B8), 0, "no third");
    assert_eq!(bench.gicr.size(), 0x4_0000);
}

#[test]
fn a_redistributor_wakes_when_it_is_told() {
    let bench = bench();
    assert_eq!(bench.gicr.read(V0, 0x14, Width::B4), 6);
    bench.gicr.write(V0, 0x14, Width::B4, 0);
    assert_eq!(bench.gicr.read(V0, 0x14, Width::B4), 0);
    assert_eq!(bench.gicr.read(V0, 0x2_0014, Width::B4), 6, "the other one sleeps on");
}

#[test]
fn lpi_table_registers_keep_their_fields_until_lpis_are_enabled() {
    let bench = bench();
    bench.gicr.write(V0, 0x70, Width::B8, u64::MAX);
    assert_eq!(bench.gicr.read(V0, 0x70, Width::B8), 0x070f_ffff_ffff_ff9f);
    bench.gicr.write(V0, 0x70, Width::B4, 0x8000_070d);
    assert_eq!(bench.gicr.read(V0, 0x70, Width::B8), 0x070f_ffff_8000_070d);
    bench.gicr.write(V0, 0x78, Width::B8, u64::MAX);
    assert_eq!(bench.gicr.read(V0, 0x78, Width::B8), 0x070f_ffff_ffff_0f80, "PTZ reads as zero");
    bench.gicr.write(V0, 0, Width::B4, 1);
    assert_eq!(bench.gicr.read(V0, 0, Width::B4), 3, "enabled, and can be cleared");
    bench.gicr.write(V0, 0x70, Width::B8, 0);
    bench.gicr.write(V0, 0x78, Width::B8, 0);
    assert_ne!(bench.gicr.read(V0, 0x70, Width::B8), 0);
    assert_ne!(bench.gicr.read(V0, 0x78, Width::B8), 0);
}

#[test]
fn lines_that_do_not_exist_read_as_zero_and_ignore_writes() {
    let bench = bench();
    bench.gicd.write(V0, 0x104, Width::B4, u64::MAX);
    assert_eq!(bench.gicd.read(V0, 0x104, Width::B4), 0x300);
    bench.gicd.write(V0, 0x100, Width::B4, u64::MAX);
    assert_eq!(bench.gicd.read(V0, 0x100, Width::B4), 0, "private ones are the redistributor's");
    bench.gicd.write(V0, 0x430, Width::B4, 0xffff_ffff);
    assert_eq!(bench.gicd.read(V0, 0x430, Width::B4), 0);
}

#[test]
fn priorities_are_accessed_by_byte_and_keep_the_bits_that_exist() {
    let bench = bench();
    bench.gicd.write(V0, 0x429, Width::B1, 0xff);
    assert_eq!(bench.gicd.read(V0, 0x428, Width::B4), 0xf800);
    assert_eq!(bench.gicd.read(V0, 0x429, Width::B1), 0xf8);
    assert_eq!(bench.gicd.read(V0, 0x428, Width::B2), 0xf800);
    assert_eq!(bench.gicd.read(V0, 0x428, Width::B8), 0);
    bench.gicr.write(V0, 0x1_041b, Width::B1, 0xa7);
    assert_eq!(bench.gicr.read(V0, 0x1_0418, Width::B4), 0xa000_0000);
}

#[test]
fn a_route_is_accessed_whole_or_by_halves() {
    let bench = bench();
    bench.gicd.write(V0, 0x6000 + 41 * 8, Width::B8, 1 << 31 | 1);
    assert_eq!(bench.gicd.read(V0, 0x6000 + 41 * 8, Width::B8), 1, "no routing to any of N");
    bench.gicd.write(V0, 0x6000 + 41 * 8 + 4, Width::B4, 0x12);
    assert_eq!(bench.gicd.read(V0, 0x6000 + 41 * 8, Width::B8), 0x12_0000_0001);
    assert_eq!(bench.gicd.read(V0, 0x6000 + 42 * 8, Width::B8), 0);
}

#[test]
fn what_the_guest_sets_up_for_a_hardware_line_reaches_the_physical_one() {
    let bench = bench();
    bench.enable(40);
    bench.route(40, 1);
    bench.gicd.write(V0, 0xc08, Width::B4, 2 << 16);
    let spi = bench.machine.spis.lock().unwrap()[&50];
    assert!(spi.enabled && spi.edge);
    assert_eq!(spi.target, Some(VcpuId(1)));
    bench.disable(40);
    assert!(!bench.machine.spis.lock().unwrap()[&50].enabled);
}

#[test]
fn sgis_are_edges_and_ppis_levels() {
    let bench = bench();
    bench.gicr.write(V0, 0x1_0c04, Width::B4, 0xffff_ffff);
    assert_eq!(bench.gicr.read(V0, 0x1_0c00, Width::B4), 0xaaaa_aaaa);
    assert_eq!(bench.gicr.read(V0, 0x1_0c04, Width::B4), 0);
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    use axvm_vgic::Intid;
    use axvm_vgic::{ConfigError, Vgic, VgicConfig};
    let good = config(2, vec![line(40, Some(50), Trigger::Level), line(41, None, Trigger::Edge)], 4);
    let machine = bench().machine;
    let refused = |change: &dyn Fn(&mut VgicConfig)| {
        let mut config = good.clone();
        change(&mut config);
        Vgic::new(config, machine.clone()).err()
    };
    assert_eq!(refused(&|_| ()), None);
    assert_eq!(refused(&|c| c.vcpus.clear()), Some(ConfigError::VcpuCount(0)));
    assert_eq!(refused(&|c| c.vcpus[1] = 0), Some(ConfigError::SameAffinity(V0, V1)));
    assert_eq!(refused(&|c| c.vcpus[1] = 1 << 31), Some(ConfigError::NotAnAffinity(V1, 1 << 31)));
    assert_eq!(refused(&|c| c.spis = 33), Some(ConfigError::SpiCount(33)));
    assert_eq!(refused(&|c| c.spis = 992), Some(ConfigError::SpiCount(992)));
    assert_eq!(refused(&|c| c.lines[0].guest = Intid(96)), Some(ConfigError::NotAnSpi(Intid(96))));
    assert_eq!(refused(&|c| c.lines[1].guest = Intid(40)), Some(ConfigError::LineTwice(Intid(40))));
    assert_eq!(refused(&|c| c.lines[1].host = Some(Intid(50))), Some(ConfigError::HostTwice(Intid(50))));
    let not_spi = ConfigError::NotAHostSpi { guest: Intid(41), host: Intid(27) };
    assert_eq!(refused(&|c| c.lines[1].host = Some(Intid(27))), Some(not_spi));
    assert_eq!(refused(&|c| c.hardware_ppis.push(Intid(3))), Some(ConfigError::NotAPpi(Intid(3))));
    assert_eq!(refused(&|c| c.list_registers = 1), Some(ConfigError::ListRegisters(1)));
    assert_eq!(refused(&|c| c.list_registers = 17), Some(ConfigError::ListRegisters(17)));
    assert_eq!(refused(&|c| c.priority_bits = 9), Some(ConfigError::PriorityBits(9)));
    assert_eq!(refused(&|c| c.its.as_mut().unwrap().event_bits = 12), Some(ConfigError::EventBits(12)));
    assert_eq!(refused(&|c| c.its.as_mut().unwrap().lpi_id_bits = 13), Some(ConfigError::LpiIdBits(13)));
}

#[test]
fn without_an_its_there_are_no_lpis() {
    let mut plain = config(1, vec![], 4);
    plain.its = None;
    let bench = Bench::new(plain);
    assert!(bench.gits.is_none());
    assert_eq!(bench.gicd.read(V0, 4, Width::B4) >> 17 & 1, 0);
    assert_eq!(bench.gicr.read(V0, 8, Width::B8) & 1, 0, "PLPIS");
    bench.gicr.write(V0, 0, Width::B4, 1);
    bench.gicr.write(V0, 0x70, Width::B8, u64::MAX);
    assert_eq!((bench.gicr.read(V0, 0, Width::B4), bench.gicr.read(V0, 0x70, Width::B8)), (0, 0));
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::B1), Just(Width::B2), Just(Width::B4), Just(Width::B8)]
}

proptest! {
    #[test]
    fn no_access_of_any_kind_panics_or_answers_beyond_its_width(
        accesses in prop::collection::vec(
            (0u8..3, prop_oneof![0u64..0x1000, 0x6000u64..0x6400, 0x1_0000u64..0x1_1000, any::<u64>()],
             width(), any::<bool>(), any::<u64>(), 0u16..3),
            1..200,
        ),
    ) {
        let bench = bench();
        for (frame, offset, width, write, value, vcpu) in accesses {
            let gits = bench.gits.as_ref().unwrap();
            let device: &dyn MmioDevice = match frame { 0 => &bench.gicd, 1 => &bench.gicr, _ => gits };
            if write {
                device.write(VcpuId(vcpu), offset, width, value & width.mask());
            } else {
                let value = device.read(VcpuId(vcpu), offset, width);
                prop_assert_eq!(value & !width.mask(), 0);
            }
        }
    }

    #[test]
    fn enable_bits_are_a_set(words in prop::collection::vec((any::<bool>(), any::<u32>()), 1..30)) {
        let bench = bench();
        let mut model = 0;
        for (set, word) in words {
            bench.gicd.write(V0, if set { 0x104 } else { 0x184 }, Width::B4, word.into());
            model = if set { model | word } else { model & !word } & 0x300;
            prop_assert_eq!(bench.gicd.read(V0, 0x104, Width::B4), u64::from(model));
            prop_assert_eq!(bench.gicd.read(V0, 0x184, Width::B4), u64::from(model));
        }
    }
}
