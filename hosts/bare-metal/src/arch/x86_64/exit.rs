//! Why a guest was left, and what is done about it.

use axvm::stats::ExitReason;
use axvm::vcpu::{Exit, Fault, PowerRequest};
use axvm_addr::Gpa;
use axvm_x86_cpu::cr::{self, Flush};
use axvm_x86_cpu::event::Exception;
use axvm_x86_cpu::exit::{Answer, Direction, Exit as Left, Instruction, NestedFault, Port, Reached, Special};
use axvm_x86_cpu::fetch::{self, About, Fetched, StatusWord};
use axvm_x86_cpu::known;
use axvm_x86_cpu::vmcb::Vmcb;
use axvm_x86_cpu::walk::{self, Access};

use super::emulate::{Emulation, Next, Ram, Refused, physical_bits};
use super::pending::Pending;
use super::ports::Transfer;
use super::power::Accessed;
use super::run::Running;
use super::{protection, registers, vector_state};
use crate::log;

/// What is done on the spot goes on.
pub const RESUME: Exit = Exit::Interrupted;

/// Handles whatever isn't an interrupt.
pub fn handle(running: &mut Running<'_>, left: Left) -> Exit {
    match left {
        Left::NestedFault(fault) => nested_fault(running, fault),
        Left::Port(port) => ports(running, left, port),
        Left::Msr(direction) => {
            with_length(running, &left, |running, length| registers::msr(running, direction, length))
        }
        Left::Special { register, direction, with } => special(running, &left, register, direction, with),
        Left::Instruction(instruction) => self::instruction(running, &left, instruction),
        Left::Exception { vector, error, address: _ } => exception(running, vector, error),
        Left::Shutdown => {
            // As a machine does that has come to a triple fault: it begins anew.
            Exit::Power(PowerRequest::SystemReset)
        }
        Left::Invalid => {
            let (vm, vcpu) = (running.vm, running.vcpu);
            let vmcb = &running.context.vmcb;
            let why = vmcb.check(physical_bits()).err();
            log::error!(
                "{}: vCPU {vcpu}: the processor refuses its state at {:#x}: {why:?}",
                vm.name(),
                vmcb.save.rip
            );
            Exit::Failed
        }
        // Physical interrupts of all kinds are the run loop's; the rest is nothing that was asked for.
        Left::Interrupt | Left::Nmi | Left::Smi | Left::Init | Left::Window => RESUME,
        Left::TaskSwitch | Left::FerrFreeze | Left::Unknown(_) => raise(running, Exception::Undefined),
    }
}

/// Raises an exception in the guest, which is counted as an exit of no other kind.
pub fn raise(running: &mut Running<'_>, exception: Exception) -> Exit {
    running.count(ExitReason::Other);
    give(running, exception)
}

/// Raises an exception in the guest.
pub fn give(running: &mut Running<'_>, exception: Exception) -> Exit {
    // A fault in the delivery of a double fault is the end.
    if running.context.raise(exception) { RESUME } else { Exit::Power(PowerRequest::SystemReset) }
}

/// The instruction at which the guest was left, read anew. `None`: the guest has changed it meanwhile, or it can't be read: it runs again.
fn fetched(running: &Running<'_>, left: &Left) -> Option<Fetched> {
    let save = &running.context.vmcb.save;
    let bytes = Ram::with(&running.vm.ends().ram, |ram| fetch::bytes(save, physical_bits(), ram)).ok()?;
    fetch::decode(bytes.as_slice(), walk::code(save), left).ok()
}

