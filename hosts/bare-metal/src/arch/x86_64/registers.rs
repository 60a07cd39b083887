//! CPUID, model-specific registers, control and debug registers, as `axvm_x86_cpu` has them; and what the processor has to have of them
//! while a guest runs that VMRUN doesn't switch.

use axvm::stats::ExitReason;
use axvm::vcpu::{Exit, SystemAccess};
use axvm::vm::Start;
use axvm_axdevice::SysReg;
use axvm_plan::EntryPlan;
use axvm_pvclock::Done;
use axvm_x86_cpu::cpuid::{self, Asker, Offers, View};
use axvm_x86_cpu::cr::{self, Allowed, Flush};
use axvm_x86_cpu::event::Exception;
use axvm_x86_cpu::exit::{Direction, Special};
use axvm_x86_cpu::features::Leaf;
use axvm_x86_cpu::fetch::About;
use axvm_x86_cpu::msr::{self, Of, Read, Written};
use axvm_x86_cpu::start::{self, Gdt};

use super::cpu::physical_address_bits;
use super::exit::{RESUME, give, skip, status_word};
use super::guarded::{read_msr, write_msr};
use super::pending::Pending;
use super::protection;
use super::run::Running;
use super::vcpu;
use crate::vm::Vm;

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;
/// The interrupt command register, of x2APIC mode.
pub const COMMAND: u32 = 0x830;
/// PRED_CMD, and its barrier (IBPB).
const PRED_CMD: u32 = 0x49;
const BARRIER: u64 = 1;

/// What all guests are given beside what the processor has.
const OFFERS: Offers =
    Offers::X2APIC.union(Offers::STEADY_TIMER).union(Offers::CLOCK).union(Offers::INVARIANT_TSC);

/// What a VM's are given. A deadline in hardware would be one of the hypervisor's clock, not of the guest's.
fn offers(vm: &Vm) -> Offers {
    if vm.irqchip().takes_interrupts() { OFFERS } else { OFFERS.union(Offers::TSC_DEADLINE) }
}

/// What the processor has while a guest runs that isn't in its VMCB: kept here for the hypervisor meanwhile.
pub struct Switched {
    tsc_aux: Option<u64>,
}

impl Switched {
    /// Keeps it.
    pub fn save() -> Self {
        Self { tsc_aux: read_msr(TSC_AUX).ok() }
    }

    /// It is the hypervisor's again.
    pub fn restore(self) {
        if let Some(value) = self.tsc_aux {
            set_tsc_aux(value);
        }
        barrier();
    }
}

fn set_tsc_aux(value: u64) {
    // SAFETY: what RDTSCP puts into rCX, which the hypervisor doesn't use.
    let _ = unsafe { write_msr(TSC_AUX, value) };
}

/// What branches a guest has taken isn't what others' are predicted by (AMD, Indirect Branch Control Extension).
fn barrier() {
    if vcpu::cpuid(0x8000_0008, 0).ebx & 1 << 12 != 0 {
        // SAFETY: a barrier; the processor says that it has it.
        let _ = unsafe { write_msr(PRED_CMD, BARRIER) };
    }
}

/// What a VM's vCPUs see.
fn view(vm: &Vm, features: &axvm_x86_cpu::features::Features) -> View {
    View {
        vcpus: vm.plan().cpus.len() as u16,
        physical_bits: physical_address_bits(),
        xcr0: features.xcr0,
        offers: offers(vm),
    }
}

/// What the control registers of a VM's vCPUs may have.
pub fn allowed(vm: &Vm) -> Allowed {
    let features = vcpu::features();
    let view = view(vm, &features);
    let asker = Asker { apic_id: 0, apic_enabled: true, cr4: 0, xcr0: features.xcr0 & 1 };
    Allowed::by(|leaf, subleaf| cpuid::cpuid(leaf, subleaf, &vcpu::cpuid, &view, &asker))
}

