//! Readings of the counter, and what lies between them.
//!
//! A figure is the ticks from the reading directly before the thing that is measured to the reading directly after it,
//! less one: the tick of the reading itself. So nothing costs 0, an instruction that isn't trapped costs 1. Of many
//! readings in a row the smallest is taken: caches of the hypervisor (a device found at once, a table built) are then
//! warm, as they are for a guest that runs.
//!
//! For an interrupt the second reading is the first instruction of the vector: the thing measured is the instruction that
//! raises it, and all that is executed until the guest is in its handler. What the handler does afterwards
//! (acknowledge, lower the line, end) isn't in it.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_guest_runtime::machine::store32;

/// How often each thing is done.
const TIMES: u32 = 64;
/// So often a loop looks for an interrupt before it is given up.
const PATIENCE: u64 = 200_000;

// The vector for interrupts: the time goes to x11, the INTID to x12; the source is quieted by writing w16 to [x15], the
// timer by CNTV_CTL_EL0. Nobody else uses these registers while interrupts are unmasked: only the `asm!` blocks below
// unmask them.
global_asm!(
    r#"
    .section .text.probe_vectors, "ax"
    .balign 2048
probe_vectors:
    .rept   5
    b       .
    .balign 128
    .endr
    mrs     x11, cntvct_el0
    mrs     x12, S3_0_C12_C12_0         // ICC_IAR1_EL1
    str     w16, [x15]
    msr     cntv_ctl_el0, xzr
    dsb     sy
    isb
    msr     S3_0_C12_C12_1, x12         // ICC_EOIR1_EL1
    isb
    eret
    .balign 128
    .rept   10
    b       .
    .balign 128
    .endr
    "#
);

unsafe extern "C" {
    static probe_vectors: u8;
}

/// A place that may be written when there is nothing to quiet.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

/// What ends an interrupt's reason: a register and what is written to it.
#[derive(Clone, Copy)]
pub struct Quiet(pub u64, pub u32);

impl Quiet {
    /// For what ends by itself.
    pub fn nothing() -> Self {
        Self(NOWHERE.as_ptr() as u64, 0)
    }
}

/// Runs it many times; the smallest result.
fn smallest(mut once: impl FnMut() -> Option<u64>) -> Option<u64> {
    let mut best = None;
    for _ in 0..TIMES {
        let ticks = once()?;
        best = Some(best.map_or(ticks, |best: u64| best.min(ticks)));
    }
    best
}

/// Between two readings of the counter, once: instructions, and what they use.
macro_rules! once {
    ($($instruction:literal),* ; $($operands:tt)*) => {{
        let (before, after): (u64, u64);
        // SAFETY: see the caller; the counter's readings touch nothing.
        unsafe {
            asm!(
                "isb",
                "mrs {before}, cntvct_el0",
                $($instruction,)*
                "mrs {after}, cntvct_el0",
                before = out(reg) before,
                after = out(reg) after,
                $($operands)*
            )
        };
        after - before - 1
    }};
}

/// The same, many times.
macro_rules! between {
    ($($words:tt)*) => { smallest(|| Some(once!($($words)*))) };
}

/// Nothing: must be 0, or the counter doesn't count instructions.
pub fn nothing() -> Option<u64> {
    between!(;)
}

/// A read of a 32-bit register at an address that the device tree names.
pub fn read(address: u64) -> Option<u64> {
    // A load of a device register that has no side effect.
    between!("ldr {value:w}, [{address}]"; address = in(reg) address, value = out(reg) _,)
}

/// A write of such a register.
pub fn write(address: u64, value: u32) -> Option<u64> {
    // A store to a device register, outside all memory that Rust owns.
    between!("str {value:w}, [{address}]"; address = in(reg) address, value = in(reg) value,)
}

/// A write of such a register, each time after another that isn't counted.
pub fn write_after(other: (u64, u32), address: u64, value: u32) -> Option<u64> {
    smallest(|| {
        store32(other.0, other.1).ok()?;
        // As for `write`.
        Some(once!("str {value:w}, [{address}]"; address = in(reg) address, value = in(reg) value,))
    })
}

