//! The calling CPU's local APIC, register by register (AMD APM 2, 16.3; Intel SDM 3, 11), in the mode in which it is.

use axvm_guest_runtime::machine::{Fault, cpuid, load32, read_msr, store32, write_msr};

pub const ID: u32 = 0x20;
pub const TPR: u32 = 0x80;
pub const PPR: u32 = 0xa0;
pub const EOI: u32 = 0xb0;
pub const LDR: u32 = 0xd0;
pub const DFR: u32 = 0xe0;
pub const SVR: u32 = 0xf0;
pub const ISR: u32 = 0x100;
pub const TMR: u32 = 0x180;
pub const IRR: u32 = 0x200;
pub const ICR: u32 = 0x300;
pub const ICR_HIGH: u32 = 0x310;
pub const TIMER: u32 = 0x320;
pub const LINT0: u32 = 0x350;
pub const LINT1: u32 = 0x360;
pub const ERROR: u32 = 0x370;
pub const INITIAL: u32 = 0x380;
pub const CURRENT: u32 = 0x390;
pub const DIVIDER: u32 = 0x3e0;
/// SELF IPI, which x2APIC mode alone has.
pub const SELF: u32 = 0x3f0;

pub const MASKED: u32 = 1 << 16;
pub const PERIODIC: u32 = 1 << 17;
/// ICR: the level is asserted; the destination is a logical one; who gets it in place of a destination.
pub const ASSERT: u32 = 1 << 14;
pub const LOGICAL: u32 = 1 << 11;
pub const TO_SELF: u32 = 1 << 18;
pub const TO_ALL: u32 = 2 << 18;
pub const TO_OTHERS: u32 = 3 << 18;
/// ICR: it is on its way, which nothing here is for long.
const ON_ITS_WAY: u32 = 1 << 12;

/// APIC_BASE, and its bits: on, and in x2APIC mode.
const BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;

/// Where every local APIC here has its page.
const PAGE: u64 = 0xfee0_0000;

/// What a register has that doesn't answer.
const SILENT: u32 = 0xdead_dead;

/// Whether the calling CPU's is in x2APIC mode.
pub fn is_x2() -> bool {
    read_msr(BASE).is_ok_and(|base| base & X2APIC != 0)
}

/// Has it in x2APIC mode; whether that is offered.
pub fn use_x2() -> bool {
    const OFFERED: u32 = 1 << 21;
    if is_x2() {
        return true;
    }
    let Ok(base) = read_msr(BASE) else { return false };
    cpuid(1, 0)[2] & OFFERED != 0
        && write_msr(BASE, base | ENABLED).is_ok()
        && write_msr(BASE, base | ENABLED | X2APIC).is_ok()
}

/// The MSR of a register.
pub const fn msr(register: u32) -> u32 {
    0x800 + (register >> 4)
}

/// Reads a register.
pub fn read(register: u32) -> u32 {
    if is_x2() {
        return read_msr(msr(register)).map_or(SILENT, |value| value as u32);
    }
    load32(PAGE + u64::from(register)).unwrap_or(SILENT)
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    let _: Result<(), Fault> = if is_x2() {
        write_msr(msr(register), value.into())
    } else {
        store32(PAGE + u64::from(register), value)
    };
}

/// Its id.
pub fn id() -> u32 {
    let id = read(ID);
    if is_x2() { id } else { id >> 24 }
}

/// Ends the interrupt that is in service.
pub fn end() {
    write(EOI, 0);
}

/// Writes the command register. In x2APIC mode all of it at once.
pub fn send(destination: u32, command: u32) {
    if is_x2() {
        let _ = write_msr(msr(ICR), u64::from(destination) << 32 | u64::from(command));
        return;
    }
    write(ICR_HIGH, destination << 24);
    write(ICR, command);
}

/// What the command register has, when nothing is on its way: destination, command.
pub fn command() -> (u32, u32) {
    if is_x2() {
        let value = read_msr(msr(ICR)).unwrap_or(u64::MAX);
        return ((value >> 32) as u32, value as u32);
    }
    (read(ICR_HIGH) >> 24, read(ICR) & !ON_ITS_WAY)
}

/// An interrupt of this vector to the calling CPU.
pub fn send_here(vector: u8) {
    send(0, TO_SELF | ASSERT | u32::from(vector));
}

/// The highest vector of a register of 256 bits; 0 if it has none.
pub fn highest(first: u32) -> u8 {
    let words = (0..8u8).rev().map(|word| (word, read(first + u32::from(word) * 0x10)));
    let found = words
        .filter(|(_, bits)| *bits != 0)
        .map(|(word, bits)| word * 32 + (31 - bits.leading_zeros()) as u8);
    found.max().unwrap_or(0)
}

/// Whether a register of 256 bits has a vector's.
pub fn has(first: u32, vector: u8) -> bool {
    read(first + u32::from(vector / 32) * 0x10) >> (vector % 32) & 1 != 0
}

/// All vectors that a register of 256 bits has.
pub fn all(first: u32) -> impl Iterator<Item = u8> {
    (0..8u8).flat_map(move |word| {
        let bits = read(first + u32::from(word) * 0x10);
        (0..32u8).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 32 + bit)
    })
}
