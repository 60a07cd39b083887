//! All that touches the machine directly.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_platform::model::PsciConduit;
use smccc::psci::{
    AffinityState, PSCI_AFFINITY_INFO_64, PSCI_CPU_OFF, PSCI_CPU_ON_64, PSCI_SYSTEM_OFF,
    PSCI_SYSTEM_SUSPEND_64,
};

/// Synchronous exceptions so far; the vectors count them. One CPU, so relaxed loads do.
pub static FAULTS: AtomicU64 = AtomicU64::new(0);

/// The image's own memory, which the accessors below refuse: it is Rust's.
static IMAGE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(u64::MAX)];

/// An access that ended in an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Says where the image lies: first byte, first byte past it.
pub fn set_image(start: u64, end: u64) {
    let [first, last] = &IMAGE;
    first.store(start, Ordering::Relaxed);
    last.store(end, Ordering::Relaxed);
}

fn check(address: u64) {
    let [first, last] = &IMAGE;
    let own = first.load(Ordering::Relaxed)..last.load(Ordering::Relaxed);
    assert!(!own.contains(&address), "the image's own memory isn't accessed by address");
}

macro_rules! accessors {
    ($load:ident, $store:ident, $type:ty, $ldr:literal, $str:literal) => {
        /// Reads at an address outside the image.
        pub fn $load(address: u64) -> Result<$type, Fault> {
            check(address);
            let before = FAULTS.load(Ordering::Relaxed);
            let value: u64;
            // SAFETY: one aligned load outside all memory that Rust owns; if it faults, the vectors step
            // over it.
            unsafe { asm!($ldr, address = in(reg) address, value = inout(reg) 0u64 => value) };
            if FAULTS.load(Ordering::Relaxed) == before { Ok(value as $type) } else { Err(Fault) }
        }

        /// Writes at an address outside the image.
        pub fn $store(address: u64, value: $type) -> Result<(), Fault> {
            check(address);
            let before = FAULTS.load(Ordering::Relaxed);
            let value = u64::from(value);
            // SAFETY: one aligned store outside all memory that Rust owns; if it faults, the vectors step
            // over it.
            unsafe { asm!("dsb sy", $str, "dsb sy", address = in(reg) address, value = in(reg) value) };
            if FAULTS.load(Ordering::Relaxed) == before { Ok(()) } else { Err(Fault) }
        }
    };
}

accessors!(load8, store8, u8, "ldrb {value:w}, [{address}]", "strb {value:w}, [{address}]");
accessors!(load16, store16, u16, "ldrh {value:w}, [{address}]", "strh {value:w}, [{address}]");
accessors!(load32, store32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]");
accessors!(load64, store64, u64, "ldr {value}, [{address}]", "str {value}, [{address}]");

/// The bytes at an address, copied into what Rust owns.
pub fn copy(address: u64, length: usize) -> Option<alloc::vec::Vec<u8>> {
    let mut bytes = alloc::vec::Vec::with_capacity(length);
    for word in 0..length.div_ceil(4) as u64 {
        bytes.extend_from_slice(&load32(address + word * 4).ok()?.to_le_bytes());
    }
    bytes.truncate(length);
    Some(bytes)
}

/// An SMC or HVC by the SMC Calling Convention (Arm DEN 0028): the first result. `None` if it gave an
/// exception.
pub fn call(conduit: PsciConduit, function: u32, arguments: [u64; 3]) -> Option<u64> {
    let before = FAULTS.load(Ordering::Relaxed);
    let [x1, x2, x3] = arguments;
    let mut x0 = u64::from(function);
    macro_rules! conduit {
        ($instruction:literal) => {
            // SAFETY: the convention clobbers x0 to x17 at most; memory isn't an argument of any call made
            // here.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
                    out("x16") _, out("x17") _,
                )
            }
        };
    }
    match conduit {
        PsciConduit::Smc => conduit!("smc #0"),
        PsciConduit::Hvc => conduit!("hvc #0"),
    }
    (FAULTS.load(Ordering::Relaxed) == before).then_some(x0)
}

/// Whether an SError is pending (ISR_EL1.A), which stays masked but in [`take_system_error`].
pub fn has_system_error() -> bool {
    let pending: u64;
    // SAFETY: reading has no effect.
    unsafe { asm!("dsb sy", "isb", "mrs {0}, isr_el1", out(reg) pending) };
    pending >> 8 & 1 != 0
}

