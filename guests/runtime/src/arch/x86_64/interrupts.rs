//! Exceptions and interrupts. An exception of an access that may fail is counted and stepped over; another ends the guest. Interrupts
//! are masked but in [`crate::machine`]'s callers' own blocks, which they reach in registers.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use super::machine;
use crate::println;

// Vectors 0 to 31 are exceptions. Some push an error code; for the others there is a 0 in its place.
//
// An interrupt leaves the time in r11 and its vector in r12; its reason is quieted by reading the port r14, if that isn't 0, or, where r14 is no port's
// number, by writing 1 at that address, and the local APIC hears of its end at r15, or by its model-specific register if that is 0. It uses rax and rdx: who unmasks interrupts says so.
global_asm!(
    r#"
    .section .text.entries, "ax"
    .balign 16
interrupt_entries:
    .set    vector, 0
    .rept   256
    .balign 16
    .if vector >= 32
    movl    $vector, %r12d
    jmp     interrupt
    .else
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq   $0
    .endif
    pushq   $vector
    jmp     exception
    .endif
    .set    vector, vector + 1
    .endr

    .balign 16
interrupt:
    rdtsc
    shlq    $32, %rdx
    orq     %rdx, %rax
    movq    %rax, %r11
    testl   %r14d, %r14d
    jz      1f
    cmpl    $0xffff, %r14d
    ja      3f
    movw    %r14w, %dx
    inb     %dx, %al
    jmp     1f
3:  movl    $1, (%r14)
1:  testq   %r15, %r15
    jz      2f
    movl    $0, (%r15)
    iretq
2:  pushq   %rcx
    movl    $0x80b, %ecx
    xorl    %eax, %eax
    xorl    %edx, %edx
    wrmsr
    popq    %rcx
    iretq

exception:
    pushq   %rax
    movq    {resume}(%rip), %rax
    testq   %rax, %rax
    jz      2f
    movq    %rax, 24(%rsp)
    movq    $0, {resume}(%rip)
    incq    {faults}(%rip)
    movq    8(%rsp), %rax
    movq    %rax, {vector}(%rip)
    popq    %rax
    addq    $16, %rsp
    iretq
2:  movq    8(%rsp), %rdi
    movq    16(%rsp), %rsi
    movq    24(%rsp), %rdx
    andq    $-16, %rsp
    call    {unexpected}
    "#,
    resume = sym machine::RESUME,
    faults = sym machine::FAULTS,
    vector = sym machine::VECTOR,
    unexpected = sym unexpected,
    options(att_syntax),
);

unsafe extern "C" {
    static interrupt_entries: [[u8; 16]; 256];
}

/// The interrupt descriptor table (AMD APM 2, 8.2).
#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: only `load` writes it, on the first CPU before there is a second.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// The operand of LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Makes the table and loads it, and masks nothing else than it was.
pub fn load() {
    // The code segment of 64-bit mode, a present interrupt gate.
    const GATE: u64 = 8 << 16 | 0x8e00 << 32;
    // SAFETY: the first CPU alone runs, and the entries are there for as many vectors.
    unsafe {
        let table = &mut *TABLE.0.get();
        for (entry, at) in table.iter_mut().zip(&interrupt_entries) {
            let at = at.as_ptr() as u64;
            *entry = [at & 0xffff | (at & 0xffff_0000) << 32 | GATE, at >> 32];
        }
    }
    load_here();
}

/// Loads the table on the calling CPU.
pub fn load_here() {
    let pointer = Pointer { limit: 0xfff, base: TABLE.0.get() as u64 };
    // SAFETY: the table has been made.
    unsafe { asm!("lidt [{0}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

extern "C" fn unexpected(vector: u64, error: u64, at: u64) -> ! {
    println!("exception {vector}, error {error:#x}, at {at:#x}");
    panic!("an exception that nobody expects")
}
