//! The guest's LPI pending tables: what is in them when LPIs are enabled, and what is put there when they are disabled. The bare
//! board does the same (`guests/conformance`, `scenarios/pending.rs`).

mod common;

use axvm_addr::Gpa;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{CommandError, Direct, GuestMemory};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use common::{Bench, PENDING_TABLE, PRIORITY, TABLES, V0, V1, config};
use std::sync::atomic::Ordering;

const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
const PTZ: u64 = 1 << 62;

/// What of LPIs the hardware does.
#[derive(Clone, Copy, PartialEq)]
enum Hardware {
    Nothing,
    Virtual,
    All,
}

/// Two vCPUs, LPIs off; 8 events of a device mapped to the first LPIs, all of the first vCPU but the last.
fn bench(hardware: Hardware) -> Bench {
    let mut config = config(2, vec![], 4);
    config.its.as_mut().unwrap().virtual_lpis = hardware == Hardware::Virtual;
    config.direct = (hardware == Hardware::All).then_some(Direct { reserved_sgis: 0 });
    let bench = Bench::started(config);
    bench.start_its();
    for cpu in 0..2 {
        enable(&bench, cpu, false, 0);
    }
    let mapd = Command::Mapd { device: DEVICE, bits: 5, table: TABLES + 0x2000, valid: true };
    let mapc = |collection, target| Command::Mapc { collection, target, valid: true };
    for command in [mapd, mapc(0, 0), mapc(1, 1)] {
        bench.command(command.encode());
    }
    for number in 0..8 {
        map(&bench, number, u16::from(number == 7));
    }
    assert_eq!(bench.errors(), 0);
    bench
}

fn map(bench: &Bench, number: u32, collection: u16) {
    bench.set_property(8192 + number, PRIORITY | 1);
    let event = ItsEventId(number);
    bench.command(Command::Mapti { device: DEVICE, event, lpi: 8192 + number, collection }.encode());
}

/// Writes GICR_PENDBASER and GICR_CTLR of a vCPU.
fn enable(bench: &Bench, cpu: u64, enable: bool, zero: u64) {
    bench.gicr.write(V0, cpu * 0x2_0000 + 0x78, Width::B8, zero | (PENDING_TABLE + cpu * 0x1_0000));
    bench.gicr.write(V0, cpu * 0x2_0000, Width::B4, enable.into());
}

fn put(bench: &Bench, cpu: u64, lpi: u32) {
    let at = Gpa(PENDING_TABLE + cpu * 0x1_0000 + u64::from(lpi / 8));
    let mut byte = [0];
    bench.machine.read_guest(at, &mut byte).unwrap();
    bench.machine.write_guest(at, &[byte[0] | 1 << (lpi % 8)]).unwrap();
}

/// What is in a vCPU's table.
fn table(bench: &Bench, cpu: u64) -> Vec<u32> {
    let mut bytes = [0; 0x2000];
    bench.machine.read_guest(Gpa(PENDING_TABLE + cpu * 0x1_0000), &mut bytes).unwrap();
    (0..0x1_0000).filter(|lpi| bytes[*lpi as usize / 8] >> (lpi % 8) & 1 != 0).collect()
}

/// Takes and ends all that comes.
fn taken(bench: &mut Bench, cpu: usize) -> Vec<u32> {
    let mut all = Vec::new();
    // Registers are written by the first vCPU, which is out of the guest for that.
    bench.cycle(cpu);
    loop {
        bench.settle();
        let Some(lpi) = bench.acknowledge(cpu) else { break };
        all.push(lpi);
        bench.end(cpu);
    }
    bench.cycle(cpu);
    all.sort_unstable();
    all
}

