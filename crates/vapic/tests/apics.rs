//! All APICs of a VM together: who gets what, who is called, and what of real lines is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::{MmioDevice, SysReg, SysRegDevice, Width};
use axvm_vapic::spec::{io, offset};
use axvm_vapic::{
    Activity, ApicMsrs, Apics, ApicsConfig, AtOnce, Backend, Effect, Ends, IoPage, LocalPage, Message,
    NoSuchLine, Pending, Pin, Startup, Taker, TimerEnd, Turn,
};
use proptest::prelude::*;

#[derive(Default)]
struct Host {
    kicked: Mutex<Vec<u16>>,
    pins: Mutex<Vec<(u8, Pin)>>,
    tsc: AtomicU64,
}

impl Backend for Host {
    fn kick(&self, vcpu: VcpuId) {
        self.kicked.lock().unwrap().push(vcpu.0);
    }

    fn tsc(&self) -> u64 {
        self.tsc.load(Ordering::Relaxed)
    }

    fn set_pin(&self, pin: u8, to: Pin) {
        self.pins.lock().unwrap().push((pin, to));
    }
}

/// Pins 9 and 10 are real lines.
const PHYSICAL: u32 = 1 << 9 | 1 << 10;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const X2APIC: u64 = 0xfee0_0c00;

const A: VcpuId = VcpuId(0);
const B: VcpuId = VcpuId(1);
const C: VcpuId = VcpuId(2);

type Vm = Apics<Host>;

fn new(vcpus: u16) -> Vm {
    let config = ApicsConfig {
        vcpus,
        base: Gpa(0xfee0_0000),
        has_x2apic: true,
        io_id: 0,
        physical: PHYSICAL,
        taker: Taker::Host,
    };
    Apics::new(config, Host::default())
}

/// Three vCPUs in their places, in xAPIC mode, turned on, each with a bit as its flat logical id.
fn running() -> Vm {
    let vm = new(3);
    for vcpu in [A, B, C] {
        vm.enter(vcpu);
        write(&vm, vcpu, offset::SVR, 0x1ff);
        write(&vm, vcpu, offset::LDR, 1 << (24 + vcpu.0));
    }
    vm
}

fn write(vm: &Vm, vcpu: VcpuId, register: u16, value: u32) {
    assert_eq!(vm.write_page(vcpu, register.into(), value), Effect::None);
}

fn read(vm: &Vm, vcpu: VcpuId, register: u16) -> u32 {
    vm.read_page(vcpu, register.into())
}

/// Sends by the command register of xAPIC mode.
fn send(vm: &Vm, from: VcpuId, to: u32, command: u32) -> Effect {
    write(vm, from, offset::ICR_HIGH, to << 24);
    vm.write_page(from, offset::ICR.into(), command)
}

fn entry(vm: &Vm, pin: u8, low: u32, to: u32) {
    for (register, value) in [(io::ENTRIES + 2 * pin + 1, to << 24), (io::ENTRIES + 2 * pin, low)] {
        vm.write_io(io::SELECT, register.into());
        vm.write_io(io::WINDOW, value);
    }
}

fn remote(vm: &Vm, pin: u8) -> bool {
    vm.write_io(io::SELECT, (io::ENTRIES + 2 * pin).into());
    vm.read_io(io::WINDOW) & 1 << 14 != 0
}

fn kicked(vm: &Vm) -> Vec<u16> {
    std::mem::take(&mut vm.backend().kicked.lock().unwrap())
}

fn pins(vm: &Vm) -> Vec<(u8, Pin)> {
    std::mem::take(&mut vm.backend().pins.lock().unwrap())
}

/// What each of the three takes now, and ends.
fn taken(vm: &Vm) -> [Option<u8>; 3] {
    [A, B, C].map(|vcpu| {
        let next = vm.poll(vcpu).vector;
        assert_eq!(vm.take(vcpu), next);
        if next.is_some() {
            write(vm, vcpu, offset::EOI, 0);
        }
        next
    })
}

#[test]
fn an_edge_is_waited_for_until_whom_it_is_for_has_taken_it() {
    let vm = running();
    let waiting = || [A, B, C].map(|vcpu| vm.is_waiting(vcpu, 9));
    entry(&vm, 9, 0x61, 1);
    assert_eq!((vm.is_open(9), vm.is_open(10), vm.is_open(24), waiting()), (true, false, false, [false; 3]));
    vm.pulse(9).unwrap();
    assert_eq!(waiting(), [false, true, false], "it hasn't looked yet");
    assert_eq!((vm.poll(B).vector, waiting()), (Some(0x61), [false, true, false]));
    // Kept back by what it is at: it waits still.
    write(&vm, B, offset::TPR, 0xf0);
    assert_eq!((vm.poll(B).vector, waiting()), (None, [false, true, false]));
    write(&vm, B, offset::TPR, 0);
    assert_eq!((vm.take(B), waiting()), (Some(0x61), [false; 3]));
    // In service, an edge that comes then is another one.
    vm.pulse(9).unwrap();
    vm.poll(B);
    assert_eq!(waiting(), [false, true, false]);
    // Who isn't in his place, or had an INIT, will not take it; nor is one waited for that the guest keeps out, or a level.
    vm.leave(B);
    assert_eq!(waiting(), [false; 3]);
    vm.enter(B);
    assert_eq!(waiting(), [false, true, false]);
    send(&vm, A, 1, 0x4500).no_startup();
    assert!(vm.poll(B).reset);
    assert_eq!(waiting(), [false; 3]);
    for low in [0x61 | MASKED, 0x61 | LEVEL] {
        entry(&vm, 9, low, 2);
        vm.pulse(9).unwrap();
        assert_eq!(waiting(), [false; 3], "{low:#x}");
    }
    assert!(!vm.is_waiting(A, 24));
}

