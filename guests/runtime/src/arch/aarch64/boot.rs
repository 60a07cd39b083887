//! The first instructions and the vectors.

use core::arch::global_asm;

use crate::machine;

global_asm!(
    r#"
    .section .head.front, "ax"
    .global _head
_head:
    b       _start
    .long   0
    .quad   0                   // text_offset
    // image_size follows, from the linker script
    .section .head.back, "ax"
    .quad   0xa                 // flags: little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

_start:
    msr     daifset, #0xf
    mov     x20, x0
    bl      go_down_to_el1
    adrp    x21, _head

    // R_AARCH64_RELATIVE (AAELF64, 5.7.16): *(base + offset) = base + addend.
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027
    b.ne    9f
    add     x5, x5, x21
    str     x5, [x3, x21]
    b       1b

2:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  cmp     x1, x2
    b.hs    4f
    str     xzr, [x1], #8
    b       3b

4:  msr     spsel, #1
    adrp    x1, __stack_top
    add     x1, x1, :lo12:__stack_top
    mov     sp, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    isb
    mov     x0, x20
    adrp    x1, __image_start
    adrp    x2, __image_end
    mov     x29, xzr
    mov     x30, xzr
    bl      {main}
9:  wfi
    b       9b

    // Another CPU (PSCI CPU_ON): x0 points to its stack's top and to the function that it runs.
    .section .text.secondary, "ax"
    .global secondary_start
secondary_start:
    msr     daifset, #0xf
    mov     x20, x0
    bl      go_down_to_el1
    msr     spsel, #1
    ldp     x1, x2, [x20]
    mov     sp, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    isb
    mov     x29, xzr
    mov     x30, xzr
    blr     x2
6:  wfi
    b       6b

    // Every synchronous exception is taken for a failed access, counted and stepped over. Nothing else is
    // unmasked.
    .section .text.vectors, "ax"
    .balign 2048
vectors:
    .rept   16
    b       5f
    .balign 128
    .endr
5:  stp     x0, x1, [sp, #-16]!
    mrs     x0, elr_el1
    add     x0, x0, #4
    msr     elr_el1, x0
    adrp    x0, {faults}
    add     x0, x0, :lo12:{faults}
    ldr     x1, [x0]
    add     x1, x1, #1
    str     x1, [x0]
    ldp     x0, x1, [sp], #16
    eret
    "#,
    main = sym main,
    faults = sym machine::FAULTS,
);

extern "C" fn main(device_tree: u64, image_start: u64, image_end: u64) -> ! {
    crate::run(device_tree, image_start, image_end)
}
