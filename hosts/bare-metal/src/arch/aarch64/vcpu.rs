//! One vCPU on its CPU: its registers, its reset, its list registers.

use axvm::devices::Hint;
use axvm::vm::Start;
use axvm_cpu::control::{Interrupts, Register, When, value};
use axvm_cpu::debug::{self, Debug};
use axvm_cpu::walks::FirstStage;
use axvm_syndrome::{Length, Syndrome, Taken, past, past_aarch64};
use axvm_vgic::ListRegisters;

use super::frame::{EntryWork, Frame};
use super::guarded::take_late_error;
use super::indexed::by_number;
use super::irqchip::direct::Direct;
use super::irqchip::{Seat, lists};
use super::stage2::SpaceRoot;
use super::sysreg::{isb, mrs, msr};
use super::{control, reset, tlb};
use crate::log;

/// The state of a vCPU that isn't in hardware registers while it runs: nothing else is ever saved, since a vCPU has a CPU
/// of its own.
#[repr(C)]
pub struct Context {
    /// Its general registers, PC and PSTATE.
    pub frame: Frame,
    /// The device that was accessed last: the next access is often to the same.
    pub hint: Hint,
    /// What the list registers were loaded with.
    pub lists: ListRegisters,
    /// Of a vCPU that takes physical interrupts itself: what it has set up.
    pub direct: Option<Direct>,
    /// Its debug registers.
    pub debug: Debug,
}

/// EL1h with D, A, I and F masked: how a CPU starts (PSCI, DEN 0022, 6.4.3).
const START_PSTATE: u64 = 0x3c5;

impl Context {
    /// A vCPU about to execute its first instruction where `start` says, on the calling CPU: resets every register that the guest can
    /// see, and writes those that bound it. `seat`: what the interrupt controller has of it in the CPU.
    pub fn reset(start: Start, guest_mpidr: u64, space: SpaceRoot, seat: Seat) -> Self {
        let Seat { lists, direct } = seat;
        let interrupts = if direct.is_some() { Interrupts::Direct } else { Interrupts::Emulated };
        let debug = Debug::reset(mrs!("id_aa64dfr0_el1"));
        let bound = || {
            control::apply(guest_mpidr, interrupts);
            control::establish(When::VcpuStart);
        };
        let reset = || {
            debug.registers().for_each(|register| write_debug(register, 0));
            reset::registers();
            lists::reset();
        };
        tlb::enter(space.vttbr, space.vtcr, bound, reset, FirstStage { tcr: 0, sctlr: reset::SCTLR });
        // The window in which errors of whatever ran here before could still come: they are not this guest's.
        if take_late_error() {
            log::warn!("an access before vCPU {guest_mpidr:#x} of a VM started was answered by an error");
        }
        let entry = crate::cpus::current().map_or(EntryWork::NONE, |cpu| cpu.entry_work());
        let mut frame = Frame { pc: start.entry, pstate: START_PSTATE, entry, ..Frame::default() };
        frame.x[0] = start.argument;
        Self { frame, hint: Hint::default(), lists, direct, debug }
    }

    /// What the interrupt controller gets back.
    pub fn into_seat(self) -> Seat {
        Seat { lists: self.lists, direct: self.direct }
    }

    /// Register `number` as an instruction names it: 31 is the zero register.
    pub fn x(&self, number: u64) -> u64 {
        self.frame.x.get(number as usize).copied().unwrap_or(0)
    }

    /// Sets a register; writes to 31 are lost.
    pub fn set_x(&mut self, number: u64, value: u64) {
        if let Some(register) = self.frame.x.get_mut(number as usize) {
            *register = value;
        }
    }

    /// Goes past the instruction of AArch64 that was trapped.
    pub fn skip(&mut self) {
        // Not `past`, which has to ask: these are the exits that happen most.
        (self.frame.pc, self.frame.pstate) = past_aarch64(self.frame.pc, self.frame.pstate);
    }