#[test]
fn whoever_is_about_to_enter_takes_what_comes_next_unless_something_comes_before_it() {
    let vm = running();
    for vector in [0x41, 0x52] {
        assert_eq!(send(&vm, A, 1, vector), Effect::None);
    }
    write(&vm, B, offset::TPR, 0x20);
    let refused = vm.turn(B, false);
    assert_eq!((refused.taken, refused.waiting.vector, refused.cr8), (None, Some(0x52), 2));
    // Of an NMI, and after a reset, nothing else is taken.
    assert_eq!(send(&vm, A, 1, 0x4400), Effect::None);
    let first = vm.turn(B, true);
    assert_eq!((first.taken, first.waiting.nmi, first.waiting.vector), (None, true, Some(0x52)));
    assert!(vm.take_nmi(B));
    let taken = vm.turn(B, true);
    assert_eq!((taken.taken, taken.waiting.vector, taken.waiting.cr8_below), (Some(0x52), None, None));
    assert!(!vm.has_news(B), "what was taken is no news");
    // The other one was kept back by it.
    write(&vm, B, offset::EOI, 0);
    assert!(vm.has_news(B));
    assert_eq!(vm.turn(B, true).taken, Some(0x41));
    write(&vm, B, offset::EOI, 0);
    assert!(!vm.has_news(B), "an end with nothing behind it is none");
    assert_eq!(send(&vm, A, 1, 0x41), Effect::None);
    send(&vm, A, 1, 0x4500).no_startup();
    let reset = vm.turn(B, true);
    assert_eq!(
        (reset.taken, reset.waiting.reset, reset.waiting.activity),
        (None, true, Activity::WaitsForStartup)
    );
    assert_eq!(vm.turn(VcpuId(3), true), Turn { taken: None, waiting: idle(), cr8: 0 });
}

#[test]
fn whoever_sends_a_startup_to_one_that_is_off_asks_for_it_before_it_goes_on() {
    let vm = running();
    vm.leave(B);
    vm.poll(A);
    assert!(!vm.has_news(A) && vm.next_startup().is_none());
    assert_eq!(send(&vm, A, 1, 0x4500), Effect::None);
    assert_eq!(send(&vm, A, 1, 0x4612), Effect::Startup);
    assert!(vm.has_news(A));
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: B, page: 0x12 }));
    assert_eq!(vm.next_startup(), None);
    // One that is in its place takes it itself, and is started from outside if it has left before it did.
    vm.enter(B);
    send(&vm, A, 1, 0x4500).no_startup();
    vm.poll(B);
    send(&vm, A, 1, 0x4613).no_startup();
    assert_eq!(vm.next_startup(), None);
    vm.leave(B);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: B, page: 0x13 }));
}

#[test]
fn an_interrupt_between_cpus_calls_whom_it_is_for_once() {
    let vm = running();
    kicked(&vm);
    assert_eq!(send(&vm, A, 1, 0x41), Effect::None);
    assert_eq!(send(&vm, A, 1, 0x52), Effect::None);
    assert_eq!(kicked(&vm), [1], "it hasn't looked yet");
    assert_eq!(vm.poll(B).vector, Some(0x52));
    assert_eq!(send(&vm, C, 1, 0x61), Effect::None);
    assert_eq!(kicked(&vm), [1], "it has");
    assert_eq!((vm.poll(B).vector, vm.has_next(B), vm.take(B)), (Some(0x61), true, Some(0x61)));
    assert!(!vm.has_next(B) && !vm.has_next(VcpuId(3)));
    assert_eq!((vm.poll(B).vector, vm.poll(B).cr8_below), (None, None), "its own keeps the others back");
    // Shorthands, and a logical destination.
    write(&vm, B, offset::EOI, 0);
    vm.take(B);
    write(&vm, B, offset::EOI, 0);
    vm.take(B);
    write(&vm, B, offset::EOI, 0);
    send(&vm, A, 0, 0x4_0071).no_startup();
    assert_eq!(taken(&vm), [Some(0x71), None, None]);
    send(&vm, A, 0, 0x8_0072).no_startup();
    assert_eq!(taken(&vm), [Some(0x72); 3]);
    send(&vm, B, 0, 0xc_0073).no_startup();
    assert_eq!(taken(&vm), [Some(0x73), None, Some(0x73)]);
    send(&vm, B, 0b101, 0x0874).no_startup();
    assert_eq!(taken(&vm), [Some(0x74), None, Some(0x74)]);
    // NMI to all but oneself.
    send(&vm, B, 0, 0xc_0400).no_startup();
    assert_eq!([A, B, C].map(|vcpu| vm.poll(vcpu).nmi), [true, false, true]);
    assert_eq!((vm.take_nmi(A), vm.take_nmi(A), vm.take_nmi(B)), (true, false, false));
    // Nobody has that id, and nobody takes anything while it is off.
    send(&vm, A, 77, 0x75).no_startup();
    write(&vm, C, offset::SVR, 0xff);
    send(&vm, A, 2, 0x75).no_startup();
    assert_eq!(taken(&vm), [None; 3]);
}

trait NoStartup {
    fn no_startup(self);
}

impl NoStartup for Effect {
    fn no_startup(self) {
        assert_eq!(self, Effect::None);
    }
}

#[test]
fn the_lowest_priority_gets_what_is_for_one_of_them() {
    let vm = running();
    vm.set_cr8(A, 3);
    vm.set_cr8(B, 1);
    vm.set_cr8(C, 2);
    vm.send_msi(0xfee0_700c, 0x41).unwrap();
    assert_eq!(taken(&vm), [None, Some(0x41), None]);
    // One in service counts as well.
    vm.send_msi(0xfee0_200c, 0x91).unwrap();
    vm.poll(B);
    vm.take(B);
    vm.send_msi(0xfee0_700c, 0x42).unwrap();
    assert_eq!(taken(&vm), [None, None, Some(0x42)]);
    // Those that don't take it aren't asked.
    write(&vm, C, offset::SVR, 0xff);
    vm.send_msi(0xfee0_700c, 0x43).unwrap();
    assert_eq!([A, C].map(|vcpu| vm.poll(vcpu).vector), [Some(0x43), None]);
    assert!(vm.send_msi(0xfee0_400c, 0x44).is_err(), "nobody takes it");
    assert!(vm.send_msi(0xfee0_0000, 0x500).is_err(), "INIT");
    assert!(vm.send_msi(0xfee0_0000, 0x700).is_err(), "what an 8259 would have to say");
    assert!(vm.send_msi(0x1000, 0x41).is_err());
}