#[test]
fn what_is_pending_in_the_table_comes_once_lpis_are_enabled() {
    let mut bench = bench(Hardware::Nothing);
    for lpi in [8192, 8195, 8198] {
        put(&bench, 0, lpi);
    }
    put(&bench, 1, 8199);
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), [8192, 8195, 8198]);
    assert_eq!(taken(&mut bench, 1), []);
    enable(&bench, 1, true, 0);
    assert_eq!(taken(&mut bench, 1), [8199]);
    assert_eq!((table(&bench, 0), table(&bench, 1)), (vec![], vec![]));
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), [], "they were enabled");
    assert_eq!(bench.errors(), 0);
}

#[test]
fn a_table_of_which_the_guest_says_that_it_is_zero_is_not_read() {
    let mut bench = bench(Hardware::Nothing);
    put(&bench, 0, 8192);
    let before = bench.machine.reads.load(Ordering::Relaxed);
    enable(&bench, 0, true, PTZ);
    assert_eq!(bench.machine.reads.load(Ordering::Relaxed), before);
    assert_eq!(taken(&mut bench, 0), []);
    enable(&bench, 0, false, 0);
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), [8192], "said for the next time only");
}

#[test]
fn what_is_pending_when_lpis_are_disabled_is_in_the_table() {
    let mut bench = bench(Hardware::Nothing);
    enable(&bench, 0, true, PTZ);
    for event in 0..7 {
        assert!(bench.vgic.hardware_lpi(DEVICE, ItsEventId(event)));
    }
    bench.settle();
    let served = bench.acknowledge(0).unwrap();
    // The guest's own access: it is out.
    bench.exit(0);
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.enter(0);
    assert_eq!(bench.acknowledge(0), None);
    let mut all: Vec<u32> = (8192..8199).collect();
    all.retain(|lpi| *lpi != served);
    assert_eq!(table(&bench, 0), all);
    bench.end(0);
    bench.settle();
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), all);
    assert_eq!((table(&bench, 0), bench.errors()), (vec![], 0));
}

#[test]
fn a_table_that_is_not_memory_is_an_error_of_the_guests() {
    let mut bench = bench(Hardware::Nothing);
    bench.gicr.write(V0, 0x78, Width::B8, 0x1000_0000);
    bench.gicr.write(V0, 0, Width::B4, 1);
    let at = Gpa(0x1000_0000 + 8192 / 8);
    assert_eq!(bench.vgic.statistics().last_command_error, Some(CommandError::TableNotMemory(at)));
    assert!(bench.vgic.hardware_lpi(DEVICE, ItsEventId(0)));
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.settle();
    assert_eq!(bench.errors(), 2);
    assert_eq!(bench.listed(0), []);
}

#[test]
fn an_lpi_without_an_event_comes_if_it_is_enabled_however_many_there_are() {
    let mut bench = bench(Hardware::Nothing);
    let (on, off) = (8300..8600, 8600..8603);
    for lpi in on.clone() {
        bench.set_property(lpi, PRIORITY | 1);
        put(&bench, 0, lpi);
    }
    off.clone().for_each(|lpi| put(&bench, 0, lpi));
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), on.collect::<Vec<_>>());
    assert_eq!(table(&bench, 0), off.collect::<Vec<_>>());
}

#[test]
fn an_lpi_that_is_mapped_later_comes_then() {
    let mut bench = bench(Hardware::Nothing);
    put(&bench, 0, 8210);
    enable(&bench, 0, true, 0);
    assert_eq!(taken(&mut bench, 0), []);
    map(&bench, 18, 0);
    assert_eq!(taken(&mut bench, 0), [8210]);
    // One that waits without an event and gets one is the event's: gone with it.
    bench.set_property(8211, PRIORITY | 1);
    enable(&bench, 0, false, 0);
    put(&bench, 0, 8211);
    enable(&bench, 0, true, 0);
    map(&bench, 19, 0);
    bench.command(Command::Discard { device: DEVICE, event: ItsEventId(19) }.encode());
    assert_eq!(taken(&mut bench, 0), []);
    assert_eq!((table(&bench, 0), bench.errors()), (vec![], 0));
}

