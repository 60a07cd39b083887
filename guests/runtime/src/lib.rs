//! What the small bare-metal guests start with: first instructions, memory, console, machine, board.
//!
//! A guest is a program whose `build.rs` includes `link.rs` of this package, and that says
//! [`entry!`]`("NAME", function)`: the function gets the [`board::Board`] on the first CPU, with interrupts masked (on aarch64 at EL1
//! with the MMU off, on x86_64 in 64-bit mode with the first 4 GiB mapped as they are),
//! and what it says goes to the console by [`println!`]. When it returns, the guest says
//! `NAME done` and powers itself off. A guest runs in a VM or on the bare board; entered at EL2 there, it goes down to
//! EL1 first (`arch`).
//!
//! It touches no address that its device tree (on x86_64: its ACPI tables) doesn't name or its command line doesn't ask for, but for the
//! first serial port, where those name no console.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod console;
pub mod edu;
#[cfg(target_arch = "aarch64")]
pub mod gic;
#[cfg(target_arch = "aarch64")]
pub mod its;

mod arch;
mod cmdline;
mod heap;

pub use arch::*;

/// Names the guest and the function that it is.
#[macro_export]
macro_rules! entry {
    ($name:literal, $main:path) => {
        #[unsafe(no_mangle)]
        static AXVM_GUEST_NAME: &str = $name;

        #[unsafe(no_mangle)]
        fn axvm_guest_main(board: &$crate::board::Board) {
            $main(board)
        }
    };
}

// SAFETY: `entry!` defines both with these types.
unsafe extern "Rust" {
    safe static AXVM_GUEST_NAME: &'static str;
    safe fn axvm_guest_main(board: &board::Board);
}

/// What every guest does once it can run Rust. `description`: the device tree, or the start info.
fn run(description: u64, image_start: u64, image_end: u64) -> ! {
    match board::Board::find(description, image_start, image_end) {
        Some(board) => {
            console::set(board.console);
            axvm_guest_main(&board);
            println!("{AXVM_GUEST_NAME} done");
            machine::power_off(board.power())
        }
        // Without a console there is no one to tell.
        None => machine::power_off(None),
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{AXVM_GUEST_NAME} panic broken: {info}");
    machine::power_off(None)
}
