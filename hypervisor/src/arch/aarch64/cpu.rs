//! Small things that every part needs of the CPU.

use axvm_addr::Hpa;

use super::sysreg::{dsb, isb, mrs};

/// Cleans and invalidates a span of memory to the point of coherency.
pub fn clean_to_memory(start: Hpa, bytes: u64) {
    let line = 4u64 << (mrs!("ctr_el0") >> 16 & 0xf);
    let end = start.0.saturating_add(bytes);
    let mut at = start.0 & !(line - 1);
    while at < end {
        // SAFETY: cleaning and invalidating changes no content; the callers' spans are mapped memory.
        unsafe { core::arch::asm!("dc civac, {0}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
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
    let mut at = start.0;
    let end = start.0.saturating_add(bytes);
    while at < end {
        // SAFETY: by the caller's promise; the block lies in the span, which starts and ends between blocks.
        unsafe { core::arch::asm!("dc zva, {0}", in(reg) at, options(nostack, preserves_flags)) };
        at += block;
    }
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

/// Waits at least this long.
pub fn delay_us(microseconds: u64) {
    let end = ticks().saturating_add(microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1);
    while ticks() < end {
        core::hint::spin_loop();
    }
}

/// Sleeps until an interrupt is pending (it stays pending: interrupts are masked) or an event comes.
pub fn wait_for_interrupt() {
    dsb!("sy");
    // SAFETY: waiting changes nothing.
    unsafe { core::arch::asm!("wfi", options(nostack)) }
}

/// Wakes every CPU that waits for an event (WFE).
pub fn send_event() {
    dsb!("ish");
    // SAFETY: a hint to the others.
    unsafe { core::arch::asm!("sev", options(nostack)) }
}

/// The affinity fields of this CPU's MPIDR.
pub fn mpidr() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Orders all earlier accesses before all later ones, for every observer.
pub fn memory_barrier() {
    dsb!("sy");
}
