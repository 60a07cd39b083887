//! A vCPU's state while it has its CPU: the VMCB, and what isn't in it.

use core::arch::x86_64::__cpuid_count;

use alloc::boxed::Box;
use alloc::sync::Arc;
use axvm::devices::Hint;
use axvm_vapic::{Ends, direct};
use axvm_x86_cpu::control::{self, AWAIT_IRET, Interrupts, Own};
use axvm_x86_cpu::cr::Shown;
use axvm_x86_cpu::dr::Breakpoints;
use axvm_x86_cpu::event::{self, Exception, Raised};
use axvm_x86_cpu::features::{Features, Leaf};
use axvm_x86_cpu::msr::Msrs;
use axvm_x86_cpu::permissions::{IoPermissions, MsrPermissions};
use axvm_x86_cpu::start;
use axvm_x86_cpu::vmcb::{Event, TlbControl, Vmcb};

use super::protection;
use super::stage2::Walk;
use crate::vm::Vm;

/// What the calling CPU has.
pub fn features() -> Features {
    Features::read(&cpuid)
}

/// CPUID as the hypervisor has it.
pub fn cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let found = __cpuid_count(leaf, subleaf);
    Leaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// A vCPU's state.
pub struct Context {
    /// What VMRUN takes and gives. Its address is physical, as all of the hypervisor's memory is mapped one to one.
    pub vmcb: Box<Vmcb>,
    /// Of the general registers, by their numbers, those that the VMCB hasn't got: all but rAX (0) and rSP (4).
    registers: [u64; 16],
    /// What the hypervisor has of the registers that VMLOAD and VMSAVE move, on the CPU that runs it.
    host: Box<Vmcb>,
    /// Model-specific registers that are in no VMCB.
    pub msrs: Msrs,
    /// What CR4 is to it.
    pub shown: Shown,
    /// Its debug registers.
    pub breakpoints: Breakpoints,
    /// XCR0, which is in the CPU.
    pub xcr0: u64,
    /// What the CPU has.
    pub features: Features,
    /// What its entries and exits do against speculation.
    speculation: u64,
    /// The next entry forgets its translations.
    forgets: bool,
    /// Its right to walk the VM's tables.
    walk: Walk,
    /// Whether it is in an NMI's handler.
    nmi: Nmi,
    /// What was pushed aside by an exception, and is to be delivered after it.
    aside: Option<Event>,
    /// The device that it reached last.
    pub hint: Hint,
    /// How often in a row it has reached for a register by an instruction that can't be done in its place.
    pub unserved: u8,
    /// Kept as long as the VMCB refers to it.
    _io_permissions: Arc<IoPermissions>,
    msr_permissions: Box<MsrPermissions>,
    /// Whether it is left where it ends an interrupt of its own local APIC.
    ends: Ends,
}

/// Whether non-maskable interrupts are kept out (AMD APM 2, 8.2.3): from one until the IRET of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nmi {
    Open,
    Handled,
    /// The IRET is about to be executed.
    Ending,
}

/// rAX and rSP among the general registers.
const RAX: u8 = 0;
const RSP: u8 = 4;

/// Whether an entry forgets the guest's translations.
#[derive(Clone, Copy)]
pub struct Flushed(bool);

/// What the instructions that enter a guest take.
pub(super) struct Entry {
    /// Its general registers.
    pub registers: *mut [u64; 16],
    /// Its VMCB.
    pub vmcb: *mut Vmcb,
    /// The hypervisor's.
    pub host: *mut Vmcb,
    /// `speculation::word`.
    pub speculation: u64,
}

/// The address space identifier of every guest: a CPU runs one, and forgets its translations when that changes.
const ASID: u32 = 1;

impl Context {
    /// One that starts as `start` says.
    pub fn reset(vm: &Vm, start: &start::Start, walk: Walk, msr: Box<MsrPermissions>) -> Self {
        let features = features();
        let io = vm.ends().space.ports.clone();
        let own = Own {
            io_permissions: &raw const *io as u64,
            msr_permissions: &raw const *msr as u64,
            nested_cr3: vm.ends().space.nested_root.0,
            asid: ASID,
            // Its counter begins with the VM.
            tsc_offset: vm.irqchip().zero().wrapping_neg(),
        };
        let mut vmcb = Box::new(Vmcb::zero());
        let interrupts =
            if vm.irqchip().takes_interrupts() { Interrupts::Direct } else { Interrupts::Emulated };
        vmcb.control = control::area(interrupts, &features, &own);
        protection::leave_out(&mut vmcb.control.intercepts);
        let mut context = Self {
            vmcb,
            registers: [0; 16],
            host: Box::new(Vmcb::zero()),
            msrs: Msrs::default(),
            shown: Shown::default(),
            breakpoints: Breakpoints::default(),
            xcr0: 1,
            features,
            speculation: super::speculation::word(&features),
            forgets: true,
            walk,
            nmi: Nmi::Open,
            aside: None,
            hint: Hint::default(),
            unserved: 0,
            _io_permissions: io,
            msr_permissions: msr,
            ends: Ends::Unseen,
        };
        context.save_host();
        context.begin(start);
        context
    }

