//! Registers of the local APIC and of the I/O APIC, and what a CPU can send to others.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::apic::Local;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{load8, load16, load32, load64, store8, store16, store32, store64};

const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const TARGET: u64 = 0x310;
const TIMER: u64 = 0x320;
const LAST_LVT: u64 = 0x370;
const INITIAL: u64 = 0x380;
const MASKED: u32 = 1 << 16;

/// Every offset of the page, read and written with every width, with values that mean something elsewhere: it is the VM's APIC still.
pub fn local(board: &Board) -> String {
    let base = board.madt.local_apic.0;
    let Ok(id) = load32(base + ID) else { return "broken: it doesn't answer".into() };
    // The CPU that runs this is the VM's first, wherever it is in the machine.
    if board.cpus().next().map(u32::from) != Some(id >> 24) {
        return format!("succeeded: it is the machine's, whose id is {:#x}", id >> 24);
    }
    for offset in 0..0x1000u64 {
        let at = base + offset;
        let _ = (load8(at), load16(at & !1), load32(at & !3), load64(at & !7));
        // What sends is for the next one; what takes interrupts stays as it is.
        if matches!(offset & !0xf, COMMAND | TARGET | SPURIOUS | TIMER..=LAST_LVT | INITIAL) {
            continue;
        }
        let _ = (store8(at, 0xff), store16(at & !1, 0xffff), store64(at & !7, u64::MAX));
        if offset & !0xf != EOI {
            let _ = store32(at & !3, u32::MAX);
        }
    }
    // Entries that would give SMI, NMI, INIT or ExtINT: masked, and then not.
    for entry in (TIMER..=LAST_LVT).step_by(0x10) {
        for mode in [2u32, 4, 5, 7] {
            let _ = store32(base + entry, MASKED | mode << 8 | 0x50);
        }
        let _ = store32(base + entry, MASKED);
    }
    let _ = (store32(base + TASK_PRIORITY, 0), Local::new(base).start());
    match load32(base + ID) {
        Ok(value) if value >> 24 == id >> 24 => format!("blocked: its id is {:#x} still", id >> 24),
        other => format!("succeeded: its id is {other:x?}, not {id:#x}"),
    }
}

/// Every delivery mode, to every id, to all and to all others, in both modes of destinations: nobody is there but this CPU, so that nothing
/// comes of it.
pub fn commands(board: &Board) -> String {
    let base = board.madt.local_apic.0;
    let Ok(id) = load32(base + ID) else { return "broken: it doesn't answer".into() };
    let mut sent = 0u32;
    let mut send = |target: u32, command: u32| {
        let _ = store32(base + TARGET, target << 24);
        let _ = store32(base + COMMAND, command);
        sent += 1;
    };
    for mode in 0..8u32 {
        for target in (0..256u32).filter(|target| *target != id >> 24 && *target != 0xff) {
            // INIT's and SIPI's own bits: assert, level.
            send(target, mode << 8 | 1 << 14 | 0x08);
            send(target, mode << 8 | 1 << 14 | 1 << 15 | 0x08);
        }
        // All but this one.
        send(0, mode << 8 | 1 << 14 | 3 << 18 | 0x08);
        send(0, mode << 8 | 1 << 14 | 1 << 15 | 3 << 18 | 0xff);
    }
    format!("blocked: nothing came of {sent} commands")
}

/// Every register of the I/O APIC and every pin, to every kind of delivery and many CPUs: it is the VM's still.
pub fn io(board: &Board) -> String {
    let Some(found) = board.madt.io_apics.first() else { return "skipped: no I/O APIC".into() };
    let base = found.registers.0;
    let select = |index: u32| store32(base, index).is_ok();
    // Nobody has used it yet but who isn't to be found here: the hypervisor, whose console interrupts by a pin of the machine's.
    for pin in 0..24 {
        select(0x10 + pin * 2);
        match load32(base + 0x10) {
            Ok(MASKED) => {}
            other => return format!("succeeded: it is the machine's, whose pin {pin} leads to {other:x?}"),
        }
    }
    for index in 0..0x100u32 {
        select(index);
        let before = load32(base + 0x10).unwrap_or(0);
        if index < 0x10 {
            let _ = store32(base + 0x10, u32::MAX);
        } else if index & 1 == 0 {
            for mode in [2u32, 4, 5, 7] {
                let _ = store32(base + 0x10, MASKED | 1 << 15 | mode << 8 | 0x50);
            }
            let _ = store32(base + 0x10, MASKED);
        } else {
            let _ = store32(base + 0x10, u32::MAX);
            let _ = store32(base + 0x10, before);
        }
    }
    for offset in 0..0x1000u64 {
        let at = base + offset;
        let _ = (load8(at), load64(at & !7));
        if offset >= 0x20 {
            let _ = (store8(at, 0xff), store64(at & !7, u64::MAX));
        }
    }
    select(1);
    match load32(base + 0x10) {
        Ok(value) if value & 0xff != 0xff => format!("blocked: its version is {value:#x}"),
        other => format!("broken: its version is {other:x?}"),
    }
}
