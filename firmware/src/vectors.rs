//! What brings non-secure software to EL3: SMC, and Group 0 interrupts.

use core::arch::global_asm;

use crate::cpu::mrs;
use crate::{board, console, cpu, gic, psci};

global_asm!(
    r#"
    .macro vector kind
    .balign 0x80
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       firmware_exception
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
firmware_vectors:
    // From EL3: the firmware's own mistakes.
    .rept 8
    vector 2
    .endr
    // From AArch64 below: synchronous, IRQ, FIQ, SError.
    vector 0
    vector 2
    vector 1
    vector 2
    .rept 4
    vector 2
    .endr

    // x0: the kind; x0 and x1 are saved. x19 to x29 the handlers keep.
firmware_exception:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x29, [sp, #144]
    str     x30, [sp, #160]
    mov     x1, sp
    bl      {handle}
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x29, [sp, #144]
    ldr     x30, [sp, #160]
    ldp     x0, x1, [sp], #192
    eret
    "#,
    handle = sym handle,
);

/// A call of the OEM's (Arm DEN 0028, 6.1), for tests: what calls it takes an SError, as if one of its accesses had been answered by an
/// error. QEMU makes none by itself.
const SYSTEM_ERROR: u32 = 0x8300_0001;

/// ESR_EL3.EC of SMC from AArch64 (Arm ARM, D24.2.45).
const SMC64: u64 = 0x17;

extern "C" fn handle(kind: u64, saved: &mut [u64; 4]) {
    let syndrome = mrs!("esr_el3");
    match kind {
        0 if syndrome >> 26 == SMC64 => {
            let [id, arguments @ ..] = *saved;
            if id as u32 == SYSTEM_ERROR {
                return cpu::pass_system_error();
            }
            saved[0] = i64::from(psci::call(id as u32, arguments)) as u64;
        }
        1 => gic::take_group0(),
        _ => {
            console::say(format_args!(
                "firmware: exception: syndrome {syndrome:#x} at {:#x}, address {:#x}\n",
                mrs!("elr_el3"),
                mrs!("far_el3")
            ));
            board::power_off()
        }
    }
}
