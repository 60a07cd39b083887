//! x86_64: SVM with nested paging, local and I/O APICs, AMD-Vi or VT-d, ACPI.
//!
//! `boot` has the first instructions, `vectors` the hypervisor's own exceptions and interrupts. `run` enters a guest; what it was left for
//! comes to `exit`, which has `emulate` (accesses to registers in memory), `ports` and `registers` (CPUID, model-specific and control
//! registers) answer. `vcpu` is a vCPU's state, `resident` its time on its CPU. `irqchip/` and `iommu` drive the hardware, `stage2`
//! and `own_map` are the tables of guests and of the hypervisor.

mod acpi_timer;
mod boot;
mod cpu;
mod emulate;
mod enter;
mod establish;
mod exit;
mod fast;
mod fault;
mod firmware;
mod guarded;
mod guest_console;
mod image;
mod iommu;
mod irqchip;
mod limits;
mod local_apic;
mod own_map;
mod own_ports;
mod pending;
mod percpu;
mod pic;
mod pit;
mod ports;
mod power;
mod power_timer;
mod protection;
mod registers;
mod resident;
mod run;
mod secondary;
mod sight;
mod speculation;
mod stage2;
mod trampoline;
mod uart;
mod vcpu;
mod vector_state;
mod vectors;
pub mod windows;

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};
use axvm_platform::model::Platform;

pub use boot::{NotStarted, start_cpu};
pub use cpu::{
    clean_to_memory, delay_us, halt, memory_barrier, now_us, own_hardware_id, physical_address_bits,
    send_event, settle_clock, tick_hz, ticks, ticks_as, wait_for_interrupt, wait_for_interrupt_or_us,
    watchdog_ticks, watchdog_us, zero,
};
pub use establish::{EntryWork, establish};
pub use firmware::{correct as correct_platform, system_off, system_reset};
pub use guarded::{Aborted, probe_read, probe_write};
pub use guest_console::add_console;
pub use image::{ImageLayout, image_layout, image_start};
pub use iommu::{
    DmaSpace, Domain, Health, IOMMU_TAILS, IommuError, Iommus, close as close_iommus,
    listen as listen_to_iommus,
};
pub use irqchip::deliver::take_interrupts;
pub use irqchip::messages::hardware_message;
pub use irqchip::{
    Caller, GuestIrqchip, GuestIrqchipError, Irqchip, IrqchipError, Messages, NotSeated, Seat,
};
pub use own_map::{Builder, Rights, add_device, add_memory, early_map};
pub use own_ports::{
    MESSAGES, add_bar_ports, add_config_ports, close_ports, open_ports, read_port, write_port,
};
pub use power::press_power_button;
pub use protection::INJECTED;
#[cfg(feature = "protection-off")]
pub use protection::{check_memory, leak_message, leak_message_number};
pub use resident::reside;
pub use run::{Running, wait_while_off};
pub use secondary::SecondaryBoot;
pub use stage2::{GuestSpace, SpaceError, SpaceRoot};
pub use uart::UartRegisters;

/// What an IOMMU is called.
pub const IOMMU: &str = "IOMMU";

/// Why one can't call.
pub const UNHEARD: &str = "it can't send the hypervisor's CPU a message";

/// The registers that the hypervisor itself drives, but for its console's.
pub fn driven_registers(platform: &Platform) -> Vec<Span<Hpa>> {
    [irqchip::registers(platform), iommu::registers(platform), firmware::registers(platform)].concat()
}
