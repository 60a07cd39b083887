//! A start at EL2, as on the bare board with virtualization: down to EL1.
//!
//! Left behind is the least that a hypervisor can be: every call (HVC) saves all general registers, restores them
//! and goes back. So its round trip is what no hypervisor that saves them can be below.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.el2, "ax"

    // Called with bl; comes back at EL1 with everything masked. Uses x1 and x2 only.
    .global go_down_to_el1
go_down_to_el1:
    mrs     x1, CurrentEL
    cmp     x1, #8
    b.ne    1f
    mov     x1, #(1 << 31)              // HCR_EL2.RW: EL1 is AArch64, nothing is trapped
    msr     hcr_el2, x1
    mov     x1, #3                      // CNTHCTL_EL2: counters and timers are EL1's
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, xzr
    mov     x1, #0x33ff                 // CPTR_EL2: RES1 bits only
    bic     x1, x1, #(1 << 10)          // TFP
    msr     cptr_el2, x1
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x1, midr_el1
    msr     vpidr_el2, x1
    mrs     x1, mpidr_el1
    msr     vmpidr_el2, x1
    mov     x1, #0xf                    // ICC_SRE_EL2: system registers, for EL1 too
    msr     S3_4_C12_C9_5, x1
    mov     x1, #0x0980                 // SCTLR_EL1: RES1 bits only
    movk    x1, #0x30d0, lsl #16
    msr     sctlr_el1, x1
    adrp    x1, el2_vectors
    add     x1, x1, :lo12:el2_vectors
    msr     vbar_el2, x1
    adrp    x1, el2_stack_top
    add     x1, x1, :lo12:el2_stack_top
    // A kilobyte for each of four CPUs: a call uses a quarter of it.
    mrs     x2, mpidr_el1
    and     x2, x2, #3
    sub     x1, x1, x2, lsl #10
    mov     sp, x1
    mov     x1, #0x3c5                  // EL1 with SP_EL1, all masked
    msr     spsr_el2, x1
    msr     elr_el2, x30
    isb
    eret
1:  ret

    .balign 2048
el2_vectors:
    .rept   8
    b       .
    .balign 128
    .endr
    // A synchronous exception of EL1.
    stp     x0, x1, [sp, #-256]!
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    b       2f
    .balign 128
    .rept   7
    b       .
    .balign 128
    .endr
2:  ldr     x30, [sp, #240]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp], #256
    eret

    .section .bss
    .balign 16
    .space 4096
el2_stack_top:
    "#,
);
