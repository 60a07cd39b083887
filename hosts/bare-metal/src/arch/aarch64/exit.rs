//! Why a guest was left, and what is done about it.

use axvm::events::Kind;
use axvm::stats::ExitReason;
use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::Width;
use axvm_cpu::Encoding;
use axvm_syndrome::{
    Cause, DataAbort, Deadline, Kind as Fault, Syndrome, SystemAccess, Wait, WaitFor, class, fault_address,
    is_aarch32,
};
use axvm_vgic::Intid;

use super::emulate::Refused;
use super::guarded::take_late_error;
use super::guest_psci::{self, After};
use super::irqchip::lists::ends_in_two_steps;
use super::names::status_name;
use super::registers::{ACTLR, ICC_ASGI1R, ICC_DIR, ICC_SGI0R, ICC_SGI1R, INTID};
use super::sysreg::mrs;
use super::vcpu::{Context, has_deadlines, write_debug};
use super::vectors::Left;
use super::{emulate, idregs, protection};
use crate::log;
use crate::vm::{StopReason, Vm};

/// What the run loop has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Resume,
    /// Sleep until an interrupt is pending for the vCPU, or until its virtual count (CNTVCT_EL0) is that, then enter again.
    Suspend {
        /// The count.
        deadline: Option<u64>,
    },
    /// The vCPU is off.
    Off,
    /// The VM stops.
    Stop(StopReason),
}

/// Handles a synchronous exception or an SError. Interrupts are the run loop's.
pub fn handle(vm: &Vm, vcpu: VcpuId, context: &mut Context, left: Left) -> Next {
    // Read before anything else can fault: a guarded access that aborts overwrites them.
    let syndrome = Syndrome(mrs!("esr_el2"));
    let (far, hpfar) = (mrs!("far_el2"), mrs!("hpfar_el2"));
    if take_late_error() {
        // The guest's last accesses are answered only now.
        system_error(vm, context);
    }
    let next = if left == Left::SystemError {
        vm.count_exit(vcpu, ExitReason::Other);
        system_error(vm, context);
        Next::Resume
    } else {
        synchronous(vm, vcpu, context, syndrome, far, hpfar)
    };
    if take_late_error() {
        // Else the guest would take it at its next entry.
        log::warn!("{}: vCPU {vcpu}: an access of the hypervisor's own was answered by an error", vm.name());
    }
    next
}

/// An access of the guest's to what is mapped for it was answered by an error, which the processor can't say more of.
fn system_error(vm: &Vm, context: &mut Context) {
    vm.violated(Kind::RegisterAbort, None);
    context.inject_system_error();
}

/// A synchronous exception.
fn synchronous(
    vm: &Vm,
    vcpu: VcpuId,
    context: &mut Context,
    syndrome: Syndrome,
    far: u64,
    hpfar: u64,
) -> Next {
    match syndrome.cause() {
        Cause::DataAbort(abort) => data_abort(vm, vcpu, context, abort, far, hpfar),
        Cause::InstructionAbort(abort) => {
            vm.count_exit(vcpu, ExitReason::Stage2Fault);
            // HPFAR_EL2 doesn't hold for permission faults: registers that are mapped, but not to execute.
            match abort.status().kind() {
                Fault::AddressSize | Fault::Translation | Fault::AccessFlag => {
                    vm.violated(Kind::CpuExecute, Some(fault_address(hpfar, far)))
                }
                Fault::Permission => vm.violated(Kind::CpuExecute, None),
                _ => vm.violated(Kind::RegisterAbort, None),
            }
            context.inject_fetch_abort(far);
            Next::Resume
        }
        Cause::System(access) => {
            system_register(vm, vcpu, context, access);
            Next::Resume
        }
        Cause::Hvc { .. } => {
            vm.count_exit(vcpu, ExitReason::Hypercall);
            call(vm, context)
        }
        Cause::Smc { .. } => {
            vm.count_exit(vcpu, ExitReason::Hypercall);
            // HVC returns behind itself, a trapped SMC to itself.
            context.skip();
            call(vm, context)
        }
        Cause::Wait(wait) => {
            vm.count_exit(vcpu, ExitReason::Wfi);
            let next = suspend(vm, context, wait);
            context.skip_any(syndrome.length());
            next
        }
        Cause::Other(other) => {
            // SVE, SME, AArch32 coprocessor accesses, and whatever else is hidden: it doesn't exist.
            vm.count_exit(vcpu, ExitReason::Other);
            if other != class::SVE {
                vm.count_refused_sysreg();
            }
            context.inject_undefined();
            Next::Resume
        }
    }
}

