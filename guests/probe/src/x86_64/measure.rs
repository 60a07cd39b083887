//! Readings of the time stamp counter, and what lies between them.
//!
//! A figure is the ticks from the reading directly before the thing that is measured to the reading directly after it, less those of
//! a reading itself. So nothing costs 0, an instruction that isn't intercepted costs 1. Of many readings in a row the smallest is
//! taken: caches of the hypervisor are then warm, as they are for a guest that runs.
//!
//! For an interrupt the second reading is at the beginning of its entry: the thing measured is the instruction that raises it, and all
//! that is executed until the guest is there. What the entry does afterwards (quiet the reason, end the interrupt) isn't in it.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm_guest_runtime::apic::{Local, Order, Place};
use axvm_guest_runtime::machine;

/// How often each thing is done.
const TIMES: u32 = 16;
/// So often a loop looks for an interrupt before it is given up.
const PATIENCE: u64 = 20_000_000;
/// What a reading of the counter takes: RDTSC, and the three instructions that put its halves together and keep them.
pub const READING: u64 = 4;

/// Runs it many times; the smallest result. The same instructions each time, rather than copies of them one after the other, of which the hypervisor
/// would have seen none before.
fn smallest(mut once: impl FnMut() -> Option<u64>) -> Option<u64> {
    let once: &mut dyn FnMut() -> Option<u64> = &mut once;
    let mut best = None;
    for _ in 0..TIMES {
        let ticks = core::hint::black_box(&mut *once)()?;
        best = Some(best.map_or(ticks, |best: u64| best.min(ticks)));
    }
    best
}

/// Between two readings of the counter, many times: instructions, and what they use beside rax and rdx.
macro_rules! between {
    ($($instruction:literal),* ; $($operands:tt)*) => {
        smallest(|| {
            let (before, after): (u64, u64);
            // SAFETY: see the caller; the counter's readings touch nothing.
            unsafe {
                asm!(
                    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov {before}, rax",
                    $($instruction,)*
                    "rdtsc", "shl rdx, 32", "or rax, rdx",
                    before = out(reg) before,
                    out("rax") after,
                    out("rdx") _,
                    $($operands)*
                )
            };
            Some(after.wrapping_sub(before).saturating_sub(READING))
        })
    };
}

/// Nothing: must be 0, or the counter doesn't count instructions.
pub fn nothing() -> Option<u64> {
    between!(;)
}

/// A call of the hypervisor (AMD APM 3, VMMCALL).
pub fn hypercall() -> Option<u64> {
    // The answer is in rax; of the numbers that rax may have here none is a call.
    between!("vmmcall";)
}

/// CPUID, with the instruction that says of what.
pub fn identify() -> Option<u64> {
    // It changes nothing but registers; rbx, which isn't an operand, is put back.
    between!("mov {kept}, rbx", "xor eax, eax", "cpuid", "mov rbx, {kept}"; kept = out(reg) _, out("rcx") _,)
        .map(|ticks| ticks.saturating_sub(2))
}

/// A read of a port, with the instruction that says of which.
pub fn read_port(port: u16) -> Option<u64> {
    // A port that has no side effect.
    between!("mov edx, {port:e}", "in al, dx"; port = in(reg) u32::from(port),)
}

/// A write of a port, with those that say of which, and what.
pub fn write_port(port: u16, value: u8) -> Option<u64> {
    // A port of a device, by the caller's choice without an effect on the program.
    between!("mov edx, {port:e}", "mov eax, {value:e}", "out dx, al"; port = in(reg) u32::from(port), value = in(reg) u32::from(value),)
}

/// A read of a 32-bit register.
pub fn read(address: u64) -> Option<u64> {
    // A load of a device register that has no side effect.
    between!("mov {value:e}, [{address}]"; address = in(reg) address, value = out(reg) _,)
}

