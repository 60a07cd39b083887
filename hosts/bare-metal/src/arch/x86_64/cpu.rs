//! Small things that every part needs of the CPU.

use core::arch::x86_64::{__cpuid, _mm_clflush, _mm_lfence, _mm_mfence, _rdtsc};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use axvm_addr::Hpa;
use axvm_guest::x86_64::acpi::WATCHDOG_HZ;
use axvm_platform::model::Platform;
use axvm_x86_cpu::clock;
use spin::Mutex;
use x86_64::instructions::{hlt, interrupts};

use super::local_apic::LocalApic;
use super::percpu::PerCpu;
use super::vcpu::cpuid;
use super::{acpi_timer, pit};
use crate::log;

/// Ticks of the TSC in a second.
static TICK_HZ: AtomicU64 = AtomicU64::new(0);

/// The clock: the TSC. AxVM rests on one that is the same on all CPUs and never stops, as CPUID 0x8000_0007, EDX bit 8 says of
/// processors of the last fifteen years.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: reading the clock changes nothing. What is before it in the program is read before it (AMD APM 3, RDTSC).
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Ticks per second.
#[inline(always)]
pub fn tick_hz() -> u64 {
    TICK_HZ.load(Ordering::Relaxed).max(1)
}

/// Whether anything says how fast the clock is.
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// Where nothing says how fast the clock is: so fast that no deadline comes early.
const FALLBACK_HZ: u64 = 5_000_000_000;

/// The measurement of the clock that isn't at its end.
static MEASURING: Mutex<Option<pit::Measuring>> = Mutex::new(None);

/// When it was begun to find out how fast the clock is: times count from there, so that they change by little when it is known better.
static SINCE: AtomicU64 = AtomicU64::new(0);

fn know(hz: u64) {
    TICK_HZ.store(hz, Ordering::Relaxed);
    IS_KNOWN.store(true, Ordering::Relaxed);
}

/// Begins to find out how fast the clock is, before anything of the machine is known. Until that is known deadlines come late.
pub fn calibrate() {
    SINCE.store(ticks(), Ordering::Relaxed);
    TICK_HZ.store(FALLBACK_HZ, Ordering::Relaxed);
    match clock::hz_by_cpuid(&cpuid) {
        Some(hz) => know(hz),
        None => *MEASURING.lock() = Some(pit::begin()),
    }
}

/// Finds out exactly what was found out roughly: before a guest is told of it, and before long, as times are by it. What is waited for is what hasn't gone by
/// since that was begun.
pub fn settle_clock() {
    let mut measuring = MEASURING.lock();
    if let Some(hz) = measuring.take().and_then(pit::Measuring::end) {
        TICK_HZ.store(hz, Ordering::Relaxed);
    }
}

/// Finds it out well enough for deadlines: by the PIT, where CPUID doesn't say it, or else by what the machine has beside, as there are PCs without a PIT.
pub fn calibrate_by(platform: &Platform) {
    let mut measuring = MEASURING.lock();
    if let Some(hz) = measuring.as_mut().and_then(pit::Measuring::roughly) {
        know(hz);
    } else if let Some(measuring) = measuring.take() {
        measuring.give_up();
    }
    if IS_KNOWN.load(Ordering::Relaxed) {
        return;
    }
    let measured = acpi_timer::measure_tick_hz(platform).map(|hz| (hz, "ACPI's timer"));
    let nominal = || clock::nominal_hz_by_cpuid(&cpuid).map(|hz| (hz, "CPUID, to the next MHz"));
    let Some((hz, by)) = measured.or_else(nominal) else {
        log::warn!(
            "nothing says how fast the clock is: CPUID doesn't, and neither the PIT nor ACPI's timer counts: VMs can't have one"
        );
        return;
    };
    know(hz);
    log::info!("the clock has {} MHz by {by}, as the PIT doesn't count", hz / 1_000_000);
}

/// The clock's ticks in a second, if anything says it.
pub fn known_tick_hz() -> Option<u64> {
    IS_KNOWN.load(Ordering::Relaxed).then(tick_hz)
}

/// Since it was begun to find out how fast the clock is.
fn ticks_since() -> u64 {
    ticks().saturating_sub(SINCE.load(Ordering::Relaxed))
}

/// Microseconds by the clock. Deadlines are by it.
pub fn now_us() -> u64 {
    ticks_as(ticks_since(), 1_000_000)
}

/// So many ticks in a unit of which a second has so many, no more than 10^9. Exact: what is left of a second is less than 2^34 ticks.
#[inline(never)]
pub fn ticks_as(ticks: u64, per_second: u64) -> u64 {
    let hz = tick_hz();
    (ticks / hz).saturating_mul(per_second).saturating_add((ticks % hz).saturating_mul(per_second) / hz)
}

/// The counter of a watchdog's, whose rate is what its guest is told.
pub fn watchdog_ticks() -> u64 {
    ticks_as(ticks_since(), WATCHDOG_HZ)
}

/// How long so many of its ticks are, in microseconds.
pub const fn watchdog_us(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000 / WATCHDOG_HZ)
}

/// Waits at least this long.
pub fn delay_us(microseconds: u64) {
    let start = ticks();
    let most = microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1;
    while ticks().saturating_sub(start) < most {
        core::hint::spin_loop();
    }
}

