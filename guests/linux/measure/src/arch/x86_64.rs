//! Linux's calls on x86-64 (number in rax, arguments in rdi, rsi, rdx, r10, r8, r9, the result in rax), marks, and the way in.

use core::arch::asm;

pub const OPENAT: usize = 257;
pub const WRITE: usize = 1;
pub const PREAD64: usize = 17;
pub const EXIT_GROUP: usize = 231;
pub const GETPID: usize = 39;
pub const SOCKET: usize = 41;
pub const SENDTO: usize = 44;
pub const RECVFROM: usize = 45;
pub const SETSOCKOPT: usize = 54;
pub const EXECVE: usize = 59;

pub const O_DIRECT: usize = 0o40_000;

/// # Safety
/// The arguments must be what the call wants: pointers to what it reads or writes, of the lengths that it is told.
pub unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let value;
    // SAFETY: the kernel changes rax, rcx, r11 and the memory that the caller answers for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => value,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    value
}

/// No-operations whose operand is told apart (AMD64 APM 3, NOP: 0F 1F /0), which touch nothing.
macro_rules! mark {
    ($number:literal) => {
        // SAFETY: an instruction without an effect.
        unsafe { core::arch::asm!(concat!("nop dword ptr [rax + ", $number, "]")) }
    };
}
pub(crate) use mark;

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym crate::start::begin,
);
