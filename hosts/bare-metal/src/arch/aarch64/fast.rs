//! The exits that happen most, answered right where the guest was left: the vector calls [`fast_exit`] with the guest's
//! registers saved and nothing else done, and goes back into the guest if that answers them.
//!
//! Meanwhile the list registers stay as the guest left them and the virtual interface stays on. That is sound for what is
//! done here: none of it depends on what the guest has done with its interrupts, except where
//! [`axvm_vgic::HardwareLists`] are looked at. Whoever changes something that this vCPU has to see before it goes on
//! kicks it: then the kick is pending, and the guest is left again before its next instruction.
//!
//! Nothing here waits for a lock, allocates or says anything, but for the physical ITS, which a guest's INT command waits for where
//! LPIs are the guest's own. What isn't answered here is the run loop's, as if this didn't exist.

use axvm::devices::{AxVmDevices, FastAccess};
use axvm::stats::{ExitCounters, ExitReason};
use axvm::vm::DeviceCounters;
use axvm_addr::{Gpa, Hpa, VcpuId};
use axvm_axdevice::Width;
use axvm_syndrome::{DataAbort, Syndrome, SystemAccess, class, fault_address, is_aarch32};
use axvm_vgic::Intid;
use axvm_vgic::{HardwareLists, Local, Message, Switches, Vgic};

use super::irqchip::deliver::{device_of_line, list_message};
use super::irqchip::{cpu_interface, groups};
use super::pending::Pending;
use super::registers::ICC_SGI1R;
use super::sysreg::{mrs, msr};
use super::vcpu::Context;
use super::{cpu, guest_psci, protection};
use crate::vm::Vm;

