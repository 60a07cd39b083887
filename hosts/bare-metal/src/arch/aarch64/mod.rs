//! aarch64: EL2, a GICv3 with ITSs, SMMUv3s, PSCI by SMC.
//!
//! `boot` has the first instructions, `vectors` the exceptions and the way into a guest. An exit comes to `fast`, which answers what
//! happens most, then by way of `run` to `exit`. `vcpu`, `control`, `reset` and `idregs` are a vCPU's registers, `resident` its time
//! on its CPU. `irqchip/` and `iommu` drive the hardware, `stage2` and `own_map` are the tables of guests and of the hypervisor.

mod boot;
mod control;
mod cpu;
mod descriptor;
mod emulate;
mod exit;
mod fast;
mod fault;
mod firmware;
mod frame;
mod guarded;
mod guest_console;
mod guest_psci;
mod idregs;
mod image;
mod indexed;
mod iommu;
mod irqchip;
#[cfg(feature = "protection-off")]
mod memory_promises;
mod names;
mod no_ports;
mod own_map;
mod pending;
mod protection;
mod registers;
mod reset;
mod resident;
mod run;
mod secondary;
mod speculation;
mod stage2;
mod sysreg;
mod tlb;
mod uart;
mod vcpu;
mod vectors;
pub mod windows;

use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, Span};
use axvm_platform::model::Platform;

pub use boot::{NotStarted, start_cpu};
pub use cpu::{
    clean_to_memory, delay_us, halt, memory_barrier, now_us, own_hardware_id, physical_address_bits,
    send_event, settle_clock, tick_hz, ticks, ticks as watchdog_ticks, ticks_as, wait_for_interrupt,
    wait_for_interrupt_or_us, watchdog_us, zero,
};
pub use fast::Running;
pub use firmware::{correct as correct_platform, find as find_firmware, system_off, system_reset};
pub use frame::EntryWork;
pub use guarded::{Aborted, probe_read, probe_write};
pub use guest_console::add_console;
pub use image::{ImageLayout, image_layout, image_start};
pub use iommu::{
    DmaSpace, Domain, Health, IOMMU_TAILS, IommuError, Iommus, close as close_iommus,
    listen as listen_to_iommus,
};
pub use irqchip::deliver::take_interrupts;
pub use irqchip::{
    Caller, GuestIrqchip, GuestIrqchipError, Irqchip, IrqchipError, Messages, NotSeated, Seat, memory_limit,
};
#[cfg(feature = "protection-off")]
pub use memory_promises::check as check_memory;
pub use no_ports::{
    MESSAGES, add_bar_ports, add_config_ports, close_ports, hardware_message, open_ports, press_power_button,
    read_port, write_port,
};
pub use own_map::{Builder, Rights, add_device, add_memory, early_map};
pub use protection::INJECTED;
#[cfg(feature = "protection-off")]
pub use protection::{leak_message, leak_message_number};
pub use resident::reside;
pub use run::wait_while_off;
pub use secondary::SecondaryBoot;
pub use stage2::{GuestSpace, SpaceError, SpaceRoot};
pub use uart::UartRegisters;

/// What an IOMMU is called.
pub const IOMMU: &str = "SMMU";

/// Why one can't call.
pub const UNHEARD: &str = "not all of its lines reach the GIC";

/// The protocol lets a device tree have this many bytes (booting.rst, 2).
pub const DEVICE_TREE_MAX: u64 = 2 << 20;

/// The registers that the hypervisor itself drives, but for its console's.
pub fn driven_registers(platform: &Platform) -> Vec<Span<Hpa>> {
    [irqchip::registers(platform), iommu::registers(platform)].concat()
}

/// Brings the calling CPU, which has just come up, into the states that the control of guests rests on, and sets up what it does
/// against speculation.
pub fn establish(cpu: CpuId) -> EntryWork {
    tlb::shut();
    control::establish(axvm_cpu::control::When::CpuUp);
    let work = speculation::set_up(cpu);
    vectors::install(work);
    sysreg::isb!();
    work
}
