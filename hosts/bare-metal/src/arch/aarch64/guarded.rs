//! Accesses that survive an abort, and errors that come late: what the vectors (`fault.rs`) let go on.

use core::arch::global_asm;

use super::image::address_of;
use super::protection;
use super::sysreg::{dsb, mrs};

unsafe extern "C" {
    fn guarded_read(address: u64, bytes: u64, value: *mut u64) -> u64;
    fn guarded_write(address: u64, bytes: u64, value: u64) -> u64;
    fn guarded_translation(address: u64, par: *mut u64) -> u64;
    fn late_error() -> u64;
    fn late_error_by_firmware(function: u64) -> u64;
    static late_error_start: u8;
    static late_error_end: u8;
    static guarded_start: u8;
    static guarded_end: u8;
    static guarded_fixup: u8;
}

/// The bus did not answer an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// Reads 1, 2, 4 or 8 bytes of a device; an abort is an error and not a fault.
///
/// # Safety
///
/// `address` must be mapped for the hypervisor as device memory, aligned to `bytes`, and reading it must not change
/// what Rust relies on.
#[inline(always)]
pub unsafe fn probe_read(address: u64, bytes: u64) -> Result<u64, Aborted> {
    let mut value = 0;
    // SAFETY: by the caller's promise; the pointer is to a live local.
    match unsafe { guarded_read(address, bytes, &mut value) } {
        0 => Ok(value),
        _ => Err(Aborted),
    }
}

/// Writes 1, 2, 4 or 8 bytes of a device; an abort is an error and not a fault.
///
/// # Safety
///
/// As [`probe_read`], of writing.
#[inline(always)]
pub unsafe fn probe_write(address: u64, bytes: u64, value: u64) -> Result<(), Aborted> {
    // SAFETY: by the caller's promise.
    match unsafe { guarded_write(address, bytes, value) } {
        0 => Ok(()),
        _ => Err(Aborted),
    }
}

/// What the first stage of the guest that was left makes of a virtual address, for a read at EL1, as PAR_EL1 says it; the
/// guest's own PAR_EL1 stays. That the walk is aborted is an error and not a fault: the guest chooses where its tables are.
pub fn probe_translation(address: u64) -> Result<u64, Aborted> {
    let mut par = 0;
    // SAFETY: translating changes nothing but PAR_EL1, which is put back; the pointer is to a live local.
    match unsafe { guarded_translation(address, &mut par) } {
        0 => Ok(par),
        _ => Err(Aborted),
    }
}

/// Takes an SError that is pending for this CPU, if there is one: of an access whose answer came late. They are masked otherwise while
/// the hypervisor runs. The barrier waits for the answers to all accesses so far. When an answer that is an error makes an SError pending
/// is the implementation's (Arm ARM, D1.3.4, asynchronous external aborts); with the answer, on those that are known.
pub fn take_late_error() -> bool {
    /// ISR_EL1.A: an SError is pending.
    const PENDING: u64 = 1 << 8;
    dsb!("sy");
    if let Some(function) = protection::error_by_firmware() {
        // SAFETY: the tests' firmware answers by an SError, which the vectors expect there and which changes no register.
        return unsafe { late_error_by_firmware(function) } == function;
    }
    // SAFETY: SErrors are unmasked for as long as it takes to take one, which the vectors expect there.
    mrs!("isr_el1") & PENDING != 0 && unsafe { late_error() } != 0
}

/// Whether an SError at `pc` is one that [`take_late_error`], or a guarded access, takes on purpose.
pub fn is_expected_error(pc: u64) -> bool {
    (address_of!(late_error_start)..=address_of!(late_error_end)).contains(&pc)
}

/// Where to go on after an abort at `pc`, if it was that of a guarded access.
pub fn fixup(pc: u64) -> Option<u64> {
    let (start, end) = (address_of!(guarded_start), address_of!(guarded_end));
    (start..end).contains(&pc).then_some(address_of!(guarded_fixup))
}

global_asm!(
    r#"
    .section .text.vectors, "ax"

    // guarded_read(x0: address, x1: bytes, x2: where the value goes) -> x0: 0, or 1 if the access aborted.
    .global guarded_start, guarded_end, guarded_fixup, guarded_read, guarded_write, guarded_translation
guarded_start:
guarded_read:
    cmp     x1, #4
    b.eq    4f
    b.hi    8f
    cmp     x1, #2
    b.eq    2f
    ldrb    w3, [x0]
    b       9f
2:  ldrh    w3, [x0]
    b       9f
4:  ldr     w3, [x0]
    b       9f
8:  ldr     x3, [x0]
9:  dsb     sy
    mrs     x4, isr_el1
    tbnz    x4, #8, late_error
    str     x3, [x2]
    mov     x0, #0
    ret
guarded_write:
    cmp     x1, #4
    b.eq    4f
    b.hi    8f
    cmp     x1, #2
    b.eq    2f
    strb    w2, [x0]
    b       9f
2:  strh    w2, [x0]
    b       9f
4:  str     w2, [x0]
    b       9f
8:  str     x2, [x0]
    // A write's error is its answer, and comes with that, as an SError: it is this access's.
9:  dsb     sy
    mrs     x4, isr_el1
    tbnz    x4, #8, late_error
    mov     x0, #0
    ret
    // guarded_translation(x0: address, x1: where PAR_EL1 goes) -> x0: 0, or 1 if a table couldn't be read.
guarded_translation:
    mrs     x2, par_el1
    at      s1e1r, x0
    isb
    mrs     x3, par_el1
    msr     par_el1, x2
    str     x3, [x1]
    mov     x0, #0
    ret
guarded_end:
    // late_error() -> x0: 1. Takes the SError that is pending.
    .global late_error, late_error_start, late_error_end
late_error:
    mov     x0, #1
late_error_start:
    msr     daifclr, #4
    isb
    msr     daifset, #4
    ret
    // late_error_by_firmware(x0: function) -> x0: the same. The firmware passes an SError on, as if it had come here.
    .global late_error_by_firmware
late_error_by_firmware:
    smc     #0
late_error_end:
    ret
guarded_fixup:
    mov     x0, #1
    ret
    "#
);