#[test]
fn those_without_an_event_take_bounded_room_and_leave_others_alone() {
    let mut bench = bench(Hardware::Nothing);
    for lpi in 8300..8600 {
        bench.set_property(lpi, PRIORITY | 1);
        put(&bench, 0, lpi);
    }
    put(&bench, 1, 8199);
    enable(&bench, 0, true, 0);
    assert!(table(&bench, 0).len() >= 200, "most of them stay where they are");
    // Neither the other vCPU nor the ITS waits for the first to take them.
    enable(&bench, 1, true, 0);
    assert_eq!(taken(&mut bench, 1), [8199]);
    bench.command(Command::Int { device: DEVICE, event: ItsEventId(0) }.encode());
    assert_eq!(bench.errors(), 0);
    // Disabled, all are where they were, and with them what the command has made pending.
    bench.exit(0);
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.enter(0);
    let all = std::iter::once(8192).chain(8300..8600);
    assert_eq!(table(&bench, 0), all.collect::<Vec<_>>());
    bench.vgic.reset();
}

#[test]
fn a_large_table_is_read_in_bounded_pieces() {
    read_large_table(None);
    read_large_table(Some(Direct { reserved_sgis: 0 }));
}

fn read_large_table(direct: Option<Direct>) {
    let mut config = config(1, vec![], 4);
    config.its.as_mut().unwrap().lpi_id_bits = 20;
    config.direct = direct;
    let mut bench = Bench::started(config);
    bench.start_its();
    bench.gicr.write(V0, 0, Width::B4, 0);
    bench.gicr.write(V0, 0x70, Width::B8, common::PROPERTIES | 19);
    // None of them is enabled: each is looked up, and stays.
    bench.machine.write_guest(Gpa(PENDING_TABLE), &[0xff; 0x2_0000]).unwrap();
    let reads = || bench.machine.reads.load(Ordering::Relaxed);
    let before = reads();
    enable(&bench, 0, true, 0);
    let once = reads() - before;
    assert!((64..1024).contains(&once), "{once} accesses to the guest's memory in one exit");
    let mut rounds = 0;
    // Kicked, so that it leaves the guest for more.
    while bench.machine.kicked.lock().unwrap().remove(&0) {
        let before = bench.machine.reads.load(Ordering::Relaxed);
        if direct.is_some() {
            bench.vgic.work_off(V0);
        } else {
            bench.cycle(0);
        }
        assert!(bench.machine.reads.load(Ordering::Relaxed) - before < 1024);
        rounds += 1;
        assert!(rounds < 20_000, "it comes to an end");
    }
    assert!(rounds > 1000);
}

#[test]
fn where_the_hardware_delivers_it_is_told_of_what_is_mapped() {
    for hardware in [Hardware::All, Hardware::Virtual] {
        let bench = bench(hardware);
        for lpi in [8193, 8197, 8210] {
            put(&bench, 0, lpi);
        }
        enable(&bench, 0, true, 0);
        assert_eq!(*bench.machine.triggered.lock().unwrap(), [(0x10, 1), (0x10, 5)]);
        assert_eq!(table(&bench, 0), [8210], "without an event there is no command for it");
        map(&bench, 18, 0);
        assert_eq!(*bench.machine.triggered.lock().unwrap(), [(0x10, 1), (0x10, 5), (0x10, 18)]);
        assert_eq!((table(&bench, 0), bench.errors()), (vec![], 0));
    }
}

#[test]
fn with_virtual_lpis_one_without_an_event_goes_by_list_registers_until_it_has_one() {
    let mut bench = bench(Hardware::Virtual);
    for lpi in [8210, 8211] {
        bench.set_property(lpi, PRIORITY | 1);
        put(&bench, 0, lpi);
    }
    enable(&bench, 0, true, 0);
    bench.cycle(0);
    assert_eq!(bench.acknowledge(0), Some(8210));
    bench.end(0);
    bench.cycle(0);
    map(&bench, 19, 0);
    assert_eq!(*bench.machine.triggered.lock().unwrap(), [(0x10, 19)]);
    bench.settle();
    assert_eq!(taken(&mut bench, 0), [], "the hardware has it now");
    assert_eq!(bench.vgic.statistics().last_command_error, None);
    assert!(bench.vgic.inject(V1, Intid(8211)));
}

