//! Why a guest was left, and what is done about it.

use axvm::events::Kind;
use axvm::stats::ExitReason;
use axvm::vcpu::{Exit, Fault, IpiRequest, MmioAccess, SystemAccess as Asked};
use axvm_addr::Gpa;
use axvm_axdevice::{SysReg, Width};
use axvm_cpu::Encoding;
use axvm_syndrome::{
    Cause, DataAbort, Deadline, Kind as Status, Syndrome, SystemAccess, Wait, WaitFor, class, fault_address,
    is_aarch32,
};
use axvm_vgic::Intid;

use super::emulate::Refused;
use super::fast::Running;
use super::guarded::take_late_error;
use super::guest_psci::{self, Called};
use super::irqchip::lists::ends_in_two_steps;
use super::names::status_name;
use super::pending::Pending;
use super::registers::{ACTLR, ICC_ASGI1R, ICC_DIR, ICC_SGI0R, ICC_SGI1R, INTID};
use super::sysreg::mrs;
use super::vcpu::{Context, has_deadlines, write_debug};
use super::vectors::Left;
use super::{emulate, idregs, protection};
use crate::log;

/// Handles a synchronous exception or an SError. Interrupts are the run loop's.
pub fn handle(running: &mut Running<'_>, left: Left) -> Exit {
    // Read before anything else can fault: a guarded access that aborts overwrites them.
    let syndrome = Syndrome(mrs!("esr_el2"));
    let (far, hpfar) = (mrs!("far_el2"), mrs!("hpfar_el2"));
    if take_late_error() {
        // The guest's last accesses are answered only now.
        running.vm.violated(None, Kind::RegisterAbort, None);
        running.context.inject_system_error();
    }
    let exit = if left == Left::SystemError {
        // An access to what is mapped for it was answered by an error, which the processor can't say more of.
        running.context.inject_system_error();
        Exit::Fault(Fault::Bus { gpa: None })
    } else {
        synchronous(running, syndrome, far, hpfar)
    };
    if take_late_error() {
        // Else the guest would take it at its next entry.
        let (vm, vcpu) = (running.vm, running.vcpu);
        log::warn!("{}: vCPU {vcpu}: an access of the hypervisor's own was answered by an error", vm.name());
    }
    exit
}

/// What is done on the spot goes on.
const RESUME: Exit = Exit::Interrupted;

/// A synchronous exception.
fn synchronous(running: &mut Running<'_>, syndrome: Syndrome, far: u64, hpfar: u64) -> Exit {
    match syndrome.cause() {
        Cause::DataAbort(abort) => data_abort(running, abort, far, hpfar),
        Cause::InstructionAbort(abort) => {
            running.context.inject_fetch_abort(far);
            // HPFAR_EL2 doesn't hold for permission faults: registers that are mapped, but not to execute.
            Exit::Fault(match abort.status().kind() {
                Status::AddressSize | Status::Translation | Status::AccessFlag => {
                    Fault::Fetch { gpa: Some(Gpa(fault_address(hpfar, far))) }
                }
                Status::Permission => Fault::Fetch { gpa: None },
                _ => Fault::Bus { gpa: None },
            })
        }
        Cause::System(access) => system_register(running, access),
        Cause::Hvc { .. } => call(running),
        Cause::Smc { .. } => {
            // HVC returns behind itself, a trapped SMC to itself.
            running.context.skip();
            call(running)
        }
        Cause::Wait(wait) => {
            let exit = suspend(running, wait);
            running.context.skip_any(syndrome.length());
            exit
        }
        Cause::Other(other) => {
            // SVE, SME, AArch32 coprocessor accesses, and whatever else is hidden: it doesn't exist.
            running.count(ExitReason::Other);
            if other != class::SVE {
                running.vm.refusals.sysreg.count();
            }
            running.context.inject_undefined();
            RESUME
        }
    }
}

/// A trapped WFI, or one of its kin: they may all be left early, but WFI should wait, and no longer than it says.
fn suspend(running: &Running<'_>, wait: Wait) -> Exit {
    let (vm, context) = (running.vm, &running.context);
    let go_on = || {
        running.count(ExitReason::Wfi);
        RESUME
    };
    if wait.waits_for == WaitFor::Event || !wait.is_executed(context.frame.pstate) {
        return go_on();
    }
    // QEMU (10.0) says of a WFIT what it says of a WFI. With FEAT_WFxT the instruction is asked, where it can be read.
    let by_instruction = || emulate::instruction(vm, context).and_then(Wait::of_instruction);
    let deadline = match wait.deadline {
        Deadline::InRegister(_) => wait.deadline,
        Deadline::None if !has_deadlines() => Deadline::None,
        told => match by_instruction() {
            Some(wait) => wait.deadline,
            // It can't be read as what the vCPU reaches has been taken away.
            None if vm.is_moot(running.vcpu) => return go_on(),
            None => told,
        },
    };
    match deadline {
        Deadline::None => Exit::Halt { deadline: None },
        Deadline::InRegister(register) => Exit::Halt { deadline: Some(context.x(register.into())) },
        Deadline::Unknown => go_on(),
    }
}