/// How vCPU 0 begins, as the plan says.
pub fn planned_start(vm: &Vm, start: Start) -> start::Start {
    let Some(plan) = vm.plan().x86_64() else { return start::Start::Reset };
    let gdt = Gdt { base: plan.gdt.start().0, limit: plan.gdt.size().saturating_sub(1) as u16 };
    let (entry, argument) = (start.entry, start.argument);
    match plan.entry {
        EntryPlan::Linux64(_) => {
            start::Start::Linux64 { entry, boot_params: argument, cr3: plan.page_tables.0, gdt }
        }
        EntryPlan::Pvh => start::Start::Pvh { entry: entry as u32, start_info: argument as u32 },
        EntryPlan::Long => start::Start::Flat64 { entry, argument, cr3: plan.page_tables.0, gdt },
    }
}

/// What CPUID has answered, which follows from these, for the processor and the VM.
#[derive(Clone, Copy)]
pub struct Identified {
    leaf: u32,
    subleaf: u32,
    asker: Asker,
    answer: Leaf,
}

/// How many answers are kept.
pub const IDENTIFIED: usize = 8;

/// CPUID.
pub fn cpuid(running: &mut Running<'_>) {
    let context = &running.context;
    let (leaf, subleaf) = (context.register(0) as u32, context.register(1) as u32);
    let asker = Asker {
        apic_id: running.vcpu.0.into(),
        apic_enabled: running.irqchip.is_enabled(running.vcpu),
        cr4: cr::read_cr4(&context.vmcb.save, &context.shown),
        xcr0: context.xcr0,
    };
    let slot = (leaf ^ leaf >> 28 ^ subleaf) as usize % IDENTIFIED;
    let kept = running.identified.get(slot).and_then(Option::as_ref);
    let answer = match kept.filter(|it| it.leaf == leaf && it.subleaf == subleaf && it.asker == asker) {
        Some(kept) => kept.answer,
        None => identify(running, slot, leaf, subleaf, asker),
    };
    let context = &mut running.context;
    context.set_register(0, answer.eax.into());
    context.set_register(3, answer.ebx.into());
    context.set_register(1, answer.ecx.into());
    context.set_register(2, answer.edx.into());
}

#[inline(never)]
fn identify(running: &mut Running<'_>, slot: usize, leaf: u32, subleaf: u32, asker: Asker) -> Leaf {
    let answer =
        cpuid::cpuid(leaf, subleaf, &vcpu::cpuid, &view(running.vm, &running.context.features), &asker);
    let answer = protection::identify(leaf, subleaf, answer);
    if let Some(slot) = running.identified.get_mut(slot) {
        *slot = Some(Identified { leaf, subleaf, asker, answer });
    }
    answer
}

/// RDMSR or WRMSR.
pub fn msr(running: &mut Running<'_>, direction: Direction, length: u64) -> Exit {
    let number = running.context.register(1) as u32;
    let value = running.context.edx_eax();
    match direction {
        Direction::Read => {
            let context = &running.context;
            match msr::read(number, &context.vmcb.save, &context.msrs, offers(running.vm)) {
                Read::Value(value) => done(running, length, Some(value)),
                Read::Hypervisor(of) => match of {
                    Of::Tsc => {
                        let now = running.guest_ticks();
                        done(running, length, Some(now))
                    }
                    Of::TscAux => done(running, length, Some(running.context.msrs.tsc_aux)),
                    Of::ApicBase | Of::X2Apic | Of::Deadline => {
                        asked(running, number, None, direction, length)
                    }
                    Of::SystemTime | Of::WallClock => {
                        match running.irqchip.clock().read(running.vcpu, number) {
                            Some(value) => done(running, length, Some(value)),
                            None => refused(running, Exception::GP),
                        }
                    }
                },
                Read::Fault(exception) => refused(running, exception),
            }
        }
        Direction::Write => {
            let context = &mut running.context;
            match msr::write(
                number,
                value,
                &mut context.vmcb.save,
                &mut context.msrs,
                offers(running.vm),
                &running.allowed,
            ) {
                Written::Done(flush) => {
                    if flush == Flush::Guest {
                        context.forget_translations();
                    }
                    done(running, length, None)
                }
                Written::Barrier => {
                    barrier();
                    done(running, length, None)
                }
                Written::Hypervisor(of) => match of {
                    // The counter is the machine's: whoever sets it reads what it is.
                    Of::Tsc => done(running, length, None),
                    Of::TscAux => {
                        set_tsc_aux(value);
                        done(running, length, None)
                    }
                    Of::X2Apic if number == COMMAND => command(running, value, length),
                    Of::ApicBase | Of::X2Apic | Of::Deadline => {
                        asked(running, number, Some(value), direction, length)
                    }
                    Of::SystemTime | Of::WallClock => clock(running, number, value, length),
                },
                Written::Fault(exception) => refused(running, exception),
            }
        }
    }
}

