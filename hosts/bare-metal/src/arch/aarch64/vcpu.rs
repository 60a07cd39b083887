//! One vCPU on its CPU: its registers, its reset, its list registers.

use axvm::devices::Hint;
use axvm::vm::Start;
use axvm_cpu::control::{Interrupts, Register, When, value, widest};
use axvm_cpu::debug::{self, Debug};
use axvm_cpu::walks::FirstStage;
use axvm_syndrome::{Length, past};
use axvm_vgic::ListRegisters;

use super::control;
use super::direct::Direct;
use super::sysreg::{dsb, isb, mrs, msr};
use super::tlb;
use super::vectors::{EntryWork, Frame, take_late_error};

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

/// SCTLR_EL1 at reset: MMU and caches off, RES1 bits one (Arm ARM, SCTLR_EL1).
const SCTLR_RESET: u64 = 0x30d0_0980;

impl Context {
    /// A vCPU about to execute its first instruction where `start` says, on the calling CPU: resets every register that the guest can
    /// see, and writes those that bound it. `direct`: the CPU's physical interrupt interface, if it was given away.
    pub fn reset(
        start: Start,
        guest_mpidr: u64,
        vttbr: u64,
        vtcr: u64,
        lists: ListRegisters,
        direct: Option<Direct>,
    ) -> Self {
        let interrupts = if direct.is_some() { Interrupts::Direct } else { Interrupts::Emulated };
        let debug = Debug::reset(mrs!("id_aa64dfr0_el1"));
        let bound = || {
            control::apply(guest_mpidr, interrupts);
            control::establish(When::VcpuStart);
        };
        let reset = || {
            debug.registers().for_each(|register| write_debug(register, 0));
            reset_registers();
            reset_interrupt_interface();
        };
        tlb::enter(vttbr, vtcr, bound, reset, FirstStage { tcr: 0, sctlr: SCTLR_RESET });
        // The window in which errors of whatever ran here before could still come: they are not this guest's.
        if take_late_error() {
            log::warn!("an access before vCPU {guest_mpidr:#x} of a VM started was answered by an error");
        }
        let entry = crate::cpus::current().map_or(EntryWork::NONE, |cpu| cpu.entry_work());
        let mut frame = Frame { pc: start.entry, pstate: START_PSTATE, entry, ..Frame::default() };
        frame.x[0] = start.argument;
        Self { frame, hint: Hint::default(), lists, direct, debug }
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
        self.frame.pc = self.frame.pc.wrapping_add(4);
        // What `past` does, without a question: these are the exits that happen most.
        self.frame.pstate &= !(3 << 10 | 1 << 21);
    }

    /// Goes past an instruction that may be one of AArch32, at EL0.
    pub fn skip_any(&mut self, length: Length) {
        (self.frame.pc, self.frame.pstate) = past(self.frame.pc, self.frame.pstate, length);
    }

    /// Makes the guest take a synchronous exception to its EL1 (Arm ARM, AArch64.TakeException).
    fn inject(&mut self, esr: u64, far: Option<u64>) {
        let pstate = self.frame.pstate;
        // From the same level with SP_EL0, with SP_EL1; from EL0 in AArch64, in AArch32.
        let offset = match (pstate >> 4 & 1, pstate & 0xf) {
            (0, 0b0100) => 0x000,
            (0, 0b0101) => 0x200,
            (0, _) => 0x400,
            _ => 0x600,
        };
        // SAFETY: the guest's own exception registers; its processor isn't running.
        unsafe {
            msr!("elr_el1", self.frame.pc);
            msr!("spsr_el1", pstate);
            msr!("esr_el1", esr);
            if let Some(far) = far {
                msr!("far_el1", far);
            }
        }
        // PAN is set unless SCTLR_EL1.SPAN (bit 23) says to leave it; both exist together (FEAT_PAN).
        let sctlr = mrs!("sctlr_el1");
        let pan = if mrs!("id_aa64mmfr1_el1") >> 20 & 0xf == 0 {
            0
        } else if sctlr & 1 << 23 == 0 {
            1 << 22
        } else {
            pstate & 1 << 22
        };
        self.frame.pstate = START_PSTATE | pan;
        self.frame.pc = mrs!("vbar_el1").wrapping_add(offset);
    }

    /// The guest's instruction doesn't exist.
    pub fn inject_undefined(&mut self) {
        // EC 0 (unknown), IL.
        self.inject(1 << 25, None);
    }

