//! The exits that happen most, answered between two entries of the guest: [`answer`] does in one go what the run loop, the core and
//! [`complete`](super::pending::complete) do one after the other, and by the same functions of the core. What isn't answered here is theirs, as if
//! this didn't exist: nothing has been done then.
//!
//! Nothing here allocates or says anything, and no lock is taken but those of the devices that are accessed. Instructions and operands are those
//! that are known (`axvm_x86_cpu::known`), which is asked of the guest's memory each time.

use axvm::stats::ExitReason;
use axvm::vcpu::{Answer, MmioAccess, PortAccess};
use axvm_addr::Gpa;
use axvm_axdevice::Width as AccessWidth;
use axvm_vapic::direct;
use axvm_x86_access::{Code, Extend, Operation, Value, Width};
use axvm_x86_cpu::exit::next_rip;
use axvm_x86_cpu::known;
use axvm_x86_cpu::vmcb::Save;
use axvm_x86_cpu::walk::{self, Access};

use super::emulate::{access_width, physical_bits};
use super::pending::NO_SUCH_CALL;
use super::registers::{self, COMMAND};
use super::run::Running;
use super::vcpu::Context;

/// Why a guest was left (AMD APM 2, appendix C).
mod code {
    pub const CPUID: u32 = 0x72;
    pub const PORT: u32 = 0x7b;
    pub const MSR: u32 = 0x7c;
    pub const VMMCALL: u32 = 0x81;
    pub const NESTED_FAULT: u32 = 0x400;
}

/// The same, of a physical interrupt, which the run loop takes.
pub const INTERRUPT: u32 = 0x60;

/// IA32_TSC_DEADLINE.
const DEADLINE: u32 = 0x6e0;

/// Answers what the guest was left for. Whether it has.
#[inline(always)]
pub fn answer(running: &mut Running<'_>) -> bool {
    match running.context.vmcb.control.exit_code as u32 {
        code::PORT => port(running),
        code::NESTED_FAULT => access(running),
        code::MSR => register(running),
        code::CPUID => identify(running),
        code::VMMCALL => call(running),
        _ => false,
    }
}

/// Whether the guest goes on behind an instruction without more ado: one that takes a step at a time has an exception there.
#[inline(always)]
fn goes_on(save: &Save) -> bool {
    /// RFLAGS.TF.
    const STEPS: u64 = 1 << 8;
    save.rflags & STEPS == 0
}

/// Goes on at `rip`: of a guest in 64-bit mode of which [`goes_on`] was said.
#[inline(always)]
fn go_on(context: &mut Context, rip: u64) {
    /// RFLAGS.RF.
    const RESUMES: u64 = 1 << 16;
    let vmcb = &mut *context.vmcb;
    vmcb.save.rip = rip;
    vmcb.save.rflags &= !RESUMES;
    vmcb.control.end_shadow();
}

/// Where the instruction behind the one is at which the guest was left, if it is known.
#[inline(always)]
fn next(running: &Running<'_>) -> Option<u64> {
    let vmcb = &*running.context.vmcb;
    if !goes_on(&vmcb.save) {
        return None;
    }
    if let Some(next) = next_rip(&vmcb.control, &running.context.features) {
        return (walk::code(&vmcb.save) == Code::Bits64).then_some(next);
    }
    let length = running.known.length(&vmcb.save, known::kind(&vmcb.control), &running.sights)?;
    Some(vmcb.save.rip.wrapping_add(length.into()))
}

/// A call: there is none that is known.
#[inline(never)]
fn call(running: &mut Running<'_>) -> bool {
    let Some(next) = next(running) else { return false };
    running.count(ExitReason::Hypercall);
    running.vm.refusals.hypercall.count();
    running.context.set_register(0, NO_SUCH_CALL);
    go_on(&mut running.context, next);
    true
}

/// CPUID.
#[inline(never)]
fn identify(running: &mut Running<'_>) -> bool {
    let Some(next) = next(running) else { return false };
    registers::cpuid(running);
    running.count(ExitReason::Sysreg);
    go_on(&mut running.context, next);
    true
}

/// A write of the local APIC's registers that a guest writes all the time.
#[inline(never)]
fn register(running: &mut Running<'_>) -> bool {
    const WRITE: u64 = 1;
    let number = running.context.register(1) as u32;
    let is_emulated = !running.irqchip.takes_interrupts();
    let is_served = number == COMMAND || is_emulated && (number == direct::EOI || number == DEADLINE);
    if !is_served || running.context.vmcb.control.exit_info_1 & WRITE == 0 {
        return false;
    }
    let Some(next) = next(running) else { return false };
    // One that is refused has changed nothing, and is refused again.
    let value = running.context.edx_eax();
    if running.irqchip.apics().write_msr(running.vcpu, number, value).is_err() {
        return false;
    }
    running.count(if number == COMMAND { ExitReason::Ipi } else { ExitReason::Sysreg });
    go_on(&mut running.context, next);
    true
}

