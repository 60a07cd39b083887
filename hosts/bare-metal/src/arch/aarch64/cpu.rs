//! Small things that every part needs of the CPU.

use axvm_addr::Hpa;

use super::sysreg::{dsb, isb, mrs, msr};

/// An instruction on each block of so many bytes from `at` on, up to `end`: four in a row, since a guest's RAM has millions.
/// Written out so that it takes as long whatever the code around it is optimised for.
macro_rules! for_each_block {
    ($instruction:literal, $at:expr, $end:expr, $block:expr) => {
        core::arch::asm!(
            "2:",
            "add {next}, {at}, {block}, lsl #2",
            "cmp {next}, {end}",
            "b.hi 3f",
            concat!($instruction, ", {at}"),
            "add {at}, {at}, {block}",
            concat!($instruction, ", {at}"),
            "add {at}, {at}, {block}",
            concat!($instruction, ", {at}"),
            "add {at}, {at}, {block}",
            concat!($instruction, ", {at}"),
            "mov {at}, {next}",
            "b 2b",
            "3:",
            "cmp {at}, {end}",
            "b.hs 4f",
            concat!($instruction, ", {at}"),
            "add {at}, {at}, {block}",
            "b 3b",
            "4:",
            at = inout(reg) $at => _,
            end = in(reg) $end,
            block = in(reg) $block,
            next = out(reg) _,
            options(nostack)
        )
    };
}

/// Cleans and invalidates a span of memory to the point of coherency.
pub fn clean_to_memory(start: Hpa, bytes: u64) {
    let line = 4u64 << (mrs!("ctr_el0") >> 16 & 0xf);
    let end = start.0.saturating_add(bytes);
    // SAFETY: cleaning and invalidating changes no content; the callers' spans are mapped memory.
    unsafe { for_each_block!("dc civac", start.0 & !(line - 1), end, line) };
    dsb!("sy");
}

/// Zeroes a span of memory, by blocks where the CPU has an instruction for it (DC ZVA; Arm ARM, DCZID_EL0).
///
/// # Safety
///
/// The span must be mapped memory in which no Rust object lies.
pub unsafe fn zero(start: Hpa, bytes: u64) {
    let features = mrs!("dczid_el0");
    let block = 4u64 << (features & 0xf);
    // DZP (bit 4): the instruction is prohibited.
    if features & 1 << 4 != 0 || (start.0 | bytes) & (block - 1) != 0 {
        // SAFETY: by the caller's promise.
        return unsafe { core::ptr::write_bytes(start.0 as *mut u8, 0, bytes as usize) };
    }
    // SAFETY: by the caller's promise; the blocks lie in the span, which starts and ends between blocks.
    unsafe { for_each_block!("dc zva", start.0, start.0.saturating_add(bytes), block) };
}

/// The generic timer's count.
pub fn ticks() -> u64 {
    isb!();
    mrs!("cntpct_el0")
}

/// Ticks per second.
pub fn tick_hz() -> u64 {
    mrs!("cntfrq_el0").max(1)
}

/// Microseconds by the generic timer, which runs whatever else does. Deadlines are by it.
pub fn now_us() -> u64 {
    ticks_as(ticks(), 1_000_000)
}

/// So many ticks in a unit of which a second has so many, no more than 10^9. Exact: what is left of a second is less than
/// 2^32 ticks, as CNTFRQ_EL0 is a number of 32 bits (Arm ARM, D24.10.1).
#[inline(never)]
pub fn ticks_as(ticks: u64, per_second: u64) -> u64 {
    let hz = tick_hz();
    (ticks / hz).saturating_mul(per_second).saturating_add((ticks % hz).saturating_mul(per_second) / hz)
}

/// How long so many ticks of a watchdog's are, in microseconds: they are the system counter's.
pub fn watchdog_us(ticks: u64) -> u64 {
    ticks_as(ticks, 1_000_000)
}

/// Waits at least this long.
pub fn delay_us(microseconds: u64) {
    let end = ticks().saturating_add(microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1);
    while ticks() < end {
        core::hint::spin_loop();
    }
}

/// Waits until `done`, for so many microseconds at most. Whether it was.
pub fn wait_us(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    // Most of what is waited for has been done by now.
    if done() {
        return true;
    }
    let start = ticks();
    let most = microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1;
    loop {
        // The clock first: whoever was kept from running in between doesn't take that for a timeout.
        let waited = ticks().saturating_sub(start);
        if done() {
            return true;
        }
        if waited > most {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Sleeps until an interrupt is pending (it stays pending: interrupts are masked) or an event comes.
pub fn wait_for_interrupt() {
    dsb!("sy");
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("wfi", options(nostack)) }
}

/// As [`wait_for_interrupt`], but no longer than so many microseconds: the hypervisor's own timer interrupts then, which has to be
/// enabled at the interrupt controller.
pub fn wait_for_interrupt_or_us(microseconds: u64) {
    let end = ticks().saturating_add(microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1);
    // SAFETY: the EL2 physical timer is the hypervisor's (DDI 0487, D24.10: CNTHP_CVAL_EL2, CNTHP_CTL_EL2). It is off again before its
    // interrupt is taken.
    unsafe {
        msr!("cnthp_cval_el2", end);
        msr!("cnthp_ctl_el2", 1);
    }
    isb!();
    wait_for_interrupt();
    // SAFETY: the same.
    unsafe { msr!("cnthp_ctl_el2", 0) };
    isb!();
}

/// Stays here, for good. Nothing is switched off, so that what memory holds can be looked at.
pub fn halt() -> ! {
    loop {
        // SAFETY: waiting changes nothing.
        unsafe { core::arch::asm!("wfe", options(nomem, nostack)) }
    }
}

/// As [`wait_for_interrupt`], but until the virtual count (CNTVCT_EL0) is `deadline` at most: the guest's own, whose offset is zero.
/// Only for a CPU with FEAT_WFxT, as one has where a guest's WFIT was trapped.
pub fn wait_for_interrupt_until(deadline: u64) {
    dsb!("sy");
    // SAFETY: waiting changes nothing. The instruction is WFIT X0, which assemblers know by the extension only.
    unsafe { core::arch::asm!(".inst 0xd5031020", in("x0") deadline, options(nostack)) }
}

/// The virtual count, as guests have it.
pub fn virtual_count() -> u64 {
    isb!();
    mrs!("cntvct_el0")
}

/// Wakes every CPU that waits for an event (WFE).
pub fn send_event() {
    dsb!("ish");
    // SAFETY: a hint to the others.
    unsafe { core::arch::asm!("sev", options(nostack)) }
}

/// The board says how fast the clock is.
pub const fn settle_clock() {}

/// What the board calls this CPU: the affinity fields of its MPIDR.
pub fn own_hardware_id() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Orders all earlier accesses before all later ones, for every observer.
pub fn memory_barrier() {
    dsb!("sy");
}

/// The smaller of what the CPU and 48 bits can address (ID_AA64MMFR0_EL1.PARange).
pub fn physical_address_bits() -> u8 {
    match mrs!("id_aa64mmfr0_el1") & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Whether HCR_EL2.E2H is fixed to one on this CPU (ID_AA64MMFR4_EL1.E2H0 negative): then the hypervisor's register layouts are
/// wrong for it.
pub fn needs_host_extensions() -> bool {
    mrs!("s3_0_c0_c7_4") >> 24 & 0xf >= 0xe
}