/// SDM 3, 9.4.4: INIT, then STARTUP, twice.
#[test]
fn the_others_are_started_by_init_and_startup() {
    let vm = new(3);
    vm.enter(A);
    write(&vm, A, offset::SVR, 0x1ff);
    assert_eq!(vm.next_startup(), None);
    send(&vm, A, 1, 0x4500).no_startup();
    send(&vm, A, 1, 0x8500).no_startup();
    assert_eq!(send(&vm, A, 1, 0x4699), Effect::Startup);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: B, page: 0x99 }));
    assert_eq!(vm.next_startup(), None);
    // The second one comes on its way to its place, or after that.
    assert_eq!(send(&vm, A, 1, 0x4698), Effect::Startup);
    vm.enter(B);
    assert_eq!(vm.next_startup(), None);
    send(&vm, A, 1, 0x4699).no_startup();
    let pending = vm.poll(B);
    assert_eq!((pending.activity, pending.reset), (Activity::Runs, false), "it runs already");
    // That one is over: it doesn't start it when it has left.
    vm.leave(B);
    assert_eq!(vm.next_startup(), None);
    vm.enter(B);
    // In its place it is reset there.
    write(&vm, B, offset::SVR, 0x1ff);
    send(&vm, A, 1, 0x41).no_startup();
    send(&vm, A, 1, 0x4500).no_startup();
    let pending = vm.poll(B);
    assert_eq!((pending.activity, pending.reset), (Activity::WaitsForStartup, true));
    assert_eq!((pending.vector, read(&vm, B, offset::SVR)), (None, 0xff), "what came before is lost");
    assert!(pending.wakes(false) && !vm.poll(B).wakes(true));
    kicked(&vm);
    send(&vm, A, 1, 0x4612).no_startup();
    assert_eq!(kicked(&vm), [1]);
    let pending = vm.poll(B);
    assert_eq!(pending.activity, Activity::Startup { page: 0x12 });
    assert!(pending.wakes(false));
    assert_eq!(vm.poll(B).activity, Activity::Runs, "once");
    // To look what is next takes nothing in.
    send(&vm, A, 1, 0x4500).no_startup();
    send(&vm, A, 1, 0x4613).no_startup();
    assert!(!vm.has_next(B));
    let pending = vm.poll(B);
    assert_eq!((pending.activity, pending.reset), (Activity::Startup { page: 0x13 }, true));
    // Both before it looks.
    send(&vm, A, 1, 0x4613).no_startup();
    send(&vm, A, 1, 0x4500).no_startup();
    send(&vm, A, 1, 0x4614).no_startup();
    let pending = vm.poll(B);
    assert_eq!((pending.activity, pending.reset), (Activity::Startup { page: 0x14 }, true));
    // All but the sender: the third is off still.
    send(&vm, A, 0, 0xc_4500).no_startup();
    assert_eq!(send(&vm, A, 0, 0xc_4615), Effect::Startup);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: C, page: 0x15 }));
    assert_eq!(vm.poll(B).activity, Activity::Startup { page: 0x15 });
    // The machine is reset.
    for vcpu in [A, B] {
        vm.leave(vcpu);
    }
    vm.reset();
    assert_eq!((read(&vm, A, offset::SVR), vm.next_startup()), (0xff, None));
    assert_eq!([A, B].map(|vcpu| vm.poll(vcpu).activity), [Activity::Runs, Activity::WaitsForStartup]);
}

#[test]
fn a_level_line_of_an_emulated_device_comes_until_it_is_low() {
    let vm = running();
    entry(&vm, 4, 0x51 | LEVEL, 1);
    vm.set_line(4, true).unwrap();
    assert_eq!(vm.poll(B).vector, Some(0x51));
    vm.take(B);
    assert!(remote(&vm, 4));
    kicked(&vm);
    write(&vm, B, offset::EOI, 0);
    assert_eq!((kicked(&vm), vm.poll(B).vector), (vec![1], Some(0x51)), "it is still high");
    vm.take(B);
    vm.set_line(4, false).unwrap();
    write(&vm, B, offset::EOI, 0);
    assert_eq!((vm.poll(B).vector, remote(&vm, 4)), (None, false));
    assert_eq!(pins(&vm), [], "no real line");
    assert_eq!(vm.set_line(24, true), Err(NoSuchLine(24)));
    assert!(vm.set_line(u32::MAX, true).is_err() && vm.pulse(256).is_err());
    // Edges.
    entry(&vm, 3, 0x61, 2);
    vm.pulse(3).unwrap();
    vm.pulse(3).unwrap();
    assert_eq!(taken(&vm), [None, None, Some(0x61)]);
    vm.pulse(3).unwrap();
    assert_eq!(taken(&vm), [None, None, Some(0x61)]);
}

/// While nobody takes it a level line isn't pending anywhere, and comes when somebody does.
#[test]
fn a_level_line_waits_for_an_apic_that_is_off() {
    let vm = running();
    entry(&vm, 4, 0x51 | LEVEL, 1);
    write(&vm, B, offset::SVR, 0xff);
    vm.set_line(4, true).unwrap();
    assert_eq!((remote(&vm, 4), vm.poll(B).vector), (false, None));
    write(&vm, B, offset::SVR, 0x1ff);
    assert_eq!((remote(&vm, 4), vm.poll(B).vector), (true, Some(0x51)));
}

