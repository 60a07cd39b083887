//! Linux's calls on arm64 (number in x8, arguments from x0 on, the result in x0), marks, and the way in.

use core::arch::asm;

pub const OPENAT: usize = 56;
pub const WRITE: usize = 64;
pub const PREAD64: usize = 67;
pub const EXIT_GROUP: usize = 94;
pub const GETPID: usize = 172;
pub const SOCKET: usize = 198;
pub const SENDTO: usize = 206;
pub const RECVFROM: usize = 207;
pub const SETSOCKOPT: usize = 208;
pub const EXECVE: usize = 221;

pub const O_DIRECT: usize = 0o200_000;

/// # Safety
/// The arguments must be what the call wants: pointers to what it reads or writes, of the lengths that it is told.
pub unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let value;
    // SAFETY: the kernel changes x0 and the memory that the caller answers for.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a as isize => value,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    value
}

/// Hints whose numbers the architecture leaves without effect (Arm ARM, C6.2, HINT).
macro_rules! mark {
    ($number:literal) => {
        // SAFETY: a hint without an effect.
        unsafe { core::arch::asm!(concat!("hint #", $number)) }
    };
}
pub(crate) use mark;

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x0, sp",
    "bl {begin}",
    begin = sym crate::start::begin,
);
