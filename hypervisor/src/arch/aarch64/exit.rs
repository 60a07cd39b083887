//! Why a guest was left, and what is done about it.

use axvm::events::Kind;
use axvm::stats::ExitReason;
use axvm_addr::{Gpa, Intid, VcpuId};
use axvm_axdevice::Width;

use super::emulate::Refused;
use super::guest_psci::{self, After};
use super::sysreg::mrs;
use super::vcpu::{Context, ends_in_two_steps, write_debug};
use super::vectors::Left;
use super::{emulate, fault, idregs};
use crate::vm::{StopReason, Vm};

/// What the run loop has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Resume,
    /// Sleep until an interrupt is pending for the vCPU, then enter again.
    Suspend,
    /// The vCPU is off.
    Off,
    /// The VM stops.
    Stop(StopReason),
}

/// Exception classes (Arm ARM, ESR_EL2.EC).
pub mod class {
    pub const WFX: u64 = 0x01;
    pub const SVE: u64 = 0x19;
    pub const HVC64: u64 = 0x16;
    pub const SMC64: u64 = 0x17;
    pub const SYSTEM: u64 = 0x18;
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    pub const DATA_ABORT: u64 = 0x24;
}

/// Handles a synchronous exception or an SError. Interrupts are the run loop's.
pub fn handle(vm: &Vm, vcpu: VcpuId, context: &mut Context, left: Left) -> Next {
    // Read before anything else can fault: a guarded access that aborts overwrites them.
    let esr = mrs!("esr_el2");
    let (far, hpfar) = (mrs!("far_el2"), mrs!("hpfar_el2"));
    if left == Left::SystemError {
        vm.count_exit(vcpu, ExitReason::Other);
        vm.violated(Kind::RegisterAbort, None);
        context.inject_system_error();
        return Next::Resume;
    }
    match esr >> 26 & 0x3f {
        class::DATA_ABORT => data_abort(vm, vcpu, context, esr, far, hpfar),
        class::INSTRUCTION_ABORT => {
            vm.count_exit(vcpu, ExitReason::Stage2Fault);
            // HPFAR_EL2 holds for address size, translation and access flag faults, and not for permission faults: registers that
            // are mapped, but not to execute.
            match esr & 0x3f {
                0x00..=0x0b => {
                    vm.violated(Kind::CpuExecute, Some((hpfar >> 4 & 0xfff_ffff_ffff) << 12 | far & 0xfff))
                }
                0x0c..=0x0f => vm.violated(Kind::CpuExecute, None),
                _ => vm.violated(Kind::RegisterAbort, None),
            }
            context.inject_abort(far, true, false);
            Next::Resume
        }
        class::SYSTEM => {
            system_register(vm, vcpu, context, esr);
            Next::Resume
        }
        class::HVC64 => {
            vm.count_exit(vcpu, ExitReason::Hypercall);
            call(vm, context)
        }
        class::SMC64 => {
            vm.count_exit(vcpu, ExitReason::Hypercall);
            // HVC returns behind itself, a trapped SMC to itself.
            context.skip();
            call(vm, context)
        }
        class::WFX => {
            vm.count_exit(vcpu, ExitReason::Wfi);
            context.skip();
            Next::Suspend
        }
        other => {
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

fn call(vm: &Vm, context: &mut Context) -> Next {
    match guest_psci::call(vm, context) {
        After::Resume => Next::Resume,
        After::Suspend => Next::Suspend,
        After::Off => Next::Off,
        After::Stop(reason) => Next::Stop(reason),
    }
}

/// A data abort from the guest (Arm ARM, ISS encoding for an exception from a Data Abort).
fn data_abort(vm: &Vm, vcpu: VcpuId, context: &mut Context, esr: u64, far: u64, hpfar: u64) -> Next {
    const ISV: u64 = 1 << 24;
    const SSE: u64 = 1 << 21;
    const SF: u64 = 1 << 15;
    const S1PTW: u64 = 1 << 7;
    const WNR: u64 = 1 << 6;
    const CM: u64 = 1 << 8;
    const ALIGNMENT: u64 = 0x21;
    let write = esr & WNR != 0;
    // HPFAR_EL2.FIPA holds for translation, access flag and address size faults, and for permission faults during a first-stage
    // walk; the second stage has no entry that could fault by permission otherwise but a write to what is read only.
    let gpa = Gpa((hpfar >> 4 & 0xfff_ffff_ffff) << 12 | far & 0xfff);
    let status = esr & 0x3f;
    if status == ALIGNMENT {
        // The guest's first stage calls it memory, the second calls it a device.
        vm.count_exit(vcpu, ExitReason::Other);
        context.inject_alignment_fault(far, write);
        return Next::Resume;
    }
    if !(0x00..=0x0f).contains(&status) {
        // The bus aborted an access to something that is mapped, or found it damaged: FIPA isn't valid.
        vm.count_exit(vcpu, ExitReason::Other);
        const FNV: u64 = 1 << 10;
        vm.aborted(if esr & FNV == 0 { emulate::translate(far) } else { None });
        context.inject_abort(far, false, write);
        return Next::Resume;
    }
    if esr & CM != 0 {
        // Maintenance by address of what isn't memory does nothing.
        vm.count_exit(vcpu, ExitReason::Stage2Fault);
        context.skip();
        return Next::Resume;
    }
    // A 32-bit program at EL0 may be in the middle of an IT block, whose state would have to be moved on: not served.
    let narrow = context.frame.pstate & 1 << 4 != 0;
    let walk = esr & S1PTW != 0;
    let described = esr & ISV != 0 && !walk && !narrow;
    let width = Width::from_bytes(1 << (esr >> 22 & 3));
    let register = esr >> 16 & 0x1f;
    if let (true, Some(width)) = (described, width) {
        let result = if write {
            let value = context.x(register) & width.mask();
            vm.mmio_write(vcpu, gpa, width, value, &mut context.hint)
        } else {
            match vm.mmio_read(vcpu, gpa, width, &mut context.hint) {
                Ok(value) => {
                    let value = extend(value & width.mask(), width, esr & SSE != 0, esr & SF != 0);
                    context.set_x(register, value);
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
                fault::status_name(esr),
            );
            context.inject_abort(far, false, write);
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
    context.inject_abort(far, false, write);
    Next::Resume
}

/// What a load leaves in its register: sign-extended if it asks so, to 32 or 64 bits.
fn extend(value: u64, width: Width, signed: bool, wide: bool) -> u64 {
    let bits = width.bytes() * 8;
    let value =
        if signed && bits < 64 { ((value << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { value };
    if wide { value } else { value & 0xffff_ffff }
}

/// A trapped MSR, MRS or system instruction (Arm ARM, ISS encoding for EC 0x18).
fn system_register(vm: &Vm, vcpu: VcpuId, context: &mut Context, esr: u64) {
    let field = |shift: u64, bits: u64| (esr >> shift & ((1 << bits) - 1)) as u8;
    let register = (field(20, 2), field(14, 3), field(10, 4), field(1, 4), field(17, 3));
    let (target, read) = (u64::from(field(5, 5)), esr & 1 != 0);
    /// ICC_SGI1R_EL1.
    const SGI1R: idregs::Encoding = (3, 0, 12, 11, 5);
    if register == SGI1R && !read {
        vm.count_exit(vcpu, ExitReason::Sgi);
        context.skip();
        let value = context.x(target);
        vm.send_sgi(vcpu, value);
        return;
    }
    vm.count_exit(vcpu, ExitReason::Sysreg);
    let written = context.x(target);
    /// ICC_DIR_EL1, which is trapped now and then where it is virtual.
    const DIR: idregs::Encoding = (3, 0, 12, 11, 1);
    if register == DIR && !read && context.direct.is_none() {
        // Otherwise the register does nothing.
        if ends_in_two_steps() {
            vm.vgic().deactivate(vcpu, Intid(written as u32 & 0xff_ffff));
        }
        context.skip();
        return;
    }
    let direct = context.direct.as_mut().and_then(|direct| {
        if read {
            direct.read(register).ok()
        } else {
            direct.write(register, written, |id| vm.vgic().may_deactivate(vcpu, id)).ok().map(|()| 0)
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
fn debug_register(
    context: &mut Context,
    register: idregs::Encoding,
    written: u64,
    read: bool,
) -> Option<u64> {
    if read {
        return context.debug.read(register).ok();
    }
    if let Some(write) = context.debug.write(register, written).ok()? {
        write_debug(write.register, write.value);
    }
    Some(0)
}

/// Registers that read as something though they are trapped.
fn read_register(register: idregs::Encoding) -> Option<u64> {
    match register {
        // ACTLR_EL1: implementation defined, nothing in it is the guest's.
        (3, 0, 1, 0, 1) => Some(0),
        other => idregs::read(other),
    }
}

/// Registers whose writes are taken and do nothing.
fn write_register(register: idregs::Encoding) -> bool {
    matches!(
        register,
        // ACTLR_EL1; SGI0R and ASGI1R: no interrupt of the guest is in Group 0.
        (3, 0, 1, 0, 1) | (3, 0, 12, 11, 6 | 7)
    )
}