#[test]
fn a_real_line_is_open_while_the_guest_can_hear_it() {
    let vm = running();
    entry(&vm, 9, 0x51 | LEVEL, 1);
    assert_eq!(pins(&vm), [(9, Pin::Open)]);
    // The host takes its interrupt, masks it, and says so.
    vm.set_line(9, true).unwrap();
    assert_eq!(pins(&vm), [(9, Pin::Closed)]);
    vm.poll(B);
    vm.take(B);
    // Its end opens it, and only the line itself brings it again.
    write(&vm, B, offset::EOI, 0);
    assert_eq!((pins(&vm), vm.poll(B).vector), (vec![(9, Pin::Open)], None));
    vm.set_line(9, true).unwrap();
    assert_eq!(vm.poll(B).vector, Some(0x51));
    // Masked before its end, as drivers with threads do it, it stays closed until it is unmasked.
    vm.take(B);
    entry(&vm, 9, 0x51 | LEVEL | MASKED, 1);
    write(&vm, B, offset::EOI, 0);
    assert_eq!((pins(&vm), vm.poll(B).vector), (vec![(9, Pin::Closed)], None));
    entry(&vm, 9, 0x51 | LEVEL, 1);
    assert_eq!((pins(&vm), vm.poll(B).vector), (vec![(9, Pin::Open)], None));
    // Unmasked before its end, it opens at its end.
    vm.set_line(9, true).unwrap();
    vm.poll(B);
    vm.take(B);
    entry(&vm, 9, 0x51 | LEVEL | MASKED, 1);
    entry(&vm, 9, 0x51 | LEVEL, 1);
    assert_eq!(pins(&vm), [(9, Pin::Closed)]);
    write(&vm, B, offset::EOI, 0);
    assert_eq!(pins(&vm), [(9, Pin::Open)]);
    // Taken just when the guest masked it, it says so itself once it is unmasked, if it is still high.
    entry(&vm, 9, 0x51 | LEVEL | MASKED, 1);
    vm.set_line(9, true).unwrap();
    assert_eq!(pins(&vm), [(9, Pin::Closed)]);
    entry(&vm, 9, 0x51 | LEVEL, 1);
    assert_eq!((pins(&vm), vm.poll(B).vector, remote(&vm, 9)), (vec![(9, Pin::Open)], None, false));
    // Two real lines of one vector, and one that counts by its edge.
    entry(&vm, 9, 0x51 | MASKED, 1);
    entry(&vm, 10, 0x41, 0);
    assert_eq!(pins(&vm), [(9, Pin::Closed), (10, Pin::Open)]);
    vm.pulse(10).unwrap();
    assert_eq!((pins(&vm), vm.poll(A).vector), (vec![], Some(0x41)));
    vm.reset();
    assert_eq!(pins(&vm), [(10, Pin::Closed)]);
}

#[test]
fn the_timer_comes_by_the_time_stamp_counter_in_each_mode() {
    let vm = running();
    let at = |tsc| vm.backend().tsc.store(tsc, Ordering::Relaxed);
    write(&vm, A, offset::LVT_TIMER, 2 << 17 | 0xec);
    vm.write_msr(A, 0x6e0, 1000).unwrap().no_startup();
    assert_eq!(vm.poll(A).deadline, Some(1000));
    at(999);
    assert_eq!((vm.poll(A).vector, vm.read_msr(A, 0x6e0)), (None, Ok(1000)));
    at(1000);
    assert_eq!(vm.poll(A), Pending { vector: Some(0xec), ..idle() });
    assert_eq!((vm.take(A), vm.read_msr(A, 0x6e0)), (Some(0xec), Ok(0)));
    write(&vm, A, offset::EOI, 0);
    // One that nobody looked at before the next was set has come.
    vm.write_msr(A, 0x6e0, 2000).unwrap().no_startup();
    at(2500);
    vm.write_msr(A, 0x6e0, 3000).unwrap().no_startup();
    assert_eq!(vm.poll(A), Pending { vector: Some(0xec), deadline: Some(3000), ..idle() });
    vm.take(A);
    write(&vm, A, offset::EOI, 0);
    // Masked when it ended it makes no interrupt once it isn't.
    write(&vm, A, offset::LVT_TIMER, 2 << 17 | MASKED | 0xec);
    at(3500);
    write(&vm, A, offset::LVT_TIMER, 2 << 17 | 0xec);
    assert_eq!(vm.poll(A), idle());
    // Periodic, a sixteenth as fast.
    write(&vm, A, offset::DIVIDE, 3);
    write(&vm, A, offset::LVT_TIMER, 1 << 17 | 0xec);
    write(&vm, A, offset::INITIAL_COUNT, 100);
    assert_eq!(vm.poll(A).deadline, Some(3500 + 1600));
    at(5100);
    assert_eq!(vm.poll(A), Pending { vector: Some(0xec), deadline: Some(6700), ..idle() });
    assert_eq!(read(&vm, A, offset::CURRENT_COUNT), 100);
}

fn idle() -> Pending {
    Pending {
        activity: Activity::Runs,
        reset: false,
        nmi: false,
        vector: None,
        cr8_below: None,
        deadline: None,
        ends: Ends::Unseen,
    }
}

#[test]
fn what_the_tasks_priority_keeps_back_comes_when_that_falls() {
    let vm = running();
    vm.set_cr8(B, 5);
    assert_eq!(read(&vm, B, offset::TPR), 0x50);
    send(&vm, A, 1, 0x51).no_startup();
    assert_eq!(vm.poll(B), Pending { cr8_below: Some(5), ..idle() });
    assert_eq!((vm.take(B), vm.cr8(B)), (None, 5));
    vm.set_cr8(B, 4);
    assert_eq!(vm.poll(B), Pending { vector: Some(0x51), ..idle() });
    // One in service keeps it back as well: CR8 alone doesn't let it through.
    assert_eq!(vm.take(B), Some(0x51));
    vm.set_cr8(B, 9);
    send(&vm, A, 1, 0x52).no_startup();
    assert_eq!(vm.poll(B), idle());
    send(&vm, A, 1, 0x61).no_startup();
    assert_eq!(vm.poll(B), Pending { cr8_below: Some(6), ..idle() });
    vm.set_cr8(B, 4);
    // The lower half of the register stays if the class does.
    write(&vm, B, offset::TPR, 0x47);
    vm.set_cr8(B, 4);
    assert_eq!(read(&vm, B, offset::TPR), 0x47);
    vm.set_cr8(B, 0xf0 | 3);
    assert_eq!(read(&vm, B, offset::TPR), 0x30);
}

#[test]
fn in_x2apic_mode_msrs_do_it() {
    let vm = running();
    for vcpu in [A, B, C] {
        assert_eq!(vm.read_msr(vcpu, 0x1b).unwrap(), 0xfee0_0800 | u64::from(vcpu == A) << 8);
        vm.write_msr(vcpu, 0x1b, X2APIC).unwrap().no_startup();
    }
    assert_eq!(vm.read_msr(B, 0x802), Ok(1));
    assert_eq!(vm.read_msr(C, 0x80d), Ok(1 << 2), "its logical id");
    vm.write_msr(A, 0x830, 0x1_0000_0041).unwrap().no_startup();
    assert_eq!(vm.poll(B).vector, Some(0x41));
    assert_eq!(vm.take(B), Some(0x41));
    vm.write_msr(B, 0x80b, 0).unwrap().no_startup();
    // As the core hands it over, and to oneself.
    assert_eq!(vm.send_icr(A, 6 << 32 | 0x842), Effect::None);
    assert_eq!([B, C].map(|vcpu| vm.poll(vcpu).vector), [Some(0x42); 2]);
    vm.write_msr(A, 0x83f, 0x43).unwrap().no_startup();
    assert_eq!(vm.poll(A).vector, Some(0x43));
    let faults = [(0x802, 0), (0x80b, 1), (0x80e, 0), (0x831, 0), (0x8ff, 0), (0x1b, 0xfee0_0800), (0x1b, 0)];
    for (msr, value) in faults {
        assert!(vm.write_msr(A, msr, value).is_err(), "{msr:#x} {value:#x}");
    }
    assert!(vm.read_msr(B, 0x80b).is_err() && vm.read_msr(B, 0x831).is_err());
    assert!(vm.read_msr(VcpuId(3), 0x802).is_err(), "no such vCPU");
}

