//! A CPU that takes interrupts: its vectors, what its handler does, and what it has seen.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use axvm_guest_runtime::gic::LPI;
use axvm_guest_runtime::{icc, machine, println};

use crate::arch::frames::Frames;

// Interrupts (IRQ) are taken with SP_EL1 and come back where they were taken, nested if the handler lets them in. Whatever
// else comes ends the guest.
global_asm!(
    r#"
    .section .text.conformance_vectors, "ax"
    .balign 2048
conformance_vectors:
    .rept   5
    b       8f
    .balign 128
    .endr
    b       9f
    .balign 128
    .rept   10
    b       8f
    .balign 128
    .endr
8:  mrs     x0, esr_el1
    mrs     x1, elr_el1
    b       {broken}
9:  sub     sp, sp, #192
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    bl      {handler}
    ldp     x0, x1, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldp     x18, x30, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #192
    eret
    "#,
    handler = sym handler,
    broken = sym broken,
);

unsafe extern "C" {
    static conformance_vectors: u8;
}

extern "C" fn broken(syndrome: u64, at: u64) -> ! {
    println!("CONFORMANCE broken: an exception at {at:#x}, syndrome {syndrome:#x}");
    machine::power_off(None)
}

/// What a handler has seen of one interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its end, not its beginning.
    pub end: bool,
    /// The interrupt.
    pub intid: u32,
    /// ICC_RPR_EL1 after it was acknowledged, or after its end.
    pub running: u32,
    /// Which SGIs were active then.
    pub active: u32,
}

const MOST: usize = 256;

/// One CPU's part: what its handler is to do, and what it has seen. Written by the CPU itself, or by the first one while the
/// other has interrupts masked; so loads and stores do, which RAM without an MMU is good for.
pub struct Cpu {
    /// The handler lets more urgent interrupts in.
    pub nest: AtomicBool,
    /// The end of an interrupt is two steps (ICC_CTLR_EL1.EOImode).
    pub split: AtomicBool,
    /// By interrupt: the SGIs, a bit each, that its handler raises at its own CPU.
    pub raises: [AtomicU32; 16],
    /// The SGIs, a bit each, that the handler of an LPI raises at its own CPU.
    pub message_raises: AtomicU32,
    /// A register that the handler of a line writes, the value, and after how many times it does so.
    pub quiet: [AtomicU64; 3],
    /// The frame in which the CPU's SGIs are seen to be active; 0: nobody looks.
    frame: AtomicU64,
    log: [AtomicU64; MOST],
    count: AtomicUsize,
}

static CPUS: [Cpu; 2] = [const { Cpu::new() }; 2];

impl Cpu {
    const fn new() -> Self {
        Self {
            nest: AtomicBool::new(false),
            split: AtomicBool::new(false),
            raises: [const { AtomicU32::new(0) }; 16],
            message_raises: AtomicU32::new(0),
            quiet: [const { AtomicU64::new(0) }; 3],
            frame: AtomicU64::new(0),
            log: [const { AtomicU64::new(0) }; MOST],
            count: AtomicUsize::new(0),
        }
    }

    /// The handler does no more than acknowledge and end, and has seen nothing.
    pub fn reset(&self) {
        self.nest.store(false, Ordering::Relaxed);
        self.split.store(false, Ordering::Relaxed);
        self.raises.iter().for_each(|it| it.store(0, Ordering::Relaxed));
        self.message_raises.store(0, Ordering::Relaxed);
        self.quiet.iter().for_each(|it| it.store(0, Ordering::Relaxed));
        self.count.store(0, Ordering::Relaxed);
    }