    /// The guest's access got no answer: a synchronous external abort at its own address `far`.
    pub fn inject_abort(&mut self, far: u64, instruction: bool, write: bool) {
        let from_el0 = self.frame.pstate & 0xf == 0;
        let class: u64 = match (instruction, from_el0) {
            (true, true) => 0x20,
            (true, false) => 0x21,
            (false, true) => 0x24,
            (false, false) => 0x25,
        };
        let wnr = u64::from(write && !instruction) << 6;
        self.inject(class << 26 | 1 << 25 | wnr | 0x10, Some(far));
    }

    /// The guest's access to device memory isn't aligned: what its own first stage would say (DFSC 0x21).
    pub fn inject_alignment_fault(&mut self, far: u64, write: bool) {
        let class: u64 = if self.frame.pstate & 0xf == 0 { 0x24 } else { 0x25 };
        self.inject(class << 26 | 1 << 25 | u64::from(write) << 6 | 0x21, Some(far));
    }

    /// Makes the guest take an SError when it unmasks them.
    pub fn inject_system_error(&mut self) {
        // SAFETY: HCR_EL2.VSE (bit 8) only affects the guest.
        unsafe { msr!("hcr_el2", mrs!("hcr_el2") | 1 << 8) };
        isb!();
    }

    /// Loads the list registers, before an entry: those that changed since the last one.
    pub fn load_lists(&mut self) {
        for (index, &value) in
            self.lists.lr.iter().enumerate().take(self.lists.to_write.min(list_registers()))
        {
            write_lr(index, value);
        }
        self.lists.to_write = 0;
        let value = widest(Register::IchHcr, Interrupts::Emulated) | self.lists.hcr & !EOI_COUNT;
        // SAFETY: the virtual interface is the guest's.
        unsafe { msr!("ich_hcr_el2", value) };
    }

    /// Reads back those list registers that hold something, after an exit.
    pub fn save_lists(&mut self) {
        /// LRENPIE: then EOIcount says what the guest ended that was in no list register.
        const LRENPIE: u64 = 1 << 2;
        for (index, slot) in self.lists.lr.iter_mut().enumerate().take(self.lists.count.min(list_registers()))
        {
            *slot = read_lr(index);
        }
        if self.lists.hcr & LRENPIE != 0 {
            self.lists.hcr = mrs!("ich_hcr_el2");
            // Where the end is two steps, the second is trapped. The first ends nothing, and doesn't count by the architecture;
            // by QEMU (10.0) it does.
            if ends_in_two_steps() && mrs!("ich_vtr_el2") & VTR_TDS != 0 {
                self.lists.hcr &= !EOI_COUNT;
            }
        }
        // SAFETY: the virtual interface is the guest's. Off while the hypervisor runs: the maintenance interrupt is a level, and
        // would come again and again until the list registers are filled anew.
        unsafe { msr!("ich_hcr_el2", 0) };
        isb!();
    }
}

/// ICH_HCR_EL2.EOIcount, which hardware counts up from what is written.
const EOI_COUNT: u64 = 0x1f << 27;

/// ICH_VTR_EL2.TDS: ICH_HCR_EL2.TDIR does something.
const VTR_TDS: u64 = 1 << 19;

/// Whether the guest ends its interrupts in two steps (ICH_VMCR_EL2.VEOIM, the guest's ICC_CTLR_EL1.EOImode).
pub fn ends_in_two_steps() -> bool {
    mrs!("ich_vmcr_el2") & 1 << 9 != 0
}

/// Whether WFI and WFE can have a deadline (FEAT_WFxT: ID_AA64ISAR2_EL1.WFxT).
pub fn has_deadlines() -> bool {
    mrs!("s3_0_c0_c6_2") & 0xf != 0
}

/// How many list registers this CPU has (ICH_VTR_EL2.ListRegs).
pub fn list_registers() -> usize {
    (mrs!("ich_vtr_el2") as usize & 0x1f) + 1
}

/// How many bits a virtual priority has (ICH_VTR_EL2.PRIbits).
pub fn priority_bits() -> u32 {
    (mrs!("ich_vtr_el2") >> 29) as u32 + 1
}

macro_rules! write_named {
    ($name:expr, $value:expr) => {{
        // SAFETY: registers of the guest's: list registers, breakpoints, watchpoints.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {0}"), in(reg) $value, options(nostack)) }
    }};
}

