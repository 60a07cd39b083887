//! Physical interrupts that the hypervisor takes: what each is to the VM whose CPU it came to.

use axvm::vm::DeviceCounters;
use axvm_addr::VcpuId;
use axvm_vgic::{HardwareLists, Intid, ItsDeviceId, ListRegisters, Local, Message};

use super::cpu_interface;
use crate::vm::Vm;

/// Whose a physical interrupt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The VM's: what is left to do about it is the guest's.
    Guest,
    /// Not the VM's.
    Other,
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
pub fn dispatch(running: Option<(&Vm, VcpuId)>, id: Intid) {
    let owner = running.map_or(Owner::Other, |(vm, vcpu)| deliver(vm, vcpu, id));
    // The guest deactivates what is a line. Of the others: whoever waits for it (the hypervisor's CPU for its SMMU and its console)
    // looks around after every interrupt.
    if owner == Owner::Other && id.0 < FIRST_LPI {
        cpu_interface::deactivate(id);
    }
}

/// A physical interrupt was taken on the vCPU's CPU: what it is to this VM.
fn deliver(vm: &Vm, vcpu: VcpuId, id: Intid) -> Owner {
    let vgic = vm.irqchip().vgic();
    let (injected, counters) = match id.0 {
        16..32 => {
            if !vgic.config().hardware_ppis.contains(&id) {
                return Owner::Other;
            }
            (vgic.hardware_ppi_here(vcpu, id), None)
        }
        32..1020 => {
            let mut lines = vm.plan().lines.iter();
            let Some(line) = lines.find(|line| line.irq == id.into()) else { return Owner::Other };
            (vgic.hardware_spi_here(vcpu, id), vm.device(line.device))
        }
        FIRST_LPI.. => {
            let mut sender = None;
            let mapped = vgic.hardware_lpi_here(vcpu, || {
                let event = vm.irqchip().backend().event_of(id)?;
                sender = Some(event.0);
                Some(event)
            });
            let Some(device) = sender else { return Owner::Other };
            (mapped, counters_of_sender(vm, device))
        }
        _ => return Owner::Other,
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
    Owner::Guest
}

/// As [`dispatch`], of an LPI that the fast path doesn't know: straight into a list register. What it stands for until the guest says
/// otherwise, and the counters of the device that sends it; `None` if nothing was done.
pub fn list_message<'a>(
    vm: &'a Vm,
    local: Local<'_>,
    id: Intid,
    lists: &mut ListRegisters,
    hardware: &impl HardwareLists,
) -> Option<(Message, &'a DeviceCounters)> {
    if id.0 < FIRST_LPI {
        return None;
    }
    let irqchip = vm.irqchip();
    let mut counters = None;
    let sender = || {
        let event = irqchip.backend().try_event_of(id)?;
        counters = Some(counters_of_sender(vm, event.0)?);
        Some(event)
    };
    irqchip.vgic().fast_first_message(local, sender, lists, hardware).zip(counters)
}

/// The counters of the device that has this line.
pub fn device_of_line(vm: &Vm, id: Intid) -> Option<&DeviceCounters> {
    let line = vm.plan().lines.iter().find(|line| line.irq == id.into())?;
    vm.device(line.device)
}

/// The counters of the device that sends messages with this id.
fn counters_of_sender(vm: &Vm, id: ItsDeviceId) -> Option<&DeviceCounters> {
    let mut devices = (0..).zip(&vm.plan().devices);
    let (position, _) =
        devices.find(|(_, plan)| plan.msi.is_some_and(|msi| ItsDeviceId::from(msi.source) == id))?;
    vm.device(position)
}