/// What a guest writes most: a deadline, and the end of an interrupt.
#[test]
fn a_deadline_that_has_passed_interrupts_though_another_one_is_set() {
    const DEADLINE_MODE: u64 = 2 << 17;
    let vm = running();
    vm.write_msr(A, 0x1b, X2APIC).unwrap().no_startup();
    vm.write_msr(A, 0x832, DEADLINE_MODE | 0x51).unwrap().no_startup();
    let set = |deadline| vm.write_msr(A, 0x6e0, deadline).unwrap().no_startup();
    let at = |tsc| vm.backend().tsc.store(tsc, Ordering::Relaxed);
    set(100);
    assert_eq!((vm.poll(A).deadline, vm.poll(A).vector), (Some(100), None));
    at(50);
    set(200);
    assert_eq!((vm.poll(A).deadline, vm.poll(A).vector), (Some(200), None), "in time");
    at(250);
    set(1000);
    assert!(vm.has_news(A));
    let turn = vm.turn(A, true);
    assert_eq!((turn.taken, turn.waiting.deadline), (Some(0x51), Some(1000)));
    vm.write_msr(A, 0x83f, 0x41).unwrap().no_startup();
    assert_eq!(vm.turn(A, true).taken, None, "of a lower class");
    vm.write_msr(A, 0x80b, 0).unwrap().no_startup();
    assert!(vm.has_news(A));
    assert_eq!(vm.turn(A, true).taken, Some(0x41));
    assert!(vm.write_msr(A, 0x80b, 1).is_err());
    vm.write_msr(A, 0x80b, 0).unwrap().no_startup();
    at(1000);
    assert_eq!(vm.end_of_timer(A), Some(TimerEnd { vector: 0x51, deadline: None }));
}

#[test]
fn registers_are_reached_as_devices() {
    let vm = std::sync::Arc::new(running());
    let (local, pins, msrs) = (LocalPage(vm.clone()), IoPage(vm.clone()), ApicMsrs(vm.clone()));
    assert_eq!(local.read(C, 0x20, Width::B4), 2 << 24);
    assert_eq!(local.read(C, 0x23, Width::B1), 2, "a part of it");
    local.write(C, 0x80, Width::B4, 0x33);
    local.write(C, 0x80, Width::B1, 0x44);
    assert_eq!(MmioDevice::read(&local, C, 0x80, Width::B8), 0x33);
    pins.write(A, 0, Width::B4, 1);
    pins.write(A, 0x10, Width::B2, 5);
    assert_eq!(pins.read(A, 0x10, Width::B4), 0x0017_0020);
    assert_eq!(SysRegDevice::read(&msrs, A, SysReg(0x1b)), Some(0xfee0_0900));
    assert_eq!(SysRegDevice::write(&msrs, A, SysReg(0x808), 0), None, "not in that mode");
    // Whoever sends STARTUP so asks for it.
    vm.leave(B);
    local.write(A, 0x310, Width::B4, 1 << 24);
    local.write(A, 0x300, Width::B4, 0x4500);
    local.write(A, 0x300, Width::B4, 0x4607);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: B, page: 7 }));
}

/// Two CPUs send to a third, which looks only when it is called: nothing is lost, and no call.
#[test]
fn nothing_that_is_sent_at_the_same_time_is_lost() {
    const EACH: usize = 2000;
    const VECTORS: [u8; 2] = [0x41, 0x52];
    let vm = running();
    kicked(&vm);
    let seen = [const { AtomicUsize::new(0) }; 2];
    thread::scope(|scope| {
        for ((from, vector), seen) in [A, C].into_iter().zip(VECTORS).zip(&seen) {
            let vm = &vm;
            scope.spawn(move || {
                for sent in 1..=EACH {
                    send(vm, from, 1, vector.into()).no_startup();
                    // Two of one vector would be one.
                    until(|| seen.load(Ordering::SeqCst) == sent);
                }
            });
        }
        let mut taken = 0;
        while taken < 2 * EACH {
            until(|| !kicked(&vm).is_empty());
            while vm.poll(B).vector.is_some() {
                let vector = vm.take(B).unwrap();
                write(&vm, B, offset::EOI, 0);
                taken += 1;
                seen[VECTORS.iter().position(|it| *it == vector).unwrap()].fetch_add(1, Ordering::SeqCst);
            }
        }
    });
}

/// Waits until something is so, or fails. A test's other threads then fail as well.
fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "it never comes");
        thread::yield_now();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Line(u32, bool),
    Entry(u8, u32),
    Page(u8, u16, u32),
    Msi(u8, u32),
    Nmi(u8),
    Run(u8),
    End(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let vector = prop_oneof![Just(0x41u32), Just(0x51), Just(0x61)];
    let bits = prop_oneof![Just(0u32), Just(LEVEL), Just(LEVEL | MASKED), Just(MASKED)];
    prop_oneof![
        4 => (8..12u32, any::<bool>()).prop_map(|(pin, high)| Step::Line(pin, high)),
        2 => (8..12u8, vector.clone(), bits).prop_map(|(pin, vector, bits)| Step::Entry(pin, vector | bits)),
        1 => (0..3u8, (0..64u16).prop_map(|at| at * 16), any::<u32>()).prop_map(|(cpu, at, value)| Step::Page(cpu, at, value)),
        1 => (0..3u8, vector).prop_map(|(cpu, vector)| Step::Msi(cpu, vector)),
        1 => (0..3u8).prop_map(Step::Nmi),
        4 => (0..3u8).prop_map(Step::Run),
        4 => (0..3u8).prop_map(Step::End),
    ]
}

