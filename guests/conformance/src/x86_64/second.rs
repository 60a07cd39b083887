//! The other CPU: takes interrupts, or keeps them out, as the first one says.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alloc::string::String;
use core::fmt::Write as _;

use axvm_guest_runtime::apic::Local;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{SURELY_S, start_cpu, within};

use super::apic;
use super::cpu;

/// What it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// To keep interrupts out.
    Mask = 1,
    /// To let them in.
    Unmask = 2,
    /// To sleep until one comes, again and again.
    Sleep = 3,
}

static ORDER: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);
static WANTS_X2: AtomicBool = AtomicBool::new(false);

/// What it has found when it was started: all registers of its local APIC that a reset sets.
const SHOWN: [u32; 16] = [
    apic::TPR,
    apic::PPR,
    apic::LDR,
    apic::DFR,
    apic::SVR,
    apic::ISR,
    apic::TMR,
    apic::IRR,
    apic::ICR,
    apic::TIMER,
    apic::LINT0,
    apic::LINT1,
    apic::ERROR,
    apic::INITIAL,
    apic::CURRENT,
    apic::DIVIDER,
];
static FOUND: [AtomicU32; SHOWN.len()] = [const { AtomicU32::new(0) }; SHOWN.len()];

/// What its flat logical id is, in the mode in which it isn't made of its id.
pub const LOGICAL_ID: u32 = 0x02;

const STACK: usize = 16 << 10;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

// SAFETY: nothing in Rust refers to its bytes; the other CPU has them, and begins anew when it is started again.
unsafe impl Sync for Stack {}

static STACK_OF_SECOND: Stack = Stack(UnsafeCell::new([0; STACK]));

/// Starts it, or starts it anew, with its APIC in the first one's mode. Its id; `None`: it doesn't start.
pub fn start(board: &Board) -> Option<u32> {
    WANTS_X2.store(apic::is_x2(), Ordering::Relaxed);
    let own = apic::id();
    let other = board.cpus().find(|id| u32::from(*id) != own)?;
    ORDER.store(0, Ordering::Relaxed);
    DONE.store(u32::MAX, Ordering::Release);
    let local = Local::new(board.madt.local_apic.0);
    let top = STACK_OF_SECOND.0.get() as u64 + STACK as u64;
    // SAFETY: the stack is that CPU's alone, which isn't in Rust any more once it is reset.
    let is_started = unsafe { start_cpu(&local, other, top, run) };
    (is_started && within(SURELY_S, || DONE.load(Ordering::Acquire) == 0)).then_some(other.into())
}

/// Asks it; whether it does as it is asked.
pub fn ask(what: Ask) -> bool {
    ORDER.store(what as u32, Ordering::Release);
    within(SURELY_S, || DONE.load(Ordering::Acquire) == what as u32)
}

/// Has it do something else than sleep: `wake` sends it something, until it is awake.
pub fn leave_sleep(mut wake: impl FnMut()) {
    ORDER.store(Ask::Mask as u32, Ordering::Release);
    within(SURELY_S, || {
        wake();
        cpu::settle();
        DONE.load(Ordering::Acquire) == Ask::Mask as u32
    });
}

/// What it has found.
pub fn found() -> String {
    let mut line = String::new();
    for (register, value) in SHOWN.iter().zip(&FOUND) {
        let _ = write!(line, " {register:x}={:x}", value.load(Ordering::Relaxed));
    }
    line
}

extern "C" fn run() -> ! {
    if WANTS_X2.load(Ordering::Relaxed) {
        apic::use_x2();
    }
    for (register, value) in SHOWN.iter().zip(&FOUND) {
        // There is none in that mode, and the logical id is made of the id.
        let is_there = !(apic::is_x2() && *register == apic::DFR);
        value.store(if is_there { apic::read(*register) } else { 0 }, Ordering::Relaxed);
    }
    cpu::use_table();
    if !apic::is_x2() {
        apic::write(apic::DFR, u32::MAX);
        apic::write(apic::LDR, LOGICAL_ID << 24);
    }
    apic::write(apic::SVR, 0x1ff);
    DONE.store(0, Ordering::Release);
    let mut doing = 0;
    loop {
        let order = ORDER.load(Ordering::Acquire);
        if order == Ask::Sleep as u32 {
            DONE.store(order, Ordering::Release);
            cpu::sleep();
            doing = order;
        } else if order != doing {
            doing = order;
            if order == Ask::Unmask as u32 {
                cpu::unmask()
            } else {
                cpu::mask()
            }
            DONE.store(order, Ordering::Release);
        }
    }
}