/// A vCPU in its run loop. The vectors know that its registers come first.
#[repr(C)]
pub struct Running<'a> {
    /// Its state.
    pub context: Context,
    /// Its VM.
    pub vm: &'a Vm,
    /// Which it is.
    pub vcpu: VcpuId,
    /// What the core is to answer.
    pub(super) pending: Pending,
    /// Its VM's interrupt controller.
    pub(super) vgic: &'a Vgic,
    /// Its VM's devices.
    devices: &'a AxVmDevices<Hpa>,
    /// What its VM's interrupt controller has of it.
    local: Option<Local<'a>>,
    /// Where its distributor's switches of interrupts begin; where no address of a guest's is, if it has none.
    switches: Gpa,
    /// Where the ITS that is emulated for it takes the end of its queue of commands (GITS_CWRITER); the same.
    commands: Gpa,
    /// Its counters.
    exits: Option<&'a ExitCounters>,
    /// The line that came last, and its device's counters: lines come in rows.
    line: Option<(Intid, &'a DeviceCounters)>,
    /// What LPIs stood for that came last, each in the place of its lowest bits: the queues of a device take turns.
    messages: [Option<(Intid, Message, &'a DeviceCounters)>; MESSAGES],
    /// A physical interrupt that was acknowledged and is still to be dealt with.
    taken: Option<Intid>,
    /// What names this CPU in ICC_SGI1R_EL1.
    here: u64,
    /// The SGI by which CPUs call each other.
    call: Intid,
    /// The SGIs that are no guest's, a bit each.
    reserved: u16,
    /// Whether interrupts are answered here: those that are injected by list registers.
    interrupts: bool,
}

/// How many LPIs are remembered: a power of two.
const MESSAGES: usize = 8;

impl<'a> Running<'a> {
    /// A vCPU that is about to be entered.
    pub fn new(vm: &'a Vm, vcpu: VcpuId, context: Context) -> Self {
        let (interrupts, irqchip) = (context.direct.is_none(), vm.irqchip());
        let vgic = irqchip.vgic();
        Self {
            context,
            vm,
            vcpu,
            pending: Pending::None,
            vgic,
            devices: vm.devices(),
            local: protection::answered_fast(vgic.local(vcpu)),
            switches: irqchip
                .emulated_distributor(&vm.hal().host().platform)
                .map_or(Gpa(!0x1ff), |distributor| Gpa(distributor.0.wrapping_add(ISENABLER))),
            commands: irqchip.emulated_its().map_or(Gpa(!0), |its| Gpa(its.0.wrapping_add(CWRITER))),
            exits: vm.exits(vcpu),
            line: None,
            messages: [None; MESSAGES],
            taken: None,
            here: cpu_interface::sgi_target(cpu::own_hardware_id()),
            call: groups::call_sgi(),
            reserved: groups::reserved_sgis(),
            interrupts,
        }
    }

    /// The interrupt that was acknowledged when the guest was left, if it is still to be dealt with.
    pub fn take_interrupt(&mut self) -> Option<Intid> {
        self.taken.take()
    }

    /// Remembers what an LPI stands for that was dealt with, so that it is known when it comes again.
    fn remember(&mut self, id: Intid, message: Message, counters: &'a DeviceCounters) {
        if let Some(slot) = self.messages.get_mut(id.0 as usize % MESSAGES) {
            *slot = Some((id, message, counters));
        }
    }

    /// Counts an interrupt of a device.
    fn count_line(&mut self, id: Intid) {
        match self.line {
            Some((line, counters)) if line == id => counters.interrupts.count(),
            _ => {
                self.line = device_of_line(self.vm, id).map(|counters| (id, counters));
                if let Some((_, counters)) = self.line {
                    counters.interrupts.count();
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn count(&self, reason: ExitReason) {
        if let Some(exits) = self.exits {
            exits.count(reason);
        }
    }
}

/// The list registers of this CPU.
struct Lists;

// The first four: every CPU of today has them, and most have no others. Asked for by bits of the index: two branches instead of a
// jump by a table.
impl HardwareLists for Lists {
    #[inline(always)]
    fn read(&self, index: usize) -> Option<u64> {
        match (index >> 2, index & 2, index & 1) {
            (0, 0, 0) => Some(mrs!("ich_lr0_el2")),
            (0, 0, _) => Some(mrs!("ich_lr1_el2")),
            (0, _, 0) => Some(mrs!("ich_lr2_el2")),
            (0, _, _) => Some(mrs!("ich_lr3_el2")),
            _ => None,
        }
    }

    #[inline(always)]
    fn write(&self, index: usize, value: u64) {
        // SAFETY: the guest's list registers.
        unsafe {
            match (index >> 2, index & 2, index & 1) {
                (0, 0, 0) => msr!("ich_lr0_el2", value),
                (0, 0, _) => msr!("ich_lr1_el2", value),
                (0, _, 0) => msr!("ich_lr2_el2", value),
                (0, _, _) => msr!("ich_lr3_el2", value),
                _ => {}
            }
        }
    }
}

/// Called by the vector: the guest was left by vector `number` (of those for a lower level: 0 synchronous, 1 IRQ, 2 FIQ).
/// Answers 0 to go back into the guest, else the number and one.
///
/// Of an interrupt the frame has the guest's x19 to x29 only once the guest is not entered again from here.
///
/// Each way is a function of its own that is not inlined, so that each saves no more registers than it needs itself.
pub extern "C" fn fast_exit(running: &mut Running<'_>, number: u64) -> u64 {
    match number {
        0 => {
            let esr = mrs!("esr_el2");
            match Syndrome(esr).class() {
                class::HVC => hypercall(running),
                class::DATA_ABORT => access(running, DataAbort(esr)),
                class::SYSTEM => software_interrupt(running, SystemAccess(esr)),
                other => rarer(running, other),
            }
        }
        1 | 2 => interrupt(running, number),
        other => other + 1,
    }
}

/// Back into the guest.
const ANSWERED: u64 = 0;
/// Over to the run loop: a synchronous exception, an interrupt.
const OPEN: u64 = 1;
const OPEN_INTERRUPT: u64 = 2;

/// Calls whose answer is always the same.
#[inline(never)]
fn hypercall(running: &mut Running<'_>) -> u64 {
    let Some(answer) = guest_psci::constant(running.context.frame.x[0] as u32) else { return OPEN };
    running.count(ExitReason::Hypercall);
    running.context.frame.x[0] = answer;
    ANSWERED
}

/// Classes that are looked at when it is none of those that happen most: the same call by SMC, which is trapped and so returns to
/// itself.
#[inline(never)]
fn rarer(running: &mut Running<'_>, class: u8) -> u64 {
    if class != class::SMC {
        return OPEN;
    }
    let Some(answer) = guest_psci::constant(running.context.frame.x[0] as u32) else { return OPEN };
    running.count(ExitReason::Hypercall);
    running.context.frame.x[0] = answer;
    running.context.skip();
    ANSWERED
}

/// An access to the device that was accessed last: a register that never changes, or one that is forwarded.
#[inline(never)]
fn access(running: &mut Running<'_>, abort: DataAbort) -> u64 {
    // From AArch64 only.
    if !abort.is_plain() || is_aarch32(running.context.frame.pstate) {
        return OPEN;
    }
    let gpa = Gpa(fault_address(mrs!("hpfar_el2"), mrs!("far_el2")));
    if gpa.0.wrapping_sub(running.switches.0) < SWITCHES {
        return switches(running, abort, gpa);
    }
    match running.devices.fast_access(gpa, abort.bytes(), abort.is_write(), running.context.hint) {
        Some(FastAccess::Constant(value)) => {
            running.context.set_x(abort.register(), value.into());
            running.context.skip();
            running.count(ExitReason::MmioEmulated);
            ANSWERED
        }
        Some(FastAccess::Forwarded { device, at, offset }) => {
            forward(running, abort, gpa, device, Hpa(at.0.wrapping_add(offset)))
        }
        Some(FastAccess::Emulated) => emulated(running, abort, gpa),
        None => raise(running, abort, gpa),
    }
}

/// An access to an emulated device that may take it as it is.
#[inline(never)]
fn emulated(running: &mut Running<'_>, abort: DataAbort, gpa: Gpa) -> u64 {
    let Running { context, devices, .. } = running;
    let mask = match abort.size() {
        0 => 0xff,
        1 => 0xffff,
        _ => u64::from(u32::MAX),
    };
    let register = abort.register();
    if abort.is_write() {
        if !devices.fast_write(gpa, context.hint, (context.x(register) & mask) as u32) {
            return OPEN;
        }
    } else {
        let Some(value) = devices.fast_read(gpa, context.hint) else { return OPEN };
        context.set_x(register, u64::from(value) & mask);
    }
    context.skip();
    running.count(ExitReason::MmioEmulated);
    ANSWERED
}

/// Where GICD_ISENABLER begins, and how many bytes it and GICD_ICENABLER behind it have (Arm IHI 0069, 12.9.24 and 12.9.5).
const ISENABLER: u64 = 0x100;
const SWITCHES: u64 = 0x100;

/// How many bytes GICD_ISPENDR has, which comes next (12.9.27).
const PENDING: u64 = 0x80;

/// GITS_CWRITER (12.19.8).
const CWRITER: u64 = 0x88;

/// An access to GICD_ISENABLER or GICD_ICENABLER, a word.
#[inline(never)]
fn switches(running: &mut Running<'_>, abort: DataAbort, gpa: Gpa) -> u64 {
    let offset = gpa.0.wrapping_sub(running.switches.0);
    if offset & 3 != 0 || abort.size() != 2 {
        return OPEN;
    }
    let Running { context, vgic, .. } = running;
    let register = abort.register();
    let switches = vgic.fast_switches((offset >> 2 & 0x1f) as u32);
    if abort.is_write() {
        let enable = offset < SWITCHES / 2;
        if let Some(switches) = switches {
            let turned = switches.turned(context.x(register) as u32, enable);
            if turned != 0 {
                return switch(running, switches, turned, enable);
            }
        }
    } else {
        context.set_x(register, switches.map_or(0, Switches::read).into());
    }
    context.skip();
    running.count(ExitReason::MmioEmulated);
    ANSWERED
}

/// A write that turns switches of a word of GICD_ISENABLER, on (`enable`) or off.
#[inline(always)]
fn switch(running: &mut Running<'_>, switches: Switches<'_>, turned: u32, enable: bool) -> u64 {
    let Some(local) = running.local else { return OPEN };
    let Running { context, vgic, .. } = running;
    if !vgic.fast_switch(local, switches, turned, enable, &context.lists, &Lists) {
        return OPEN;
    }
    context.skip();
    running.count(ExitReason::MmioEmulated);
    ANSWERED
}

/// What makes an interrupt pending: a write to GICD_ISPENDR, a word, or of the end of the ITS's queue of commands.
#[inline(never)]
fn raise(running: &mut Running<'_>, abort: DataAbort, gpa: Gpa) -> u64 {
    let Some(local) = running.local.filter(|_| abort.is_write()) else { return OPEN };
    let Running { context, vgic, .. } = running;
    let value = context.x(abort.register());
    let offset = gpa.0.wrapping_sub(running.switches.0).wrapping_sub(SWITCHES);
    let done = if gpa == running.commands {
        abort.size() >= 2 && vgic.fast_command(local, value, &mut context.lists, &Lists)
    } else {
        let word = (offset >> 2) as u32;
        offset < PENDING
            && offset & 3 == 0
            && abort.size() == 2
            && vgic.fast_pend(local, word, value as u32, &mut context.lists, &Lists)
    };
    if !done {
        return OPEN;
    }
    context.skip();
    running.count(ExitReason::MmioEmulated);
    ANSWERED
}

/// An access to registers that are forwarded.
#[inline(never)]
fn forward(running: &mut Running<'_>, abort: DataAbort, gpa: Gpa, device: u16, hpa: Hpa) -> u64 {
    let Running { context, vm, .. } = running;
    let width = match abort.size() {
        0 => Width::B1,
        1 => Width::B2,
        2 => Width::B4,
        _ => Width::B8,
    };
    let register = abort.register();
    let reason = if abort.is_write() {
        vm.forward_write(gpa, device, &hpa, 0, width, context.x(register))
    } else {
        // Registers of 32 bits have their upper half cleared; no device answers more than the width.
        let (value, reason) = vm.forward_read(gpa, device, &hpa, 0, width);
        context.set_x(register, value);
        reason
    };
    context.skip();
    running.count(reason);
    ANSWERED
}

/// A write to ICC_SGI1R_EL1.
#[inline(never)]
fn software_interrupt(running: &mut Running<'_>, access: SystemAccess) -> u64 {
    if !access.writes(ICC_SGI1R) {
        return OPEN;
    }
    let value = running.context.x(access.register());
    let Some(local) = running.local else { return OPEN };
    if !running.interrupts {
        return software_interrupt_directly(running, local, value);
    }
    if !running.vgic.fast_send_sgi(local, value, &mut running.context.lists, &Lists) {
        return OPEN;
    }
    running.context.skip();
    running.count(ExitReason::Ipi);
    ANSWERED
}

/// The same by a vCPU that takes physical interrupts itself.
#[inline(never)]
fn software_interrupt_directly(running: &mut Running<'_>, local: Local<'_>, value: u64) -> u64 {
    match Vgic::sgi_to_itself(local, value) {
        Some(intid) if running.reserved >> (intid.0 & 0xf) & 1 == 0 => {
            cpu_interface::raise_sgi_here(running.here, intid)
        }
        _ => return software_interrupt_to_another(running, value),
    }
    running.context.skip();
    running.count(ExitReason::Ipi);
    ANSWERED
}

#[inline(never)]
fn software_interrupt_to_another(running: &mut Running<'_>, value: u64) -> u64 {
    if !running.vgic.fast_raise_sgi(value) {
        return OPEN;
    }
    running.context.skip();
    running.count(ExitReason::Ipi);
    ANSWERED
}

/// A physical interrupt.
#[inline(never)]
fn interrupt(running: &mut Running<'_>, number: u64) -> u64 {
    if !running.interrupts {
        return OPEN_INTERRUPT;
    }
    running.count(ExitReason::Interrupt);
    let id = if number == 1 { cpu_interface::acknowledge() } else { cpu_interface::acknowledge_group0() };
    let Some(id) = id else { return ANSWERED };
    let call = running.call;
    let Some(local) = running.local else { return message(running, id) };
    if id == call {
        return called(running, local, id);
    }
    let Running { context, .. } = running;
    if id.0 < 1020 && Vgic::fast_hardware(local, id, &mut context.lists, &Lists) {
        if let Some(exits) = running.exits {
            exits.count_injected();
        }
        if id.0 >= 32 {
            running.count_line(id);
        }
        return ANSWERED;
    }
    message(running, id)
}

/// Another CPU has called this one.
#[inline(never)]
fn called(running: &mut Running<'_>, local: Local<'_>, id: Intid) -> u64 {
    let Running { context, vgic, .. } = running;
    cpu_interface::deactivate(id);
    let nothing_else = vgic.fast_take_sgis(local, &mut context.lists, &Lists);
    if nothing_else && !running.vm.must_leave() { ANSWERED } else { OPEN_INTERRUPT }
}

/// A message, or what is left to the run loop.
#[inline(never)]
fn message(running: &mut Running<'_>, id: Intid) -> u64 {
    if let Some(&Some((lpi, message, counters))) = running.messages.get(id.0 as usize % MESSAGES)
        && lpi == id
        && let Some(local) = running.local
        && running.vgic.fast_message(local, message, &mut running.context.lists, &Lists)
    {
        if let Some(exits) = running.exits {
            exits.count_injected();
        }
        counters.interrupts.count();
        return ANSWERED;
    }
    first_message(running, id)
}

/// A message that hasn't come before, or what is left to the run loop.
#[inline(never)]
fn first_message(running: &mut Running<'_>, id: Intid) -> u64 {
    if let Some(local) = running.local
        && let Some((message, counters)) =
            list_message(running.vm, local, id, &mut running.context.lists, &Lists)
    {
        if let Some(exits) = running.exits {
            exits.count_injected();
        }
        counters.interrupts.count();
        running.remember(id, message, counters);
        return ANSWERED;
    }
    running.taken = Some(id);
    OPEN_INTERRUPT
}
