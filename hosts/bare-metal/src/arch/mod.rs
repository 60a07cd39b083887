//! What depends on the instruction set. One architecture is compiled in, and gives the rest of the hypervisor what is listed here: no
//! more, and nothing outside this folder names a register, a range of interrupt numbers or a controller
//! (`xtask/src/neutral.rs`, of the stage `edges`, holds that).
//!
//! Whoever writes another architecture gives these items from a folder of its own; those that `checked` lists have these types.
//! Unless it says otherwise an item is for any CPU and any time after boot has switched to the real map, interrupts masked. The
//! hypervisor always runs with interrupts masked, and takes them by asking.
//!
//! # The CPU
//!
//! | item | what it does |
//! |---|---|
//! | `ticks`, `tick_hz`, `ticks_as`, `now_us` | the clock that every deadline is by: it is the same on all CPUs and never stops. From the first instruction on |
//! | `settle_clock` | finds out exactly how fast it is, which may have been found out roughly until then. Once there is nothing else to do, on the hypervisor's own CPU |
//! | `delay_us` | waits at least so long |
//! | `wait_for_interrupt` | sleeps until an interrupt is pending, which stays so; it may return early |
//! | `wait_for_interrupt_or_us` | the same, for so long at the most, by the timer that `Irqchip::listen_to_timer` has turned on |
//! | `send_event` | wakes whoever waits for something without an interrupt |
//! | `halt` | stays, for good. From the first instruction on |
//! | `own_hardware_id` | what the platform calls the calling CPU |
//! | `physical_address_bits` | what the CPUs can address |
//! | `clean_to_memory` | what was written to a span of memory is seen by who reads past the caches, when it returns |
//! | `zero` | zeroes memory |
//! | `probe_read`, `probe_write` | an access to a register, whose abort is an error and not a fault |
//! | `establish` | on a CPU that has just come up, once: brings it into the state that running guests rests on. It gives what the CPU does at each way in from a guest (`EntryWork`), which `Cpu::entry_work` keeps |
//!
//! # Boot, and the hypervisor's own memory
//!
//! The architecture has the first instruction. It sees to it that Rust can run (relocations, `.bss`, a stack, a rough map of the
//! image), and calls the entry of its loader's kind (`crate::described`) with what that has handed over; if it can't, `crate::described::refuse_early` says
//! why.
//!
//! | item | what it does |
//! |---|---|
//! | `image_start`, `image_layout`, `ImageLayout` | where the image is. From the first instruction on |
//! | `early_map` | adds to the rough map. On the first CPU, before `Builder::activate` |
//! | `Builder`, `Rights` | the real map: addresses as they are, each part with the rights that it needs. On the first CPU. It gives what other CPUs start with (`SecondaryBoot`) |
//! | `add_device`, `add_memory` | add to it; what is there stays |
//! | `UartRegisters` | the registers of a UART, where the platform says that they are |
//! | `windows` | how the entry of a window (`crate::window`) is written, when it holds, how it is forgotten |
//! | `correct_platform` | leaves out of the platform what isn't for the hypervisor |
//! | `start_cpu` | starts another CPU, which comes to `crate::cpus::secondary_main` |
//! | `system_off`, `system_reset` | end the run. Where nothing can do that, they halt |
//!
//! And where a device tree describes the machine (`crate::described`):
//!
//! | item | what it does |
//! |---|---|
//! | `DEVICE_TREE_MAX` | how large it can be |
//! | `find_firmware` | finds out what there is below the hypervisor: once, early, by its outline |
//! | `memory_limit` | below which address memory must lie that the machine's own hardware walks |
//!
//! # The machine
//!
//! | item | what it does |
//! |---|---|
//! | `driven_registers` | what boot maps for those below |
//! | `Irqchip` | the interrupt controller: `probe` and `limits` before the plan, then `take_over`, once; `init_cpu` on each CPU; lines, messages; `count` fills in what is taken |
//! | `Caller` | how a CPU is called: from any CPU, also by who holds locks |
//! | `take_interrupts` | takes what is pending on the calling CPU, and passes it to the VM that runs there |
//! | `close_iommus` | before anything else is done with the machine: no device reaches memory |
//! | `IOMMU`, `UNHEARD` | what an IOMMU is called, and why one can't call |
//! | `Iommus`, `Domain` | `axvm::iommu::Iommu`; `take_health` says what went wrong, `attached` how many sources reach a VM's memory |
//! | `listen_to_iommus` | has their interrupts heard, and says which have none |
//! | `DmaSpace` | what a VM's devices reach by one of them |
//! | `Messages` | `axvm::msi::MsiSink`: where messages of devices are routed |
//!
//! # A guest
//!
//! | item | what it does |
//! |---|---|
//! | `GuestSpace`, `SpaceRoot` | the second stage: `unmap` and `revoke` return when no CPU uses what is gone |
//! | `GuestIrqchip`, `Seat`, `NotSeated` | the interrupt controller that the guest sees, and what it has done in hardware: `axvm::irqchip::Irqchip` |
//! | `MESSAGES`, `hardware_message` | who has the messages of functions, and what one is to send for a vector where the bridge has them |
//! | `add_bar_ports` | adds the ports of BARs of a bridge, where there are such |
//! | `add_bar_ports, add_config_ports` | adds the way to config space by ports, where there are such |
//! | `read_port`, `write_port` | the machine's ports |
//! | `watchdog_ticks`, `watchdog_us` | the counter by which guests set their watchdogs, and how long so many of its ticks are |
//! | `press_power_button` | has the guest asked to power itself off, by a button that its description names; whether it listens |
//! | `open_ports`, `close_ports` | which of them a guest reaches itself: closed when that returns |
//! | `add_console` | adds its emulated console, of the kind that its architecture expects, to its devices |
//! | `reside` | has a vCPU on the calling CPU, which is its own, while it is run: at the end nothing of it is left there but its `Seat` |
//! | `Running` | the vCPU meanwhile: `axvm::vcpu::Vcpu`. What happens most is answered without coming back |
//! | `wait_while_off` | sleeps on the CPU of a vCPU that is off |
//!
//! # For tests
//!
//! | item | what it does |
//! |---|---|
//! | `INJECTED` | interrupts that a test image injects at a vCPU |
//! | `leak_message_number`, `leak_message` | what a test image doesn't give back |
//! | `check_memory` | only in a test image: whether memory does what those expect who drive hardware by it |

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as current;
#[cfg(target_arch = "x86_64")]
use x86_64 as current;

