//! The first instructions: entered by PVH or by multiboot2, in 32-bit mode, and what brings another CPU up.
//!
//! Both enter in protected mode with flat segments, paging and interrupts off, and have in EBX the address of what they hand over. Xen's PVH
//! direct boot (xen, docs/misc/pvh.pandoc) finds its entry by an ELF note of type 18; GNU's multiboot2 (its specification, 3.1 and 3.3) by a
//! header in the first 32 KiB of the file, and says in EAX that it is that.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::Hpa;
use axvm_platform::acpi::handed::multiboot2;

use super::local_apic::LocalApic;
use super::percpu::PerCpu;
use super::secondary::SecondaryBoot;
use super::{cpu, trampoline, vectors};
use crate::described::{Protocol, with_handed};

/// The first Rust code, on the first CPU, in long mode with the image mapped, interrupts off. `handed`: the address of what the boot loader
/// has handed over; `start`: the clock at the first instruction; `magic`: what it has said of itself, 0 by PVH.
extern "C" fn early_main(handed: u64, start: u64, magic: u32) -> ! {
    // SAFETY: the first CPU, once, before anything looks for its own.
    unsafe { PerCpu::install_first() };
    vectors::install();
    vectors::install_dropping();
    LocalApic::use_x2apic();
    cpu::calibrate();
    match magic {
        0 => with_handed(Protocol::Pvh, Hpa(handed), start),
        multiboot2::MAGIC => with_handed(Protocol::Multiboot2, Hpa(handed), start),
        _ => crate::boot::last_words(
            &"the boot loader doesn't say that it has entered the hypervisor by multiboot2",
        ),
    }
}

/// The first Rust code of any other CPU, in long mode on the hypervisor's own map, interrupts off. `argument` is its position in
/// [`crate::cpus`].
extern "C" fn secondary_main(argument: u64) -> ! {
    // What it began with has been read.
    STARTING.store(0, Ordering::SeqCst);
    PerCpu::install();
    vectors::install();
    LocalApic::use_x2apic();
    crate::cpus::secondary_main(argument as u16)
}

/// A CPU that can't be started: there was no room below 1 MiB for its first instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStarted;

/// What the CPU that is being started begins with: the address of its [`SecondaryBoot`].
static STARTING: AtomicU64 = AtomicU64::new(0);

/// Starts the CPU whose local APIC has this id: it comes to `crate::cpus::secondary_main`. `boot` stays in place until it has; one CPU is
/// started at a time. By the sequence of the Intel SDM 3, 9.4.4.1 (AMD APM 2, 15.27.8), but that it isn't waited for longer than it takes.
///
/// The 10 ms that this has between INIT and STARTUP were for processors whose local APIC was a chip of its own (MultiProcessor Specification 1.4, B.4).
/// Those with SVM take a STARTUP as soon as they have taken the INIT, and Linux gives them as long as this does.
pub fn start_cpu(hardware_id: u64, boot: &'static SecondaryBoot) -> Result<(), NotStarted> {
    let page = trampoline::page().ok_or(NotStarted)?;
    STARTING.store(&raw const *boot as u64, Ordering::SeqCst);
    let apic = LocalApic::own();
    apic.send_init(hardware_id);
    cpu::delay_us(10);
    for most_us in [100, 1000] {
        apic.send_startup(hardware_id, (page.0 >> 12) as u8);
        if cpu::wait_us(most_us, || STARTING.load(Ordering::SeqCst) == 0) {
            break;
        }
    }
    Ok(())
}

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long   4, 4, 18                    // name's size, description's size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   _pvh_start

    // For multiboot2: 32-bit code of an i386, where it begins, and modules at whole pages, which the hypervisor maps by themselves.
    .section .multiboot2, "a"
    .balign 8
multiboot2_header:
    .long   0xe85250d6, 0, multiboot2_header_end - multiboot2_header
    .long   -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
    .short  3, 0                        // the entry
    .long   12, _multiboot2_start, 0
    .short  6, 0                        // modules at pages
    .long   8
    .short  0, 0                        // the end
    .long   8
multiboot2_header_end:

    .section .head, "ax"
    .code32
    .global _pvh_start
_pvh_start:
    xor     eax, eax