#[test]
fn a_direct_guest_has_what_no_event_is_mapped_to_left_in_its_table() {
    let mut bench = bench(Hardware::All);
    bench.set_property(8210, PRIORITY | 1);
    put(&bench, 0, 8210);
    enable(&bench, 0, true, 0);
    bench.settle();
    assert_eq!((bench.listed(0), table(&bench, 0)), (vec![], vec![8210]));
}

#[test]
fn what_the_hardware_has_pending_when_lpis_are_disabled_is_in_the_table() {
    for hardware in [Hardware::All, Hardware::Virtual] {
        let bench = bench(hardware);
        bench.machine.message(0x10, 1);
        enable(&bench, 0, true, PTZ);
        enable(&bench, 1, true, PTZ);
        put(&bench, 0, 8300);
        for event in [2, 4, 7] {
            bench.machine.message(0x10, event);
        }
        bench.gicr.write(V0, 0, Width::B4, 0);
        assert_eq!(table(&bench, 0), [8194, 8196, 8300], "what was there stays");
        // Nobody hears of one that comes now, nor of a command.
        bench.machine.message(0x10, 3);
        bench.command(Command::Int { device: DEVICE, event: ItsEventId(3) }.encode());
        assert_eq!(*bench.machine.lpis_pending.lock().unwrap(), [(1, 8199)].into(), "the other CPU's");
        bench.machine.triggered.lock().unwrap().clear();
        bench.gicr.write(V0, 0, Width::B4, 1);
        assert_eq!(*bench.machine.triggered.lock().unwrap(), [(0x10, 2), (0x10, 4)]);
        assert_eq!(*bench.machine.lpis_pending.lock().unwrap(), [(0, 8194), (0, 8196), (1, 8199)].into());
        assert_eq!((table(&bench, 0), bench.errors()), (vec![8300], 0));
        assert!(bench.machine.event(0x10, 2).unwrap().enabled, "the hardware is told anew");
    }
}

#[test]
fn where_the_hardware_cannot_be_stopped_lpis_stay_enabled() {
    for hardware in [Hardware::Nothing, Hardware::Virtual, Hardware::All] {
        let mut config = config(1, vec![], 4);
        let its = config.its.as_mut().unwrap();
        (its.virtual_lpis, its.lpis_stay_enabled) = (hardware == Hardware::Virtual, true);
        config.direct = (hardware == Hardware::All).then_some(Direct { reserved_sgis: 0 });
        let bench = Bench::started(config);
        let switched = |value: u64| {
            bench.gicr.write(V0, 0, Width::B4, value);
            bench.gicr.read(V0, 0, Width::B4)
        };
        let seen = [0, 1, 0, 1].map(switched);
        match hardware {
            Hardware::Nothing => assert_eq!(seen, [2, 3, 2, 3], "the hardware has no part in it"),
            Hardware::Virtual | Hardware::All => assert_eq!(seen, [0, 1, 1, 1]),
        }
    }
}

#[test]
fn many_that_are_pending_are_put_back_by_pieces() {
    let bench = bench(Hardware::Nothing);
    for number in 8..32 {
        map(&bench, number, 0);
    }
    enable(&bench, 0, true, PTZ);
    for event in (0..32).filter(|event| *event != 7) {
        assert!(bench.vgic.hardware_lpi(DEVICE, ItsEventId(event)));
    }
    let before = bench.machine.reads.load(Ordering::Relaxed);
    bench.gicr.write(V0, 0, Width::B4, 0);
    assert_eq!(bench.machine.reads.load(Ordering::Relaxed) - before, 1);
    assert_eq!(table(&bench, 0), (8192..8224).filter(|lpi| *lpi != 8199).collect::<Vec<u32>>());
}
