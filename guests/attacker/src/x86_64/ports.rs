//! All ports.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{in8, in16, in32, out8, out16, out32};

/// Ports that a VM has: its console's, its power's, its PCI's.
fn is_own(board: &Board, port: u16) -> bool {
    let console = board.console as u16;
    (console..console + 8).contains(&port) || (0x600..0x610).contains(&port) || (0xcf8..0xd00).contains(&port)
}

/// Reads every port that the VM hasn't got: nobody answers.
pub fn read(board: &Board) -> String {
    let mut own = 0u32;
    for port in 0..=u16::MAX {
        if is_own(board, port) {
            own += 1;
            continue;
        }
        let value = in8(port);
        if value != u8::MAX {
            return format!("succeeded: port {port:#x} reads as {value:#x}");
        }
    }
    // Wider ones, at the ports that machines have: of two devices at once, too.
    for port in (0..0x1000u16).step_by(2).chain([0xffff, 0xfffd]) {
        if (port..=port.saturating_add(3)).any(|port| is_own(board, port)) {
            continue;
        }
        if in16(port) != u16::MAX || in32(port) != u32::MAX {
            return format!("succeeded: port {port:#x} reads as {:#x}", in32(port));
        }
    }
    format!("blocked: nobody answers but at {own} ports")
}

/// Writes every port that the VM hasn't got, and at those that reset, end or reconfigure machines what does that: the VM goes on.
pub fn write(board: &Board) -> String {
    // QEMU's exit, its debug console; the keyboard controller's reset and the fast one; system management; the first interrupt
    // controllers, the timer, DMA; the CMOS clock; POST; the IOMMU's neighbours.
    const WORST: &[(u16, u8)] = &[
        (0xf4, 0x10),
        (0x501, 0x10),
        (0x64, 0xfe),
        (0x92, 0x03),
        (0xb2, 0xf1),
        (0xb3, 0xff),
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x43, 0xb6),
        (0x61, 0x03),
        (0x08, 0x04),
        (0x70, 0x8f),
        (0x71, 0x5a),
        (0x80, 0x55),
        (0x2f8, 0x41),
        (0x8900, 0x53),
    ];
    for &(port, value) in WORST {
        if !is_own(board, port) {
            out8(port, value);
        }
    }
    for port in 0..=u16::MAX {
        // Of two devices at once, too, but none of the VM's own.
        if !(port..=port.saturating_add(3)).any(|port| is_own(board, port)) {
            out8(port, 0xff);
            out16(port, 0);
            out32(port, u32::MAX);
        }
    }
    "blocked: nothing came of it".into()
}

/// A port that no machine of a VM's has.
const NOBODY: u16 = 0x300;

/// Instructions that repeat: nobody answers each of what they read, and takes what they write; the console takes each character.
pub fn strings(board: &Board) -> String {
    let mut read = [0u8; 96];
    // SAFETY: each reads as many bytes as its part of the array has.
    unsafe {
        let [bytes, words, doubles] = [0, 32, 64].map(|at| read.as_mut_ptr().add(at));
        core::arch::asm!("rep insb", in("dx") NOBODY, inout("rdi") bytes => _, inout("rcx") 32u64 => _, options(nostack));
        core::arch::asm!("rep insw", in("dx") NOBODY, inout("rdi") words => _, inout("rcx") 16u64 => _, options(nostack));
        core::arch::asm!("rep insd", in("dx") NOBODY, inout("rdi") doubles => _, inout("rcx") 8u64 => _, options(nostack));
    }
    if let Some(at) = read.iter().position(|byte| *byte != u8::MAX) {
        return format!("succeeded: byte {at} is {:#x}", read[at]);
    }
    let said = b"ATTACK ports-strings said at once\r\n";
    for port in [NOBODY, board.console as u16] {
        // SAFETY: it writes as many bytes as there are.
        unsafe {
            core::arch::asm!("rep outsb", in("dx") port, inout("rsi") said.as_ptr() => _, inout("rcx") said.len() => _, options(nostack, readonly));
        }
    }
    format!("blocked: {} bytes are nobody's", read.len())
}