    /// Keeps what the calling CPU, which is to run it, has of the hypervisor's in those registers: the same from when it came up. After each
    /// exit it is loaded from there.
    fn save_host(&mut self) {
        // SAFETY: the instruction writes this VMCB, which is the context's own, and nothing else.
        unsafe {
            core::arch::asm!("vmsave rax", in("rax") &raw mut *self.host, options(nostack, preserves_flags))
        };
    }

    /// Begins anew, as `start` says: after a reset or an INIT.
    pub fn begin(&mut self, start: &start::Start) {
        let state = start.state(cpuid(1, 0).eax);
        self.vmcb.save = state.save;
        self.registers = state.registers;
        let control = &mut self.vmcb.control;
        control.injection = 0;
        control.exit_interrupt = 0;
        control.end_shadow();
        control.virtual_interrupt = control.virtual_interrupt.withdraw();
        self.msrs = Msrs::default();
        self.shown = Shown::default();
        self.breakpoints = Breakpoints::default();
        self.xcr0 = 1;
        self.aside = None;
        self.end_nmi();
        self.nmi = Nmi::Open;
        self.forgets = true;
        super::vector_state::reset(self.features.xcr0);
    }

    /// A general register, by its number.
    #[inline(always)]
    pub fn register(&self, number: u8) -> u64 {
        match number {
            RAX => self.vmcb.save.rax,
            RSP => self.vmcb.save.rsp,
            other => self.registers.get(usize::from(other)).copied().unwrap_or(0),
        }
    }

    /// Sets one.
    #[inline(always)]
    pub fn set_register(&mut self, number: u8, value: u64) {
        match number {
            RAX => self.vmcb.save.rax = value,
            RSP => self.vmcb.save.rsp = value,
            other => {
                if let Some(register) = self.registers.get_mut(usize::from(other)) {
                    *register = value;
                }
            }
        }
    }

    /// EDX:EAX.
    pub fn edx_eax(&self) -> u64 {
        self.register(2) << 32 | self.register(0) & 0xffff_ffff
    }

    /// Sets it: the upper halves of both registers are cleared.
    pub fn set_edx_eax(&mut self, value: u64) {
        self.set_register(0, value & 0xffff_ffff);
        self.set_register(2, value >> 32);
    }

    /// Goes on at `rip`: an instruction has been done in the guest's place. Of a guest that takes one step at a time that is an exception.
    pub fn go_on_at(&mut self, rip: u64) {
        let Vmcb { control, save } = &mut *self.vmcb;
        if let Some(raised) = event::advance(control, save, rip) {
            // A #DB is never the end.
            let _ = self.note_raised(raised);
        }
    }

    /// Keeps what an exception has pushed aside. `false`: it is a triple fault.
    fn note_raised(&mut self, raised: Raised) -> bool {
        match raised {
            Raised::Delivered { aside } => {
                self.aside = aside.or(self.aside);
                true
            }
            Raised::DoubleFault => true,
            Raised::Shutdown => false,
        }
    }

    /// Raises an exception in the guest. `false`: it is a triple fault, and the vCPU is at its end.
    #[must_use]
    pub fn raise(&mut self, exception: Exception) -> bool {
        let Vmcb { control, save } = &mut *self.vmcb;
        let raised = event::raise(control, save, exception);
        self.note_raised(raised)
    }

    /// Whether the guest can take an interrupt at its next instruction.
    #[inline(always)]
    pub fn takes_interrupts(&self) -> bool {
        /// RFLAGS.IF.
        const IF: u64 = 1 << 9;
        self.vmcb.save.rflags & IF != 0 && !self.vmcb.control.in_shadow() && !self.vmcb.control.is_injected()
    }

    /// Whether it can take a non-maskable interrupt: it isn't in the handler of one.
    pub fn takes_nmis(&self) -> bool {
        self.nmi == Nmi::Open && self.vmcb.control.injected().is_none()
    }

