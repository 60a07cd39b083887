//! What the small bare-metal guests start with: first instructions, memory, console, machine, board.
//!
//! A guest is a program whose `build.rs` includes `link.rs` of this package, and that says
//! [`entry!`]`("NAME", function)`: the function gets the [`board::Board`] on the first CPU, at EL1 with the MMU off
//! and interrupts masked, and what it says goes to the console by [`println!`]. When it returns, the guest says
//! `NAME done` and powers itself off. A guest runs in a VM or on the bare board; entered at EL2 there, it goes down to
//! EL1 first (`arch`).
//!
//! It touches no address that its device tree doesn't name or its command line doesn't ask for.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod board;
pub mod console;
pub mod edu;
pub mod gic;
pub mod its;

mod arch;
mod heap;

pub use arch::{icc, machine, registers};

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

/// What every guest does once it can run Rust.
fn run(device_tree: u64, image_start: u64, image_end: u64) -> ! {
    match board::Board::find(device_tree, image_start, image_end) {
        Some(board) => {
            console::set(board.console);
            axvm_guest_main(&board);
            println!("{AXVM_GUEST_NAME} done");
            machine::power_off(board.conduit)
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