_multiboot2_start:
    cli
    cld
    mov     esp, eax
    mov     ebp, ebx
    rdtsc
    mov     esi, eax
    mov     ebx, edx

    // The first map: the image alone, one to one.
    xor     eax, eax
    lea     edi, [early_root]
    mov     ecx, 3 * 1024
    rep     stosd
    lea     eax, [early_root + 0x1000]
    or      eax, 3
    mov     [early_root], eax
    lea     eax, [early_root + 0x2000]
    or      eax, 3
    mov     [early_root + 0x1000], eax
    lea     eax, [__image_start]
    lea     ecx, [__image_end]
2:  mov     edx, eax
    shr     edx, 18
    or      eax, 0x83
    mov     [early_root + 0x2000 + edx], eax
    and     eax, ~0x83
    add     eax, 0x200000
    cmp     eax, ecx
    jb      2b

    lgdt    [first_gdt_pointer]
    mov     eax, 1 << 5                 // CR4.PAE
    mov     cr4, eax
    lea     eax, [early_root]
    mov     cr3, eax
    mov     ecx, 0xc0000080             // EFER: LME, NXE
    rdmsr
    or      eax, 1 << 8 | 1 << 11
    wrmsr
    mov     eax, 0x80010033             // CR0: PG, WP, NE, ET, MP, PE
    mov     cr0, eax
    // Far: to 64-bit code.
    .byte   0xea
    .long   first_long
    .word   8

    .code64
first_long:
    mov     eax, 16
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    xor     eax, eax
    mov     fs, eax
    mov     gs, eax
    lldt    ax
    mov     r15d, esp
    mov     r12d, ebp
    mov     r13d, esi
    mov     r14d, ebx
    shl     r14, 32
    or      r13, r14
    lea     rdi, [rip + __bss_start]
    lea     rcx, [rip + __bss_end]
    sub     rcx, rdi
    shr     rcx, 3                      // both ends are multiples of 16
    rep     stosq
    lea     rsp, [rip + __boot_stack_top]
    mov     rdi, r12
    mov     rsi, r13
    mov     edx, r15d
    xor     ebp, ebp
    call    {early_main}
    ud2

    // Another CPU, from the trampoline: long mode, the first map.
    .global secondary_long
secondary_long:
    mov     eax, 16
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    xor     eax, eax
    mov     fs, eax
    mov     gs, eax
    lldt    ax
    mov     rax, [rip + {starting}]
    mov     rcx, [rax]
    mov     rsp, [rax + 8]
    mov     rdi, [rax + 16]
    mov     cr3, rcx
    xor     ebp, ebp
    call    {secondary_main}
    ud2

    // What a CPU is started with, in real mode at the start of a page below 1 MiB: copied there.
    .section .rodata.trampoline, "a"
    .global trampoline_start, trampoline_end
    .balign 16
trampoline_start:
    .code16
    cli
    cld
    mov     ax, cs
    mov     ds, ax
    .byte   0x66, 0x0f, 0x01, 0x16      // lgdt, with a base of 32 bits
    .word   trampoline_gdt_pointer - trampoline_start
    mov     eax, 1 << 5                 // CR4.PAE
    mov     cr4, eax
    .byte   0x66, 0xb8                  // mov eax
    .long   early_root
    mov     cr3, eax
    .byte   0x66, 0xb9                  // mov ecx
    .long   0xc0000080                  // EFER: LME, NXE
    rdmsr
    or      eax, 1 << 8 | 1 << 11
    wrmsr
    .byte   0x66, 0xb8                  // mov eax
    .long   0x80010033                  // CR0: PG, WP, NE, ET, MP, PE
    mov     cr0, eax
    .byte   0x66, 0xea                  // far, 16:32
    .long   secondary_long
    .word   8
    .balign 4
trampoline_gdt_pointer:
    .word   3 * 8 - 1
    .long   first_gdt
trampoline_end:
    .code64

    .section .rodata.first_gdt, "a"
    .balign 8
first_gdt:
    .quad   0
    .quad   0x00af9b000000ffff          // 8: 64-bit code
    .quad   0x00cf93000000ffff          // 16: data
first_gdt_pointer:
    .word   3 * 8 - 1
    .long   first_gdt

    .section .uninit, "aw", @nobits
    .balign 4096
    .global early_root
early_root:
    .skip   3 * 4096

    .text
    "#,
    early_main = sym early_main,
    secondary_main = sym secondary_main,
    starting = sym STARTING,
);
