//! Physical interrupts that the hypervisor takes: what each is to the VM whose CPU it came to.

use axvm::vm::DeviceCounters;
use axvm_addr::VcpuId;
use axvm_vgic::Message;
use axvm_vgic::{Intid, ItsDeviceId};

use super::cpu_interface;
use crate::vm::Vm;

/// What became of a physical interrupt.
pub enum Delivered<'a> {
    /// It isn't the VM's.
    Foreign,
    /// It is: what is left to do about it is the guest's.
    Own,
    /// The same, of a message: what it stands for until the guest says otherwise, and the counters of the device that sends it.
    Message(Message, &'a DeviceCounters),
}

/// LPIs have INTIDs from here on, and no active state (Arm IHI 0069, 2.2).
const FIRST_LPI: u32 = 8192;

/// Takes every interrupt that is pending for this CPU. `running`: the vCPU whose CPU it is.
pub fn take_interrupts(running: Option<(&Vm, VcpuId)>) {
    /// So many in a row, then the guest (or whoever called) gets its turn: an interrupt that storms can't hold the CPU.
    const AT_ONCE: usize = 64;
    for _ in 0..AT_ONCE {
        let Some(id) = cpu_interface::acknowledge() else { return };
        dispatch(running, id);
    }
}

/// Passes on an interrupt that was acknowledged.
pub fn dispatch<'a>(running: Option<(&'a Vm, VcpuId)>, id: Intid) -> Delivered<'a> {
    let delivered = running.map_or(Delivered::Foreign, |(vm, vcpu)| deliver(vm, vcpu, id));
    // The guest deactivates what is a line. Of the others: whoever waits for it (the hypervisor's CPU for its SMMU and its console)
    // looks around after every interrupt.
    if matches!(delivered, Delivered::Foreign) && id.0 < FIRST_LPI {
        cpu_interface::deactivate(id);
    }
    delivered
}

/// A physical interrupt was taken on the vCPU's CPU: what it is to this VM.
fn deliver(vm: &Vm, vcpu: VcpuId, id: Intid) -> Delivered<'_> {
    let vgic = vm.irqchip().vgic();
    let mut known = None;
    let (injected, counters) = match id.0 {
        16..32 => {
            if !vgic.config().hardware_ppis.contains(&id) {
                return Delivered::Foreign;
            }
            (vgic.hardware_ppi_here(vcpu, id), None)
        }
        32..1020 => {
            let mut lines = vm.plan().lines.iter();
            let Some(line) = lines.find(|line| line.irq == id.into()) else { return Delivered::Foreign };
            (vgic.hardware_spi_here(vcpu, id), vm.device_counters(line.device))
        }
        FIRST_LPI.. => {
            let mut sender = None;
            let message = vgic.hardware_lpi_here(vcpu, || {
                let event = vm.irqchip().backend().event_of(id)?;
                sender = Some(event.0);
                Some(event)
            });
            let Some(device) = sender else { return Delivered::Foreign };
            let counters = self::sender(vm, device).and_then(|device| vm.device_counters(device));
            known = message.zip(counters);
            (message.is_some(), counters)
        }
        _ => return Delivered::Foreign,
    };
    if injected {
        if let Some(exits) = vm.exits(vcpu) {
            exits.count_injected();
        }
        if let Some(counters) = counters {
            counters.interrupts.count();
        }
    } else if id.0 < FIRST_LPI {
        // The guest has no use for it now: it doesn't stay active.
        cpu_interface::deactivate(id);
    }
    known.map_or(Delivered::Own, |(message, counters)| Delivered::Message(message, counters))
}

/// The counters of the device that has this line.
pub fn device_of_line(vm: &Vm, id: Intid) -> Option<&DeviceCounters> {
    let line = vm.plan().lines.iter().find(|line| line.irq == id.into())?;
    vm.device_counters(line.device)
}

/// The position of the device that sends messages with this id.
fn sender(vm: &Vm, device: ItsDeviceId) -> Option<u16> {
    let mut devices = (0..).zip(&vm.plan().devices);
    devices
        .find(|(_, plan)| plan.msi.is_some_and(|msi| ItsDeviceId::from(msi.source) == device))
        .map(|(position, _)| position)
}