/// A write of one.
pub fn write(address: u64, value: u32) -> Option<u64> {
    // A store to a device register, of what it has, outside all memory that Rust owns.
    between!("mov [{address}], {value:e}"; address = in(reg) address, value = in(reg) value,)
}

/// A read of a register, wherever it is.
pub fn read_at(place: Place) -> Option<u64> {
    match place {
        Place::Address(address) => read(address),
        // A model-specific one that has no side effect. Which one it is was said before.
        Place::Msr(register) => between!("rdmsr"; in("ecx") register,),
    }
}

/// An interrupt that the given instructions raise, each time after `$first`, which isn't counted: ticks to its entry, if it was this one. Where it
/// doesn't come at once another CPU may be at work for it, which has its turn when this one says PAUSE: QEMU has one execute at a time when it counts.
macro_rules! interrupt {
    ($apic:expr, $vector:expr, $quiet:expr, $first:expr; $($instruction:literal),* ; $($operands:tt)*) => {
        smallest(|| {
            $first;
            let (before, at, got): (u64, u64, u64);
            // SAFETY: see the caller. Interrupts are unmasked for these instructions only; their entry uses the registers
            // that are named here, and no memory but the APIC's register.
            unsafe {
                asm!(
                    "sti",
                    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov {before}, rax",
                    $($instruction,)*
                    "2: test r11, r11",
                    "jnz 3f",
                    "dec r10",
                    "jnz 2b",
                    "3: cli",
                    before = out(reg) before,
                    out("rax") _,
                    out("rdx") _,
                    inout("r10") PATIENCE => _,
                    inout("r11") 0u64 => at,
                    inout("r12") 0u64 => got,
                    in("r14") u64::from($quiet),
                    in("r15") $apic.end(),
                    $($operands)*
                )
            };
            (at != 0 && got == u64::from($vector)).then(|| at.wrapping_sub(before).saturating_sub(READING))
        })
    };
}

/// An interrupt that a write to a register raises, and another at the address `quiet` ends, if that isn't 0.
pub fn raised_by(
    apic: &Local,
    vector: u8,
    order: Order,
    quiet: u64,
    mut first: impl FnMut() -> Option<()>,
) -> Option<u64> {
    let Order { place, value } = order;
    match place {
        // A store to a device register, outside all memory that Rust owns.
        Place::Address(address) => interrupt!(
            apic, vector, quiet, first()?;
            "mov [{address}], {value:e}", "pause";
            address = in(reg) address, value = in(reg) value,
        ),
        // A model-specific register of the local APIC's, with the instructions that say what is written. Which one it is was said before.
        Place::Msr(register) => interrupt!(
            apic, vector, quiet, first()?;
            "mov eax, {low:e}", "mov edx, {high:e}", "wrmsr";
            low = in(reg) value, high = in(reg) value >> 32, in("ecx") register,
        ),
    }
}

/// An interrupt that a write to a port raises, and a read of another quiets.
pub fn raised_by_port(
    apic: &Local,
    vector: u8,
    port: u16,
    value: u8,
    quiet: u16,
    mut first: impl FnMut() -> Option<()>,
) -> Option<u64> {
    // A port of a device, by the caller's choice.
    interrupt!(
        apic, vector, quiet, first()?;
        "mov edx, {port:e}", "mov eax, {value:e}", "out dx, al", "pause";
        port = in(reg) u32::from(port), value = in(reg) u32::from(value),
    )
}

/// The timer's interrupt, from the tick at which it is due.
pub fn deadline(apic: &Local, vector: u8) -> Option<u64> {
    const AHEAD: u64 = 100_000;
    const DEADLINE: u32 = 0x6e0;
    smallest(|| {
        let mut due = 0;
        let ticks = interrupt_after(apic, vector, || {
            due = machine::now() + AHEAD;
            machine::write_msr(DEADLINE, due).ok()
        })?;
        Some(ticks.saturating_sub(due))
    })
}

