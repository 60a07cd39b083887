//! The other CPU: does what the first one asks, one thing at a time.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use axvm_platform::model::PsciConduit;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{self, Start};
use axvm_guest_runtime::{icc, println};
use spin_wait::{soon, within};

use crate::arch::cpu;
use crate::arch::frames::Frames;

/// Bounded waiting.
pub mod spin_wait {
    use axvm_guest_runtime::machine;

    /// Whether it comes true: it should.
    pub fn within(what: impl FnMut() -> bool) -> bool {
        machine::within(machine::SURELY_S, what)
    }

    /// Whether it comes true soon: it need not.
    pub fn soon(what: impl FnMut() -> bool) -> bool {
        machine::within(3, what)
    }
}

/// What it can be asked.
#[derive(Clone, Copy)]
pub enum Ask {
    /// Send all 16 SGIs to the first CPU, the last one first.
    Send,
    /// Send an SGI to all others.
    Broadcast,
    /// Let interrupts in until the handler has seen so many beginnings and ends, or it takes too long.
    Listen(u32),
    /// Take an interrupt and keep it active.
    Take,
    /// End what was taken last.
    End,
    /// Have the timer interrupt at once.
    StartTimer,
    /// Not any more.
    StopTimer,
}

static ORDER: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);
static ANSWER: AtomicU32 = AtomicU32::new(0);
static FIRST: AtomicUsize = AtomicUsize::new(0);
static FRAMES: AtomicUsize = AtomicUsize::new(0);

const STACK: usize = 16 << 10;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

// SAFETY: nothing in Rust refers to its bytes; the other CPU, started once, has them.
unsafe impl Sync for Stack {}

static MEMORY: Stack = Stack(UnsafeCell::new([0; STACK]));

/// [`Ask`]'s code for going off, which [`off`] waits for in its own way.
const GO_OFF: u32 = 8;

/// Whether PSCI is called by HVC.
static BY_HVC: AtomicU32 = AtomicU32::new(0);

fn conduit() -> PsciConduit {
    if BY_HVC.load(Ordering::Relaxed) == 0 { PsciConduit::Smc } else { PsciConduit::Hvc }
}

/// Starts it.
pub fn start(board: &Board, frames: &Frames) -> bool {
    let Some(conduit) = board.conduit else { return false };
    BY_HVC.store(u32::from(conduit == PsciConduit::Hvc), Ordering::Relaxed);
    FIRST.store(frames.mpidrs[0] as usize, Ordering::Relaxed);
    let kept: &'static Frames = alloc::boxed::Box::leak(alloc::boxed::Box::new(*frames));
    FRAMES.store(core::ptr::from_ref(kept) as usize, Ordering::Release);
    on(frames)
}

/// Has it go off. Whether it did.
pub fn off(frames: &Frames) -> bool {
    give_order(GO_OFF);
    within(|| machine::is_cpu_off(conduit(), frames.mpidrs[1]))
}

/// Starts it, at first or again.
pub fn on(frames: &Frames) -> bool {
    ORDER.store(0, Ordering::Relaxed);
    DONE.store(0, Ordering::Release);
    let start = alloc::boxed::Box::leak(alloc::boxed::Box::new(Start {
        stack_top: MEMORY.0.get() as u64 + STACK as u64,
        function: serve,
    }));
    // SAFETY: it is off, so that the stack is there for it alone.
    unsafe {
        machine::start_cpu(conduit(), frames.mpidrs[1], start) && within(|| DONE.load(Ordering::Acquire) == 1)
    }
}

/// Asks it for something.
pub fn ask(what: Ask) {
    let code = match what {
        Ask::Send => 1,
        Ask::Broadcast => 2,
        Ask::Listen(count) => 3 | count << 8,
        Ask::Take => 4,
        Ask::End => 5,
        Ask::StartTimer => 6,
        Ask::StopTimer => 7,
    };
    give_order(code);
}

fn give_order(code: u32) {
    let next = (ORDER.load(Ordering::Relaxed) >> 24).wrapping_add(1) & 0x7f;
    ORDER.store(next << 24 | code, Ordering::Release);
}

/// Waits until it has done what it was asked for; what it answers. `None`: it doesn't.
pub fn wait() -> Option<u32> {
    let order = ORDER.load(Ordering::Relaxed);
    // It may wait itself, before it answers.
    let done = (0..3).any(|_| within(|| DONE.load(Ordering::Acquire) == order));
    if !done {
        println!("CONFORMANCE broken: the other CPU doesn't answer");
    }
    done.then(|| ANSWER.load(Ordering::Relaxed))
}

/// Both.
pub fn do_it(what: Ask) -> Option<u32> {
    ask(what);
    wait()
}

extern "C" fn serve() -> ! {
    let frames = FRAMES.load(Ordering::Acquire) as *const Frames;
    // SAFETY: the first CPU has left it there for good before it started this one.
    let frames: &'static Frames = unsafe { &*frames };
    cpu::become_cpu(1, frames);
    let first = FIRST.load(Ordering::Relaxed) as u64;
    let (mut done, mut taken) = (1, icc::NONE);
    DONE.store(done, Ordering::Release);
    loop {
        let order = ORDER.load(Ordering::Acquire);
        if order == done || order == 0 {
            continue;
        }
        let answer = match order & 0xff {
            1 => {
                (0..16).rev().for_each(|sgi| cpu::send(first, sgi));
                0
            }
            2 => {
                const ALL_OTHERS: u64 = 1 << 40;
                machine::send_sgi(5 << 24 | ALL_OTHERS);
                0
            }
            3 => {
                let enough = (order >> 8 & 0xffff) as usize;
                cpu::unmask();
                within(|| cpu::cpu(1).count() >= enough);
                cpu::mask();
                cpu::cpu(1).count() as u32
            }
            4 => {
                taken = icc::NONE;
                soon(|| {
                    taken = icc::acknowledge();
                    taken != icc::NONE
                });
                taken as u32
            }
            6 => {
                machine::start_timer(0);
                0
            }
            7 => {
                machine::stop_timer();
                0
            }
            GO_OFF => {
                machine::stop_cpu(conduit());
                0
            }
            _ => {
                icc::end(taken);
                0
            }
        };
        ANSWER.store(answer, Ordering::Relaxed);
        done = order;
        DONE.store(done, Ordering::Release);
    }
}