    /// Injects one. The guest is left at the IRET that ends its handler.
    pub fn inject_nmi(&mut self) {
        self.nmi = Nmi::Handled;
        self.vmcb.control.intercepts.general |= AWAIT_IRET;
        self.vmcb.control.inject(Event::nmi());
    }

    /// The guest is at the IRET, which it is about to execute: from the next exit on it can take another one.
    pub fn end_nmi(&mut self) {
        self.nmi = Nmi::Ending;
        self.vmcb.control.intercepts.general &= !AWAIT_IRET;
    }

    /// Injects what was pushed aside, once there is room for it. Whether something waits for room still.
    pub fn inject_aside(&mut self) -> bool {
        if let Some(event) = self.aside
            && self.vmcb.control.injected().is_none()
            && (self.takes_interrupts() || event == Event::nmi())
        {
            self.vmcb.control.inject(event);
            self.aside = None;
        }
        self.aside.is_some()
    }

    /// Whether something was pushed aside, and waits.
    #[inline(always)]
    pub fn has_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// Whether the next exit changes what it can take: something waits aside, or it is at the end of an NMI's handler.
    #[inline(always)]
    pub fn is_at_a_turn(&self) -> bool {
        self.aside.is_some() || self.nmi == Nmi::Ending
    }

    /// Has it left where it ends an interrupt of its own local APIC, or not.
    #[inline(always)]
    pub fn see_ends(&mut self, ends: Ends) {
        if self.ends != ends {
            self.change_ends(ends);
        }
    }

    #[inline(never)]
    fn change_ends(&mut self, ends: Ends) {
        self.ends = ends;
        // The map covers it: a test says so of all that is opened.
        let _ = match ends {
            Ends::Seen => self.msr_permissions.close_write(direct::EOI),
            Ends::Unseen => self.msr_permissions.open_write(direct::EOI),
        };
    }

    /// What is kept of its translations is wrong: the next entry forgets them.
    pub fn forget_translations(&mut self) {
        self.forgets = true;
    }

    /// Its breakpoints are in the CPU while it has some that are on. The hypervisor's own DR7 is none (VMRUN switches it).
    #[inline(always)]
    fn load_breakpoints(&self) {
        let Some([first, second, third, fourth]) = self.breakpoints.armed(&self.vmcb.save) else { return };
        // SAFETY: addresses of breakpoints, which are on in the guest alone.
        unsafe {
            core::arch::asm!(
                "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
                in(reg) first, in(reg) second, in(reg) third, in(reg) fourth,
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    /// What is to be done before the guest is entered, after which it must be: it walks its VM's tables from here on ([`Context::come_out`]).
    /// Whether its translations are forgotten.
    #[inline(always)]
    pub fn go_in(&mut self) -> Flushed {
        let flush = self.walk.begin() | core::mem::take(&mut self.forgets);
        self.vmcb.control.set_tlb(if flush { control::flush(&self.features) } else { TlbControl::Keep });
        self.load_breakpoints();
        Flushed(flush)
    }

    /// It was left, and doesn't walk its VM's tables any more.
    #[inline(always)]
    pub fn come_out(&self) {
        self.walk.end();
    }

    /// It wasn't entered after all. What was forgotten was so for nobody else; once more costs little.
    pub fn stay_out(&mut self, flushed: Flushed) {
        self.forgets |= flushed.0;
    }

    /// Of an exit: what was injected is delivered, or its delivery was interrupted: then it comes again.
    #[inline(always)]
    pub fn note_delivered(&mut self) {
        if self.nmi == Nmi::Ending {
            self.nmi = Nmi::Open;
        }
        let control = &mut self.vmcb.control;
        control.injection = 0;
        if control.exit_interrupt != 0 {
            if let Some(event) = event::again(control) {
                control.inject(event);
            }
            control.exit_interrupt = 0;
        }
    }

    /// Between two entries without anything new: a device is asked for something that may change the VM's tables, which would wait for this CPU
    /// otherwise.
    #[inline(always)]
    pub fn step_out<R>(&mut self, ask: impl FnOnce(&mut Self) -> R) -> R {
        self.walk.end();
        let result = ask(self);
        self.forgets |= self.walk.begin();
        result
    }

    /// Whether its next entry is as the last one was, but for what is injected.
    #[inline(always)]
    pub fn stays_as_it_is(&self) -> bool {
        !self.forgets
    }

    /// What the entry's instructions take.
    #[inline(always)]
    pub(super) fn for_entry(&mut self) -> Entry {
        Entry {
            registers: &raw mut self.registers,
            vmcb: &raw mut *self.vmcb,
            host: &raw mut *self.host,
            speculation: self.speculation,
        }
    }
}