/// Waits until `done`, for so many microseconds at most. Whether it was.
pub fn wait_us(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
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

/// Writes what the caches have of a span of memory to where those read who don't look there.
pub fn clean_to_memory(start: Hpa, bytes: u64) {
    /// CPUID 1, EBX bits 15:8: a line in units of 8 bytes. All processors with CLFLUSH have lines of 64 bytes or more.
    const LINE: u64 = 64;
    let end = start.0.saturating_add(bytes);
    for line in (start.0 & !(LINE - 1)..end).step_by(LINE as usize) {
        // SAFETY: flushing changes no content; the callers' spans are mapped memory.
        unsafe { _mm_clflush(line as *const u8) };
    }
    memory_barrier();
}

/// Zeroes a span of memory.
///
/// # Safety
///
/// The span must be mapped memory in which no Rust object lies.
pub unsafe fn zero(start: Hpa, bytes: u64) {
    // SAFETY: by the caller's promise. By words: on processors with fast strings as fast as anything.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            "mov rcx, {rest}",
            "rep stosb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rdi") start.0 => _,
            in("rax") 0u64,
            options(nostack, preserves_flags)
        );
    }
}

/// Lets interrupts that are pending in: the stubs note each, and end it. What is noted is dealt with by whoever takes it.
pub fn open_window() {
    interrupts::enable();
    // STI holds interrupts off for one instruction more.
    x86_64::instructions::nop();
    interrupts::disable();
}

/// Lets calls in that were shut out when a guest was entered (AMD APM 2, 15.17).
#[inline(always)]
pub fn let_calls_in() {
    // SAFETY: a call is noted, and changes nothing else; other interrupts are masked.
    unsafe { asm!("stgi", options(nostack, preserves_flags)) };
}

/// Shuts calls out: those that come from here on are pending, and end the next run of a guest.
#[inline(always)]
pub fn shut_calls_out() {
    // SAFETY: until the next run of a guest, or until it is known that there is none.
    unsafe { asm!("clgi", options(nostack, preserves_flags)) };
}

/// Sleeps until an interrupt comes, which stays noted.
pub fn wait_for_interrupt() {
    if !PerCpu::own().has_taken() {
        // SAFETY: it sleeps, and comes back with interrupts masked.
        unsafe { sleep_with_interrupts() };
    }
}

/// Sleeps until the CPU is called. Interrupts that come meanwhile wait: they are a guest's.
pub fn wait_for_call() {
    // SAFETY: it sleeps, and comes back with interrupts masked as they are.
    unsafe { sleep_without_interrupts() };
}

/// Where the CPU goes on that took an NMI at `rip`: one that has looked whether it was called and is about to sleep doesn't.
pub fn awake(rip: u64) -> u64 {
    let all = [
        (&raw const sleep_first as u64, &raw const sleep_end as u64),
        (&raw const call_first as u64, &raw const call_end as u64),
    ];
    all.into_iter().find(|(first, end)| (*first..*end).contains(&rip)).map_or(rip, |(_, end)| end)
}

unsafe extern "C" {
    fn sleep_with_interrupts();
    fn sleep_without_interrupts();
    static sleep_first: u8;
    static sleep_end: u8;
    static call_first: u8;
    static call_end: u8;
}

global_asm!(
    r#"
    .section .text.sleep, "ax"
    .global sleep_with_interrupts, sleep_first, sleep_end
sleep_with_interrupts:
sleep_first:
    // A call that comes from here on ends the sleep before it begins: `awake`.
    cmp     qword ptr gs:[{called}], 0
    jne     sleep_end
    // An interrupt that is pending by now ends the HLT: nothing is let in between the two.
    sti
    hlt
sleep_end:
    cli
    ret
    .global sleep_without_interrupts, call_first, call_end
sleep_without_interrupts:
call_first:
    cmp     qword ptr gs:[{called}], 0
    jne     call_end
    hlt
call_end:
    ret
    .text
    "#,
    called = const super::percpu::CALLED,
);

/// As [`wait_for_interrupt`], but no longer than so many microseconds.
pub fn wait_for_interrupt_or_us(microseconds: u64) {
    let apic = LocalApic::own();
    apic.set_timer(ticks().saturating_add(microseconds.saturating_mul(tick_hz()) / 1_000_000 + 1));
    wait_for_interrupt();
    apic.stop_timer();
}

/// Stays here, for good. Nothing is switched off, so that what memory holds can be looked at.
pub fn halt() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}

/// Nobody waits for events here that aren't interrupts.
pub const fn send_event() {}

/// What the board calls this CPU: its local APIC's id.
#[inline(always)]
pub fn own_hardware_id() -> u64 {
    PerCpu::own().hardware_id()
}

/// Orders all earlier accesses before all later ones, for every observer.
pub fn memory_barrier() {
    // SAFETY: a barrier.
    unsafe { _mm_mfence() }
}

/// The smaller of what the CPU and 48 bits can address (CPUID 0x8000_0008, EAX bits 7:0). The same on all CPUs, and asked at many exits, so
/// that it is kept: CPUID takes a processor long.
pub fn physical_address_bits() -> u8 {
    /// 0: nobody has asked yet.
    static BITS: AtomicU8 = AtomicU8::new(0);
    let known = BITS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let bits = if __cpuid(0x8000_0000).eax >= 0x8000_0008 { __cpuid(0x8000_0008).eax as u8 } else { 36 };
    let bits = bits.min(48);
    BITS.store(bits, Ordering::Relaxed);
    bits
}

/// Whether tables may have blocks of 1 GiB (CPUID 0x8000_0001, EDX bit 26).
pub fn has_huge_blocks() -> bool {
    __cpuid(0x8000_0001).edx & 1 << 26 != 0
}
