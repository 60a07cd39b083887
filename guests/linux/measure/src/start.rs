//! The way in: the kernel's stack (argument count, pointers to arguments, nothing, pointers to the environment,
//! nothing) as arguments. What ends the program is here too.

use core::ffi::{CStr, c_char};
use core::panic::PanicInfo;

use crate::linux;

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x0, sp",
    "bl {begin}",
    begin = sym begin,
);

/// What the program was started with.
pub struct Arguments {
    count: usize,
    list: *const *const c_char,
}

impl Arguments {
    /// One of them; the program's own name is the first.
    pub fn get(&self, index: usize) -> Option<&CStr> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the kernel puts `count` pointers there, each to a terminated string, for as long as the program runs.
        unsafe { Some(CStr::from_ptr(*self.list.add(index))) }
    }

    /// The list as `execve` wants it, ended by a null pointer.
    pub fn list(&self) -> *const *const c_char {
        self.list
    }

    /// The environment, which follows the list's end.
    pub fn environment(&self) -> *const *const c_char {
        // SAFETY: after `count` arguments and one null pointer the kernel puts the environment.
        unsafe { self.list.add(self.count + 1) }
    }
}

unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the stack pointer at the start points to the number of arguments, and those follow it.
    let arguments = unsafe { Arguments { count: *stack, list: stack.add(1).cast() } };
    linux::exit(crate::work::run(&arguments))
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    linux::say(c"measure: a mistake of its own\n");
    linux::exit(2)
}