fn call(running: &mut Running<'_>) -> Exit {
    match guest_psci::call(&mut running.context) {
        Called::Answered => {
            running.count(ExitReason::Hypercall);
            RESUME
        }
        Called::Power(request) => {
            running.pending = Pending::Call;
            Exit::Power(request)
        }
        Called::Unknown => {
            running.pending = Pending::Call;
            Exit::Hypercall
        }
    }
}

/// A data abort from the guest.
fn data_abort(running: &mut Running<'_>, abort: DataAbort, far: u64, hpfar: u64) -> Exit {
    let write = abort.is_write();
    // The second stage has no entry that could fault by permission, for which HPFAR_EL2 doesn't hold, but by a write to what is read
    // only.
    let gpa = Gpa(fault_address(hpfar, far));
    match abort.status().kind() {
        Status::AddressSize | Status::Translation | Status::AccessFlag | Status::Permission => {}
        Status::Alignment => {
            // The guest's first stage calls it memory, the second calls it a device.
            running.count(ExitReason::Other);
            running.context.inject_alignment_fault(far, write);
            return RESUME;
        }
        _ => {
            // The bus aborted an access to something that is mapped, or found it damaged: FIPA isn't valid.
            let gpa = if abort.without_address() { None } else { emulate::translate(far) };
            running.context.inject_abort(far, write);
            return Exit::Fault(Fault::Bus { gpa });
        }
    }
    if abort.is_maintenance() {
        // Maintenance by address of what isn't memory does nothing.
        running.count(ExitReason::Stage2Fault);
        running.context.skip();
        return RESUME;
    }
    // A 32-bit program at EL0 may be in the middle of an IT block, whose state would have to be moved on: not served.
    let narrow = is_aarch32(running.context.frame.pstate);
    let walk = abort.in_walk();
    let described = abort.is_described() && !walk && !narrow;
    if let (true, Some(width)) = (described, Width::from_bytes(abort.bytes())) {
        let write = write.then(|| running.context.x(abort.register()) & width.mask());
        running.pending = Pending::Access { abort, far };
        return Exit::Mmio(MmioAccess { gpa, width, write, continues: false });
    }
    let no_device = |running: &mut Running<'_>, gpa| {
        running.context.inject_abort(far, write);
        Exit::Fault(Fault::Access { gpa, write })
    };
    if !running.vm.devices().is_device(gpa) {
        return no_device(running, gpa);
    }
    // The guest's own device, by an instruction that the syndrome doesn't describe.
    let fault = emulate::Fault { write, far, gpa };
    let begun =
        if walk { Err(Refused::Instruction) } else { emulate::begin(running.vm, &running.context, &fault) };
    match begun {
        Ok(pieces) => {
            let first = pieces.next();
            running.pending = Pending::Pieces(pieces);
            return Exit::Mmio(first);
        }
        Err(Refused::NoDevice(gpa)) => return no_device(running, gpa),
        Err(Refused::Misaligned) => running.context.inject_alignment_fault(far, write),
        // It can't be read as what the vCPU reaches has been taken away.
        Err(Refused::Instruction) if running.vm.is_moot(running.vcpu) => return RESUME,
        Err(Refused::Instruction) => {
            // Not a violation, but it can't be served.
            log::warn!(
                "{}: vCPU {} used an instruction at {:#x} that can't be emulated ({}) on a device register at {gpa}",
                running.vm.name(),
                running.vcpu,
                running.context.frame.pc,
                status_name(abort.status()),
            );
            running.context.inject_abort(far, write);
        }
    }
    running.count(ExitReason::Other);
    RESUME
}

/// A trapped MSR, MRS or system instruction.
fn system_register(running: &mut Running<'_>, access: SystemAccess) -> Exit {
    let register = access.encoding();
    let (target, read) = (access.register(), access.is_read());
    let written = running.context.x(target);
    if access.writes(ICC_SGI1R) {
        running.context.skip();
        protection::send_sgi_to_others(running.vm, written);
        return Exit::Ipi(IpiRequest(written));
    }
    let (vgic, vcpu, context) = (running.vgic, running.vcpu, &mut running.context);
    // Where it is virtual it is trapped now and then.
    if register == ICC_DIR && !read && context.direct.is_none() {
        // Otherwise the register does nothing.
        if ends_in_two_steps() {
            vgic.deactivate(vcpu, Intid(written as u32 & INTID));
        }
        context.skip();
        running.count(ExitReason::Sysreg);
        return RESUME;
    }
    let direct = context.direct.as_mut().and_then(|direct| {
        if read {
            direct.read(register).ok()
        } else {
            direct.write(register, written, |id| vgic.may_deactivate(vcpu, id)).ok().map(|()| 0)
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
    let Some(value) = answer else {
        running.pending = Pending::System(access);
        return Exit::SystemRegister(Asked {
            register: SysReg(access.place()),
            write: (!read).then_some(written),
        });
    };
    if read {
        context.set_x(target, value);
    }
    context.skip();
    running.count(ExitReason::Sysreg);
    RESUME
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
