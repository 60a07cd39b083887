//! A small EL3 firmware for QEMU's `virt` board with a secure world (`-M virt,secure=on,virtualization=on,gic-version=3`).
//!
//! It stands for what such a board has on real hardware, Trusted Firmware for instance: the GIC has two security states
//! (GICD_CTLR.DS=0), Group 0 interrupts belong to the secure world and come to EL3, non-secure software has Group 1 and
//! sees shifted priorities, and PSCI is a call to EL3. Tests of AxVM on such a board start from it; it is no part of what
//! users install.
//!
//! Started as `-bios`, it takes QEMU's `-kernel` and `-initrd` from fw_cfg, puts them into RAM, adds PSCI and the initial
//! RAM disk to QEMU's device tree, and enters the kernel at non-secure EL2 as Linux's boot protocol says.
//! Secondary CPUs wait until PSCI CPU_ON.
//!
//! Everything runs with the MMU off, so that there is nothing to keep coherent.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod boot;
mod console;
mod cpu;
mod fw_cfg;
mod gic;
mod heap;
mod payload;
mod psci;
mod states;
mod vectors;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::say(format_args!("firmware: {info}\n"));
    board::power_off()
}
