//! The first instructions: the arm64 Image header, relocation, the first stack; and the same for other CPUs.
//!
//! The boot protocol is Linux's (Documentation/arch/arm64/booting.rst): the image lies at a multiple of 2 MiB, the MMU
//! is off, x0 has the address of the device tree.

use core::arch::global_asm;

use axvm_addr::Hpa;

use super::cpu::{clean_to_memory, halt, needs_host_extensions};
use super::image::{address_of, image_layout, image_start};
use super::secondary::SecondaryBoot;
use super::{firmware, own_map};

unsafe extern "C" {
    /// Where PSCI CPU_ON sends a CPU, with the address of a [`SecondaryBoot`] in x0. Not to be called.
    fn _secondary_start();
}

/// The first Rust code, on the first CPU, at EL2 with the MMU off and all interrupts masked.
extern "C" fn early_main(device_tree: u64, start: u64) -> ! {
    if needs_host_extensions() {
        // SAFETY: the MMU is off.
        unsafe {
            crate::described::refuse_early(
                Hpa(device_tree),
                "this CPU has HCR_EL2.E2H fixed to one, which AxVM doesn't serve yet",
            )
        }
    }
    // SAFETY: nothing else runs yet; the span holds the image with its stack.
    if unsafe { own_map::early_enable(image_start(), image_layout().end.0) }.is_ok() {
        crate::described::with_device_tree(Hpa(device_tree), start)
    }
    halt()
}

/// The first Rust code where the boot loader started the image at another level than EL2: the MMU may be on or off.
extern "C" fn wrong_level(device_tree: u64) -> ! {
    // SAFETY: the boot protocol has the MMU off, at whichever level.
    unsafe {
        crate::described::refuse_early(
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

/// The firmware didn't start a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStarted;

/// Has the firmware start the CPU that the board calls `hardware_id`: it comes to `crate::cpus::secondary_main`. `boot` stays in place
/// until it has.
pub fn start_cpu(hardware_id: u64, boot: &'static SecondaryBoot) -> Result<(), NotStarted> {
    let at = &raw const *boot as u64;
    // It reads this with its caches off.
    clean_to_memory(Hpa(at), size_of::<SecondaryBoot>() as u64);
    firmware::cpu_on(hardware_id, address_of!(_secondary_start), at).map_err(|_| NotStarted)
}

global_asm!(
    r#"
    .section .head.front, "ax"
    .global _head
_head:
    b       _start
    .long   0
    .quad   0                   // text_offset: at the very base that the boot loader picks
    // image_size follows, from the linker script
    .section .head.back, "ax"
    .quad   0xa                 // flags: little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

_start:
    mrs     x22, cntpct_el0
    msr     daifset, #0xf
    mrs     x23, CurrentEL
    cmp     x23, #(2 << 2)
    b.ne    6f                  // not at EL2: that is said, and nothing else done
    // Whatever firmware left: no host extensions, no second stage; interrupts come to EL2 (FMO, IMO, AMO), EL1 is AArch64.
    mov     x1, #0x38
    orr     x1, x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
6:  mov     x20, x0
    adrp    x21, _head

    // Relative relocations (gABI, SHT_RELR): *(base + offset) += base. An even entry is an offset; an odd one has a bit for
    // each of the 63 words after the last one.
    adrp    x1, __relr_start
    add     x1, x1, :lo12:__relr_start
    adrp    x2, __relr_end
    add     x2, x2, :lo12:__relr_end
1:  cmp     x1, x2
    b.hs    2f
    ldr     x3, [x1], #8
    tbnz    x3, #0, 7f
    add     x4, x3, x21
    ldr     x5, [x4]
    add     x5, x5, x21
    str     x5, [x4], #8
    b       1b
7:  mov     x6, x4
8:  lsr     x3, x3, #1
    cbz     x3, 3f
    tbz     x3, #0, 4f
    ldr     x5, [x6]
    add     x5, x5, x21
    str     x5, [x6]
4:  add     x6, x6, #8
    b       8b
3:  add     x4, x4, #(63 * 8)
    b       1b

2:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b

    // What was just written, and what the stack and the first tables get until the MMU is on, goes past the caches: drop the
    // lines that the boot loader may have left.
4:  dsb     sy
    adrp    x2, __uninit_end
    add     x2, x2, :lo12:__uninit_end
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x4, #4
    lsl     x4, x4, x3
    mov     x1, x21
5:  cmp     x1, x2
    b.hs    6f
    dc      ivac, x1
    add     x1, x1, x4
    b       5b
6:  dsb     sy
    ic      iallu
    dsb     sy
    isb
    msr     spsel, #1
    adrp    x1, __boot_stack_top
    add     x1, x1, :lo12:__boot_stack_top
    mov     sp, x1
    mov     x0, x20
    mov     x1, x22
    mov     x29, xzr
    mov     x30, xzr
    cmp     x23, #(2 << 2)
    b.ne    {wrong_level}
    adrp    x2, hypervisor_vectors
    add     x2, x2, :lo12:hypervisor_vectors
    msr     vbar_el2, x2
    b       {early_main}

    .section .text.secondary, "ax"
    .global _secondary_start
_secondary_start:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x1, #0x38
    orr     x1, x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    ldp     x1, x2, [x0]
    ldp     x3, x4, [x0, #16]
    ldp     x5, x6, [x0, #32]
    msr     mair_el2, x1
    msr     tcr_el2, x2
    msr     ttbr0_el2, x3
    adrp    x1, hypervisor_vectors
    add     x1, x1, :lo12:hypervisor_vectors
    msr     vbar_el2, x1
    tlbi    alle2
    dsb     sy
    isb
    msr     sctlr_el2, x4
    isb
    mov     sp, x5
    mov     x0, x6
    mov     x29, xzr
    mov     x30, xzr
    bl      {secondary_main}
8:  wfe
    b       8b
    "#,
    early_main = sym early_main,
    wrong_level = sym wrong_level,
    secondary_main = sym secondary_main,
);