/// Unmasks SErrors for a moment. What was taken, as ESR_EL1 has it.
pub fn take_system_error() -> Option<u64> {
    let before = FAULTS.load(Ordering::Relaxed);
    let syndrome: u64;
    // SAFETY: the vectors count what they take and step over an instruction, which is one that does nothing.
    unsafe {
        asm!("msr daifclr, #4", "isb", "nop", "nop", "nop", "nop", "msr daifset, #4", "nop", "nop", "mrs {0}, esr_el1",
            out(reg) syndrome)
    };
    (FAULTS.load(Ordering::Relaxed) != before).then_some(syndrome)
}

/// What another CPU begins with; layout known to `secondary_start`.
#[repr(C)]
pub struct Start {
    /// One past its stack, a multiple of 16.
    pub stack_top: u64,
    /// What it runs, at EL1 with the MMU off and interrupts masked. It must not allocate: the heap is the first CPU's.
    pub function: extern "C" fn() -> !,
}

unsafe extern "C" {
    static secondary_start: u8;
}

/// PSCI CPU_ON (Arm DEN 0022, 5.6): starts the CPU with this MPIDR affinity. Whether it was accepted.
///
/// # Safety
///
/// The stack must be that CPU's alone, and memory that nothing else uses.
pub unsafe fn start_cpu(conduit: PsciConduit, mpidr: u64, start: &'static Start) -> bool {
    let entry = &raw const secondary_start as u64;
    call(conduit, PSCI_CPU_ON_64, [mpidr, entry, core::ptr::from_ref(start) as u64]) == Some(0)
}

/// PSCI CPU_OFF (Arm DEN 0022, 5.5): the calling CPU goes off.
pub fn stop_cpu(conduit: PsciConduit) {
    let _ = call(conduit, PSCI_CPU_OFF, [0; 3]);
}

/// PSCI SYSTEM_SUSPEND (Arm DEN 0022, 5.1.19): the machine sleeps, and goes on with this function, on what is free of the calling CPU's
/// stack. It comes back only if that is refused: with the answer.
pub fn suspend_system(conduit: PsciConduit, function: extern "C" fn() -> !) -> Option<u64> {
    let stack: u64;
    // SAFETY: reading the stack pointer has no effect.
    unsafe { asm!("mov {0}, sp", out(reg) stack) };
    let start = Start { stack_top: stack & !0xf, function };
    call(
        conduit,
        PSCI_SYSTEM_SUSPEND_64,
        [&raw const secondary_start as u64, core::ptr::from_ref(&start) as u64, 0],
    )
}

/// PSCI AFFINITY_INFO (Arm DEN 0022, 5.7): whether the CPU with this MPIDR affinity is off.
pub fn is_cpu_off(conduit: PsciConduit, mpidr: u64) -> bool {
    call(conduit, PSCI_AFFINITY_INFO_64, [mpidr, 0, 0]) == Some(AffinityState::Off as u64)
}

/// PSCI SYSTEM_OFF (Arm DEN 0022, 5.1.9) by the given conduit, then by both.
pub fn power_off(conduit: Option<PsciConduit>) -> ! {
    if let Some(conduit) = conduit {
        let _ = call(conduit, PSCI_SYSTEM_OFF, [0; 3]);
    }
    let _ = call(PsciConduit::Hvc, PSCI_SYSTEM_OFF, [0; 3]);
    let _ = call(PsciConduit::Smc, PSCI_SYSTEM_OFF, [0; 3]);
    loop {
        // SAFETY: waiting touches nothing.
        unsafe { asm!("wfi") };
    }
}

/// Marks a moment for who counts instructions from outside (`xtask/plugin/count.c`), by a hint whose number the architecture leaves without
/// effect (Arm ARM C6.2, HINT).
pub fn mark<const NUMBER: u8>() {
    // SAFETY: it does nothing.
    unsafe { asm!("hint #{0}", const NUMBER) }
}

/// The virtual counter.
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reading the counter has no side effect.
    unsafe { asm!("isb", "mrs {0}, cntvct_el0", out(reg) ticks) };
    ticks
}

/// The calling CPU's affinity fields of MPIDR_EL1.
pub fn mpidr() -> u64 {
    let value: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mrs {0}, mpidr_el1", out(reg) value) };
    value & 0xff_00ff_ffff
}

/// The counter's ticks a second.
pub fn frequency() -> u64 {
    let hz: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mrs {0}, cntfrq_el0", out(reg) hz) };
    hz
}