/// The guest says where it wants its clock.
fn clock(running: &mut Running<'_>, number: u32, value: u64, length: u64) -> Exit {
    match running.irqchip.clock().write(running.vcpu, number, value) {
        Some(Done::Store(record)) => {
            // Where there is no RAM there is no clock.
            let _ = running.vm.ends().ram.write(record.at, record.bytes());
            done(running, length, None)
        }
        Some(Done::Nothing) => done(running, length, None),
        None => refused(running, Exception::GP),
    }
}

fn done(running: &mut Running<'_>, length: u64, value: Option<u64>) -> Exit {
    if let Some(value) = value {
        running.context.set_edx_eax(value);
    }
    skip(running, length);
    running.count(ExitReason::Sysreg);
    RESUME
}

/// It sends its vCPUs an interrupt. What else there is to it comes with the next entry.
fn command(running: &mut Running<'_>, value: u64, length: u64) -> Exit {
    running.count(ExitReason::Ipi);
    match running.irqchip.apics().write_msr(running.vcpu, COMMAND, value) {
        Ok(_) => {
            skip(running, length);
            RESUME
        }
        Err(_) => {
            running.vm.refusals.sysreg.count();
            give(running, Exception::GP)
        }
    }
}

fn refused(running: &mut Running<'_>, exception: Exception) -> Exit {
    running.vm.refusals.sysreg.count();
    running.count(ExitReason::Sysreg);
    give(running, exception)
}

/// A register that a device of the VM's has: its local APIC.
fn asked(
    running: &mut Running<'_>,
    number: u32,
    write: Option<u64>,
    direction: Direction,
    length: u64,
) -> Exit {
    running.pending = Pending::Register { direction, length };
    Exit::SystemRegister(SystemAccess { register: SysReg(number), write })
}

/// A move of a control or debug register, CLTS or LMSW.
pub fn special(
    running: &mut Running<'_>,
    register: Special,
    direction: Direction,
    about: About,
) -> Result<Flush, Exception> {
    let word = match about {
        About::LoadStatus(word) => Some(status_word(running, word)?),
        _ => None,
    };
    let allowed = &running.allowed;
    let context = &mut running.context;
    let in_long_mode = axvm_x86_cpu::walk::code(&context.vmcb.save) == axvm_x86_access::Code::Bits64;
    let mask = if in_long_mode { u64::MAX } else { u32::MAX.into() };
    let other = match about {
        About::Register(number) => number,
        _ => 0,
    };
    let written = context.register(other) & mask;
    let save = &mut context.vmcb.save;
    match (register, direction, about) {
        (_, _, About::ClearTaskSwitched) => {
            cr::clear_task_switched(save);
            Ok(Flush::No)
        }
        (_, _, About::LoadStatus(_)) => cr::load_status(save, word.unwrap_or(0)),
        (Special::Control(0), Direction::Write, _) => cr::write_cr0(save, written),
        (Special::Control(4), Direction::Write, _) => {
            cr::write_cr4(save, &mut context.shown, written, allowed)
        }
        (Special::Control(4), Direction::Read, _) => {
            let value = cr::read_cr4(save, &context.shown);
            context.set_register(other, value);
            Ok(Flush::No)
        }
        (Special::Control(8), Direction::Write, _) => {
            if written > 15 {
                return Err(Exception::GP);
            }
            let control = &mut context.vmcb.control;
            control.virtual_interrupt = control.virtual_interrupt.with_tpr(written as u8);
            running.irqchip.apics().set_cr8(running.vcpu, written as u8);
            Ok(Flush::No)
        }
        (Special::Debug(number), Direction::Read, _) => {
            let value = context.breakpoints.read(save, number);
            context.set_register(other, value);
            Ok(Flush::No)
        }
        (Special::Debug(number), Direction::Write, _) => {
            context.breakpoints.write(save, number, written)?;
            Ok(Flush::No)
        }
        _ => Err(Exception::Undefined),
    }
}
