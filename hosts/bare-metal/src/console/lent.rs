//! The console while a VM has it: the hypervisor speaks at another UART, or to memory, and takes it back when the VM is gone.

use core::sync::atomic::{AtomicBool, Ordering};

use axvm::report::MeanwhileReport;
use axvm_plan::{DeviceId, DevicePlan};
use axvm_platform::model::PlatformDevice;
use axvm_system::wire::{Channel, Nonce};
use axvm_uart::Settings;

use super::{Aside, Uart};
use crate::arch::UartRegisters;
use crate::host::Host;
use crate::log;
use crate::{arch, console, cpus};

/// What is kept of it meanwhile.
pub(super) struct Lent {
    pub(super) uart: Uart<UartRegisters>,
    pub(super) settings: Settings,
    pub(super) nonce: Option<Nonce>,
}

/// Nobody has the console that was lent: it is to be taken back.
static IS_FREE: AtomicBool = AtomicBool::new(false);

/// Why a VM isn't given the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hypervisor's console can't be given away: how it was set up isn't known")]
pub struct NotLent;

fn device_at<'a>(host: &'a Host, path: Option<&str>) -> Option<&'a PlatformDevice> {
    host.platform.devices.iter().find(|device| Some(device.path.as_str()) == path)
}

/// By whoever builds a VM: lets go of a device if it is the console. From when this returns on nothing of the hypervisor's touches it.
///
/// # Errors
///
/// [`NotLent`]: it is the hypervisor's still.
pub fn unbind(host: &Host, device: &DevicePlan) -> Result<(), NotLent> {
    let Some(lent) = host.console_lent.as_ref().filter(|_| host.is_console(&device.id)) else {
        return Ok(());
    };
    let Some(own) = device_at(host, host.console.as_deref()) else { return Ok(()) };
    let aside = device_at(host, lent.aside.as_deref()).and_then(begin);
    let owner = host.plans.iter().find(|plan| plan.devices.iter().any(|it| it.id == device.id));
    let (id, name) = owner.map_or((axvm_addr::VmId(0), ""), |plan| (plan.id, plan.name.as_str()));
    let place = aside.as_ref().and(lent.aside.as_deref()).unwrap_or("memory");
    log::info!("{name}: it has the console from here on; until it is gone the hypervisor speaks to {place}");
    console::lend(id, aside)?;
    for &line in &own.interrupts {
        host.irqchip.ignore(line);
    }
    hear(host, lent.aside.as_deref());
    host.call_hypervisor_cpu();
    Ok(())
}

/// Another UART, ready to be driven.
fn begin(device: &PlatformDevice) -> Option<Aside> {
    let (description, place) = device.uart().zip(device.uart_place())?;
    if let Some(registers) = place.memory() {
        arch::add_device(registers).ok()?;
    }
    let clock = device.providers.iter().find_map(|it| it.fixed_clock.as_ref()).map(|clock| clock.frequency);
    Some(Aside { description, place, clock_hz: clock })
}

/// Has the lines of a UART interrupt the hypervisor's CPU.
fn hear(host: &Host, path: Option<&str>) {
    let Some(cpu) = cpus::get(host.hypervisor_cpu()) else { return };
    for &line in device_at(host, path).iter().flat_map(|device| &device.interrupts) {
        host.irqchip.listen(line, cpu.hardware_id);
    }
}

/// By whoever has taken a VM apart, or couldn't build one: the console is to be taken back if it was lent and nobody has it.
pub fn release(host: &Host) {
    let Some(id) = host.console.as_ref().filter(|_| console::is_lent()) else { return };
    if host.registry.lock().release(&DeviceId::Node(id.clone())) {
        IS_FREE.store(true, Ordering::SeqCst);
        host.call_hypervisor_cpu();
    }
}

/// On the hypervisor's CPU: takes the console back if it is free, whatever its last owner has made of it. Whether it did.
pub fn attend(host: &Host) -> bool {
    if !IS_FREE.swap(false, Ordering::SeqCst) {
        return false;
    }
    for &line in device_at(host, host.console.as_deref()).iter().flat_map(|device| &device.interrupts) {
        host.irqchip.ignore(line);
    }
    console::take_back();
    hear(host, host.console.as_deref());
    log::info!("the console is the hypervisor's again");
    if let Some(MeanwhileReport { text, dropped_bytes }) = console::meanwhile() {
        log::info!(
            "{} bytes were said meanwhile, and are in the report; of these the first {dropped_bytes} found no room",
            text.len() as u64 + dropped_bytes
        );
    }
    true
}

/// Whether who listens at the console that was lent is the tool, which has to be told where it is.
pub(super) const fn told(vm: axvm_addr::VmId) -> Channel {
    Channel::Away(vm)
}
