//! What the hypervisor says of itself, kept in memory: the last of it is there when no console is, and over a warm reset.
//!
//! The record's place is the last [`BYTES`] of the memory that the image's header asks for: `load address + image_size - 8192`
//! (docs/manual.md has it for users). Little-endian:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `AXVMLOG1` |
//! | 8 | 8 | how many bytes of text were ever written, `n` |
//! | 16 | 8176 | text: byte `i` of all that was written is at `16 + i % 8176` |

use core::mem::MaybeUninit;

use axvm_addr::Hpa;

use crate::arch;

/// The size of the record.
const BYTES: usize = 8192;

const HEADER: usize = 16;

/// The bytes of text that are kept.
const TEXT: usize = BYTES - HEADER;

#[repr(C, align(8192))]
struct Record {
    magic: [u8; 8],
    written: u64,
    text: [u8; TEXT],
}

// Not in `.bss`: what the last start left is kept until this one says something.
#[unsafe(link_section = ".kept")]
static mut RECORD: MaybeUninit<Record> = MaybeUninit::uninit();

const MAGIC: [u8; 8] = *b"AXVMLOG1";

/// Adds text. Whoever calls has the console's lock, or is the last to speak.
pub fn push(text: &[u8]) {
    /// Whether this start has written; before, the record is the last start's, or nothing.
    static mut BEGUN: bool = false;
    let record = (&raw mut RECORD).cast::<Record>();
    // SAFETY: the record is this module's, and callers come one at a time; of two that speak their last at once one may lose
    // bytes of text. Every access stays inside the record.
    unsafe {
        if !BEGUN {
            BEGUN = true;
            (&raw mut (*record).magic).write_volatile(MAGIC);
            (&raw mut (*record).written).write_volatile(0);
        }
        let written = (&raw const (*record).written).read_volatile();
        for (byte, at) in text.iter().zip(written..) {
            let place = (&raw mut (*record).text).cast::<u8>();
            place.add((at % TEXT as u64) as usize).write_volatile(*byte);
        }
        (&raw mut (*record).written).write_volatile(written.wrapping_add(text.len() as u64));
        // A reset takes the caches with it.
        let start = (written % TEXT as u64) as usize;
        let place = record as u64;
        arch::clean_to_memory(Hpa(place), HEADER as u64);
        if start + text.len() <= TEXT {
            arch::clean_to_memory(Hpa(place + (HEADER + start) as u64), text.len() as u64);
        } else {
            arch::clean_to_memory(Hpa(place), BYTES as u64);
        }
    }
}
