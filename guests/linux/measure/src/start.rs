//! The way in: the kernel's stack (argument count, pointers to arguments, nothing, pointers to the environment,
//! nothing) as arguments. What ends the program is here too.

use core::panic::PanicInfo;

use crate::arguments::Arguments;
use crate::linux;

/// Where the first instructions go on.
///
/// # Safety
///
/// `stack` is the stack pointer as the kernel leaves it.
pub unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the stack pointer at the start points to the number of arguments, and those follow it.
    let arguments = unsafe { Arguments::new(*stack, stack.add(1).cast()) };
    linux::exit(crate::work::run(&arguments))
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    linux::say(c"measure: a mistake of its own\n");
    linux::exit(2)
}