/// A trapped WFI, or one of its kin: they may all be left early, but WFI should wait, and no longer than it says.
fn suspend(vm: &Vm, context: &Context, wait: Wait) -> Next {
    if wait.waits_for == WaitFor::Event || !wait.is_executed(context.frame.pstate) {
        return Next::Resume;
    }
    // QEMU (10.0) says of a WFIT what it says of a WFI. With FEAT_WFxT the instruction is asked, where it can be read.
    let by_instruction = || emulate::instruction(vm, context).and_then(Wait::of_instruction);
    let deadline = match wait.deadline {
        Deadline::InRegister(_) => wait.deadline,
        Deadline::None if !has_deadlines() => Deadline::None,
        told => by_instruction().map_or(told, |wait| wait.deadline),
    };
    match deadline {
        Deadline::None => Next::Suspend { deadline: None },
        Deadline::InRegister(register) => Next::Suspend { deadline: Some(context.x(register.into())) },
        Deadline::Unknown => Next::Resume,
    }
}

fn call(vm: &Vm, context: &mut Context) -> Next {
    match guest_psci::call(vm, context) {
        After::Resume => Next::Resume,
        After::Suspend => Next::Suspend { deadline: None },
        After::Off => Next::Off,
        After::Stop(reason) => Next::Stop(reason),
    }
}

/// A data abort from the guest.
fn data_abort(vm: &Vm, vcpu: VcpuId, context: &mut Context, abort: DataAbort, far: u64, hpfar: u64) -> Next {
    let write = abort.is_write();
    // The second stage has no entry that could fault by permission, for which HPFAR_EL2 doesn't hold, but by a write to what is read
    // only.
    let gpa = Gpa(fault_address(hpfar, far));
    match abort.status().kind() {
        Fault::AddressSize | Fault::Translation | Fault::AccessFlag | Fault::Permission => {}
        Fault::Alignment => {
            // The guest's first stage calls it memory, the second calls it a device.
            vm.count_exit(vcpu, ExitReason::Other);
            context.inject_alignment_fault(far, write);
            return Next::Resume;
        }
        _ => {
            // The bus aborted an access to something that is mapped, or found it damaged: FIPA isn't valid.
            vm.count_exit(vcpu, ExitReason::Other);
            vm.aborted(if abort.without_address() { None } else { emulate::translate(far) });
            context.inject_abort(far, write);
            return Next::Resume;
        }
    }
    if abort.is_maintenance() {
        // Maintenance by address of what isn't memory does nothing.
        vm.count_exit(vcpu, ExitReason::Stage2Fault);
        context.skip();
        return Next::Resume;
    }
    // A 32-bit program at EL0 may be in the middle of an IT block, whose state would have to be moved on: not served.
    let narrow = is_aarch32(context.frame.pstate);
    let walk = abort.in_walk();
    let described = abort.is_described() && !walk && !narrow;
    let width = Width::from_bytes(abort.bytes());
    let register = abort.register();
    if let (true, Some(width)) = (described, width) {
        let result = if write {
            let value = context.x(register) & width.mask();
            vm.mmio_write(vcpu, gpa, width, value, &mut context.hint)
        } else {
            match vm.mmio_read(vcpu, gpa, width, &mut context.hint) {
                Ok(value) => {
                    context.set_x(register, abort.loaded(value));
                    Ok(())
                }
                Err(why) => Err(why),
            }
        };
        if result.is_ok() {
            context.skip();
            return Next::Resume;
        }
        return no_device(vm, vcpu, context, far, gpa, write);
    }
    if !vm.is_device(gpa) {
        return no_device(vm, vcpu, context, far, gpa, write);
    }
    // The guest's own device, by an instruction that the syndrome doesn't describe.
    let fault = emulate::Fault { write, far, gpa };
    match if walk { Err(Refused::Instruction) } else { emulate::access(vm, vcpu, context, &fault) } {
        Ok(()) => return Next::Resume,
        Err(Refused::NoDevice(gpa)) => return no_device(vm, vcpu, context, far, gpa, write),
        Err(Refused::Misaligned) => context.inject_alignment_fault(far, write),
        Err(Refused::Instruction) => {
            // Not a violation, but it can't be served.
            log::warn!(
                "{}: vCPU {vcpu} used an instruction at {:#x} that can't be emulated ({}) on a device register at {gpa}",
                vm.name(),
                context.frame.pc,
                status_name(abort.status()),
            );
            context.inject_abort(far, write);
        }
    }
    vm.count_exit(vcpu, ExitReason::Other);
    Next::Resume
}

