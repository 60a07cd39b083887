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

/// The affinity fields of this CPU's MPIDR.
pub fn mpidr() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Orders all earlier accesses before all later ones, for every observer.
pub fn memory_barrier() {
    dsb!("sy");
}
