//! The calling CPU's local APIC, as the hypervisor has it for itself (AMD APM 2, 16; Intel SDM 3, 11).

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{Hpa, PAGE_SIZE, Span};
use axvm_vapic::direct::{Register, until_quiet};
use axvm_x86_cpu::clock::Look;
use x86_64::registers::model_specific::Msr;

use super::cpu::{now_us, tick_hz, ticks, wait_us};
use super::guarded::write_msr;
use super::percpu::PerCpu;
use super::vectors;
use crate::protection::{Protection, is_off};

/// The timer's vector. Devices' are below. CPUs call each other by NMIs, which have none.
pub const TIMER: u8 = 0xf0;
/// What a local APIC gives that has nothing to give after all.
pub const SPURIOUS: u8 = 0xff;

/// IA32_APIC_BASE: its MSR, and its bits (AMD APM 2, 16.3.1 and 16.9).
const BASE_MSR: u32 = 0x1b;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers, by their offsets in the page; in x2APIC mode the MSR is 0x800 and the offset divided by 16.
mod offset {
    pub const TPR: u32 = 0x80;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_COUNTER: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

/// The end of an interrupt in x2APIC mode.
pub const END_MSR: u32 = 0x800 + (offset::EOI >> 4);

/// LVT entries: masked; the timer's mode by the TSC.
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE: u32 = 2 << 17;

/// IA32_TSC_DEADLINE.
const DEADLINE_MSR: u32 = 0x6e0;

/// ICR: the message, in bits 10:8, level asserted (bit 14), and still on its way (bit 12).
const FIXED: u32 = 0;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const ON_ITS_WAY: u32 = 1 << 12;

/// SVR: the APIC is on.
const ENABLED: u32 = 1 << 8;

/// Interrupts go on coming to a CPU that nobody has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupts of whoever had this CPU go on coming")]
pub struct NotClean;

/// So often each end of a measurement of the timer is looked at, at the most.
const MEASURES: usize = 4;

/// Ticks of the timer in 2^20 of the TSC, where it has no mode by the TSC; 0: not measured.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);

/// The calling CPU's.
#[derive(Clone, Copy)]
pub struct LocalApic {
    /// Its page; `None`: it is in x2APIC mode.
    page: Option<u64>,
}

/// What the calling CPU's local APIC has as its id, by what CPUID says of it (AMD APM 3, leaves 0xB and 1).
pub fn id_by_cpuid() -> u64 {
    if __cpuid(0).eax >= 0xb {
        let leaf = __cpuid_count(0xb, 0);
        if leaf.ebx & 0xffff != 0 {
            return leaf.edx.into();
        }
    }
    u64::from(__cpuid(1).ebx >> 24)
}

fn base() -> u64 {
    // SAFETY: every CPU with long mode has this register; reading it changes nothing.
    unsafe { Msr::new(BASE_MSR).read() }
}

/// Where local APICs have their page: on all CPUs alike, as firmware leaves it.
pub fn registers() -> Option<Span<Hpa>> {
    Span::new(Hpa(base() & BASE_ADDRESS), PAGE_SIZE).ok()
}

impl LocalApic {
    /// The calling CPU's.
    #[inline(always)]
    pub fn own() -> Self {
        let base = base();
        Self { page: (base & BASE_X2APIC == 0).then_some(base & BASE_ADDRESS) }
    }

