//! The exits that happen most, answered between two entries of the guest: [`answer`] does in one go what the run loop, the core and
//! [`complete`](super::pending::complete) do one after the other, and by the same functions of the core. What isn't answered here is theirs, as if
//! this didn't exist: nothing has been done then.
//!
//! Nothing here allocates or says anything, and no lock is taken but those of the devices that are accessed. Instructions and operands are those
//! that are known (`axvm_x86_cpu::known`), which is asked of the guest's memory each time.

use core::ops::Range;

use axvm::devices::{FastAccess, PortPlace};
use axvm::stats::ExitReason;
use axvm::vcpu::{Answer, MmioAccess};
use axvm_addr::Gpa;
use axvm_axdevice::Width as AccessWidth;
use axvm_vapic::direct;
use axvm_x86_access::{Code, Extend, Move, Operation, Value, Width};
use axvm_x86_cpu::exit::next_rip;
use axvm_x86_cpu::known::{Kind, State, WRMSR};
use axvm_x86_cpu::vmcb::{Save, TlbControl, Vmcb};
use axvm_x86_cpu::walk::{self, Access};

use super::emulate::{access_width, physical_bits};
use super::enter::Entered;
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

/// The same, of a physical interrupt.
const INTERRUPT: u32 = 0x60;

/// The local APIC's registers in x2APIC mode (AMD APM 2, 16.11.1).
const LOCAL_APIC: Range<u32> = 0x800..0x840;

/// IA32_TSC_DEADLINE.
const DEADLINE: u32 = 0x6e0;

/// What comes of an exit, directly after it.
#[inline(always)]
pub fn after_exit(running: &mut Running<'_>) -> Entered {
    let control = &mut running.context.vmcb.control;
    // What was injected is delivered, or comes again.
    control.injection = 0;
    control.set_tlb(TlbControl::Keep);
    let (code, was_interrupted) = (control.exit_code as u32, control.has_interrupted());
    // What waits, or was interrupted on its way, is looked after first; so is what the guest has changed of its priority.
    if was_interrupted || !running.is_settled() {
        return Entered::Left;
    }
    if code == INTERRUPT { running.interrupted() } else { answer(running) }
}