proptest! {
    /// Whatever guests do: what is told of a real line is told once for each change, a line that is told to be closed isn't masked for
    /// good by anything but the guest (unmasked and ended, it opens), and nothing ever fails.
    #[test]
    fn real_lines_follow_the_guest(steps in prop::collection::vec(step(), 1..120)) {
        let vm = running();
        let mut open = [false; 24];
        for step in steps {
            match step {
                Step::Line(pin, high) => {
                    // Whoever has a real line masks it while it is high, and hears nothing else of it.
                    if PHYSICAL >> pin & 1 == 0 || high {
                        vm.set_line(pin, high).unwrap();
                    }
                }
                Step::Entry(pin, low) => entry(&vm, pin, low, u32::from(pin) % 3),
                Step::Page(cpu, at, value) => {
                    let _ = vm.write_page(VcpuId(cpu.into()), at.into(), value);
                }
                Step::Msi(cpu, vector) => {
                    let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, vector);
                }
                Step::Nmi(cpu) => {
                    let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, 0x400);
                }
                Step::Run(cpu) => {
                    let vcpu = VcpuId(cpu.into());
                    let pending = vm.poll(vcpu);
                    prop_assert_eq!(vm.take(vcpu), pending.vector);
                }
                Step::End(cpu) => {
                    let _ = vm.write_page(VcpuId(cpu.into()), offset::EOI.into(), 0);
                }
            }
            for (pin, to) in pins(&vm) {
                prop_assert!(PHYSICAL >> pin & 1 != 0);
                let is = &mut open[usize::from(pin)];
                prop_assert_ne!(*is, to == Pin::Open);
                *is = to == Pin::Open;
            }
        }
        // All in service end, everything that waits is taken and ended: each real line that the guest has unmasked is open.
        for _ in 0..300 {
            for vcpu in [A, B, C] {
                write(&vm, vcpu, offset::TPR, 0);
                vm.poll(vcpu);
                vm.take(vcpu);
                let _ = vm.write_page(vcpu, offset::EOI.into(), 0);
            }
        }
        for (pin, to) in pins(&vm) {
            open[usize::from(pin)] = to == Pin::Open;
        }
        for pin in [9u8, 10] {
            vm.write_io(io::SELECT, (io::ENTRIES + 2 * pin).into());
            let low = vm.read_io(io::WINDOW);
            let level = low & LEVEL != 0 && low & MASKED == 0;
            let cpu = VcpuId(u16::from(pin) % 3);
            // An interrupt that the guest has thrown away by resetting a CPU, or turning its APIC off, has no end.
            let lost = low & 1 << 14 != 0;
            if level && !lost && read(&vm, cpu, offset::SVR) & 0x100 != 0 {
                prop_assert!(open[usize::from(pin)], "pin {} {:#x}", pin, low);
            }
        }
    }
}

/// What was said last, without what is said once only.
fn again(pending: Pending) -> Pending {
    let activity = match pending.activity {
        Activity::Startup { .. } => Activity::Runs,
        other => other,
    };
    Pending { activity, reset: false, ..pending }
}

proptest! {
    /// As long as there is no news nothing waits that didn't: who knows what waited last needn't look.
    #[test]
    fn without_news_nothing_has_changed(steps in prop::collection::vec((step(), 0u8..5), 1..200)) {
        let vm = running();
        let cpus = [A, B, C];
        for vcpu in cpus {
            write(&vm, vcpu, offset::LVT_ERROR, 0x71);
        }
        let mut known = cpus.map(|vcpu| (again(vm.poll(vcpu)), vm.cr8(vcpu)));
        let mut quiet = 0;
        for (step, other) in steps {
            let vcpu = VcpuId(u16::from(other) % 3);
            match step {
                Step::Line(pin, high) => vm.set_line(pin, high).unwrap(),
                Step::Entry(pin, low) => entry(&vm, pin, low, u32::from(pin) % 3),
                Step::Page(cpu, at, value) => {
                    let _ = vm.write_page(VcpuId(cpu.into()), at.into(), value);
                }
                Step::Msi(cpu, vector) => {
                    let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, vector);
                }
                Step::Nmi(cpu) => {
                    let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, 0x400);
                }
                Step::Run(cpu) => {
                    vm.take(VcpuId(cpu.into()));
                }
                Step::End(cpu) => {
                    let _ = vm.write_page(VcpuId(cpu.into()), offset::EOI.into(), 0);
                }
            }
            match other {
                0 => vm.set_cr8(vcpu, other),
                1 => {
                    vm.take_nmi(vcpu);
                }
                2 => {
                    vm.leave(vcpu);
                    vm.enter(vcpu);
                }
                3 => vm.set_cr8(vcpu, 9),
                _ => {
                    // There is no such register: an error, of which some tell by an interrupt.
                    vm.read_page(vcpu, 0x40);
                }
            }
            for (vcpu, known) in cpus.into_iter().zip(&mut known) {
                let is_news = vm.has_news(vcpu);
                quiet += usize::from(!is_news);
                let now = (vm.poll(vcpu), vm.cr8(vcpu));
                prop_assert!(is_news || now == *known, "{:?} became {:?} of {}", known, now, vcpu);
                prop_assert!(!vm.has_news(vcpu));
                *known = (again(now.0), now.1);
            }
        }
        prop_assert!(quiet > 0, "there is news at each step, of all");
    }
}

/// Does what a step says, as far as it lasts.
fn apply(vm: &Vm, step: &Step) {
    match *step {
        Step::Line(pin, high) => vm.set_line(pin, high).unwrap(),
        Step::Entry(pin, low) => entry(vm, pin, low, u32::from(pin) % 3),
        Step::Page(cpu, at, value) => {
            let _ = vm.write_page(VcpuId(cpu.into()), at.into(), value);
        }
        Step::Msi(cpu, vector) => {
            let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, vector);
        }
        Step::Nmi(cpu) => {
            let _ = vm.send_msi(0xfee0_0000 | u64::from(cpu) << 12, 0x400);
        }
        Step::Run(cpu) => {
            vm.turn(VcpuId(cpu.into()), true);
        }
        Step::End(cpu) => {
            let _ = vm.write_page(VcpuId(cpu.into()), offset::EOI.into(), 0);
        }
    }
}