/// A port, but for strings of them. The processor says where the next instruction is.
#[inline(never)]
fn port(running: &mut Running<'_>) -> bool {
    /// EXITINFO1 (15.10.2).
    const READ: u64 = 1 << 0;
    const STRING: u64 = 1 << 2;
    const OF_16: u64 = 1 << 5;
    const OF_32: u64 = 1 << 6;
    let vmcb = &*running.context.vmcb;
    let (info, next) = (vmcb.control.exit_info_1, vmcb.control.exit_info_2);
    let port = (info >> 16) as u16;
    if info & STRING != 0
        || !goes_on(&vmcb.save)
        || walk::code(&vmcb.save) != Code::Bits64
        || running.irqchip.power().may_have(port)
    {
        return false;
    }
    let (width, bits) = if info & OF_32 != 0 {
        (AccessWidth::B4, Width::B4)
    } else if info & OF_16 != 0 {
        (AccessWidth::B2, Width::B2)
    } else {
        (AccessWidth::B1, Width::B1)
    };
    let whole = vmcb.save.rax;
    let write = (info & READ == 0).then_some((whole & bits.mask()) as u32);
    let access = PortAccess { port, width, write, continues: false };
    let answer = running.vm.answer_port(running.vcpu, access);
    if write.is_none() {
        let value = value(answer);
        let mask = bits.mask();
        // 32 bits clear those above.
        let kept = if bits == Width::B4 { 0 } else { whole & !mask };
        running.context.vmcb.save.rax = kept | value & mask;
    }
    go_on(&mut running.context, next);
    true
}

/// What a guest reads.
#[inline(always)]
fn value(answer: Answer) -> u64 {
    match answer {
        Answer::Value(value) => value,
        // As on a bus of PCI's or ISA's.
        Answer::Nobody | Answer::Power(_) => u64::MAX,
    }
}

const PAGE: u64 = 0x1000;

/// A whole register of its local APIC's page, as that answers as a device.
#[inline(always)]
fn local(running: &mut Running<'_>, offset: u64, write: Option<u64>) -> Answer {
    running.count(ExitReason::MmioEmulated);
    let apics = running.irqchip.apics();
    Answer::Value(match write {
        Some(value) => {
            let _ = apics.write_page(running.vcpu, offset, value as u32);
            0
        }
        None => apics.read_page(running.vcpu, offset).into(),
    })
}

/// A load or a store of registers in memory.
#[inline(never)]
fn access(running: &mut Running<'_>) -> bool {
    /// EXITINFO1 (15.25.6): a reserved bit, a fetch, a table of the guest's.
    const OTHER: u64 = 1 << 3 | 1 << 4 | 1 << 33;
    let Running { context, known, sights, .. } = running;
    let vmcb = &*context.vmcb;
    let (save, gpa) = (&vmcb.save, vmcb.control.exit_info_2);
    if vmcb.control.exit_info_1 & OTHER != 0 || !goes_on(save) {
        return false;
    }
    let Some(instruction) = known.access(save, vmcb.control.instruction_bytes(), sights) else {
        return false;
    };
    let (width, length) = (instruction.width, u64::from(instruction.length));
    // As the other way does it (`Emulation`), for the two that are most.
    let (write, put) = match instruction.operation {
        Operation::Store { value } => (Some(operand(context, value, width)), None),
        Operation::Load { to, extend } => (None, Some((to, extend))),
        _ => return false,
    };
    let next = save.rip.wrapping_add(length);
    let offset = instruction.memory.offset(|number| context.register(number), next);
    let bytes = u64::from(width.bytes());
    let access = if write.is_some() { Access::Write } else { Access::Read };
    // A page that is known is one of addresses that can be had.
    let linear = walk::linear_in_64_bits(save, instruction.memory.segment, offset);
    if linear & (PAGE - 1) > PAGE - bytes {
        return false;
    }
    let place = match known.translate(save, linear, access, sights) {
        Some(place) => place,
        None => {
            let Ok(linear) = walk::linear(save, instruction.memory.segment, offset, bytes, access) else {
                return false;
            };
            let found = known.find_page(save, linear, access, physical_bits(), sights);
            if sights.take_lost() {
                known.forget();
            }
            let Ok(place) = found else { return false };
            place
        }
    };
    if place != gpa {
        return false;
    }
    let answer = if gpa.wrapping_sub(running.local.0) < PAGE && width == Width::B4 && gpa.is_multiple_of(4) {
        local(running, gpa & (PAGE - 1), write)
    } else {
        let access = MmioAccess { gpa: Gpa(gpa), width: access_width(width), write, continues: false };
        running.vm.answer_mmio(running.vcpu, access, &mut running.context.hint)
    };
    let context = &mut running.context;
    context.unserved = 0;
    if let Some((to, extend)) = put {
        let read = value(answer) & width.mask();
        let (value, wide) = match extend {
            Extend::No => (read, width),
            Extend::Zero(wide) => (read, wide),
            Extend::Sign(wide) => (width.sign_extend(read), wide),
        };
        let whole = context.register(to.number);
        context.set_register(to.number, to.put(whole, value, wide));
    }
    go_on(context, next);
    true
}

#[inline(always)]
fn operand(context: &Context, value: Value, width: Width) -> u64 {
    match value {
        Value::Register(register) => register.get(context.register(register.number), width),
        Value::Immediate(value) => value & width.mask(),
    }
}