/// Answers what the guest was left for, unless that is the loop's or the core's to do.
#[inline(always)]
pub fn answer(running: &mut Running<'_>) -> Entered {
    // Its tables and ports may have been taken away: what it was left for is no fault of its own then, and happens again.
    if running.vm.must_leave() {
        return Entered::Left;
    }
    let code = running.context.vmcb.control.exit_code as u32;
    if code == code::NESTED_FAULT {
        return access(running);
    }
    match code {
        code::PORT => port(running),
        code::MSR => register(running),
        code::CPUID => identify(running),
        code::VMMCALL => call(running),
        _ => Entered::Left,
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
fn next(running: &mut Running<'_>, kind: Kind) -> Option<u64> {
    let Running { context, known, sights, .. } = running;
    let Vmcb { control, save } = &*context.vmcb;
    if !goes_on(save) {
        return None;
    }
    if let Some(next) = next_rip(control, &context.features) {
        return (walk::code(save) == Code::Bits64).then_some(next);
    }
    let state = known.state(save);
    let length = known.length(state, save.rip, kind, sights)?;
    Some(save.rip.wrapping_add(length.into()))
}

/// A call: there is none that is known.
#[inline(never)]
fn call(running: &mut Running<'_>) -> Entered {
    let Some(next) = next(running, code::VMMCALL.into()) else { return Entered::Left };
    running.count(ExitReason::Hypercall);
    running.vm.refusals.hypercall.count();
    running.context.set_register(0, NO_SUCH_CALL);
    go_on(&mut running.context, next);
    Entered::GoesOn
}

/// CPUID.
#[inline(never)]
fn identify(running: &mut Running<'_>) -> Entered {
    let Some(next) = next(running, code::CPUID.into()) else { return Entered::Left };
    registers::cpuid(running);
    running.count(ExitReason::Sysreg);
    go_on(&mut running.context, next);
    Entered::GoesOn
}

/// A register of the local APIC's that a guest writes all the time, or any that it reads.
#[inline(never)]
fn register(running: &mut Running<'_>) -> Entered {
    const WRITE: u64 = 1;
    let number = running.context.register(1) as u32;
    if running.context.vmcb.control.exit_info_1 & WRITE == 0 {
        return read_register(running, number);
    }
    let is_emulated = !running.irqchip.takes_interrupts();
    let is_served = number == COMMAND || is_emulated && (number == direct::EOI || number == DEADLINE);
    if !is_served {
        return Entered::Left;
    }
    let Some(next) = next(running, WRMSR) else { return Entered::Left };
    // One that is refused has changed nothing, and is refused again.
    let value = running.context.edx_eax();
    if running.irqchip.apics().write_msr(running.vcpu, number, value).is_err() {
        return Entered::Left;
    }
    running.count(if number == COMMAND { ExitReason::Ipi } else { ExitReason::Sysreg });
    go_on(&mut running.context, next);
    running.goes_on()
}

fn read_register(running: &mut Running<'_>, number: u32) -> Entered {
    if !LOCAL_APIC.contains(&number) {
        return Entered::Left;
    }
    let Some(next) = next(running, code::MSR.into()) else { return Entered::Left };
    let Ok(value) = running.irqchip.apics().read_msr(running.vcpu, number) else { return Entered::Left };
    running.count(ExitReason::Sysreg);
    running.context.set_edx_eax(value);
    go_on(&mut running.context, next);
    running.goes_on()
}

/// EXITINFO1 of a port (15.10.2).
mod port_info {
    pub const READ: u64 = 1 << 0;
    pub const STRING: u64 = 1 << 2;
    pub const OF_8: u64 = 1 << 4;
    pub const OF_16: u64 = 1 << 5;
    pub const OF_32: u64 = 1 << 6;
    /// Which port, and how wide.
    pub const KEY: u64 = 0xffff << 16 | OF_8 | OF_16 | OF_32;
}

/// Whom an access to a port is for.
#[derive(Clone, Copy)]
pub struct PortSeen {
    /// Of EXITINFO1, [`port_info::KEY`].
    key: u32,
    /// The bits that it has.
    mask: u32,
    width: AccessWidth,
    place: PortPlace,
}

impl PortSeen {
    /// None: no access has this key.
    const NONE: Self = Self { key: u32::MAX, mask: 0, width: AccessWidth::B1, place: PortPlace::Nobody };
}

/// How many are kept: as many as a 16550 has twice.
const PORTS: usize = 16;

/// Ports that a vCPU has accessed, and whom such an access is for: neither that nor which ones are the power's changes while its VM is there.
pub struct PortsSeen([PortSeen; PORTS]);

impl Default for PortsSeen {
    fn default() -> Self {
        Self([PortSeen::NONE; PORTS])
    }
}

/// A port, but for strings of them. The processor says where the next instruction is.
#[inline(never)]
fn port(running: &mut Running<'_>) -> Entered {
    let Vmcb { control, save } = &*running.context.vmcb;
    let info = control.exit_info_1;
    if info & port_info::STRING != 0 || !goes_on(save) || walk::code(save) != Code::Bits64 {
        return Entered::Left;
    }
    match running.ports.0.get((info >> 16) as usize % PORTS) {
        Some(seen) if seen.key == (info & port_info::KEY) as u32 => match seen.place {
            PortPlace::Nobody => nobodys_port(running, seen.mask),
            PortPlace::Forwarded { device, at } => forwarded_port(running, device, at, seen.width),
            PortPlace::Emulated { entry, offset } => emulated_port(running, entry, offset, seen.width),
        },
        _ => unseen_port(running, info),
    }
}

/// A port that wasn't accessed before, or may be the guest's power's.
#[cold]
#[inline(never)]
fn unseen_port(running: &mut Running<'_>, info: u64) -> Entered {
    let port = (info >> 16) as u16;
    let width = match info & (port_info::OF_8 | port_info::OF_16 | port_info::OF_32) {
        port_info::OF_8 => AccessWidth::B1,
        port_info::OF_16 => AccessWidth::B2,
        port_info::OF_32 => AccessWidth::B4,
        _ => return Entered::Left,
    };
    if running.irqchip.power().may_have(port) {
        return Entered::Left;
    }
    let place = running.vm.devices().port_place(port, width);
    if let Some(seen) = running.ports.0.get_mut(usize::from(port) % PORTS) {
        *seen = PortSeen { key: (info & port_info::KEY) as u32, mask: width.mask() as u32, width, place };
    }
    match place {
        PortPlace::Nobody => nobodys_port(running, width.mask() as u32),
        PortPlace::Forwarded { device, at } => forwarded_port(running, device, at, width),
        PortPlace::Emulated { entry, offset } => emulated_port(running, entry, offset, width),
    }
}

#[inline(never)]
fn nobodys_port(running: &mut Running<'_>, mask: u32) -> Entered {
    running.count(ExitReason::Port);
    running.vm.refuse_port();
    ported(&mut running.context, mask, u32::MAX);
    Entered::GoesOn
}

#[inline(never)]
fn forwarded_port(running: &mut Running<'_>, device: u16, at: u16, width: AccessWidth) -> Entered {
    running.count(ExitReason::Port);
    let write = written(&running.context);
    let read = running.vm.forward_port(device, at, width, write);
    ported(&mut running.context, width.mask() as u32, read);
    Entered::GoesOn
}

#[inline(never)]
fn emulated_port(running: &mut Running<'_>, entry: u16, offset: u16, width: AccessWidth) -> Entered {
    running.count(ExitReason::Port);
    let (vm, vcpu, write) = (running.vm, running.vcpu, written(&running.context));
    if (write, width) == (None, AccessWidth::B1)
        && let Some(read) = vm.devices().fast_port_read(entry, offset)
    {
        ported(&mut running.context, 0xff, read.into());
        return Entered::GoesOn;
    }
    // It may change the VM's tables, or interrupt.
    let read = running.context.step_out(|_| vm.ask_port(vcpu, entry, offset, width, write));
    ported(&mut running.context, width.mask() as u32, read);
    running.goes_on()
}

/// What an access to a port writes, if it does: as wide as rAX's lower half.
#[inline(always)]
fn written(context: &Context) -> Option<u32> {
    let Vmcb { control, save } = &*context.vmcb;
    (control.exit_info_1 & port_info::READ == 0).then_some(save.rax as u32)
}

/// An access to a port is done, of which a read has this value.
#[inline(always)]
fn ported(context: &mut Context, mask: u32, read: u32) {
    let Vmcb { control, save } = &mut *context.vmcb;
    let next = control.exit_info_2;
    if control.exit_info_1 & port_info::READ != 0 {
        // 32 bits clear those above.
        let kept = if mask == u32::MAX { 0 } else { save.rax & !u64::from(mask) };
        save.rax = kept | u64::from(read & mask);
    }
    go_on(context, next);
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

/// EXITINFO1 of a nested page fault (15.25.6): a reserved bit, a fetch, a table of the guest's.
const OTHER: u64 = 1 << 3 | 1 << 4 | 1 << 33;

/// A load or a store of registers in memory.
#[inline(never)]
fn access(running: &mut Running<'_>) -> Entered {
    let Running { context, known, sights, .. } = running;
    let Vmcb { control, save } = &*context.vmcb;
    if control.exit_info_1 & OTHER != 0 || !goes_on(save) {
        return Entered::Left;
    }
    let state = known.state(save);
    let Some(reach) = known.access(state, save.rip, control.instruction_bytes(), sights) else {
        return Entered::Left;
    };
    let Some(plain) = &reach.plain else { return access_any(running, state) };
    let base = plain.base.map_or(0, |number| context.register(number));
    let linear = base.wrapping_add(plain.displacement);
    let (write, access) = match plain.what {
        Move::Load(_) => (None, Access::Read),
        Move::Store(number) => (Some(context.register(number) as u32), Access::Write),
        Move::StoreValue(value) => (Some(value), Access::Write),
    };
    if linear & (PAGE - 1) > PAGE - 4 {
        return Entered::Left;
    }
    // A page that is known is one of addresses that can be had.
    match known.translate(state, save, linear, access, sights) {
        Some(place) if place == control.exit_info_2 => {}
        Some(_) => return Entered::Left,
        None => return access_any(running, state),
    }
    let (what, next) = (plain.what, plain.next);
    let gpa = control.exit_info_2;
    let (read, entered) = whole_register(running, gpa, write);
    let context = &mut running.context;
    context.unserved = 0;
    if let Move::Load(number) = what {
        context.set_register(number, read.into());
    }
    go_on(context, next);
    entered
}

/// An access to a register of 32 bits.
#[inline(always)]
fn whole_register(running: &mut Running<'_>, gpa: u64, write: Option<u32>) -> (u32, Entered) {
    let (vm, vcpu) = (running.vm, running.vcpu);
    if gpa.wrapping_sub(running.local.0) < PAGE && gpa.is_multiple_of(4) {
        let offset = gpa & (PAGE - 1);
        running.count(ExitReason::MmioEmulated);
        let apics = running.irqchip.apics();
        let read = match write {
            Some(value) => {
                let _ = apics.write_page(vcpu, offset, value);
                0
            }
            None => apics.read_page(vcpu, offset),
        };
        return (read, running.goes_on());
    }
    match (vm.devices().fast_access(Gpa(gpa), 4, write.is_some(), running.context.hint), write) {
        // What the bus answers with an error has its consequences.
        (Some(FastAccess::Forwarded { device, at, offset }), None) => {
            let read = |_: &mut Context| vm.forward_read(Gpa(gpa), device, at, offset, AccessWidth::B4);
            let (value, reason) = running.context.step_out(read);
            running.count(reason);
            (value as u32, running.goes_on())
        }
        (Some(FastAccess::Forwarded { device, at, offset }), Some(value)) => {
            let write = |_: &mut Context| {
                vm.forward_write(Gpa(gpa), device, at, offset, AccessWidth::B4, value.into())
            };
            let reason = running.context.step_out(write);
            running.count(reason);
            (0, running.goes_on())
        }
        (Some(FastAccess::Emulated), None) if gpa.is_multiple_of(4) => {
            match vm.devices().fast_read(Gpa(gpa), running.context.hint) {
                Some(value) => {
                    running.count(ExitReason::MmioEmulated);
                    (value, Entered::GoesOn)
                }
                None => asked(running, gpa, write),
            }
        }
        _ => asked(running, gpa, write),
    }
}

/// The same, of whatever device has it.
#[inline(never)]
fn asked(running: &mut Running<'_>, gpa: u64, write: Option<u32>) -> (u32, Entered) {
    let answer = ask(running, gpa, AccessWidth::B4, write.map(u64::from));
    (value(answer) as u32, running.goes_on())
}

#[inline(never)]
fn ask(running: &mut Running<'_>, gpa: u64, width: AccessWidth, write: Option<u64>) -> Answer {
    let (vm, vcpu) = (running.vm, running.vcpu);
    let access = MmioAccess { gpa: Gpa(gpa), width, write, continues: false };
    // It may change the VM's tables.
    running.context.step_out(|context| vm.answer_mmio(vcpu, access, &mut context.hint))
}

/// A load or a store of any width and address, or on a page that wasn't seen before.
#[inline(never)]
fn access_any(running: &mut Running<'_>, state: State) -> Entered {
    let Running { context, known, sights, .. } = running;
    let Vmcb { control, save } = &*context.vmcb;
    let gpa = control.exit_info_2;
    let Some(reach) = known.access(state, save.rip, control.instruction_bytes(), sights) else {
        return Entered::Left;
    };
    let instruction = &reach.instruction;
    let (width, length) = (instruction.width, u64::from(instruction.length));
    // As the other way does it (`Emulation`), for the two that are most.
    let (write, put) = match instruction.operation {
        Operation::Store { value } => (Some(operand(context, value, width)), None),
        Operation::Load { to, extend } => (None, Some((to, extend))),
        _ => return Entered::Left,
    };
    let next = save.rip.wrapping_add(length);
    let offset = instruction.memory.offset(|number| context.register(number), next);
    let bytes = u64::from(width.bytes());
    let access = if write.is_some() { Access::Write } else { Access::Read };
    let linear = walk::linear_in_64_bits(save, instruction.memory.segment, offset);
    if linear & (PAGE - 1) > PAGE - bytes {
        return Entered::Left;
    }
    let place = match known.translate(state, save, linear, access, sights) {
        Some(place) => place,
        None => {
            let Ok(linear) = walk::linear(save, instruction.memory.segment, offset, bytes, access) else {
                return Entered::Left;
            };
            let found = known.find_page(save, linear, access, physical_bits(), sights);
            if sights.take_lost() {
                known.forget();
            }
            let Ok(place) = found else { return Entered::Left };
            place
        }
    };
    if place != gpa {
        return Entered::Left;
    }
    let answer = ask(running, gpa, access_width(width), write);
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
    running.goes_on()
}

#[inline(always)]
fn operand(context: &Context, value: Value, width: Width) -> u64 {
    match value {
        Value::Register(register) => register.get(context.register(register.number), width),
        Value::Immediate(value) => value & width.mask(),
    }
}