/// Does something about an instruction that ends `length` further on.
pub fn with_length(
    running: &mut Running<'_>,
    left: &Left,
    f: impl FnOnce(&mut Running<'_>, u64) -> Exit,
) -> Exit {
    match length(running, left) {
        Some(length) => f(running, length),
        None => {
            running.count(ExitReason::Other);
            RESUME
        }
    }
}

/// How long the instruction is, as the processor says it, as it is known, or as it is read anew.
#[inline(never)]
fn length(running: &mut Running<'_>, left: &Left) -> Option<u64> {
    let Running { context, known, sights, .. } = running;
    let Vmcb { control, save } = &*context.vmcb;
    if let Some(next) = axvm_x86_cpu::exit::next_rip(control, &context.features) {
        return Some(next.wrapping_sub(save.rip));
    }
    let kind = known::kind(control);
    let state = known.state(save);
    let found = known.length(state, save.rip, kind, sights).or_else(|| {
        let found = known.find_length(save, kind, left, physical_bits(), sights);
        if sights.take_lost() {
            known.forget();
        }
        found
    });
    found.map(u64::from)
}

/// Goes on behind an instruction.
pub fn skip(running: &mut Running<'_>, length: u64) {
    let rip = running.context.vmcb.save.rip.wrapping_add(length);
    running.context.go_on_at(rip);
}

fn instruction(running: &mut Running<'_>, left: &Left, instruction: Instruction) -> Exit {
    match instruction {
        Instruction::Cpuid => with_length(running, left, |running, length| {
            registers::cpuid(running);
            skip(running, length);
            running.count(ExitReason::Sysreg);
            RESUME
        }),
        Instruction::Hlt => with_length(running, left, |running, length| {
            skip(running, length);
            Exit::Halt { deadline: None }
        }),
        Instruction::Vmmcall => with_length(running, left, |running, length| {
            running.pending = Pending::Call { length };
            Exit::Hypercall
        }),
        Instruction::Xsetbv => with_length(running, left, |running, length| {
            let context = &mut running.context;
            let (register, value) = (context.register(1) as u32, context.edx_eax());
            match cr::xcr0(&context.vmcb.save, register, value, &running.allowed) {
                Ok(value) => {
                    vector_state::set_xcr0(value);
                    running.context.xcr0 = value;
                    skip(running, length);
                    running.count(ExitReason::Sysreg);
                    RESUME
                }
                Err(exception) => raise(running, exception),
            }
        }),
        // Caches are coherent with all DMA, and are shared: nothing is to be written back.
        Instruction::Invd | Instruction::Wbinvd | Instruction::Pause => {
            with_length(running, left, |running, length| {
                skip(running, length);
                running.count(ExitReason::Other);
                RESUME
            })
        }
        // It ends an NMI's handler, and is executed now.
        Instruction::Iret => {
            running.context.end_nmi();
            running.count(ExitReason::Other);
            RESUME
        }
        hidden => {
            running.vm.refusals.sysreg.count();
            let exception = match hidden.answer() {
                Answer::Protection => Exception::GP,
                Answer::Undefined | Answer::Carried => Exception::Undefined,
            };
            raise(running, exception)
        }
    }
}

fn exception(running: &mut Running<'_>, vector: u8, error: u32) -> Exit {
    match vector {
        1 => raise(running, Exception::Debug),
        17 => raise(running, Exception::Alignment),
        18 => {
            let (vm, vcpu) = (running.vm, running.vcpu);
            log::error!("{}: vCPU {vcpu}: the processor has a machine check (error {error:#x})", vm.name());
            Exit::Fault(Fault::Unanswerable)
        }
        _ => raise(running, Exception::GP),
    }
}

/// A move of a control or debug register, CLTS, LMSW.
fn special(
    running: &mut Running<'_>,
    left: &Left,
    register: Special,
    direction: Direction,
    with: Option<u8>,
) -> Exit {
    let next = axvm_x86_cpu::exit::next_rip(&running.context.vmcb.control, &running.context.features);
    let rip = running.context.vmcb.save.rip;
    let known = with.zip(next).map(|(register, next)| (About::Register(register), next.wrapping_sub(rip)));
    let Some((about, length)) =
        known.or_else(|| fetched(running, left).map(|it| (it.about, u64::from(it.length))))
    else {
        running.count(ExitReason::Other);
        return RESUME;
    };
    running.count(ExitReason::Sysreg);
    match registers::special(running, register, direction, about) {
        Ok(flush) => {
            if flush == Flush::Guest {
                running.context.forget_translations();
            }
            skip(running, length);
            RESUME
        }
        Err(exception) => give(running, exception),
    }
}

/// What LMSW loads. `None`: it can't be read.
pub fn status_word(running: &Running<'_>, word: StatusWord) -> Result<u16, Exception> {
    let context = &running.context;
    match word {
        StatusWord::Register(number) => Ok(context.register(number) as u16),
        StatusWord::Memory(operand) => {
            let save = &context.vmcb.save;
            // No operand of this instruction is by the next one's address but in long mode, where nobody uses it.
            let offset = operand.offset(|number| context.register(number), save.rip);
            let linear = walk::linear(save, operand.segment, offset, 2, Access::Read)?;
            let ram = &running.vm.ends().ram;
            let mut bytes = [0; 2];
            for (at, byte) in (0u64..).zip(&mut bytes) {
                let address = linear.wrapping_add(at);
                let place =
                    Ram::with(ram, |ram| walk::translate(save, address, Access::Read, physical_bits(), ram));
                match place {
                    Ok(place) => {
                        let _ = ram.read(Gpa(place), core::slice::from_mut(byte));
                    }
                    Err(walk::Fault::Page(fault)) => return Err(Exception::Page(fault)),
                    Err(walk::Fault::Memory(_)) => return Err(Exception::GP),
                }
            }
            Ok(u16::from_le_bytes(bytes))
        }
    }
}

/// How often in a row what reaches for a register is looked at before it counts as one that can't be emulated: where another CPU changes it all
/// the time, it is hardly ever something else so often.
const LOOKS: u8 = 16;

fn nested_fault(running: &mut Running<'_>, fault: NestedFault) -> Exit {
    let gpa = Gpa(fault.address);
    let write = fault.access == Access::Write;
    if fault.reserved {
        log::error!("{}: its nested tables are broken at {gpa}", running.vm.name());
        return Exit::Failed;
    }
    if fault.access == Access::Fetch && fault.reached == Reached::Target {
        // What executes there reads all ones, and that is no instruction.
        let _ = running.context.raise(Exception::Undefined);
        return Exit::Fault(Fault::Fetch { gpa: Some(gpa) });
    }
    let no_device = |running: &mut Running<'_>| {
        let _ = running.context.raise(Exception::GP);
        Exit::Fault(Fault::Access { gpa, write })
    };
    if fault.reached == Reached::Table {
        return no_device(running);
    }
    let Running { context, known, sights, .. } = running;
    let Vmcb { control, save } = &*context.vmcb;
    let ram = &running.vm.ends().ram;
    // What the processor has of it need not be all (APM 2, 15.33.5).
    let assisted = Emulation::begin(context, ram, gpa, control.instruction_bytes());
    let begun = match assisted {
        Err(Refused::Instruction) => {
            let found = known.find_access(save, physical_bits(), sights);
            if sights.take_lost() {
                known.forget();
            }
            match found {
                Ok(bytes) => {
                    let bytes = protection::code(bytes, save, ram);
                    Emulation::begin(context, ram, gpa, bytes.as_slice())
                }
                Err(_) => Err(Refused::Changed),
            }
        }
        assisted => assisted,
    };
    match begun {
        Ok(emulation) => {
            let first = emulation.access();
            running.context.unserved = 0;
            running.pending = Pending::Memory(emulation);
            Exit::Mmio(first)
        }
        Err(Refused::Exception(exception)) => raise(running, exception),
        Err(Refused::Changed) => {
            running.count(ExitReason::Other);
            RESUME
        }
        Err(Refused::Instruction) if !running.vm.devices().is_device(gpa) => no_device(running),
        Err(Refused::Instruction) => {
            // Another CPU may have changed it since it was executed: it is looked at again when it reaches for the register again.
            running.context.unserved += 1;
            if running.context.unserved < LOOKS {
                running.count(ExitReason::Other);
                return RESUME;
            }
            running.context.unserved = 0;
            let (vm, vcpu) = (running.vm, running.vcpu);
            log::warn!(
                "{}: vCPU {vcpu} used an instruction at {:#x} that can't be emulated on a device register at {gpa}",
                vm.name(),
                running.context.vmcb.save.rip
            );
            raise(running, Exception::GP)
        }
    }
}

fn ports(running: &mut Running<'_>, left: Left, port: Port) -> Exit {
    match Transfer::begin(running, &left, port) {
        Ok(Some(mut transfer)) => {
            let first = transfer.access();
            // Its power is no device of the VM's.
            if let Some(accessed) = running.irqchip.power().access(running.irqchip, &first) {
                running.count(ExitReason::Port);
                return match accessed {
                    Accessed::Asks(request) => Exit::Power(request),
                    Accessed::Value(value) => {
                        if let Next::Access = transfer.answered(running, value.into()) {
                            running.pending = Pending::Ports(transfer);
                        }
                        RESUME
                    }
                };
            }
            running.pending = Pending::Ports(transfer);
            Exit::Port(first)
        }
        Ok(None) => {
            running.count(ExitReason::Other);
            RESUME
        }
        Err(exception) => raise(running, exception),
    }
}

/// The next access of what is pending, if there is one.
pub fn next_of(pending: &Pending) -> Option<Exit> {
    match pending {
        Pending::Memory(emulation) => Some(Exit::Mmio(emulation.access())),
        Pending::Ports(transfer) => Some(Exit::Port(transfer.access())),
        _ => None,
    }
}
