//! Guests that take interrupts themselves: what is sent to hardware, and what isn't.

use std::sync::Mutex;

use axvm_addr::{Gpa, VcpuId};
use axvm_vapic::direct::{OPEN, Opening, Register, harmless, until_quiet};
use axvm_vapic::spec::{LocalVector, io, offset};
use axvm_vapic::{Activity, Apics, ApicsConfig, Backend, Effect, Ends, Pin, Refused, Startup, Taker};
use proptest::prelude::*;

/// What hardware was told.
#[derive(Default)]
struct Host {
    kicked: Mutex<Vec<u16>>,
    sent: Mutex<Vec<(u16, u8)>>,
    registers: Mutex<Vec<(Register, u32)>>,
    in_service: Mutex<Vec<u8>>,
    errors: Mutex<u32>,
    pins: Mutex<Vec<(u8, Pin)>>,
}

impl Backend for Host {
    fn kick(&self, vcpu: VcpuId) {
        self.kicked.lock().unwrap().push(vcpu.0);
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn set_pin(&self, pin: u8, to: Pin) {
        self.pins.lock().unwrap().push((pin, to));
    }

    fn send(&self, vcpu: VcpuId, vector: u8) {
        self.sent.lock().unwrap().push((vcpu.0, vector));
    }

    fn set_register(&self, register: Register, value: u32) {
        self.registers.lock().unwrap().push((register, value));
    }

    fn end(&self) -> Option<u8> {
        self.in_service.lock().unwrap().pop()
    }

    fn take_errors(&self) -> u32 {
        std::mem::take(&mut self.errors.lock().unwrap())
    }
}

const BASE: u32 = 0x1b;
const X2APIC: u64 = 0xfee0_0c00;
const ICR: u32 = 0x830;
const A: VcpuId = VcpuId(0);
const B: VcpuId = VcpuId(1);
const C: VcpuId = VcpuId(2);

type Vm = Apics<Host>;

/// Three vCPUs in their places, turned on.
fn running() -> Vm {
    let config = ApicsConfig {
        vcpus: 3,
        base: Gpa(0xfee0_0000),
        has_x2apic: true,
        io_id: 0,
        physical: 1 << 10,
        taker: Taker::Guest,
    };
    let vm = Apics::new(config, Host::default());
    for vcpu in [A, B, C] {
        vm.enter(vcpu);
        assert_eq!(vm.write_msr(vcpu, msr(offset::SVR), 0x1ff), Ok(Effect::None));
    }
    registers(&vm);
    vm
}

fn msr(register: u16) -> u32 {
    0x800 + u32::from(register >> 4)
}

fn take<T: Default>(of: &Mutex<T>) -> T {
    std::mem::take(&mut of.lock().unwrap())
}

fn sent(vm: &Vm) -> Vec<(u16, u8)> {
    take(&vm.backend().sent)
}

fn registers(vm: &Vm) -> Vec<(Register, u32)> {
    take(&vm.backend().registers)
}

fn command(vm: &Vm, to: u64, low: u64) -> Effect {
    vm.write_msr(A, ICR, to << 32 | low).unwrap()
}

#[test]
fn it_is_in_x2apic_mode_for_good() {
    let vm = running();
    assert_eq!(vm.read_msr(A, BASE), Ok(X2APIC | 1 << 8));
    assert_eq!(vm.read_msr(B, BASE), Ok(X2APIC));
    for value in [0xfee0_0800, 0, 0xfee0_0000, X2APIC | 1 << 40, 0xfed0_0c00] {
        assert_eq!(vm.write_msr(B, BASE, value), Err(Refused), "{value:#x}");
    }
    assert_eq!(vm.write_msr(B, BASE, X2APIC), Ok(Effect::None));
    assert_eq!(vm.read_msr(B, BASE), Ok(X2APIC));
    assert_eq!((vm.read_msr(C, msr(offset::ID)), vm.read_msr(C, msr(offset::LDR))), (Ok(2), Ok(4)));
}

#[test]
fn what_it_sends_goes_to_its_own_vcpus_only() {
    let vm = running();
    // By id, to a set, by every shorthand; the lowest priority is one.
    for (to, low, who) in [
        (1, 0x4041, &[1][..]),
        (3, 0x4841, &[0, 1]),
        (u32::MAX.into(), 0x4041, &[0, 1, 2]),
        (u32::MAX.into(), 0x4841, &[0, 1, 2]),
        (7, 0x4_4041, &[0]),
        (7, 0x8_4041, &[0, 1, 2]),
        (7, 0xc_4041, &[1, 2]),
        (6, 0x4941, &[1]),
        // An edge, whatever it says.
        (2, 0xc041, &[2]),
        // Nobody: ids that others have in the machine, other clusters.
        (3, 0x4041, &[]),
        (0xff, 0x4041, &[]),
        (1 << 16 | 1, 0x4841, &[]),
    ] {
        assert_eq!(command(&vm, to, low), Effect::None);
        let expected: Vec<_> = who.iter().map(|who| (*who, 0x41)).collect();
        assert_eq!(sent(&vm), expected, "{low:#x} to {to:#x}");
    }
    assert!(take(&vm.backend().kicked).is_empty());
}

#[test]
fn only_ordinary_interrupts_are_sent() {
    let vm = running();
    // SMI, reserved, ExtINT; vectors that are none, and those of exceptions.
    for low in [0x4200, 0x4300, 0x4700, 0x4000, 0x400f, 0x4010, 0x401f, 0x4912, 0x8_4200, 0xc_4700] {
        assert_eq!(command(&vm, 1, low), Effect::None);
        assert_eq!(sent(&vm), [], "{low:#x}");
    }
    assert!(take(&vm.backend().kicked).is_empty());
    // An NMI is emulated.
    assert_eq!(command(&vm, 1, 0x4400), Effect::None);
    assert_eq!(take(&vm.backend().kicked), [1]);
    assert!(vm.poll(B).nmi && vm.take_nmi(B));
    assert_eq!(sent(&vm), []);
}

#[test]
fn init_and_startup_are_emulated_and_nothing_is_sent_to_who_is_not_in_its_place() {
    let vm = running();
    let _ = command(&vm, 1, 0x4500);
    assert_eq!(take(&vm.backend().kicked), [1]);
    let waiting = vm.poll(B);
    assert!(waiting.reset && waiting.activity == Activity::WaitsForStartup);
    assert_eq!(command(&vm, 1, 0x4041), Effect::None);
    assert_eq!(sent(&vm), [], "its APIC is off");
    let _ = command(&vm, 1, 0x4612);
    assert_eq!(vm.poll(B).activity, Activity::Startup { page: 0x12 });
    assert_eq!(vm.read_msr(B, BASE), Ok(X2APIC), "the mode stays");

    let _ = vm.write_msr(C, msr(offset::SVR), 0x1ff).unwrap();
    vm.leave(C);
    let _ = command(&vm, 2, 0x4041);
    assert_eq!(sent(&vm), [], "its CPU may be another VM's");
    let _ = command(&vm, 2, 0x4500);
    assert_eq!(command(&vm, 2, 0x4634), Effect::Startup);
    assert_eq!(vm.next_startup(), Some(Startup { vcpu: C, page: 0x34 }));
}

#[test]
fn entries_have_nothing_but_vectors_in_hardware() {
    let vm = running();
    let write = |register: u16, value: u64| vm.write_msr(A, msr(register), value);
    // Whatever delivery it says: pins and counters have nothing behind them.
    for register in [offset::LVT_THERMAL, offset::LVT_COUNTERS, offset::LVT_LINT0, offset::LVT_LINT1] {
        for mode in 0..8u64 {
            assert_eq!(write(register, mode << 8 | 0x41), Ok(Effect::None));
            assert_eq!(vm.read_msr(A, msr(register)), Ok(mode << 8 | 0x41));
        }
    }
    assert_eq!(registers(&vm), []);
    // The timer and errors have no delivery.
    for mode in 1..8u64 {
        assert_eq!(write(offset::LVT_TIMER, mode << 8 | 0x41), Err(Refused));
        assert_eq!(write(offset::LVT_ERROR, mode << 8 | 0x41), Err(Refused));
    }
    assert_eq!(write(0x2f0, 0x41), Err(Refused), "CMCI");
    let _ = write(offset::LVT_TIMER, 0x2_0041).unwrap();
    let _ = write(offset::LVT_TIMER, 0x4_0041).unwrap();
    let _ = write(offset::LVT_ERROR, 0x1_0042).unwrap();
    assert_eq!(
        registers(&vm),
        [(Register::Timer, 0x2_0041), (Register::Timer, 0x41), (Register::Error, 0x1_0042)]
    );
    let _ = write(offset::SVR, 0x2ff).unwrap();
    assert_eq!(registers(&vm), [(Register::Spurious, 0xff), (Register::Error, 0x1_0042)]);
}

#[test]
fn an_entry_is_harmless_whatever_it_has() {
    // Each delivery: SMI, NMI, INIT and ExtINT among them; each mode of the timer; pending, polarity, remote, by level, masked.
    for value in (0..1u32 << 11).map(|bits| bits << 8 | 0x41) {
        let harmless = harmless(LocalVector::from(value));
        assert_eq!(harmless & !0x3_00ff, 0, "{value:#x}: no more than a vector, masked, periodic");
        assert_eq!(
            (harmless & 0x1_00ff, harmless >> 17 & 1),
            (value & 0x1_00ff, u32::from(value >> 17 & 3 == 1))
        );
    }
}

#[test]
fn what_it_reaches_by_itself_is_not_answered_here() {
    let vm = running();
    for row in OPEN.iter().filter(|row| row.first != 0x832 && row.first != 0x80b) {
        for register in row.first..=row.last {
            assert_eq!(vm.read_msr(A, register), Err(Refused), "{}", row.name);
            assert_eq!(vm.write_msr(A, register, 0), Err(Refused), "{}", row.name);
        }
    }
    assert_eq!(vm.write_msr(A, 0x6e0, 1), Err(Refused), "no deadlines");
}

#[test]
fn nothing_that_reaches_others_is_open() {
    let closed =
        [0x802, 0x803, 0x80d, 0x80f, 0x828, 0x82f, 0x830, 0x833, 0x834, 0x835, 0x836, 0x837, 0x6e0, 0x1b];
    for row in OPEN {
        assert!(!closed.iter().any(|msr| (row.first..=row.last).contains(msr)), "{}", row.name);
        let readable = matches!(row.first, 0x80b | 0x83f);
        assert_eq!(row.opening == Opening::Write, readable, "{}: what can't be read isn't", row.name);
    }
}

#[test]
fn the_end_of_a_level_is_seen_and_no_other() {
    let vm = running();
    // Pin 10, by level, vector 0x51, to B.
    for (register, value) in [(io::ENTRIES + 21, 1 << 24), (io::ENTRIES + 20, 0x8051)] {
        vm.write_io(io::SELECT, register.into());
        vm.write_io(io::WINDOW, value);
    }
    assert_eq!(take(&vm.backend().pins), [(10, Pin::Open)]);
    assert_eq!(vm.poll(B).ends, Ends::Unseen);
    vm.set_line(10, true).unwrap();
    assert_eq!(take(&vm.backend().pins), [(10, Pin::Closed)]);
    assert_eq!(
        (sent(&vm), take(&vm.backend().kicked)),
        (vec![], vec![1]),
        "its CPU sends it, once ends are seen"
    );
    assert_eq!(vm.poll(B).ends, Ends::Seen);
    assert_eq!(sent(&vm), [(1, 0x51)]);
    // Another one, of a higher class, is in service and ends first; then it does, and its line is heard again.
    vm.backend().in_service.lock().unwrap().extend([0x51, 0x81]);
    assert_eq!(vm.write_msr(B, msr(offset::EOI), 0), Ok(Effect::None));
    assert_eq!((vm.poll(B).ends, take(&vm.backend().pins)), (Ends::Seen, vec![]));
    assert_eq!(vm.write_msr(B, msr(offset::EOI), 0), Ok(Effect::None));
    assert_eq!((vm.poll(B).ends, take(&vm.backend().pins)), (Ends::Unseen, vec![(10, Pin::Open)]));
    assert_eq!(vm.write_msr(B, msr(offset::EOI), 1), Err(Refused));
    // A line on edges is sent as it comes.
    vm.write_io(io::SELECT, (io::ENTRIES + 20).into());
    vm.write_io(io::WINDOW, 0x0052);
    vm.pulse(10).unwrap();
    assert_eq!((sent(&vm), vm.poll(B).ends), (vec![(1, 0x52)], Ends::Unseen));
}

#[test]
fn errors_are_hardware_s_and_one_s_own() {
    let vm = running();
    let _ = vm.write_msr(A, msr(offset::LVT_ERROR), 0x61).unwrap();
    let _ = command(&vm, 1, 0x4005);
    assert_eq!(sent(&vm), [(0, 0x61)]);
    *vm.backend().errors.lock().unwrap() = 1 << 6;
    let _ = vm.write_msr(A, msr(offset::ESR), 0).unwrap();
    assert_eq!(vm.read_msr(A, msr(offset::ESR)), Ok(1 << 5 | 1 << 6));
}

proptest! {
    /// Whatever is written wherever: hardware is sent ordinary interrupts to vCPUs that there are, and is told nothing but vectors.
    #[test]
    fn hardware_is_told_nothing_else(writes in prop::collection::vec((0u16..3, 0x800u32..0x840, any::<u64>()), 0..60)) {
        let vm = running();
        for (vcpu, msr, value) in writes {
            let _ = vm.write_msr(VcpuId(vcpu), msr, value);
            let _ = vm.write_msr(VcpuId(vcpu), ICR, value & 0x3_000f_ffff);
            let _ = vm.poll(VcpuId(vcpu));
            for (who, vector) in sent(&vm) {
                prop_assert!(who < 3 && vector >= 32);
            }
            for (register, value) in registers(&vm) {
                let most = match register {
                    Register::Spurious => 0x1ff,
                    Register::Timer => 0x3_00ff,
                    Register::Error => 0x1_00ff,
                };
                prop_assert_eq!(value & !most, 0);
            }
        }
    }
}

/// A clock that goes on by a microsecond each time it is looked at, and interrupts at these moments. Gives whether the CPU became quiet, when,
/// and how many interrupts were dropped.
fn quiet(stalls: impl Fn(u64) -> u64, mut comes: impl FnMut(u64) -> bool) -> (bool, u64, u32) {
    let (now, looks, dropped) =
        (std::cell::Cell::new(0u64), std::cell::Cell::new(0u64), std::cell::Cell::new(0));
    let is_quiet = until_quiet(
        || {
            now.set(now.get() + 1);
            now.get()
        },
        || {
            looks.set(looks.get() + 1);
            let is_something = comes(now.get());
            dropped.set(dropped.get() + u32::from(is_something));
            now.set(now.get() + stalls(looks.get()));
            is_something
        },
    );
    (is_quiet, now.get(), dropped.get())
}

#[test]
fn a_cpu_is_quiet_when_nothing_has_come_for_a_while() {
    let (is_quiet, at, dropped) = quiet(|_| 0, |_| false);
    assert_eq!((is_quiet, dropped), (true, 0));
    assert!((20..30).contains(&at), "{at}");
    // Each that comes begins the while anew.
    let mut left = vec![3, 15, 30];
    let (is_quiet, at, dropped) =
        quiet(|_| 0, |now| left.first().is_some_and(|at| now >= *at) && left.remove(0) > 0);
    assert_eq!((is_quiet, dropped), (true, 3));
    assert!((50..60).contains(&at), "{at}");
}

/// Firmware, or an emulator's host, may keep a CPU from running for a long time.
#[test]
fn who_is_kept_from_running_takes_that_neither_for_quiet_nor_for_a_storm() {
    // One interrupt is there, and a long time passes before and after it is dropped: that was all.
    let mut left = 1;
    let one = |_| std::mem::take(&mut left) == 1;
    assert!(matches!(quiet(|look| if look < 3 { 1_000_000 } else { 0 }, one), (true, _, 1)));
    // One comes while nobody looks: it is found, however long that took.
    let mut left = vec![500_000];
    let late = |now| left.first().is_some_and(|at| now >= *at) && left.remove(0) > 0;
    assert!(matches!(quiet(|look| if look == 1 { 1_000_000 } else { 0 }, late), (true, _, 1)));
}

#[test]
fn interrupts_that_go_on_coming_are_given_up() {
    let (is_quiet, at, dropped) = quiet(|_| 0, |_| true);
    assert_eq!((is_quiet, dropped), (false, 1001));
    assert!(at < 5_000, "{at}");
    // The longest that it can take: one each time that all seems quiet.
    let mut last = 0;
    let (is_quiet, at, _) = quiet(
        |_| 0,
        |now| {
            now >= last + 19 && {
                last = now;
                true
            }
        },
    );
    assert!(!is_quiet && at < 25_000, "{at}");
}