/// When an interrupt came that was raised before.
fn interrupt_after(apic: &Local, vector: u8, raise: impl FnOnce() -> Option<()>) -> Option<u64> {
    raise()?;
    let (at, got): (u64, u64);
    // SAFETY: as for `interrupt!`.
    unsafe {
        asm!(
            "sti",
            "2: test r11, r11",
            "jnz 3f",
            "dec rcx",
            "jnz 2b",
            "3: cli",
            out("rax") _,
            out("rdx") _,
            inout("rcx") PATIENCE => _,
            inout("r11") 0u64 => at,
            inout("r12") 0u64 => got,
            in("r14") 0u64,
            in("r15") apic.end(),
        )
    };
    (at != 0 && got == u64::from(vector)).then_some(at)
}

/// What the second CPU says: how many interrupts it has taken and waits again, and when it took the last.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static TAKEN_AT: AtomicU64 = AtomicU64::new(0);
/// Its local APIC's page, and whether it leaves the mode that has one.
static APIC: AtomicU64 = AtomicU64::new(0);
static LEAVES_PAGE: AtomicBool = AtomicBool::new(false);

/// Says where the second CPU finds its local APIC, and whether it switches it to x2APIC mode.
pub fn set_apic(base: u64, leaves_page: bool) {
    LEAVES_PAGE.store(leaves_page, Ordering::Relaxed);
    APIC.store(base, Ordering::Release);
}

/// The second CPU: waits for interrupts, and says when each came.
pub extern "C" fn wait_for_interrupts() -> ! {
    let mut apic = Local::new(APIC.load(Ordering::Acquire));
    // It answers: the first CPU's does, in the same way.
    if LEAVES_PAGE.load(Ordering::Relaxed) {
        let _ = apic.use_x2apic();
    }
    let _ = apic.start();
    let mut count = 1;
    loop {
        TAKEN.store(count, Ordering::Release);
        let at: u64;
        // SAFETY: as for `interrupt!`.
        unsafe {
            asm!(
                "2: sti",
                "hlt",
                "cli",
                "test r11, r11",
                "jz 2b",
                out("rax") _,
                out("rdx") _,
                inout("r11") 0u64 => at,
                out("r12") _,
                in("r14") 0u64,
                in("r15") apic.end(),
            )
        };
        TAKEN_AT.store(at, Ordering::Relaxed);
        count += 1;
    }
}

/// Until the second CPU has taken so many interrupts and waits; `false` if that doesn't happen.
fn waits(count: u64) -> bool {
    machine::within(machine::SURELY_S, || TAKEN.load(Ordering::Acquire) == count)
}

/// An interrupt to the second CPU, which sleeps: from the write of the APIC's command to its entry there.
pub fn to_another(apic: &Local, vector: u8, id: u8) -> Option<u64> {
    let Order { place, value } = apic.to(id, vector);
    let mut count = 1;
    if !waits(count) {
        return None;
    }
    smallest(|| {
        apic.aim(id).ok()?;
        let before: u64;
        match place {
            // SAFETY: the interrupt is the program's own.
            Place::Address(command) => unsafe {
                asm!(
                    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov {before}, rax",
                    "mov [{command}], {vector:e}",
                    "pause",
                    before = out(reg) before,
                    command = in(reg) command,
                    vector = in(reg) value,
                    out("rax") _,
                    out("rdx") _,
                )
            },
            // SAFETY: the same.
            Place::Msr(register) => unsafe {
                asm!(
                    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov {before}, rax",
                    "mov eax, {low:e}", "mov edx, {high:e}", "wrmsr",
                    "pause",
                    before = out(reg) before,
                    low = in(reg) value,
                    high = in(reg) value >> 32,
                    in("ecx") register,
                    out("rax") _,
                    out("rdx") _,
                )
            },
        }
        count += 1;
        waits(count).then(|| TAKEN_AT.load(Ordering::Relaxed).wrapping_sub(before).saturating_sub(READING))
    })
}