macro_rules! read_named {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading has no side effect.
        unsafe { core::arch::asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes the register of a family of sixteen whose number is only known at run time.
macro_rules! write_indexed {
    ($index:expr, $prefix:literal, $suffix:literal, $value:expr) => {
        match $index {
            0 => write_named!(concat!($prefix, "0", $suffix), $value),
            1 => write_named!(concat!($prefix, "1", $suffix), $value),
            2 => write_named!(concat!($prefix, "2", $suffix), $value),
            3 => write_named!(concat!($prefix, "3", $suffix), $value),
            4 => write_named!(concat!($prefix, "4", $suffix), $value),
            5 => write_named!(concat!($prefix, "5", $suffix), $value),
            6 => write_named!(concat!($prefix, "6", $suffix), $value),
            7 => write_named!(concat!($prefix, "7", $suffix), $value),
            8 => write_named!(concat!($prefix, "8", $suffix), $value),
            9 => write_named!(concat!($prefix, "9", $suffix), $value),
            10 => write_named!(concat!($prefix, "10", $suffix), $value),
            11 => write_named!(concat!($prefix, "11", $suffix), $value),
            12 => write_named!(concat!($prefix, "12", $suffix), $value),
            13 => write_named!(concat!($prefix, "13", $suffix), $value),
            14 => write_named!(concat!($prefix, "14", $suffix), $value),
            15 => write_named!(concat!($prefix, "15", $suffix), $value),
            _ => {}
        }
    };
}

fn write_lr(index: usize, value: u64) {
    write_indexed!(index, "ich_lr", "_el2", value)
}

fn read_lr(index: usize) -> u64 {
    match index {
        0 => read_named!(concat!("ich_lr", "0", "_el2")),
        1 => read_named!(concat!("ich_lr", "1", "_el2")),
        2 => read_named!(concat!("ich_lr", "2", "_el2")),
        3 => read_named!(concat!("ich_lr", "3", "_el2")),
        4 => read_named!(concat!("ich_lr", "4", "_el2")),
        5 => read_named!(concat!("ich_lr", "5", "_el2")),
        6 => read_named!(concat!("ich_lr", "6", "_el2")),
        7 => read_named!(concat!("ich_lr", "7", "_el2")),
        8 => read_named!(concat!("ich_lr", "8", "_el2")),
        9 => read_named!(concat!("ich_lr", "9", "_el2")),
        10 => read_named!(concat!("ich_lr", "10", "_el2")),
        11 => read_named!(concat!("ich_lr", "11", "_el2")),
        12 => read_named!(concat!("ich_lr", "12", "_el2")),
        13 => read_named!(concat!("ich_lr", "13", "_el2")),
        14 => read_named!(concat!("ich_lr", "14", "_el2")),
        15 => read_named!(concat!("ich_lr", "15", "_el2")),
        _ => 0,
    }
}

fn reset_interrupt_interface() {
    for index in 0..list_registers() {
        write_lr(index, 0);
    }
    // SAFETY: the guest's virtual interface.
    unsafe {
        msr!("ich_vmcr_el2", 0);
        msr!("ich_ap0r0_el2", 0);
        msr!("ich_ap1r0_el2", 0);
        // PREbits (28:26) + 1 bits of preemption: more than 5 bring a second register, more than 6 four.
        let preemption = (mrs!("ich_vtr_el2") >> 26 & 7) + 1;
        if preemption >= 6 {
            msr!("ich_ap0r1_el2", 0);
            msr!("ich_ap1r1_el2", 0);
        }
        if preemption >= 7 {
            msr!("ich_ap0r2_el2", 0);
            msr!("ich_ap1r2_el2", 0);
            msr!("ich_ap0r3_el2", 0);
            msr!("ich_ap1r3_el2", 0);
        }
    }
}

/// Writes a debug register of the guest's on the calling CPU. It counts from the next entry on.
pub fn write_debug(register: debug::Register, value: u64) {
    match register {
        // SAFETY: the guest's; nothing of it matches at EL2.
        debug::Register::Control => unsafe { msr!("mdscr_el1", value) },
        debug::Register::BreakpointValue(n) => write_indexed!(n, "dbgbvr", "_el1", value),
        debug::Register::BreakpointControl(n) => write_indexed!(n, "dbgbcr", "_el1", value),
        debug::Register::WatchpointValue(n) => write_indexed!(n, "dbgwvr", "_el1", value),
        debug::Register::WatchpointControl(n) => write_indexed!(n, "dbgwcr", "_el1", value),
    }
}

/// Brings every EL1 and EL0 register that a guest can see to a fixed value, but those that [`tlb::enter`] is given.
fn reset_registers() {
    // SAFETY: registers of EL1 and EL0, which the hypervisor itself doesn't use.
    unsafe {
        msr!("cpacr_el1", 0);
        msr!("ttbr0_el1", 0);
        msr!("ttbr1_el1", 0);
        msr!("mair_el1", 0);
        msr!("amair_el1", 0);
        msr!("contextidr_el1", 0);
        msr!("vbar_el1", 0);
        msr!("esr_el1", 0);
        msr!("far_el1", 0);
        msr!("afsr0_el1", 0);
        msr!("afsr1_el1", 0);
        msr!("par_el1", 0);
        msr!("elr_el1", 0);
        msr!("spsr_el1", 0);
        msr!("sp_el0", 0);
        msr!("sp_el1", 0);
        msr!("tpidr_el0", 0);
        msr!("tpidrro_el0", 0);
        msr!("tpidr_el1", 0);
        msr!("csselr_el1", 0);
        msr!("mdccint_el1", 0);
        msr!("cntkctl_el1", 0);
        msr!("cntv_ctl_el0", 0);
        msr!("cntv_cval_el0", 0);
        msr!("cntp_ctl_el0", 0);
        msr!("cntp_cval_el0", 0);
        // AArch32 state where EL1 can run it (ID_AA64PFR0_EL1.EL1 = 2).
        if mrs!("id_aa64pfr0_el1") >> 4 & 0xf == 2 {
            msr!("dacr32_el2", 0);
            msr!("ifsr32_el2", 0);
            msr!("fpexc32_el2", 0);
            msr!("spsr_abt", 0);
            msr!("spsr_und", 0);
            msr!("spsr_irq", 0);
            msr!("spsr_fiq", 0);
        }
        // Keys, with FEAT_PAuth (ID_AA64ISAR1.APA, API; ISAR2.APA3): the names are those of the encodings.
        if mrs!("id_aa64isar1_el1") & 0xff0 != 0 || mrs!("s3_0_c0_c6_2") >> 12 & 0xf != 0 {
            msr!("s3_0_c2_c1_0", 0);
            msr!("s3_0_c2_c1_1", 0);
            msr!("s3_0_c2_c1_2", 0);
            msr!("s3_0_c2_c1_3", 0);
            msr!("s3_0_c2_c2_0", 0);
            msr!("s3_0_c2_c2_1", 0);
            msr!("s3_0_c2_c2_2", 0);
            msr!("s3_0_c2_c2_3", 0);
            msr!("s3_0_c2_c3_0", 0);
            msr!("s3_0_c2_c3_1", 0);
        }
        // Floating point and vectors, where there are any (FP field not 0xf).
        if mrs!("id_aa64pfr0_el1") >> 16 & 0xf != 0xf {
            core::arch::asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "msr fpcr, xzr",
                "msr fpsr, xzr",
                "movi v0.2d, #0",
                "movi v1.2d, #0",
                "movi v2.2d, #0",
                "movi v3.2d, #0",
                "movi v4.2d, #0",
                "movi v5.2d, #0",
                "movi v6.2d, #0",
                "movi v7.2d, #0",
                "movi v8.2d, #0",
                "movi v9.2d, #0",
                "movi v10.2d, #0",
                "movi v11.2d, #0",
                "movi v12.2d, #0",
                "movi v13.2d, #0",
                "movi v14.2d, #0",
                "movi v15.2d, #0",
                "movi v16.2d, #0",
                "movi v17.2d, #0",
                "movi v18.2d, #0",
                "movi v19.2d, #0",
                "movi v20.2d, #0",
                "movi v21.2d, #0",
                "movi v22.2d, #0",
                "movi v23.2d, #0",
                "movi v24.2d, #0",
                "movi v25.2d, #0",
                "movi v26.2d, #0",
                "movi v27.2d, #0",
                "movi v28.2d, #0",
                "movi v29.2d, #0",
                "movi v30.2d, #0",
                "movi v31.2d, #0",
                options(nostack),
            );
        }
    }
    dsb!("sy");
    isb!();
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
