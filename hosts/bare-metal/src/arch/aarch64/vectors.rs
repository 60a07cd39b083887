//! The exception vectors of EL2, and the way into a guest and back.
//!
//! The hypervisor runs with its interrupts masked and takes them by asking (`ICC_IAR1_EL1`), so an exception from EL2
//! itself is either the abort of a guarded access (`guarded.rs`) or a fault of the hypervisor (`fault.rs`).

use core::arch::global_asm;

use super::fast::{Running, fast_exit};
use super::frame::{EntryWork, Frame};
use super::image::address_of;
use super::sysreg::msr;

/// Has the calling CPU take exceptions by the vectors that do this first, or by those without.
pub fn install(work: EntryWork) {
    let vectors = match work {
        EntryWork::NONE => address_of!(hypervisor_vectors),
        _ => address_of!(working_vectors),
    };
    // SAFETY: both tables do the same otherwise, for exceptions of the hypervisor's own and of a guest's.
    unsafe { msr!("vbar_el2", vectors) };
}

/// Why a guest was left: the vector that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A synchronous exception: ESR_EL2 says which.
    Synchronous,
    /// An interrupt of either group.
    Interrupt,
    /// An SError.
    SystemError,
    /// An exception from AArch32 at EL1, which is never entered: of the guest's EL0 only.
    Other,
}

unsafe extern "C" {
    fn enter_guest(frame: *mut Frame) -> u64;
    static hypervisor_vectors: u8;
    static working_vectors: u8;
}

/// Runs the guest until its next exit that [`super::fast`] doesn't answer.
///
/// `tpidr_el2` is this function's own between entry and exit: it holds the frame, which is the first that there is of the vCPU.
pub fn enter(running: &mut Running<'_>) -> Left {
    // SAFETY: the vCPU is exclusively borrowed and stays in place for the whole call; the exclusive borrow that `fast_exit` gets
    // is of this one, and ends before this returns. The assembly keeps Rust's calling convention. What the guest can reach is bounded by stage 2 and the control registers, not by this call.
    match unsafe { enter_guest((&raw mut *running).cast::<Frame>()) } {
        0 => Left::Synchronous,
        1 | 2 => Left::Interrupt,
        3 => Left::SystemError,
        _ => Left::Other,
    }
}

global_asm!(
    r#"
    .section .text.vectors, "ax"

    // From the guest: save its registers into the frame; then back into the guest, if what it did is answered at once, or to
    // the caller of enter_guest with the vector's number.
    .macro from_guest number
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mrs     x0, tpidr_el2
    stp     x2, x3, [x0, #16]
    mov     x1, #\number
    .if     \number == 1 || \number == 2
    b       leave_guest_for_interrupt
    .else
    b       leave_guest
    .endif
    .endm

    // The same on a CPU that has to forget first what the guest has trained.
    .macro from_guest_working number
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mrs     x0, tpidr_el2
    stp     x2, x3, [x0, #16]
    mov     x1, #\number
    b       forget_branches
    .endm

    // From the hypervisor itself.
    .macro from_self number
    .balign 128
    sub     sp, sp, #272
    // Is the stack used up? Its bit 16 tells (cpus.rs); no register is free yet, so do it by sums.
    add     sp, sp, x0
    sub     x0, sp, x0
    tbz     x0, #16, stack_overflow
    sub     x0, sp, x0
    sub     sp, sp, x0
    stp     x0, x1, [sp]
    mov     x1, #\number
    b       self_exception
    .endm

    .balign 2048
    .global hypervisor_vectors
hypervisor_vectors:
    from_self 0
    from_self 1
    from_self 2
    from_self 3
    from_self 4
    from_self 5
    from_self 6
    from_self 7
    from_guest 0
    from_guest 1
    from_guest 2
    from_guest 3
    from_guest 0
    from_guest 1
    from_guest 2
    from_guest 3

    // From the hypervisor itself nothing has to be forgotten.
    .balign 2048
    .global working_vectors
working_vectors:
    from_self 0
    from_self 1
    from_self 2
    from_self 3
    from_self 4
    from_self 5
    from_self 6
    from_self 7
    from_guest_working 0
    from_guest_working 1
    from_guest_working 2
    from_guest_working 3
    from_guest_working 0
    from_guest_working 1
    from_guest_working 2
    from_guest_working 3

    // EntryWork says what. The branches on the way to it are conditional or direct: what is predicted of them leads nowhere else.
forget_branches:
    ldr     x2, [x0, #264]
    tbnz    x2, #8, 2f
    cbz     w2, 3f
    // The loop of Arm's white paper on Spectre-BHB.
1:  b       . + 4
    subs    w2, w2, #1
    b.ne    1b
    dsb     nsh
    isb
    b       leave_guest
2:  hint    #22                     // CLRBHB
    isb
    b       leave_guest
    // x0 to x3 are the call's (SMCCC 1.1).
3:  str     x1, [sp, #-16]!
    lsr     x0, x2, #32
    smc     #0
    ldr     x1, [sp], #16
    mrs     x0, tpidr_el2
    b       leave_guest

leave_guest:
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    stp     x30, x4, [x0, #240]
    str     x5, [x0, #256]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    bl      {fast_exit}
    cbnz    x0, 2f
    mrs     x0, tpidr_el2
    b       resume_guest
2:  sub     x0, x0, #1
back_to_caller:
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #96
    ret

    // An interrupt has nothing to do with the guest's registers: those that functions keep (x19 to x29) stay where they are, and go
    // into the frame only if the guest isn't entered again from here.
leave_guest_for_interrupt:
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    mrs     x4, elr_el2
    mrs     x5, spsr_el2
    stp     x30, x4, [x0, #240]
    str     x5, [x0, #256]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    bl      {fast_exit}
    mrs     x1, tpidr_el2
    cbnz    x0, 2f
    ldp     x30, x3, [x1, #240]
    ldr     x2, [x1, #256]
    msr     elr_el2, x3
    msr     spsr_el2, x2
    ldp     x2, x3, [x1, #16]
    ldp     x4, x5, [x1, #32]
    ldp     x6, x7, [x1, #48]
    ldp     x8, x9, [x1, #64]
    ldp     x10, x11, [x1, #80]
    ldp     x12, x13, [x1, #96]
    ldp     x14, x15, [x1, #112]
    ldp     x16, x17, [x1, #128]
    ldr     x18, [x1, #144]
    ldp     x0, x1, [x1]
    eret
    // No speculation past the return.
    dsb     nsh
    isb
2:  stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    sub     x0, x0, #1
    b       back_to_caller

    .global enter_guest
enter_guest:
    sub     sp, sp, #96
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    msr     tpidr_el2, x0
resume_guest:
    ldp     x30, x1, [x0, #240]
    ldr     x2, [x0, #256]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldp     x0, x1, [x0]
    eret
    // No speculation past the return.
    dsb     nsh
    isb

stack_overflow:
    adrp    x1, emergency_stack_top
    add     x1, x1, :lo12:emergency_stack_top
    mov     sp, x1
    bl      {stack_overflow}

self_exception:
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
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x30, x2, [sp, #240]
    str     x3, [sp, #256]
    mov     x0, sp
    bl      {self_exception}
    // Only the abort of a guarded access comes back, with the place to go on in the frame.
    ldr     x2, [sp, #248]
    msr     elr_el2, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp]
    add     sp, sp, #272
    eret
    dsb     nsh
    isb

    .section .bss
    .balign 16
    .space 8192
emergency_stack_top:
    "#,
    stack_overflow = sym super::fault::stack_overflow,
    self_exception = sym super::fault::self_exception,
    fast_exit = sym fast_exit,
);
