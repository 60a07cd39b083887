//! Faults of the hypervisor itself: say all there is to say, and end the run.

use core::fmt::Write as _;

use x86_64::registers::control::Cr2;

use super::image::image_layout;
use super::vectors::Frame;
use crate::fault::speak;

/// An exception of the hypervisor's own.
pub fn end(frame: &Frame) -> ! {
    /// #PF.
    const PAGE_FAULT: u64 = 14;
    let Frame { vector, error, rip, rsp, rflags, .. } = *frame;
    let mut out = speak();
    let address = Cr2::read_raw();
    let (guard, bottom) = image_layout().guard;
    let what = match vector {
        0 => "division by zero",
        6 => "undefined instruction",
        // The processor had no stack to say more on.
        8 if (guard.0..bottom.0).contains(&rsp) => "stack overflow",
        8 => "double fault",
        12 => "stack fault",
        13 => "general protection",
        PAGE_FAULT => "page fault",
        18 => "machine check",
        _ => "exception",
    };
    let _ = writeln!(
        out,
        "hypervisor fault: {what} (vector {vector}, error {error:#x}), at {rip:#x}, address {address:#x}"
    );
    let names = [
        "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax",
    ];
    for (names, values) in names.chunks(4).zip(frame.registers.chunks(4)) {
        let _ = write!(out, " ");
        for (name, value) in names.iter().zip(values) {
            let _ = write!(out, " {name} {value:016x}");
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "  rsp {rsp:#x}, flags {rflags:#x}");
    out.end()
}