/// All that can be read of a local APIC's interrupts.
fn interrupts(vm: &Vm, vcpu: VcpuId) -> Vec<u32> {
    (offset::ISR..0x280).step_by(16).chain([offset::PPR]).map(|register| read(vm, vcpu, register)).collect()
}

proptest! {
    /// A message that is taken at once leaves all as one that is sent, and taken when it is looked for; where it isn't taken, nothing has happened.
    #[test]
    fn a_message_taken_at_once_is_one_that_was_sent_and_taken(
        steps in prop::collection::vec(step(), 0..60),
        looked in any::<bool>(),
        to in 0..0x800u64,
        vector in prop_oneof![4 => 0x31..0xf1u32, 1 => 0..0x10000u32],
    ) {
        let (vm, other) = (running(), running());
        for step in &steps {
            apply(&vm, step);
            apply(&other, step);
        }
        // Mostly a physical id that there is.
        let address = if to < 0x700 { 0xfee0_0000 | (to % 4) << 12 } else { 0xfee0_0000 | (to & 0xff) << 2 };
        if looked {
            vm.turn(A, true);
            other.turn(A, true);
        }
        if let Some(taken) = take_message(&vm, A, address, vector) {
            prop_assert!(looked || steps.iter().any(|step| matches!(step, Step::Run(0))), "there was news");
            other.send_msi(address, vector).unwrap();
            prop_assert_eq!(other.turn(A, true).taken, Some(taken));
        }
        for vcpu in [A, B, C] {
            prop_assert_eq!(vm.turn(vcpu, false), other.turn(vcpu, false));
            prop_assert_eq!(interrupts(&vm, vcpu), interrupts(&other, vcpu));
        }
    }

    /// What comes of a turn at once is what a whole turn comes to; where it says that there is more, a whole turn finds all of it.
    #[test]
    fn a_turn_at_once_is_a_turn(
        before in prop::collection::vec(step(), 0..40),
        after in prop::collection::vec(step(), 0..6),
        accepts in any::<bool>(),
        ticks in 0..2000u64,
    ) {
        let (vm, other) = (running(), running());
        let both = |steps: &[Step]| steps.iter().for_each(|step| {
            apply(&vm, step);
            apply(&other, step);
        });
        both(&before);
        let seen = vm.turn(A, true);
        prop_assert_eq!(other.turn(A, true), seen);
        both(&after);
        let waited = seen.waiting != Pending { deadline: seen.waiting.deadline, ..NOTHING };
        match vm.turn_at_once(A, seen.cr8, accepts) {
            AtOnce::More => {
                prop_assert!(vm.has_news(A));
                prop_assert_eq!(vm.turn(A, accepts), other.turn(A, accepts));
            }
            AtOnce::GoesOn { inject: taken, deadline } => {
                let turn = other.turn(A, accepts);
                prop_assert!(!vm.has_news(A));
                prop_assert_eq!(turn, Turn { taken, waiting: Pending { deadline, ..NOTHING }, cr8: seen.cr8 });
                prop_assert!(!waited || !after.is_empty(), "what waited was forgotten");
            }
        }
        for vm in [&vm, &other] {
            vm.backend().tsc.fetch_add(ticks, Ordering::Relaxed);
        }
        for vcpu in [A, B, C] {
            prop_assert_eq!(vm.turn(vcpu, false), other.turn(vcpu, false));
            prop_assert_eq!(interrupts(&vm, vcpu), interrupts(&other, vcpu));
        }
    }

    /// The end of a timer that is dealt with at once is one that a whole turn has found.
    #[test]
    fn a_timer_s_end_at_once_is_a_turn_s(
        steps in prop::collection::vec(step(), 0..20),
        count in 1..3000u32,
        entry in prop_oneof![Just(0x41u32), Just(0x2_0041), Just(0x1_0041), Just(0x5)],
        ticks in 0..6000u64,
    ) {
        let (vm, other) = (running(), running());
        for vm in [&vm, &other] {
            steps.iter().for_each(|step| apply(vm, step));
            write(vm, A, offset::LVT_TIMER, entry);
            write(vm, A, offset::INITIAL_COUNT, count);
        }
        prop_assert_eq!(vm.turn(A, true), other.turn(A, true));
        for vm in [&vm, &other] {
            vm.backend().tsc.fetch_add(ticks, Ordering::Relaxed);
        }
        let is_due = |vm: &Vm| vm.turn(A, true);
        if let Some(TimerEnd { vector, deadline }) = vm.end_of_timer(A) {
            let turn = is_due(&other);
            prop_assert_eq!(turn.taken, Some(vector));
            prop_assert_eq!(turn.waiting, Pending { deadline, ..NOTHING });
            prop_assert!(!vm.has_news(A));
        } else {
            prop_assert_eq!(is_due(&vm), is_due(&other));
        }
        prop_assert_eq!(vm.turn(A, false), other.turn(A, false));
        prop_assert_eq!(interrupts(&vm, A), interrupts(&other, A));
    }
}

/// Nothing waits.
const NOTHING: Pending = Pending {
    activity: Activity::Runs,
    reset: false,
    nmi: false,
    vector: None,
    cr8_below: None,
    deadline: None,
    ends: Ends::Unseen,
};

