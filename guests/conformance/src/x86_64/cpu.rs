//! A CPU that takes interrupts: its table of vectors, what its handler does, and what it has seen.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use axvm_guest_runtime::machine;

use super::{apic, line};

// Interrupts come back where they were taken, nested if the handler lets them in. Exceptions are the runtime's affair.
global_asm!(
    r#"
    .section .text.conformance_entries, "ax"
    .balign 16
conformance_entries:
    .set    vector, 0
    .rept   256
    .balign 16
    pushq   $vector
    jmp     conformance_interrupt
    .set    vector, vector + 1
    .endr

    .balign 16
conformance_interrupt:
    pushq   %rax
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    pushq   %rbp
    movq    %rsp, %rbp
    movq    80(%rsp), %rdi
    andq    $-16, %rsp
    cld
    call    {handler}
    movq    %rbp, %rsp
    popq    %rbp
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rax
    addq    $8, %rsp
    iretq
    "#,
    handler = sym handler,
    options(att_syntax),
);

unsafe extern "C" {
    static conformance_entries: [[u8; 16]; 256];
}

/// The interrupt descriptor table (AMD APM 2, 8.2).
#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: only `make_table` writes it, on the first CPU before there is a second.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// The operand of LIDT and SIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// What a handler has seen of one interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its end, not its beginning.
    pub end: bool,
    /// The interrupt.
    pub vector: u8,
    /// The processor's priority after it was taken, or after its end.
    pub priority: u8,
}

const MOST: usize = 256;

/// One CPU's part: what its handler is to do, and what it has seen. Written by the CPU itself, or by the first one while the other has
/// interrupts masked.
pub struct Cpu {
    /// The handler lets more urgent interrupts in.
    pub nest: AtomicBool,
    /// The handler doesn't end what it takes.
    pub hold: AtomicBool,
    /// By interrupt: another one that its handler raises at its own CPU; 0: none.
    pub raises: [AtomicU8; 256],
    /// The handler of the interrupt that is this many further on lowers the console's line; 0: none does.
    pub quiet_after: AtomicUsize,
    log: [AtomicU64; MOST],
    count: AtomicUsize,
}

static CPUS: [Cpu; 2] = [const { Cpu::new() }; 2];

impl Cpu {
    const fn new() -> Self {
        Self {
            nest: AtomicBool::new(false),
            hold: AtomicBool::new(false),
            raises: [const { AtomicU8::new(0) }; 256],
            quiet_after: AtomicUsize::new(0),
            log: [const { AtomicU64::new(0) }; MOST],
            count: AtomicUsize::new(0),
        }
    }

    /// The handler does no more than end what it takes, and has seen nothing.
    pub fn reset(&self) {
        self.nest.store(false, Ordering::Relaxed);
        self.hold.store(false, Ordering::Relaxed);
        self.raises.iter().for_each(|it| it.store(0, Ordering::Relaxed));
        self.quiet_after.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
    }

    /// How much it has seen.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire).min(MOST)
    }

    /// What it has seen.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.log.iter().take(self.count()).map(|entry| {
            let entry = entry.load(Ordering::Relaxed);
            Event { end: entry >> 63 != 0, vector: entry as u8, priority: (entry >> 8) as u8 }
        })
    }

    fn note(&self, end: bool, vector: u8) {
        let count = self.count.load(Ordering::Relaxed);
        if let Some(entry) = self.log.get(count) {
            let value =
                u64::from(end) << 63 | u64::from(apic::read(apic::PPR) & 0xff) << 8 | u64::from(vector);
            entry.store(value, Ordering::Relaxed);
        }
        self.count.store(count + 1, Ordering::Release);
    }
}

/// The part of a CPU, by its id: 0 is the first, 1 the other.
pub fn cpu(number: u32) -> &'static Cpu {
    &CPUS[number as usize & 1]
}

/// Makes the table and has the calling CPU, the first one, use it.
pub fn make_table() {
    // The code segment of 64-bit mode, a present interrupt gate.
    const GATE: u64 = 8 << 16 | 0x8e00 << 32;
    const EXCEPTIONS: usize = 32;
    let mut pointer = Pointer { limit: 0, base: 0 };
    // SAFETY: it is stored where it has room.
    unsafe { asm!("sidt [{0}]", in(reg) &raw mut pointer, options(nostack)) };
    // SAFETY: the first CPU alone runs; the runtime's table, which is in use, has as many entries, and so have ours.
    unsafe {
        let table = &mut *TABLE.0.get();
        let runtimes = pointer.base as *const [u64; 2];
        for (number, (entry, at)) in table.iter_mut().zip(&conformance_entries).enumerate() {
            let at = at.as_ptr() as u64;
            *entry = if number < EXCEPTIONS {
                runtimes.add(number).read()
            } else {
                [at & 0xffff | (at & 0xffff_0000) << 32 | GATE, at >> 32]
            };
        }
    }
    use_table();
}

/// Has the calling CPU use the table.
pub fn use_table() {
    let pointer = Pointer { limit: 0xfff, base: TABLE.0.get() as u64 };
    // SAFETY: the table has been made.
    unsafe { asm!("lidt [{0}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// Lets interrupts in.
pub fn unmask() {
    // SAFETY: the entries save and restore everything, and the handler keeps to atomics.
    unsafe { asm!("sti", "nop") };
}

/// Keeps them out.
pub fn mask() {
    // SAFETY: nothing waits for one.
    unsafe { asm!("cli") };
}

/// Lets what waits in, for a moment.
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

/// CR8.
pub fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mov {0}, cr8", out(reg) value, options(nomem, nostack)) };
    value
}

/// Sets CR8.
pub fn set_cr8(value: u64) {
    // SAFETY: it decides which interrupts come, while they are masked.
    unsafe { asm!("mov cr8, {0}", in(reg) value, options(nostack)) };
}

extern "C" fn handler(vector: u64) {
    let (vector, cpu) = (vector as u8, cpu(apic::id()));
    cpu.note(false, vector);
    match cpu.raises.get(usize::from(vector)).map_or(0, |it| it.load(Ordering::Relaxed)) {
        0 => {}
        other => apic::send_here(other),
    }
    let left = cpu.quiet_after.load(Ordering::Relaxed);
    if left > 0 {
        cpu.quiet_after.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            line::set(false);
        }
    }
    if cpu.nest.load(Ordering::Relaxed) {
        let_in();
    }
    if cpu.hold.load(Ordering::Relaxed) {
        return;
    }
    apic::end();
    cpu.note(true, vector);
}

/// Sleeps until an interrupt comes, which is taken.
pub fn sleep() {
    // SAFETY: as for `unmask`. STI lets nothing in before HLT is executed.
    unsafe { asm!("sti", "hlt", "cli") };
}