/// A call (Arm DEN 0028) of a function without arguments that clobbers x0 to x17 at most.
macro_rules! call {
    ($instruction:literal, $function:expr) => {
        between!(
            $instruction;
            inout("x0") u64::from($function) => _,
            out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _,
        )
    };
}

/// A call by HVC.
pub fn hypercall(function: u32) -> Option<u64> {
    call!("hvc #0", function)
}

/// A call by SMC.
pub fn secure_call(function: u32) -> Option<u64> {
    call!("smc #0", function)
}

/// Makes the calling CPU's interface take interrupts of Group 1 of every priority (Arm IHI 0069, 12.2), by the vectors above.
pub fn open_interface() {
    // SAFETY: interrupts stay masked; the vectors are those above. The first CPU gives up stepping over faults.
    unsafe {
        asm!(
            "mrs {scratch}, S3_0_C12_C12_5", // ICC_SRE_EL1
            "orr {scratch}, {scratch}, #1",
            "msr S3_0_C12_C12_5, {scratch}",
            "isb",
            "mov {scratch}, #0xf0",
            "msr S3_0_C4_C6_0, {scratch}", // ICC_PMR_EL1
            "mov {scratch}, #1",
            "msr S3_0_C12_C12_7, {scratch}", // ICC_IGRPEN1_EL1
            "msr vbar_el1, {vectors}",
            "isb",
            vectors = in(reg) &raw const probe_vectors,
            scratch = out(reg) _,
        )
    }
}

/// An interrupt that the given instructions raise: ticks to the first instruction of the vector, if it was this one. `$first` is done
/// before each, and isn't counted.
macro_rules! interrupt {
    ($intid:expr, $quiet:expr, $first:expr ; $($instruction:literal),* ; $($operands:tt)*) => {
        smallest(|| {
            $first;
            let (before, at, got): (u64, u64, u64);
            let Quiet(register, value) = $quiet;
            // SAFETY: see the caller. Interrupts are unmasked for these instructions only; the vector uses the registers
            // that are named here, and no memory but the quieting register.
            unsafe {
                asm!(
                    "msr daifclr, #2",
                    "isb",
                    "mrs {before}, cntvct_el0",
                    $($instruction,)*
                    "2: cbnz x11, 3f",
                    "subs x13, x13, #1",
                    "b.ne 2b",
                    "3: msr daifset, #2",
                    before = out(reg) before,
                    inout("x11") 0u64 => at,
                    inout("x12") 0u64 => got,
                    inout("x13") PATIENCE => _,
                    in("x15") register,
                    in("x16") u64::from(value),
                    $($operands)*
                )
            };
            (at != 0 && got == u64::from($intid)).then(|| at.wrapping_sub(before + 1))
        })
    };
}

/// An interrupt that a write to a register raises, each time after `first`, which isn't counted.
pub fn raised_by(
    address: u64,
    value: u32,
    intid: u64,
    quiet: Quiet,
    mut first: impl FnMut() -> Option<()>,
) -> Option<u64> {
    // A store to a device register, outside all memory that Rust owns.
    interrupt!(intid, quiet, first()?; "str {value:w}, [{address}]"; address = in(reg) address, value = in(reg) value,)
}

/// The same of a 64-bit register, whose address and value `next` gives.
pub fn raised_by_next(intid: u64, mut next: impl FnMut() -> Option<(u64, u64)>) -> Option<u64> {
    let (mut address, mut value) = (0, 0);
    // As for `raised_by`.
    interrupt!(
        intid, Quiet::nothing(), (address, value) = next()?;
        "str {value}, [{address}]";
        address = in(reg) address, value = in(reg) value,
    )
}