#[test]
fn what_a_cpu_sends_to_itself_is_taken_at_once() {
    let vm = running();
    let cr8 = vm.turn(A, true).cr8;
    let inject = |vector| AtOnce::GoesOn { inject: Some(vector), deadline: None };
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::GoesOn { inject: None, deadline: None });
    for command in [0x0004_0041, 0x41] {
        assert_eq!(send(&vm, A, 0, command), Effect::None);
        assert!(vm.has_news(A));
        assert_eq!(vm.turn_at_once(A, cr8, false), AtOnce::More, "it waits");
        assert_eq!(vm.turn_at_once(A, cr8, true), inject(0x41));
        assert!(!vm.has_news(A));
        write(&vm, A, offset::EOI, 0);
    }
    assert_eq!(kicked(&vm), [], "nobody else was needed");
    // Of two both are looked at by a whole turn; so is a priority that has changed, and a signal.
    let _ = (send(&vm, A, 0, 0x41), send(&vm, A, 0, 0x51));
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::More);
    assert_eq!((vm.turn(A, true).taken, vm.turn(A, true).waiting.vector), (Some(0x51), None));
    write(&vm, A, offset::EOI, 0);
    assert_eq!(vm.turn_at_once(A, cr8, true), inject(0x41));
    write(&vm, A, offset::EOI, 0);
    let _ = send(&vm, A, 0, 0x41);
    assert_eq!(vm.turn_at_once(A, cr8 + 1, true), AtOnce::More);
    assert_eq!(vm.turn(A, true).taken, Some(0x41));
    write(&vm, A, offset::EOI, 0);
    // A timer's deadline is said, whatever it is.
    write(&vm, A, offset::LVT_TIMER, 0x51);
    write(&vm, A, offset::INITIAL_COUNT, 100);
    let deadline = vm.poll(A).deadline;
    let _ = send(&vm, A, 0, 0x41);
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::GoesOn { inject: Some(0x41), deadline });
    assert!(deadline.is_some());
    vm.send_msi(0xfee0_0000, 0x400).unwrap();
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::More, "a non-maskable interrupt");
    assert!(vm.turn(A, true).waiting.nmi);
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::More, "it waits still");
    assert!(vm.take_nmi(A));
    vm.turn(A, true);
    // Whoever starts another one has to see to that.
    vm.leave(B);
    let _ = (send(&vm, A, 1, 0x4500), send(&vm, A, 1, 0x4607));
    assert!(vm.has_news(A));
    assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::More);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: B, page: 7 }));
    // After an INIT it waits for STARTUP.
    let _ = send(&vm, C, 0, 0x4500);
    vm.turn(A, true);
    write(&vm, A, offset::SVR, 0x1ff);
    let _ = send(&vm, A, 0, 0x41);
    assert_eq!(vm.turn_at_once(A, 0, true), AtOnce::More);
}

/// A message, taken at once if it is for one CPU: its vector.
fn take_message(vm: &Vm, vcpu: VcpuId, address: u64, data: u32) -> Option<u8> {
    let alone = Message::from_msi(address, data)?.alone()?;
    vm.take_message(vcpu, alone).then_some(alone.vector)
}

#[test]
fn a_message_for_this_cpu_alone_is_taken_at_once() {
    let vm = running();
    let to = |id: u64| 0xfee0_0000 | id << 12;
    assert_eq!(take_message(&vm, A, to(0), 0x41), None, "nobody has looked");
    vm.turn(A, true);
    assert_eq!(take_message(&vm, A, to(0), 0x41), Some(0x41));
    assert_eq!(read(&vm, A, offset::ISR + 0x20), 1 << 1);
    assert_eq!(take_message(&vm, A, to(0), 0x42), None, "of the class that is in service");
    assert_eq!(take_message(&vm, A, to(0), 0x51), Some(0x51));
    for (address, data) in
        [(to(1), 0x61), (to(0xff), 0x61), (to(0) | 1 << 2, 0x61), (to(0), 0x8061), (to(0), 0x461)]
    {
        assert_eq!(take_message(&vm, A, address, data), None, "{address:#x} {data:#x}");
    }
    write(&vm, A, offset::TPR, 0x60);
    vm.turn(A, true);
    assert_eq!(take_message(&vm, A, to(0), 0x61), None, "kept back by the task's priority");
    assert_eq!(take_message(&vm, A, to(0), 0x71), Some(0x71));
    vm.send_msi(to(0), 0x72).unwrap();
    vm.turn(A, true);
    assert_eq!(take_message(&vm, A, to(0), 0x81), None, "another one waits");
    assert_eq!(kicked(&vm), [0]);
}

/// Of two that a message names the one gets it that is at less: also where what it is at was taken at once.
#[test]
fn what_is_taken_at_once_is_what_its_cpu_is_at_for_others() {
    let vm = running();
    let cr8 = vm.turn(A, true).cr8;
    // A logical destination of both, one of which is to be found.
    let lowest = |vector: u32| {
        vm.send_msi(0xfee0_0000 | 0b11 << 12 | 1 << 3 | 1 << 2, vector).unwrap();
        [A, B].map(|vcpu| vm.poll(vcpu).vector).map(|waits| waits == Some(vector as u8))
    };
    let take_all = || {
        for vcpu in [A, B] {
            while vm.turn(vcpu, true).taken.is_some() {
                write(&vm, vcpu, offset::EOI, 0);
            }
        }
    };
    let cases: [(&str, &dyn Fn()); 3] = [
        ("a message", &|| assert_eq!(take_message(&vm, A, 0xfee0_0000, 0x41), Some(0x41))),
        ("to itself", &|| {
            let _ = send(&vm, A, 0, 0x41);
            let inject = Some(0x41);
            assert_eq!(vm.turn_at_once(A, cr8, true), AtOnce::GoesOn { inject, deadline: None });
        }),
        ("its timer", &|| {
            write(&vm, A, offset::LVT_TIMER, 0x41);
            write(&vm, A, offset::INITIAL_COUNT, 1);
            vm.turn(A, true);
            vm.backend().tsc.fetch_add(1000, Ordering::Relaxed);
            assert_eq!(vm.end_of_timer(A), Some(TimerEnd { vector: 0x41, deadline: None }));
        }),
    ];
    for (what, take) in cases {
        take();
        assert_eq!(lowest(0x91), [false, true], "{what}");
        take_all();
        write(&vm, A, offset::EOI, 0);
        assert_eq!(lowest(0x91), [true, false], "{what}, ended");
        take_all();
    }
}

#[test]
fn a_message_is_not_taken_before_what_comes_first() {
    let vm = running();
    let to = |id: u64| 0xfee0_0000 | id << 12;
    // A non-maskable interrupt, which has been seen.
    vm.send_msi(to(0), 0x400).unwrap();
    assert!(vm.turn(A, true).waiting.nmi);
    assert_eq!(take_message(&vm, A, to(0), 0x41), None);
    assert!(vm.take_nmi(A));
    vm.turn(A, true);
    assert_eq!(take_message(&vm, A, to(0), 0x41), Some(0x41));
    // An INIT, after which it waits for STARTUP.
    let _ = send(&vm, B, 0, 0x4500);
    vm.turn(A, true);
    write(&vm, A, offset::SVR, 0x1ff);
    vm.turn(A, true);
    assert_eq!(take_message(&vm, A, to(0), 0x51), None);
}
