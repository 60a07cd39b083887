//! x87, SSE and what came after them: the hypervisor uses none of it, so that a guest's is in the CPU while its vCPU resides there.

use alloc::boxed::Box;
use x86_64::registers::control::{Cr4, Cr4Flags};

/// XCR0 after a reset: x87 alone (AMD APM 2, 11.5.2).
const RESET: u64 = 1;

/// An area of XRSTOR that says of every component that it is as after a reset (11.5.3): the legacy region with MXCSR, and the header.
#[repr(C, align(64))]
struct Area([u8; 576]);

/// Where the legacy region has MXCSR, and its value after a reset.
const MXCSR_OFFSET: usize = 24;
const MXCSR_RESET: u32 = 0x1f80;

/// On a CPU that has come up: the instructions by which this state is handled are there.
pub fn establish() {
    let mut flags = Cr4::read() | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    if super::vcpu::cpuid(1, 0).ecx & 1 << 26 != 0 {
        flags |= Cr4Flags::OSXSAVE;
    }
    // SAFETY: these bits open instructions, and change nothing that runs.
    unsafe { Cr4::write(flags) };
}

/// Sets XCR0. It has been found to be one that the CPU takes.
pub fn set_xcr0(value: u64) {
    // SAFETY: nothing of the hypervisor's is in these components.
    unsafe {
        core::arch::asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack))
    }
}

/// Everything is as after a reset. `components`: what XCR0 can have, or 0 where there is no XSAVE.
pub fn reset(components: u64) {
    let mut area = Box::new(Area([0; 576]));
    if let Some(field) = area.0.get_mut(MXCSR_OFFSET..MXCSR_OFFSET + 4) {
        field.copy_from_slice(&MXCSR_RESET.to_le_bytes());
    }
    if components == 0 {
        // FCW has a value of its own there; the rest is zero.
        if let Some(field) = area.0.get_mut(..2) {
            field.copy_from_slice(&0x37fu16.to_le_bytes());
        }
        // SAFETY: the area is 512 bytes, and nothing of the hypervisor's is in these registers.
        unsafe { core::arch::asm!("fxrstor64 [{}]", in(reg) &raw const *area, options(nostack)) };
        return;
    }
    set_xcr0(components);
    // SAFETY: the area's header names no component, so that no more than it is read; nothing of the hypervisor's is in these.
    unsafe {
        core::arch::asm!("xrstor64 [{}]", in(reg) &raw const *area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
    }
    set_xcr0(RESET);
}