/// A software interrupt to the calling CPU, from the write of ICC_SGI1R_EL1, each time after `first`, which isn't counted.
pub fn to_itself(intid: u64, target: u64, mut first: impl FnMut() -> Option<()>) -> Option<u64> {
    // The interrupt is the program's own.
    interrupt!(
        intid, Quiet::nothing(), first()?;
        "msr S3_0_C12_C11_5, {value}", "isb";
        value = in(reg) intid << 24 | target,
    )
}

/// The virtual timer's interrupt, from the tick at which it fires, each time after `first`.
pub fn timer(intid: u64, mut first: impl FnMut() -> Option<()>) -> Option<u64> {
    /// Far enough away that the CPU waits when it fires.
    const AHEAD: u64 = 3_000;
    smallest(|| {
        first()?;
        let (start, at, got): (u64, u64, u64);
        // SAFETY: the program's own timer. Interrupts are unmasked for these instructions only; the vector uses the
        // registers that are named here, and no memory but a word that is there for it.
        unsafe {
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                "add {start}, {start}, {ahead}",
                "msr cntv_cval_el0, {start}",
                "mov x13, #1",
                "msr cntv_ctl_el0, x13",
                "mov x13, {patience}",
                "msr daifclr, #2",
                "isb",
                "2: cbnz x11, 3f",
                "subs x13, x13, #1",
                "b.ne 2b",
                "3: msr daifset, #2",
                "msr cntv_ctl_el0, xzr",
                start = out(reg) start,
                ahead = in(reg) AHEAD,
                patience = in(reg) PATIENCE,
                inout("x11") 0u64 => at,
                inout("x12") 0u64 => got,
                out("x13") _,
                in("x15") NOWHERE.as_ptr(),
                in("x16") 0u64,
            )
        };
        (at != 0 && got == intid).then(|| at.wrapping_sub(start))
    })
}

/// What the second CPU says: how many interrupts it has taken and waits again, and when it took the last.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static TAKEN_AT: AtomicU64 = AtomicU64::new(0);

/// The second CPU: waits for interrupts, and says when each came.
pub extern "C" fn wait_for_interrupts() -> ! {
    open_interface();
    let mut count = 1;
    loop {
        TAKEN.store(count, Ordering::Release);
        let at: u64;
        // SAFETY: as for `interrupt!`.
        unsafe {
            asm!(
                "msr daifclr, #2",
                "2: wfi",
                "cbz x11, 2b",
                "msr daifset, #2",
                inout("x11") 0u64 => at,
                out("x12") _,
                in("x15") NOWHERE.as_ptr(),
                in("x16") 0u64,
            )
        };
        TAKEN_AT.store(at, Ordering::Relaxed);
        count += 1;
    }
}

/// Lets other CPUs run: under QEMU with an instruction counter they take turns, and `yield` ends a turn.
fn let_others_run() {
    for _ in 0..64 {
        // SAFETY: a hint.
        unsafe { asm!("yield") };
    }
}

/// Until the second CPU has taken so many interrupts and waits; `false` if that doesn't happen.
fn waits(count: u64) -> bool {
    for _ in 0..1000 {
        let_others_run();
        if TAKEN.load(Ordering::Acquire) == count {
            let_others_run();
            return true;
        }
    }
    false
}

/// A software interrupt to the second CPU, which waits in WFI: from the write of ICC_SGI1R_EL1 to the first instruction
/// of its vector. The sender yields its turn at once, so that its way out of and back into the guest is counted once and
/// nothing else of it.
pub fn to_another(intid: u64, target: u64) -> Option<u64> {
    let mut count = 1;
    if !waits(count) {
        return None;
    }
    smallest(|| {
        let before: u64;
        // SAFETY: the interrupt is the program's own.
        unsafe {
            asm!(
                "isb",
                "mrs {before}, cntvct_el0",
                "msr S3_0_C12_C11_5, {value}",
                "isb",
                "yield",
                value = in(reg) intid << 24 | target,
                before = out(reg) before,
            )
        };
        count += 1;
        waits(count).then(|| TAKEN_AT.load(Ordering::Relaxed).wrapping_sub(before + 1))
    })
}
