//! The first instructions of every CPU, and the last ones before non-secure software.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{board, cpu, gic, payload, states};

/// What [`READY`] says once the first CPU has set up what all share.
const IS_READY: u64 = 0x6178_766d_2065_6c33;

/// Not cleared by anyone: other CPUs look at it while the first one still clears memory.
// SAFETY: the linker script puts the section into secure RAM.
#[unsafe(link_section = ".noinit")]
static READY: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    .section .text.start, "ax"
    .global _start
_start:
    msr     daifset, #0xf
    // MMU and caches off, exceptions little-endian: SCTLR_EL3's RES1 bits only (Arm ARM, D24.2).
    ldr     x0, =0x30c50830
    msr     sctlr_el3, x0
    adr     x0, firmware_vectors
    msr     vbar_el3, x0
    isb
    // The CPU's number: board::cpu_number.
    mrs     x19, mpidr_el1
    ubfx    x0, x19, #8, #8
    and     x19, x19, #0xff
    add     x19, x19, x0, lsl #4
    cmp     x19, #64
    b.hs    9f
    ldr     x0, =__stacks + 0x2000
    add     x0, x0, x19, lsl #13
    mov     sp, x0
    ldr     x0, ={ready}
    ldr     x1, ={is_ready}
    cbz     x19, 2f
1:  ldr     x2, [x0]
    cmp     x2, x1
    b.eq    4f
    wfe
    b       1b
2:  ldr     x0, =__bss_start
    ldr     x1, =__bss_end
3:  cmp     x0, x1
    b.hs    4f
    str     xzr, [x0], #8
    b       3b
4:  dsb     sy
    mov     x0, x19
    bl      {main}
9:  wfe
    b       9b
    .ltorg

    // Leaves EL3: x0 the address, x1 its argument, x2 the CPU's number.
    .section .text.leave, "ax"
    .global firmware_leave
firmware_leave:
    ldr     x3, =__stacks + 0x2000
    add     x3, x3, x2, lsl #13
    mov     sp, x3
    msr     elr_el3, x0
    // EL2 with its own stack pointer, everything masked.
    mov     x3, #0x3c9
    msr     spsr_el3, x3
    mov     x0, x1
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    isb
    eret
    .ltorg
    "#,
    ready = sym READY,
    is_ready = const IS_READY,
    main = sym main,
);

unsafe extern "C" {
    safe fn firmware_leave(address: u64, argument: u64, cpu: usize) -> !;
}

extern "C" fn main(cpu: usize) -> ! {
    cpu::set_up();
    if cpu == 0 {
        gic::set_up_distributor();
        READY.store(IS_READY, Ordering::Release);
        cpu::send_event();
    }
    gic::set_up_cpu();
    if cpu == 0 {
        let (kernel, device_tree) = payload::load().unwrap_or_else(|why| {
            crate::console::say(format_args!("firmware: {why}\n"));
            board::power_off()
        });
        states::first_is_on();
        enter(kernel, device_tree, 0)
    }
    wait_for_call(cpu)
}

/// Waits, off as far as PSCI goes, for CPU_ON.
pub fn wait_for_call(cpu: usize) -> ! {
    let (entry, argument) = states::called(cpu);
    enter(entry, argument, cpu)
}

fn enter(entry: u64, argument: u64, cpu: usize) -> ! {
    cpu::reset_el2();
    firmware_leave(entry, argument, cpu)
}