    /// Has the calling CPU's in x2APIC mode, if there is one: registers are MSRs then, which a guest can be given one by one. It stays so.
    pub fn use_x2apic() {
        /// CPUID 1, ECX.
        const X2APIC: u32 = 1 << 21;
        if __cpuid(1).ecx & X2APIC != 0 && !Self::own().is_x2apic() {
            // SAFETY: by way of its own mode, as the manual has it (AMD APM 2, 16.10); nobody has used its page yet.
            unsafe {
                Msr::new(BASE_MSR).write(base() | BASE_ENABLED);
                Msr::new(BASE_MSR).write(base() | BASE_ENABLED | BASE_X2APIC);
            }
        }
        PerCpu::own().set_end(Self::own().page.map(|page| page + u64::from(offset::EOI)));
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(self) -> bool {
        self.page.is_none()
    }

    /// Whether a guest can have it: its registers are MSRs, each of which is given or not, and its timer doesn't stop where the CPU sleeps
    /// (CPUID 6, EAX bit 2: ARAT), so that the guest needs no other.
    pub fn can_be_given(self) -> bool {
        self.is_x2apic() && __cpuid(0).eax >= 6 && __cpuid(6).eax & 1 << 2 != 0
    }

    pub(super) fn read(self, register: u32) -> u32 {
        match self.page {
            // SAFETY: the hypervisor maps this page as registers, and drives them alone.
            Some(page) => unsafe { ((page + u64::from(register)) as *const u32).read_volatile() },
            // SAFETY: in this mode the register is there.
            None => unsafe { Msr::new(0x800 + (register >> 4)).read() as u32 },
        }
    }

    pub(super) fn write(self, register: u32, value: u32) {
        match self.page {
            // SAFETY: as for reads; what they do is bounded: interrupts are masked, and their vectors lead to stubs.
            Some(page) => unsafe { ((page + u64::from(register)) as *mut u32).write_volatile(value) },
            // SAFETY: the same.
            None => unsafe { Msr::new(0x800 + (register >> 4)).write(value.into()) },
        }
    }

    /// Turns it on, with everything masked that nobody has asked for.
    pub fn set_up(self) {
        if base() & BASE_ENABLED == 0 {
            // SAFETY: the page stays where it is.
            unsafe { Msr::new(BASE_MSR).write(base() | BASE_ENABLED) };
        }
        self.quieten();
        // Nothing that came before is in service.
        self.end_all();
        self.set_up_timer();
    }

    /// It is on, takes whatever comes, and sends nothing by itself.
    fn quieten(self) {
        self.write(offset::SVR, 0x100 | u32::from(SPURIOUS));
        self.write(offset::TPR, 0);
        if self.page.is_some() {
            // Nobody is named by a logical destination.
            self.write(offset::DFR, u32::MAX);
            self.write(offset::LDR, 0);
        }
        // The entries that there are: the version register's bits 23:16, and on all processors these four.
        for entry in [offset::LVT_TIMER, offset::LVT_LINT0, offset::LVT_LINT1, offset::LVT_ERROR] {
            self.write(entry, MASKED | u32::from(SPURIOUS));
        }
        let entries = self.read(0x30) >> 16 & 0xff;
        if entries >= 4 {
            self.write(offset::LVT_COUNTER, MASKED | u32::from(SPURIOUS));
        }
        if entries >= 5 {
            self.write(offset::LVT_THERMAL, MASKED | u32::from(SPURIOUS));
        }
        self.stop_timer();
        // In the other mode, too.
        self.write(offset::TIMER_INITIAL, 0);
        self.write(offset::ESR, 0);
    }

    /// Ends all that is in service: each is so once at the most.
    fn end_all(self) {
        for _ in 0..256 {
            if self.highest(offset::ISR).is_none() {
                break;
            }
            self.end_interrupt();
        }
    }

    /// The highest vector of a register of 256 bits.
    fn highest(self, first: u32) -> Option<u8> {
        (0..8u8).rev().find_map(|word| {
            let bits = self.read(first + u32::from(word) * 0x10);
            Some(word * 32 + 31u32.checked_sub(bits.leading_zeros())? as u8)
        })
    }

    /// Whether an interrupt of this vector is in service.
    pub fn is_in_service(self, vector: u8) -> bool {
        self.read(offset::ISR + u32::from(vector / 32) * 0x10) >> (vector % 32) & 1 != 0
    }

    /// Has nothing left of whoever had the CPU's interrupts: nothing is in service, nothing waits, and nothing comes any more. Who sends has
    /// been stopped before. What is on its way to this CPU by then arrives meanwhile.
    ///
    /// # Errors
    ///
    /// Something goes on coming.
    pub fn clean(self) -> Result<(), NotClean> {
        if is_off(Protection::Clean) {
            return Ok(());
        }
        self.quieten();
        let is_quiet = until_quiet(now_us, || {
            let is_something = self.highest(offset::IRR).is_some() || self.highest(offset::ISR).is_some();
            if is_something {
                vectors::drop_pending();
                self.end_all();
            }
            is_something
        });
        if !is_quiet {
            return Err(NotClean);
        }
        // What was dropped was nobody's.
        while PerCpu::own().take().is_some() {}
        Ok(())
    }

    /// Hands the CPU's interrupts to a guest, as they are after a reset: the APIC is off, but for calls.
    ///
    /// # Errors
    ///
    /// [`NotClean`]
    pub fn hand_over(self) -> Result<(), NotClean> {
        self.clean()?;
        if is_off(Protection::Clean) {
            return Ok(());
        }
        for entry in [offset::LVT_TIMER, offset::LVT_ERROR] {
            self.write(entry, MASKED);
        }
        self.write(offset::TIMER_DIVIDE, 0);
        self.write(offset::SVR, u32::from(SPURIOUS));
        Ok(())
    }

    /// Takes them back.
    ///
    /// # Errors
    ///
    /// [`NotClean`]
    pub fn take_back(self) -> Result<(), NotClean> {
        self.clean()?;
        if is_off(Protection::Clean) {
            return Ok(());
        }
        self.set_up();
        Ok(())
    }

    /// A guest has written a register, of which this is harmless.
    pub fn set_for_guest(self, register: Register, value: u32) {
        match register {
            Register::Spurious => {
                self.write(offset::SVR, value);
                if value & ENABLED == 0 {
                    // As the manual has it of all entries of one that is off, whether it does so by itself or not.
                    self.write(offset::LVT_TIMER, self.read(offset::LVT_TIMER) | MASKED);
                }
            }
            Register::Timer => self.write(offset::LVT_TIMER, value),
            Register::Error => self.write(offset::LVT_ERROR, value),
        }
    }

    /// Ends the interrupt that is in service, and says which that was.
    pub fn end_in_service(self) -> Option<u8> {
        let vector = self.highest(offset::ISR)?;
        self.end_interrupt();
        Some(vector)
    }

    /// What it has noted as errors since this was asked last.
    pub fn take_errors(self) -> u32 {
        self.write(offset::ESR, 0);
        self.read(offset::ESR)
    }

    /// Whether it refuses what the manual reserves in the timer's entry (AMD APM 2, 16.4.1), of which a guest must not set anything. One in
    /// QEMU takes it, and makes NMIs and SMIs of it.
    pub fn keeps_timer_harmless(self) -> bool {
        /// The kind of delivery that entries of pins have: an SMI.
        const SMI: u64 = 2 << 8;
        if !self.is_x2apic() {
            return false;
        }
        let register = 0x800 + (offset::LVT_TIMER >> 4);
        let before = self.read(offset::LVT_TIMER);
        // SAFETY: it is masked, and as before afterwards.
        let taken = unsafe { write_msr(register, u64::from(MASKED) | SMI) }.is_ok();
        self.write(offset::LVT_TIMER, before);
        !taken
    }

    /// The highest interrupt in service has been dealt with.
    #[inline(always)]
    pub fn end_interrupt(self) {
        self.write(offset::EOI, 0);
    }

    /// Sends an interrupt of this vector to a CPU, by the id of its local APIC: to one that a guest has.
    pub fn send(self, hardware_id: u64, vector: u8) {
        self.command(hardware_id, FIXED | ASSERT | u32::from(vector));
    }

    /// Sends an NMI to a CPU, by the id of its local APIC.
    pub fn send_nmi(self, hardware_id: u64) {
        self.command(hardware_id, NMI | ASSERT);
    }

    /// Sends INIT.
    pub fn send_init(self, hardware_id: u64) {
        self.command(hardware_id, INIT | ASSERT);
    }

    /// Sends a STARTUP, to begin at this page.
    pub fn send_startup(self, hardware_id: u64, page: u8) {
        self.command(hardware_id, STARTUP | ASSERT | u32::from(page));
    }

    fn command(self, hardware_id: u64, command: u32) {
        /// What is on its way is so for a few cycles of the bus.
        const MOST_US: u64 = 1000;
        match self.page {
            Some(_) => {
                wait_us(MOST_US, || self.read(offset::ICR_LOW) & ON_ITS_WAY == 0);
                self.write(offset::ICR_HIGH, (hardware_id as u32) << 24);
                self.write(offset::ICR_LOW, command);
            }
            None => {
                // Accesses to memory before it are seen by who gets it (Intel SDM 3, 11.12.3).
                super::cpu::memory_barrier();
                // SAFETY: in this mode the register is there; what it sends are calls and starts of the hypervisor's own.
                unsafe { Msr::new(0x830).write(hardware_id << 32 | u64::from(command)) };
            }
        }
    }

    /// Whether the timer can be set to a value of the TSC (CPUID 1, ECX bit 24).
    fn has_deadlines() -> bool {
        __cpuid(1).ecx & 1 << 24 != 0
    }

    fn set_up_timer(self) {
        /// By 1: every tick of its clock counts.
        const BY_1: u32 = 0xb;
        if Self::has_deadlines() {
            self.write(offset::LVT_TIMER, TSC_DEADLINE | u32::from(TIMER));
            return;
        }
        self.write(offset::TIMER_DIVIDE, BY_1);
        if TIMER_RATE.load(Ordering::Relaxed) == 0 {
            // Masked, it counts until it is needed: what has gone by until then says its rate.
            self.begin_measure();
            return;
        }
        self.write(offset::LVT_TIMER, u32::from(TIMER));
    }

    fn begin_measure(self) {
        for _ in 0..MEASURES {
            let before = ticks();
            self.write(offset::TIMER_INITIAL, u32::MAX);
            PerCpu::own().timer_since().store(before, Ordering::Relaxed);
            // What has taken the CPU away in between would be in what is measured.
            if ticks().saturating_sub(before) < tick_hz() / 100_000 {
                break;
            }
        }
    }

    /// Before it is used for the first time on this CPU: its rate is known from then on, and it interrupts. All CPUs' run at one rate.
    #[cold]
    fn end_measure(self) {
        let since = PerCpu::own().timer_since();
        if TIMER_RATE.load(Ordering::Relaxed) == 0 {
            if self.read(offset::TIMER_CURRENT) == 0 {
                // It has come to its end, and says nothing.
                self.begin_measure();
            }
            let start = since.load(Ordering::Relaxed);
            let least = tick_hz() / 1000;
            while ticks().saturating_sub(start) < least {
                core::hint::spin_loop();
            }
            // The shortest look counts.
            let looks = (0..MEASURES).map(|_| {
                let before = ticks();
                let count = u64::from(u32::MAX - self.read(offset::TIMER_CURRENT));
                Look { before, count, after: ticks() }
            });
            if let Some(Look { before, count, after }) = Look::best(looks) {
                let took = (before / 2 + after / 2).saturating_sub(start).max(1);
                TIMER_RATE.store(((count << 20) / took).max(1), Ordering::Relaxed);
            }
        }
        self.write(offset::TIMER_INITIAL, 0);
        self.write(offset::LVT_TIMER, u32::from(TIMER));
        since.store(0, Ordering::Relaxed);
    }

    /// Has the timer interrupt when the clock is `at`, or somewhat earlier where that is farther than it can count.
    pub fn set_timer(self, at: u64) {
        if Self::has_deadlines() {
            // 0 would turn it off.
            // SAFETY: the CPU has this register; the timer is the hypervisor's.
            unsafe { Msr::new(DEADLINE_MSR).write(at.max(1)) };
            return;
        }
        if PerCpu::own().timer_since().load(Ordering::Relaxed) != 0 {
            self.end_measure();
        }
        let rate = u128::from(TIMER_RATE.load(Ordering::Relaxed));
        let count = (u128::from(at.saturating_sub(ticks())) * rate) >> 20;
        self.write(offset::TIMER_INITIAL, count.clamp(1, u32::MAX.into()) as u32);
    }

    /// Has it interrupt no more.
    pub fn stop_timer(self) {
        if Self::has_deadlines() {
            // SAFETY: as above.
            unsafe { Msr::new(DEADLINE_MSR).write(0) };
        } else if PerCpu::own().timer_since().load(Ordering::Relaxed) == 0 {
            self.write(offset::TIMER_INITIAL, 0);
        }
    }
}
