//! What a CPU has for itself: its segments, its stacks for faults, and the interrupts that it has taken and not dealt with.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alloc::boxed::Box;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::local_apic::{self, TIMER};
use crate::memory;

/// Bytes of each stack for faults, on which last words are said.
const FAULT_STACK: usize = 16 << 10;

/// Which stack a fault has (`vectors`): those that can come at any instruction, or for want of a stack, have their own.
pub const FAULT_STACKS: [u16; 3] = [1, 2, 3];

/// How many there are.
const STACKS: usize = FAULT_STACKS.len();

/// The first CPU's, which it needs before there is a heap.
// Not in `.bss`: what is there before nobody looks at.
#[unsafe(link_section = ".uninit")]
static mut FIRST_STACKS: MaybeUninit<[u8; STACKS * FAULT_STACK]> = MaybeUninit::uninit();

/// What one CPU has for itself. GS leads to it while the hypervisor runs.
#[repr(C)]
pub struct PerCpu {
    /// Its own address, by which it is found.
    this: u64,
    /// What its local APIC has as its id.
    hardware_id: u64,
    /// It was called, and hasn't looked around since: not zero.
    called: AtomicU64,
    /// Vectors that were taken, a bit each, and not dealt with.
    taken: [AtomicU64; 4],
    /// Where its local APIC is told of the end of an interrupt; 0: by its MSR.
    end_at: AtomicU64,
    /// The timer has interrupted since somebody asked.
    timer_over: AtomicBool,
    /// The timer counts down from its highest count since then, to be measured by; 0: it doesn't.
    timer_since: AtomicU64,
    segments: GlobalDescriptorTable<8>,
    task: TaskStateSegment,
}

/// Where [`PerCpu`] says whether its CPU was called, as seen from GS.
pub const CALLED: usize = core::mem::offset_of!(PerCpu, called);
/// Where it has the vectors that were taken, and where its local APIC is told of the end of an interrupt.
pub const TAKEN: usize = core::mem::offset_of!(PerCpu, taken);
pub const END_AT: usize = core::mem::offset_of!(PerCpu, end_at);

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: 0,
            hardware_id: 0,
            called: AtomicU64::new(0),
            taken: [const { AtomicU64::new(0) }; 4],
            end_at: AtomicU64::new(0),
            timer_over: AtomicBool::new(false),
            timer_since: AtomicU64::new(0),
            segments: GlobalDescriptorTable::empty(),
            task: TaskStateSegment::new(),
        }
    }

    /// Makes it the calling CPU's. `stacks`: the lowest byte of those for faults.
    fn set_up(&'static mut self, stacks: u64) {
        self.this = &raw const *self as u64;
        self.hardware_id = local_apic::id_by_cpuid();
        let mut tops = self.task.interrupt_stack_table;
        for (top, number) in tops.iter_mut().take(STACKS).zip(1..) {
            // Aligned as the processor does it itself for an interrupt's frame.
            *top = VirtAddr::new(stacks + number * FAULT_STACK as u64);
        }
        self.task.interrupt_stack_table = tops;
        let code = self.segments.append(Descriptor::kernel_code_segment());
        self.segments.append(Descriptor::kernel_data_segment());
        // SAFETY: the task's segment stays where it is, for good.
        let task = self.segments.append(unsafe { Descriptor::tss_segment_unchecked(&raw const self.task) });
        let this: &'static Self = self;
        this.segments.load();
        // SAFETY: these are this CPU's segments, just loaded; 64-bit code goes on as before.
        unsafe {
            CS::set_reg(code);
            load_tss(task);
        }
        GsBase::write(VirtAddr::new(this.this));
    }

    /// The first CPU's, which needs no heap.
    ///
    /// # Safety
    ///
    /// Once, on the first CPU.
    pub unsafe fn install_first() {
        static mut FIRST: PerCpu = PerCpu::new();
        // SAFETY: by the caller's promise there is one reference only.
        let first: &'static mut Self = unsafe { &mut *core::ptr::addr_of_mut!(FIRST) };
        first.set_up(&raw const FIRST_STACKS as u64);
    }

    /// Any other CPU's, once, on it.
    pub fn install() {
        let stacks = memory::allocate(STACKS * FAULT_STACK, FAULT_STACK).map_or(0, |stacks| stacks.0);
        Box::leak(Box::new(Self::new())).set_up(stacks);
    }

    /// The calling CPU's.
    #[inline(always)]
    pub fn own() -> &'static Self {
        let this: u64;
        // SAFETY: GS leads to a `PerCpu` from before anything calls this, for good.
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(pure, readonly, nostack, preserves_flags));
            &*(this as *const Self)
        }
    }

    /// What its local APIC has as its id.
    pub fn hardware_id(&self) -> u64 {
        self.hardware_id
    }

    /// The CPU is called: whoever sleeps or is about to enter a guest there looks around before.
    pub fn note_call(&self) {
        self.called.store(1, Ordering::Relaxed);
    }

    /// Whether it was called, and hasn't looked around since.
    pub fn is_called(&self) -> bool {
        self.called.load(Ordering::Relaxed) != 0
    }

    /// Before the CPU looks around: what it is called for from now on is another call.
    pub fn take_call(&self) {
        self.called.store(0, Ordering::Relaxed);
    }

    /// Whether the timer has interrupted since this was asked last: it is to be set again then, however near it came.
    pub fn take_timer_over(&self) -> bool {
        self.timer_over.swap(false, Ordering::Relaxed)
    }

    /// The moment from which on the timer counts down from its highest count, to be measured by; 0: it doesn't.
    #[inline(always)]
    pub fn timer_since(&self) -> &AtomicU64 {
        &self.timer_since
    }

    /// Says where its local APIC is told of the end of an interrupt: before the first comes.
    pub fn set_end(&self, register: Option<u64>) {
        self.end_at.store(register.unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes a vector that was taken.
    pub fn note(&self, vector: u8) {
        if let Some(word) = self.taken.get(usize::from(vector) / 64) {
            word.fetch_or(1 << (vector % 64), Ordering::Relaxed);
        }
    }

    /// Whether any was, that wasn't dealt with.
    #[inline(always)]
    pub fn has_taken(&self) -> bool {
        let [a, b, c, d] = &self.taken;
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        of(a) | of(b) | of(c) | of(d) != 0
    }

    /// The highest of those that were.
    #[inline(always)]
    pub fn highest_taken(&self) -> Option<u8> {
        let [a, b, c, d] = &self.taken;
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (first, bits) = if of(d) != 0 {
            (192, of(d))
        } else if of(c) != 0 {
            (128, of(c))
        } else if of(b) != 0 {
            (64, of(b))
        } else {
            (0, of(a))
        };
        bits.checked_ilog2().map(|bit| first + bit as u8)
    }

    /// One of them is dealt with now.
    #[inline(always)]
    pub fn deal_with(&self, vector: u8) {
        if let Some(word) = self.taken.get(usize::from(vector) / 64) {
            // Nobody else writes here, and interrupts are masked.
            word.store(word.load(Ordering::Relaxed) & !(1 << (vector % 64)), Ordering::Relaxed);
        }
    }

    /// The highest of those that were, which is dealt with now.
    pub fn take(&self) -> Option<u8> {
        let vector = self.highest_taken()?;
        self.deal_with(vector);
        if vector == TIMER {
            self.timer_over.store(true, Ordering::Relaxed);
        }
        Some(vector)
    }
}
