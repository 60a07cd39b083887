//! The record of what the hypervisor says of itself (`axvm_system::record`), and its place: the last 8 KiB of the memory that the
//! image's header asks for, `load address + image_size - 8192` (docs/manual.md has it for users). It is part of the image, so that no
//! VM is ever given that memory.

use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::Hpa;
use axvm_system::record::{self, HEADER, Record};

use crate::arch;

// Not in `.bss`: what the last start left is kept until this one has shown it.
// SAFETY: the linker script keeps the section, which is like `.bss` but for what is in it at the start: any bytes are a record.
#[unsafe(link_section = ".kept")]
static RECORD: Record = Record::new();

/// An earlier start had kept something.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Sees to it, once, that there is a valid record: the last start's, or an empty one.
fn begin() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if !BEGUN.load(Ordering::Relaxed) {
        BEGUN.store(true, Ordering::Relaxed);
        if !RECORD.is_valid() {
            RECORD.clear();
        }
    }
}

/// Adds text. Whoever calls has the console's lock, or is the last to speak. `heard`: the text goes to a console too.
pub fn push(text: &[u8], heard: bool) {
    begin();
    let changed = RECORD.push(text, heard);
    // A reset takes the caches with it.
    let place = (&raw const RECORD) as u64;
    arch::clean_to_memory(Hpa(place), HEADER as u64);
    arch::clean_to_memory(Hpa(place + changed.start as u64), changed.len() as u64);
}

/// What earlier starts could tell nobody, for people: lines. The record is empty then. To be asked before this start says anything.
pub fn last_start() -> String {
    begin();
    let text = record::shown(&RECORD.tell());
    SHOWN.store(!text.is_empty(), Ordering::Relaxed);
    RECORD.clear();
    push(b"", true);
    text
}

/// Whether an earlier start had kept something.
pub fn has_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

/// What of this start was said when there was no console.
pub fn untold() -> alloc::vec::Vec<u8> {
    begin();
    RECORD.tell()
}
