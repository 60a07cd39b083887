//! The first instructions: from the PVH entry (Xen, docs/misc/pvh.pandoc), or the start of another CPU, to 64-bit mode.

use core::arch::global_asm;

use super::interrupts;

global_asm!(
    r#"
    // XEN_ELFNOTE_PHYS32_ENTRY: where a loader enters.
    .section .note.Xen, "a", @note
    .balign 4
    .long   4, 4, 18
    .asciz  "Xen"
    .long   _start

    // 32-bit protected mode without paging, flat segments; %ebx points to the start info.
    .section .head, "ax"
    .code32
    .global _start
_start:
    cli
    cld
    movl    $__bss_start, %edi
    movl    $__bss_end, %ecx
    subl    %edi, %ecx
    shrl    $2, %ecx
    xorl    %eax, %eax
    rep stosl
    movl    %ebx, %esi
    movl    $__stack_top, %esp
    movl    $first_cpu, %ebp

    // To 64-bit mode, and there on at %ebp.
enter_long_mode:
    lgdtl   gdt_pointer
    movl    $page_tables, %eax
    movl    %eax, %cr3
    movl    $0x20, %eax                 // CR4.PAE, and nothing else
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx           // EFER.LME
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    %cr0, %eax
    andl    $0x9fffffff, %eax           // CR0.CD and NW off, PG and PE on
    orl     $0x80000001, %eax
    movl    %eax, %cr0
    ljmpl   $8, $in_long_mode

    .code64
in_long_mode:
    movl    $16, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    %ebp, %eax
    xorl    %ebp, %ebp
    jmp     *%rax

first_cpu:
    movl    %esi, %edi
    leaq    __image_start(%rip), %rsi
    leaq    __image_end(%rip), %rdx
    call    {main}

another_cpu:
    call    {another}

    // Where another CPU starts: copied to a page below 1 MiB, entered there in real mode at offset 0.
    .section .rodata.secondary, "a"
    .code16
    .global secondary_start, secondary_end
secondary_start:
    cli
    cld
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   secondary_gdt - secondary_start
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $24, $in_protected_mode
secondary_gdt:
    .word   gdt_end - gdt - 1
    .long   gdt
secondary_end:

    .section .text.secondary, "ax"
    .code32
in_protected_mode:
    movl    $32, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    movl    {stack}, %esp
    movl    $another_cpu, %ebp
    jmp     enter_long_mode
    .code64

    .section .data.gdt, "aw"
    .balign 8
gdt:
    .quad   0
    .quad   0x00af9b000000ffff          // 8: code of 64-bit mode
    .quad   0x00cf93000000ffff          // 16: data
    .quad   0x00cf9b000000ffff          // 24: code of 32-bit mode
    .quad   0x00cf93000000ffff          // 32: data
gdt_end:
gdt_pointer:
    .word   gdt_end - gdt - 1
    .long   gdt

    // All of the first 4 GiB as it is, by pages of 2 MiB: the last of these uncached, since devices are there.
    .section .data.pages, "aw"
    .balign 4096
page_tables:
    .quad   page_directories + 0x3
    .fill   511, 8, 0
page_directories:
    .set    table, 0
    .rept   4
    .quad   page_entries + table * 4096 + 0x3
    .set    table, table + 1
    .endr
    .fill   508, 8, 0
page_entries:
    .set    page, 0
    .rept   1536
    .quad   page * 0x200000 + 0x83
    .set    page, page + 1
    .endr
    .rept   512
    .quad   page * 0x200000 + 0x9b
    .set    page, page + 1
    .endr
    "#,
    main = sym main,
    another = sym super::machine::another_cpu,
    stack = sym super::machine::NEXT_STACK,
    options(att_syntax),
);

extern "C" fn main(start_info: u64, image_start: u64, image_end: u64) -> ! {
    interrupts::load();
    crate::run(start_info, image_start, image_end)
}
