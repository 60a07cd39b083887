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
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod fw_cfg;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod payload;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod vectors;

/// On a host there is nothing to run: the package is for bare metal.
#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::say(format_args!("firmware: {info}\n"));
    board::power_off()
}