    /// How much it has seen.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed).min(MOST)
    }

    /// What it has seen.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.log.iter().take(self.count()).map(|entry| {
            let entry = entry.load(Ordering::Relaxed);
            Event {
                end: entry >> 63 != 0,
                intid: entry as u32 & 0xffff,
                running: (entry >> 16) as u32 & 0xffff,
                active: (entry >> 32) as u32 & 0xffff,
            }
        })
    }

    fn note(&self, end: bool, intid: u64) {
        let count = self.count.load(Ordering::Relaxed);
        let frame = self.frame.load(Ordering::Relaxed);
        let active = match frame {
            0 => 0,
            frame => u64::from(machine::load32(frame + crate::arch::frames::ISACTIVER).unwrap_or(0)) & 0xffff,
        };
        if let Some(entry) = self.log.get(count) {
            let value = u64::from(end) << 63 | active << 32 | icc::running_priority() << 16 | intid;
            entry.store(value, Ordering::Relaxed);
        }
        self.count.store(count + 1, Ordering::Relaxed);
    }
}

/// The part of a CPU: 0 is the first, 1 the other.
pub fn cpu(number: usize) -> &'static Cpu {
    &CPUS[number & 1]
}

/// Makes the calling CPU this one, with vectors of its own and an open interface. Interrupts stay masked.
pub fn become_cpu(number: usize, frames: &Frames) {
    cpu(number).frame.store(frames.private[number & 1], Ordering::Relaxed);
    // SAFETY: the vectors are those above; TPIDR_EL1 is nobody else's.
    unsafe {
        asm!(
            "msr vbar_el1, {vectors}",
            "msr tpidr_el1, {number}",
            "isb",
            vectors = in(reg) &raw const conformance_vectors,
            number = in(reg) number,
        )
    };
    icc::open();
}

fn this_cpu() -> &'static Cpu {
    let number: usize;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mrs {0}, tpidr_el1", out(reg) number) };
    cpu(number)
}

/// Lets interrupts in.
pub fn unmask() {
    // SAFETY: the vectors save and restore everything, and the handler keeps to atomics.
    unsafe { asm!("msr daifclr, #2", "isb") };
}

/// Keeps them out.
pub fn mask() {
    // SAFETY: nothing waits for one.
    unsafe { asm!("msr daifset, #2", "isb") };
}

/// Lets what is pending in, for a moment.
pub fn let_in() {
    unmask();
    settle();
    mask();
}

/// The time that an interrupt may take from where it is raised to where it is seen, many times over; and as much of this CPU's own
/// work, for a machine on which the clock goes on while the CPU doesn't.
pub fn settle() {
    const ROUNDS: u32 = 64;
    let (start, mut rounds) = (machine::now(), 0);
    while machine::now() - start < machine::frequency() / 50_000 || rounds < ROUNDS {
        rounds += 1;
    }
}

extern "C" fn handler() {
    let cpu = this_cpu();
    let intid = icc::acknowledge();
    // None; LPIs are beyond.
    if (1020..1024).contains(&intid) {
        return;
    }
    cpu.note(false, intid);
    let raises = if intid >= LPI { Some(&cpu.message_raises) } else { cpu.raises.get(intid as usize) };
    if let Some(raises) = raises {
        let sgis = raises.load(Ordering::Relaxed);
        for sgi in (0..16u64).filter(|sgi| sgis >> sgi & 1 != 0) {
            send_here(sgi);
        }
    }
    let [register, value, after] = &cpu.quiet;
    let left = after.load(Ordering::Relaxed);
    if (32..LPI).contains(&intid) && left > 0 {
        after.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            let _ = machine::store32(register.load(Ordering::Relaxed), value.load(Ordering::Relaxed) as u32);
        }
    }
    if cpu.nest.load(Ordering::Relaxed) {
        let_in();
    }
    icc::end(intid);
    if cpu.split.load(Ordering::Relaxed) {
        icc::deactivate(intid);
    }
    cpu.note(true, intid);
}

/// What names a CPU alone in ICC_SGI1R_EL1.
pub fn target(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 48
        | (mpidr >> 16 & 0xff) << 32
        | (mpidr >> 8 & 0xff) << 16
        | (mpidr >> 4 & 0xf) << 44
        | 1 << (mpidr & 0xf)
}

/// An SGI to a CPU.
pub fn send(mpidr: u64, sgi: u64) {
    machine::send_sgi(sgi << 24 | target(mpidr));
}

/// An SGI to the calling CPU.
pub fn send_here(sgi: u64) {
    send(machine::mpidr(), sgi);
}