    /// Goes past an instruction that may be one of AArch32, at EL0.
    pub fn skip_any(&mut self, length: Length) {
        (self.frame.pc, self.frame.pstate) = past(self.frame.pc, self.frame.pstate, length);
    }

    /// Makes the guest take a synchronous exception to its EL1 (Arm ARM, AArch64.TakeException).
    fn inject(&mut self, syndrome: Syndrome, far: Option<u64>) {
        // SAFETY: the guest's own exception registers; its processor isn't running.
        unsafe {
            msr!("elr_el1", self.frame.pc);
            msr!("spsr_el1", self.frame.pstate);
            msr!("esr_el1", syndrome.0);
            if let Some(far) = far {
                msr!("far_el1", far);
            }
        }
        // ID_AA64MMFR1_EL1.PAN.
        let has_pan = mrs!("id_aa64mmfr1_el1") >> 20 & 0xf != 0;
        let taken = Taken::synchronous(self.frame.pstate, mrs!("sctlr_el1"), has_pan);
        self.frame.pstate = taken.state;
        self.frame.pc = mrs!("vbar_el1").wrapping_add(taken.offset);
    }

    /// The guest's instruction doesn't exist.
    pub fn inject_undefined(&mut self) {
        self.inject(Syndrome::UNDEFINED, None);
    }

    /// The guest's fetch of an instruction got no answer: a synchronous external abort at its own address `far`.
    pub fn inject_fetch_abort(&mut self, far: u64) {
        self.inject(Syndrome::fetch_aborted(self.frame.pstate), Some(far));
    }

    /// The guest's access got no answer: the same.
    pub fn inject_abort(&mut self, far: u64, write: bool) {
        self.inject(Syndrome::access_aborted(self.frame.pstate, write), Some(far));
    }

    /// The guest's access to device memory isn't aligned.
    pub fn inject_alignment_fault(&mut self, far: u64, write: bool) {
        self.inject(Syndrome::misaligned(self.frame.pstate, write), Some(far));
    }

    /// Makes the guest take an SError when it unmasks them.
    pub fn inject_system_error(&mut self) {
        // SAFETY: HCR_EL2.VSE (bit 8) only affects the guest.
        unsafe { msr!("hcr_el2", mrs!("hcr_el2") | 1 << 8) };
        isb!();
    }

    /// Loads the list registers, before an entry.
    #[inline]
    pub fn load_lists(&mut self) {
        lists::load(&mut self.lists);
    }

    /// Reads back those list registers that hold something, after an exit.
    #[inline]
    pub fn save_lists(&mut self) {
        lists::save(&mut self.lists);
    }
}

/// Whether WFI and WFE can have a deadline (FEAT_WFxT: ID_AA64ISAR2_EL1.WFxT).
pub fn has_deadlines() -> bool {
    mrs!("s3_0_c0_c6_2") & 0xf != 0
}

/// Writes a debug register of the guest's on the calling CPU. It counts from the next entry on.
pub fn write_debug(register: debug::Register, value: u64) {
    match register {
        // SAFETY: the guest's; nothing of it matches at EL2.
        debug::Register::Control => unsafe { msr!("mdscr_el1", value) },
        debug::Register::BreakpointValue(n) => by_number!(n, write_named!("dbgbvr", "_el1", value), ()),
        debug::Register::BreakpointControl(n) => by_number!(n, write_named!("dbgbcr", "_el1", value), ()),
        debug::Register::WatchpointValue(n) => by_number!(n, write_named!("dbgwvr", "_el1", value), ()),
        debug::Register::WatchpointControl(n) => by_number!(n, write_named!("dbgwcr", "_el1", value), ()),
    }
}

/// Parks what a vCPU has of the CPU: after this no translation of a guest is used on it, and nothing of its timers fires.
pub fn park() {
    // SAFETY: the guest isn't running on this CPU any more.
    unsafe {
        msr!("cntv_ctl_el0", 0);
        msr!("cntp_ctl_el0", 0);
        msr!("ich_hcr_el2", 0);
        msr!("hcr_el2", value(Register::Hcr, Interrupts::Emulated, control::features()));
    }
    tlb::park();
}
