//! Accesses that survive a fault: the stubs (`vectors`) let them go on behind themselves, with an error.

use core::arch::global_asm;

unsafe extern "C" {
    fn guarded_read(address: u64, bytes: u64, value: *mut u64) -> u64;
    fn guarded_write(address: u64, bytes: u64, value: u64) -> u64;
    fn guarded_read_msr(register: u32, value: *mut u64) -> u64;
    fn guarded_write_msr(register: u32, value: u64) -> u64;
    static guarded_start: u8;
    static guarded_end: u8;
    static guarded_fixup: u8;
}

/// The access faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

fn result(failed: u64) -> Result<(), Aborted> {
    if failed == 0 { Ok(()) } else { Err(Aborted) }
}

/// Reads 1, 2, 4 or 8 bytes of a device; a fault is an error.
///
/// # Safety
///
/// `address` must be mapped for the hypervisor as registers, or not at all, and reading it must not change what Rust relies on.
#[inline(always)]
pub unsafe fn probe_read(address: u64, bytes: u64) -> Result<u64, Aborted> {
    let mut value = 0;
    // SAFETY: by the caller's promise; the pointer is to a live local.
    result(unsafe { guarded_read(address, bytes, &mut value) }).map(|()| value)
}

/// Writes 1, 2, 4 or 8 bytes of a device; a fault is an error.
///
/// # Safety
///
/// As [`probe_read`], of writing.
#[inline(always)]
pub unsafe fn probe_write(address: u64, bytes: u64, value: u64) -> Result<(), Aborted> {
    // SAFETY: by the caller's promise.
    result(unsafe { guarded_write(address, bytes, value) })
}

/// Reads a model-specific register, which the CPU may not have.
pub fn read_msr(register: u32) -> Result<u64, Aborted> {
    let mut value = 0;
    // SAFETY: reading such a register changes nothing that Rust relies on; the pointer is to a live local.
    result(unsafe { guarded_read_msr(register, &mut value) }).map(|()| value)
}

/// Writes a model-specific register, which the CPU may not have, or not with this value.
///
/// # Safety
///
/// The register's effect must leave what Rust relies on as it is.
pub unsafe fn write_msr(register: u32, value: u64) -> Result<(), Aborted> {
    // SAFETY: by the caller's promise.
    result(unsafe { guarded_write_msr(register, value) })
}

/// Where to go on after a fault at `rip`, if it was that of a guarded access.
pub fn fixup(rip: u64) -> Option<u64> {
    let guarded = &raw const guarded_start as u64..&raw const guarded_end as u64;
    guarded.contains(&rip).then_some(&raw const guarded_fixup as u64)
}

// By System V's convention: rdi, rsi, rdx in, rax out. Nothing is on the stack but the return address, so that the fixup returns.
global_asm!(
    r#"
    .section .text.guarded, "ax"
    .global guarded_start, guarded_end, guarded_fixup, guarded_read, guarded_write, guarded_read_msr, guarded_write_msr
guarded_start:
guarded_read:
    xor     eax, eax
    cmp     rsi, 4
    je      4f
    ja      8f
    cmp     rsi, 2
    je      2f
    movzx   ecx, byte ptr [rdi]
    jmp     9f
2:  movzx   ecx, word ptr [rdi]
    jmp     9f
4:  mov     ecx, dword ptr [rdi]
    jmp     9f
8:  mov     rcx, qword ptr [rdi]
9:  mov     [rdx], rcx
    ret
guarded_write:
    xor     eax, eax
    cmp     rsi, 4
    je      4f
    ja      8f
    cmp     rsi, 2
    je      2f
    mov     byte ptr [rdi], dl
    ret
2:  mov     word ptr [rdi], dx
    ret
4:  mov     dword ptr [rdi], edx
    ret
8:  mov     qword ptr [rdi], rdx
    ret
guarded_read_msr:
    mov     ecx, edi
    rdmsr
    shl     rdx, 32
    or      rax, rdx
    mov     [rsi], rax
    xor     eax, eax
    ret
guarded_write_msr:
    mov     ecx, edi
    mov     rax, rsi
    mov     rdx, rsi
    shr     rdx, 32
    wrmsr
    xor     eax, eax
    ret
guarded_end:
guarded_fixup:
    mov     eax, 1
    ret
    .text
    "#
);