pub use current::{
    Builder, Caller, DmaSpace, Domain, EntryWork, GuestIrqchip, GuestIrqchipError, GuestSpace, INJECTED,
    IOMMU, IOMMU_TAILS, IommuError, Iommus, Irqchip, IrqchipError, MESSAGES, Messages, NotSeated, Rights,
    Running, Seat, SecondaryBoot, SpaceError, SpaceRoot, UNHEARD, UartRegisters, add_bar_ports,
    add_config_ports, add_console, add_device, add_memory, clean_to_memory, close_iommus, close_ports,
    correct_platform, delay_us, driven_registers, early_map, establish, halt, hardware_message, image_layout,
    image_start, listen_to_iommus, memory_barrier, now_us, open_ports, own_hardware_id,
    physical_address_bits, press_power_button, probe_read, probe_write, read_port, reside, send_event,
    settle_clock, start_cpu, system_off, system_reset, take_interrupts, tick_hz, ticks, ticks_as,
    wait_for_interrupt, wait_for_interrupt_or_us, wait_while_off, watchdog_ticks, watchdog_us, windows,
    write_port, zero,
};
#[cfg(not(target_arch = "x86_64"))]
pub use current::{DEVICE_TREE_MAX, find_firmware, memory_limit};
#[cfg(feature = "protection-off")]
pub use current::{check_memory, leak_message, leak_message_number};

/// The contract, as far as types can say it.
mod checked {
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    use axvm::taken::Taken;
    use axvm_addr::{CpuId, Gpa, Hpa, IommuId, Span, VcpuId};
    use axvm_paging::{MapError, NotInvalidated, UnmapError};
    use axvm_plan::config::MappingFlags;
    use axvm_plan::{DevicePlan, LineRoute, MsiPlan, VmPlan};
    use axvm_platform::limits::Limits;
    use axvm_platform::model::{Interrupt, Platform};

    use super::current::*;
    use crate::host::Host;
    use crate::memory::GuestRam;
    use crate::vm::Vm;

    /// Each of these has this type.
    macro_rules! have {
        ($($item:path: $kind:ty),* $(,)?) => { $(const _: $kind = $item;)* };
    }

    // The CPU.
    have! {
        ticks: fn() -> u64,
        tick_hz: fn() -> u64,
        ticks_as: fn(u64, u64) -> u64,
        now_us: fn() -> u64,
        settle_clock: fn(),
        delay_us: fn(u64),
        wait_for_interrupt: fn(),
        wait_for_interrupt_or_us: fn(u64),
        send_event: fn(),
        halt: fn() -> !,
        own_hardware_id: fn() -> u64,
        physical_address_bits: fn() -> u8,
        clean_to_memory: fn(Hpa, u64),
        zero: unsafe fn(Hpa, u64),
        probe_read: unsafe fn(u64, u64) -> Result<u64, Aborted>,
        probe_write: unsafe fn(u64, u64, u64) -> Result<(), Aborted>,
        establish: fn(CpuId) -> EntryWork,
        EntryWork::bits: fn(EntryWork) -> u64,
        EntryWork::from_bits: fn(u64) -> EntryWork,
    }

