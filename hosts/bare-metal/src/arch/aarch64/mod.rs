//! aarch64: boot, vectors, the CPU's registers, GIC and ITS.

mod boot;
mod control;
mod cpu;
pub mod direct;
mod emulate;
mod exit;
mod fault;
pub mod gic;
mod gic_lpis;
mod guest_psci;
mod idregs;
mod indexed;
pub mod its;
mod its_command;
pub mod limits;
mod lists;
pub mod lpis;
pub mod psci;
mod quick;
mod reset;
mod speculation;
pub mod stage1;
mod sysreg;
mod tlb;
mod vcpu;
mod vectors;
pub mod vpe;
pub mod window;

use axvm_addr::{CpuId, Hpa};

pub use boot::SecondaryBoot;
pub use cpu::{
    clean_to_memory, delay_us, halt, memory_barrier, mpidr, now_us, send_event, tick_hz, ticks, ticks_as,
    virtual_count, wait_for_interrupt, wait_for_interrupt_or_us, wait_for_interrupt_until, wait_us, zero,
};
pub use exit::{Next, handle};
pub use lists::{list_registers, priority_bits};
pub use quick::Running;
pub use tlb::forget_vm;
pub use vcpu::{Context, park};
pub use vectors::{EntryWork, Left, enter, probe_read, probe_write};

use sysreg::mrs;

/// The protocol lets a device tree have this many bytes (booting.rst, 2).
pub const DEVICE_TREE_MAX: u64 = 2 << 20;

/// The address of a symbol that the linker script or assembly defines: by an instruction. By itself the compiler would keep the
/// address of a symbol from elsewhere in a table of the image, and older linkers can't do that within the tiny code model.
macro_rules! address_of {
    ($symbol:path) => {{
        let address: u64;
        // SAFETY: an address is computed, and nothing is read or written.
        unsafe {
            core::arch::asm!("adr {0}, {1}", out(reg) address, sym $symbol, options(pure, nomem, nostack, preserves_flags));
        }
        address
    }};
}
pub(crate) use address_of;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_bottom: u8;
    static __image_end: u8;
}

/// The address of the image's first byte.
pub fn image_start() -> u64 {
    address_of!(__image_start)
}

/// Where the parts of the image are.
pub struct ImageLayout {
    /// Instructions: from the image's start to here.
    pub text_end: Hpa,
    /// Constants: from there to here.
    pub constants_end: Hpa,
    /// The pages below the first CPU's stack.
    pub guard: (Hpa, Hpa),
    /// The end.
    pub end: Hpa,
}

/// Where the parts of the image are.
pub fn image_layout() -> ImageLayout {
    ImageLayout {
        text_end: Hpa(address_of!(__text_end)),
        constants_end: Hpa(address_of!(__rodata_end)),
        guard: (Hpa(address_of!(__boot_stack_guard)), Hpa(address_of!(__boot_stack_bottom))),
        end: Hpa(address_of!(__image_end)),
    }
}

/// The first Rust code, on the first CPU, at EL2 with the MMU off and all interrupts masked.
extern "C" fn early_main(device_tree: u64, start: u64) -> ! {
    if needs_host_extensions() {
        // SAFETY: the MMU is off.
        unsafe {
            crate::boot::refuse_early(
                Hpa(device_tree),
                "this CPU has HCR_EL2.E2H fixed to one, which AxVM doesn't serve yet",
            )
        }
    }
    // SAFETY: nothing else runs yet; the span holds the image with its stack.
    if unsafe { stage1::early_enable(image_start(), image_layout().end.0) }.is_ok() {
        crate::main(Hpa(device_tree), start)
    }
    halt()
}

/// The first Rust code where the boot loader started the image at another level than EL2: the MMU may be on or off.
extern "C" fn wrong_level(device_tree: u64) -> ! {
    // SAFETY: the boot protocol has the MMU off, at whichever level.
    unsafe {
        crate::boot::refuse_early(
            Hpa(device_tree),
            "not started at EL2: this board's firmware, or its settings, keep hypervisors out (QEMU: -M virt,virtualization=on)",
        )
    }
}

/// The first Rust code of any other CPU: the MMU is on, all interrupts are masked. `argument` is its position in
/// [`crate::cpus`].
extern "C" fn secondary_main(argument: u64) -> ! {
    crate::cpus::secondary_main(argument as u16)
}

/// Where a CPU starts, for PSCI.
pub fn secondary_entry() -> Hpa {
    Hpa(address_of!(boot::_secondary_start))
}

/// Brings the calling CPU, which has just come up, into the states that the control of guests rests on, and sets up what it does
/// against speculation.
pub fn establish(cpu: CpuId) -> EntryWork {
    tlb::shut();
    control::establish(axvm_cpu::control::When::CpuUp);
    speculation::set_up(cpu)
}

/// The smaller of what the CPU and 48 bits can address (ID_AA64MMFR0_EL1.PARange).
pub fn physical_address_bits() -> u8 {
    match mrs!("id_aa64mmfr0_el1") & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Whether HCR_EL2.E2H is fixed to one on this CPU (ID_AA64MMFR4_EL1.E2H0 negative): then the hypervisor's register layouts are
/// wrong for it.
pub fn needs_host_extensions() -> bool {
    mrs!("s3_0_c0_c7_4") >> 24 & 0xf >= 0xe
}