/// How long is waited for what surely comes: far longer than a machine that is busy with other things takes for anything. It only says
/// when a wait has failed, so that it costs nothing where all is well.
pub const SURELY_S: u64 = 20;

/// Whether it comes true within so many seconds.
pub fn within(seconds: u64, mut what: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        // The clock first: who was kept from looking in between doesn't take that for a failure.
        let over = now() - start > frequency() * seconds;
        if what() {
            return true;
        }
        if over {
            return false;
        }
    }
}

/// Enables the GIC's system registers and writes ICC_SGI1R_EL1 (Arm IHI 0069, 12.2.15): whether it went
/// through without an exception.
pub fn send_sgi(value: u64) -> bool {
    let before = FAULTS.load(Ordering::Relaxed);
    // SAFETY: interrupts are masked, so what is sent to this CPU changes nothing for the program.
    unsafe {
        asm!(
            "mrs {scratch}, S3_0_C12_C12_5",
            "orr {scratch}, {scratch}, #1",
            "msr S3_0_C12_C12_5, {scratch}",
            "isb",
            "msr S3_0_C12_C11_5, {value}",
            "isb",
            scratch = out(reg) _,
            value = in(reg) value,
        )
    };
    FAULTS.load(Ordering::Relaxed) == before
}

/// Enables the GIC's CPU interface for Group 1, acknowledges the most urgent interrupt and ends it (Arm IHI 0069,
/// 12.2): its INTID, 1023 if there is none. Interrupts stay masked.
pub fn take_interrupt() -> u64 {
    let intid: u64;
    // SAFETY: no interrupt is unmasked, so nothing that the program knows of changes.
    unsafe {
        asm!(
            "mrs {scratch}, S3_0_C12_C12_5", // ICC_SRE_EL1
            "orr {scratch}, {scratch}, #1",
            "msr S3_0_C12_C12_5, {scratch}",
            "isb",
            "mov {scratch}, #0xff",
            "msr S3_0_C4_C6_0, {scratch}", // ICC_PMR_EL1
            "mov {scratch}, #1",
            "msr S3_0_C12_C12_7, {scratch}", // ICC_IGRPEN1_EL1
            "isb",
            "mrs {intid}, S3_0_C12_C12_0", // ICC_IAR1_EL1
            "dsb sy",
            "cmp {intid}, #1020",
            "b.lo 2f",
            "cmp {intid}, #1024",
            "b.lo 3f",
            "2: msr S3_0_C12_C12_1, {intid}", // ICC_EOIR1_EL1
            "3: isb",
            scratch = out(reg) _,
            intid = out(reg) intid,
        )
    };
    intid
}

/// Lets no interrupt reach this CPU by any means that software has: the CPU's masks, the interface's priority mask, its
/// group off.
pub fn mask_everything() {
    // SAFETY: nothing here waits for an interrupt, and system registers of the interface are what every guest starts with.
    unsafe {
        asm!("msr daifset, #0xf", "msr icc_pmr_el1, xzr", "msr icc_igrpen1_el1, xzr", "isb", options(nostack))
    }
}

/// Whether WFI and WFE can have a deadline (FEAT_WFxT: ID_AA64ISAR2_EL1.WFxT).
pub fn has_deadlines() -> bool {
    let features: u64;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mrs {0}, s3_0_c0_c6_2", out(reg) features) };
    features & 0xf != 0
}

/// WFIT: waits for an interrupt, which stays masked, or until the virtual counter has this value. Only with FEAT_WFxT.
pub fn wait_for_interrupt_until(deadline: u64) {
    // SAFETY: waiting touches nothing. WFIT X9.
    unsafe { asm!("dsb sy", ".inst 0xd5031029", in("x9") deadline) };
}

/// WFET, the same of an event.
pub fn wait_for_event_until(deadline: u64) {
    // SAFETY: as above. WFET X9.
    unsafe { asm!("dsb sy", ".inst 0xd5031009", in("x9") deadline) };
}

/// Has the virtual timer interrupt once so many ticks have gone by.
pub fn start_timer(ticks: u64) {
    // SAFETY: a timer of this CPU's, whose interrupt is masked.
    unsafe { asm!("msr cntv_tval_el0, {0}", "msr cntv_ctl_el0, {1}", "isb", in(reg) ticks, in(reg) 1u64) };
}

/// Stops it, and with it its interrupt.
pub fn stop_timer() {
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb") };
}