    // Boot, and the hypervisor's own memory.
    have! {
        image_start: fn() -> u64,
        image_layout: fn() -> ImageLayout,
        Builder::new: fn() -> Builder,
        Builder::activate: unsafe fn(Builder, usize) -> Option<SecondaryBoot>,
        add_memory: fn(Span<Hpa>),
        windows::shown: fn(),
        windows::forget: unsafe fn(u64),
        correct_platform: fn(&mut Platform),
        start_cpu: fn(u64, &'static SecondaryBoot) -> Result<(), NotStarted>,
        system_off: fn() -> !,
        system_reset: fn() -> !,
    }

    // Where a device tree describes the machine.
    #[cfg(not(target_arch = "x86_64"))]
    have! {
        DEVICE_TREE_MAX: u64,
        find_firmware: fn(&axvm_platform::fdt::outline::Outline<'_>),
        memory_limit: fn(&axvm_platform::fdt::outline::Outline<'_>) -> Option<Hpa>,
    }

    // The machine.
    have! {
        driven_registers: fn(&Platform) -> Vec<Span<Hpa>>,
        Irqchip::probe: unsafe fn(&mut Platform),
        Irqchip::limits: unsafe fn(&Platform, &mut Limits) -> u64,
        Irqchip::take_over: unsafe fn(&Platform) -> Result<Irqchip, IrqchipError>,
        Irqchip::init_cpu: fn(&Irqchip, CpuId) -> Result<(), IrqchipError>,
        Irqchip::add_guest_cpu: fn(&Irqchip, CpuId) -> Result<(), IrqchipError>,
        Irqchip::prepare_cpu: fn(&Irqchip, CpuId, bool),
        Irqchip::leave_cpu: fn(&Irqchip, CpuId) -> Result<(), IrqchipError>,
        Irqchip::listen: fn(&Irqchip, Interrupt, u64) -> bool,
        Irqchip::listen_to_timer: fn(&Irqchip, CpuId) -> bool,
        Irqchip::route_line: fn(&Irqchip, &LineRoute),
        Irqchip::unroute_line: fn(&Irqchip, &LineRoute),
        Irqchip::forget_messages: fn(&Irqchip, &MsiPlan) -> Result<(), IrqchipError>,
        Irqchip::count: fn(&Irqchip, &mut Taken),
        Caller::new: fn(u64) -> Caller,
        Caller::call: fn(&Caller, &Irqchip, CpuId),
        take_interrupts: fn(Option<(&Vm, VcpuId)>),
        close_iommus: unsafe fn(&Platform) -> Result<(), IommuError>,
        Iommus::new: unsafe fn(&Platform) -> Result<Iommus, IommuError>,
        Iommus::stream_bits: fn(&Iommus) -> &[u8],
        Iommus::output_bits: fn(&Iommus) -> u32,
        Iommus::attached: fn(&Iommus) -> u32,
        Iommus::take_health: fn(&Iommus, IommuId) -> Health,
        IOMMU: &str,
        UNHEARD: &str,
        Messages::new: fn(&[Arc<VmPlan>]) -> Messages,
        hardware_message: fn(&DevicePlan, u16) -> Option<axvm_vpci::MsiMessage>,
        DmaSpace::new: fn(IommuId, u8, u32, u16) -> Result<DmaSpace, SpaceError>,
        DmaSpace::iommu: fn(&DmaSpace) -> IommuId,
        DmaSpace::domain: fn(&DmaSpace) -> Domain,
        DmaSpace::destroy: fn(DmaSpace, &Iommus) -> Result<(), NotInvalidated>,
    }

    // A guest.
    have! {
        GuestSpace::new: fn(u8, u16) -> Result<GuestSpace, SpaceError>,
        GuestSpace::root: fn(&GuestSpace) -> SpaceRoot,
        GuestSpace::map: fn(&GuestSpace, Span<Gpa>, Hpa, MappingFlags) -> Result<(), MapError>,
        GuestSpace::unmap: fn(&GuestSpace, Span<Gpa>) -> Result<(), UnmapError>,
        GuestSpace::revoke: fn(&GuestSpace) -> Result<(), NotInvalidated>,
        GuestSpace::destroy: fn(GuestSpace) -> Result<(), NotInvalidated>,
        GuestIrqchip::new: fn(&'static Host, &VmPlan, &GuestRam) -> Result<GuestIrqchip, GuestIrqchipError>,
        GuestIrqchip::takes_interrupts: fn(&GuestIrqchip) -> bool,
        wait_while_off: fn(&Vm, VcpuId),
    }

    /// These keep the core's contracts.
    const fn keep<
        I: axvm::irqchip::Irqchip<Seat = Seat>,
        M: axvm::iommu::Iommu<Domain = Domain>,
        S: axvm::msi::MsiSink,
        V: axvm::vcpu::Vcpu,
    >() {
    }
    const _: () = keep::<GuestIrqchip, Iommus, Messages, Running<'static>>();
}
