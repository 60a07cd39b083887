//! The two 8259s of a PC, which are masked for good: lines come by I/O APICs.

use x86_64::instructions::port::Port;

/// Masks all lines of both, and has what they might still send be a vector that nobody takes for an exception.
pub fn mask_all() {
    /// Where their spurious interrupts would go: vectors of no one's, above the exceptions (Intel 8259A: ICW2).
    const VECTORS: [u8; 2] = [0x20, 0x28];
    let write = |port: u16, value: u8| {
        // SAFETY: the 8259s are the hypervisor's.
        unsafe { Port::<u8>::new(port).write(value) };
    };
    // ICW1 (edge, cascade, ICW4), ICW2, ICW3 (the second is at line 2), ICW4 (8086 mode); then all masked.
    for (command, cascade, vector) in [(0x20u16, 4u8, VECTORS[0]), (0xa0, 2, VECTORS[1])] {
        write(command, 0x11);
        write(command + 1, vector);
        write(command + 1, cascade);
        write(command + 1, 1);
        write(command + 1, 0xff);
    }
}