/// An access to what the plan doesn't list.
#[cold]
fn no_device(vm: &Vm, vcpu: VcpuId, context: &mut Context, far: u64, gpa: Gpa, write: bool) -> Next {
    vm.count_exit(vcpu, ExitReason::Stage2Fault);
    vm.violated(if write { Kind::CpuWrite } else { Kind::CpuRead }, Some(gpa.0));
    context.inject_abort(far, write);
    Next::Resume
}

/// A trapped MSR, MRS or system instruction.
fn system_register(vm: &Vm, vcpu: VcpuId, context: &mut Context, access: SystemAccess) {
    let register = access.encoding();
    let (target, read) = (access.register(), access.is_read());
    if access.writes(ICC_SGI1R) {
        vm.count_exit(vcpu, ExitReason::Ipi);
        context.skip();
        let value = context.x(target);
        protection::send_sgi_to_others(vm, value);
        vm.irqchip().vgic().send_sgi(vcpu, value);
        return;
    }
    vm.count_exit(vcpu, ExitReason::Sysreg);
    let written = context.x(target);
    // Where it is virtual it is trapped now and then.
    if register == ICC_DIR && !read && context.direct.is_none() {
        // Otherwise the register does nothing.
        if ends_in_two_steps() {
            vm.irqchip().vgic().deactivate(vcpu, Intid(written as u32 & INTID));
        }
        context.skip();
        return;
    }
    let direct = context.direct.as_mut().and_then(|direct| {
        if read {
            direct.read(register).ok()
        } else {
            direct
                .write(register, written, |id| vm.irqchip().vgic().may_deactivate(vcpu, id))
                .ok()
                .map(|()| 0)
        }
    });
    let answer = if direct.is_some() {
        direct
    } else if register.0 == 2 {
        debug_register(context, register, written, read)
    } else if read {
        read_register(register)
    } else {
        write_register(register).then_some(0)
    };
    match answer {
        Some(value) => {
            if read {
                context.set_x(target, value);
            }
            context.skip();
        }
        None => {
            vm.count_refused_sysreg();
            context.inject_undefined();
        }
    }
}

/// A debug register (op0 is 2): what a read gives, or that a write was taken.
fn debug_register(context: &mut Context, register: Encoding, written: u64, read: bool) -> Option<u64> {
    if read {
        return context.debug.read(register).ok();
    }
    if let Some(write) = context.debug.write(register, written).ok()? {
        write_debug(write.register, write.value);
    }
    Some(0)
}

/// Registers that read as something though they are trapped.
fn read_register(register: Encoding) -> Option<u64> {
    match register {
        // Implementation defined: nothing in it is the guest's.
        ACTLR => Some(0),
        other => idregs::read(other),
    }
}

/// Registers whose writes are taken and do nothing.
fn write_register(register: Encoding) -> bool {
    // No interrupt of the guest is in Group 0, which the last two are about.
    matches!(register, ACTLR | ICC_ASGI1R | ICC_SGI0R)
}
