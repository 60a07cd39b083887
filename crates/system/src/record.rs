//! What the hypervisor says of itself, as it is kept in memory: for when there is no console, and over a reset that keeps memory.
//!
//! The record is a ring in a place that the hypervisor's image has for it (docs/manual.md, "Without a console", says where).
//! Little-endian:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `AXVMLOG` and the version, `2` |
//! | 8 | 8 | a checksum |
//! | 16 | 8 | how many bytes of text were ever written, `n` |
//! | 24 | 8 | how many of the first of these somebody was told of, or has been shown since: `n` at most |
//! | 32 | 8160 | text: byte `i` of all that was written is at `32 + i % 8160` |
//!
//! The checksum is the sum of `(2 i + 1) · text[i]` over the bytes of text that were written, by their place in the ring,
//! of `n · 0x9e37_79b9_7f4a_7c15`, and of the number at 24 times `0xc2b2_ae3d_27d4_eb4f`, modulo 2^64.
//!
//! Nothing found there is trusted: whoever had the memory before may have left it. A record with a wrong checksum is none, numbers
//! only choose among the ring's own bytes, and what is shown of it is printable text.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// The size of a record.
pub const BYTES: usize = 8192;

/// What comes before the text.
pub const HEADER: usize = 32;

/// The bytes of text that are kept.
const TEXT: usize = BYTES - HEADER;

const MAGIC: u64 = u64::from_le_bytes(*b"AXVMLOG2");

/// More was never written: a number that is larger isn't one.
const MOST: u64 = 1 << 48;

/// What every line of an earlier start begins with.
const EARLIER: &str = "last start: ";

/// A record. Any bytes are one; those that make sense are [valid](Record::is_valid). Whoever writes to it does so alone: of two at once
/// one loses text, or the record its validity.
#[repr(C, align(8192))]
pub struct Record {
    magic: AtomicU64,
    checksum: AtomicU64,
    written: AtomicU64,
    told: AtomicU64,
    text: [AtomicU8; TEXT],
}

const _: () = assert!(size_of::<Record>() == BYTES);

impl Record {
    /// One that isn't valid.
    pub const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            checksum: AtomicU64::new(0),
            written: AtomicU64::new(0),
            told: AtomicU64::new(0),
            text: [const { AtomicU8::new(0) }; TEXT],
        }
    }

    /// What the text adds to the checksum.
    fn sum(&self) -> u64 {
        let length = self.written.load(Relaxed).min(TEXT as u64) as usize;
        self.text
            .iter()
            .enumerate()
            .take(length)
            .fold(0, |sum: u64, (at, byte)| sum.wrapping_add(Self::weighed(at, byte.load(Relaxed))))
    }

    const fn weighed(at: usize, byte: u8) -> u64 {
        (2 * at as u64 + 1) * byte as u64
    }

    /// What the two numbers add to it: odd factors, so that no change of one alone leaves it.
    const fn sealed(written: u64, told: u64) -> u64 {
        written.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(told.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
    }

    /// Whether it is a record of this version, whole.
    pub fn is_valid(&self) -> bool {
        let (written, told) = (self.written.load(Relaxed), self.told.load(Relaxed));
        self.magic.load(Relaxed) == MAGIC
            && told <= written
            && written < MOST
            && self.checksum.load(Relaxed) == self.sum().wrapping_add(Self::sealed(written, told))
    }

    /// Makes it a valid one without text.
    pub fn clear(&self) {
        self.written.store(0, Relaxed);
        self.told.store(0, Relaxed);
        self.checksum.store(Self::sealed(0, 0), Relaxed);
        self.magic.store(MAGIC, Relaxed);
    }

    /// Adds text to a valid one. `heard`: somebody is told of it by other means. What has changed beside the header: bytes of the
    /// record.
    pub fn push(&self, text: &[u8], heard: bool) -> Range<usize> {
        let (written, told) = (self.written.load(Relaxed), self.told.load(Relaxed));
        let mut checksum = self.checksum.load(Relaxed).wrapping_sub(Self::sealed(written, told));
        let mut end = written;
        for &byte in text {
            let at = (end % TEXT as u64) as usize;
            let Some(place) = self.text.get(at) else { break };
            if end >= TEXT as u64 {
                checksum = checksum.wrapping_sub(Self::weighed(at, place.load(Relaxed)));
            }
            checksum = checksum.wrapping_add(Self::weighed(at, byte));
            place.store(byte, Relaxed);
            end = end.wrapping_add(1);
        }
        // What wasn't told before this stays to be told.
        let told = if heard && told == written { end } else { told };
        self.checksum.store(checksum.wrapping_add(Self::sealed(end, told)), Relaxed);
        self.written.store(end, Relaxed);
        self.told.store(told, Relaxed);
        let start = HEADER + (written % TEXT as u64) as usize;
        match start + text.len() <= BYTES {
            true => start..start + text.len(),
            false => HEADER..BYTES,
        }
    }

    /// The text of a valid one that nobody was told of, as far as it is kept. From then on somebody was.
    pub fn tell(&self) -> Vec<u8> {
        let (written, told) = (self.written.load(Relaxed), self.told.load(Relaxed));
        let from = told.max(written.saturating_sub(TEXT as u64));
        let bytes = (from..written)
            .filter_map(|at| self.text.get((at % TEXT as u64) as usize))
            .map(|byte| byte.load(Relaxed))
            .collect();
        let checksum = self.checksum.load(Relaxed);
        let checksum = checksum.wrapping_sub(Self::sealed(written, told));
        self.checksum.store(checksum.wrapping_add(Self::sealed(written, written)), Relaxed);
        self.told.store(written, Relaxed);
        bytes
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

/// Text of an earlier start for people: lines that say so, and nothing that a terminal would obey.
pub fn shown(text: &[u8]) -> String {
    let mut shown = String::new();
    for line in text.split(|&byte| byte == b'\n') {
        // A start that could tell nobody either has kept what it would have shown.
        let line = line.strip_prefix(EARLIER.as_bytes()).unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            shown.push_str(EARLIER);
            shown.extend(
                line.iter().map(|&byte| if matches!(byte, b' '..=b'~') { byte as char } else { '?' }),
            );
            shown.push('\n');
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(texts: &[(&[u8], bool)]) -> Record {
        let record = Record::new();
        record.clear();
        for (text, heard) in texts {
            record.push(text, *heard);
            assert!(record.is_valid());
        }
        record
    }

    #[test]
    fn what_nobody_was_told_of_is_told_once() {
        let record = with(&[(b"heard\n", true), (b"alone\n", false), (b"later\n", true)]);
        assert_eq!(record.tell(), b"alone\nlater\n");
        assert!(record.is_valid() && record.tell().is_empty());
        record.push(b"again", false);
        assert_eq!(record.tell(), b"again");
    }

    #[test]
    fn a_ring_keeps_the_last_of_what_was_written() {
        let long: Vec<u8> = (0..3 * TEXT + 5).map(|at| b'a' + (at % 26) as u8).collect();
        for piece in [1, 7, TEXT, TEXT + 1, long.len()] {
            let record = Record::new();
            record.clear();
            for part in long.chunks(piece) {
                let changed = record.push(part, false);
                assert!(changed.start >= HEADER && changed.end <= BYTES);
            }
            assert!(record.is_valid(), "{piece}");
            assert_eq!(record.tell(), long[long.len() - TEXT..], "{piece}");
        }
    }

    #[test]
    fn what_changes_is_said() {
        let record = with(&[(b"abc", false)]);
        assert_eq!(record.push(b"de", false), HEADER + 3..HEADER + 5);
        record.push(&[b'x'; TEXT - 6], false);
        assert_eq!(record.push(b"yz", false), HEADER..BYTES);
    }

    #[test]
    fn what_was_changed_by_others_is_no_record() {
        type Change = fn(&Record);
        let changes: &[(&str, Change)] = &[
            ("magic", |it| it.magic.store(u64::from_le_bytes(*b"AXVMLOG1"), Relaxed)),
            ("a byte", |it| it.text[1].store(b'X', Relaxed)),
            ("two bytes", |it| {
                it.text[0].store(b'b', Relaxed);
                it.text[1].store(b'a', Relaxed);
            }),
            ("more", |it| it.written.store(5, Relaxed)),
            ("less", |it| it.written.store(2, Relaxed)),
            ("told", |it| it.told.store(1, Relaxed)),
            ("far more", |it| it.written.store(u64::MAX, Relaxed)),
            ("told of more than there is", |it| {
                it.told.store(9, Relaxed);
                it.checksum.store(it.sum().wrapping_add(Record::sealed(3, 9)), Relaxed);
            }),
            ("more than can be", |it| {
                it.written.store(MOST, Relaxed);
                it.checksum.store(it.sum().wrapping_add(Record::sealed(MOST, 0)), Relaxed);
            }),
        ];
        for (what, change) in changes {
            let record = with(&[(b"abc", false)]);
            change(&record);
            assert!(!record.is_valid(), "{what}");
            record.clear();
            assert!(record.is_valid() && record.tell().is_empty(), "{what}");
        }
        assert!(!Record::new().is_valid(), "memory of zeros");
    }

    #[test]
    fn numbers_that_are_wrong_choose_no_other_memory() {
        let record = Record::new();
        record.clear();
        record.written.store(u64::MAX - 3, Relaxed);
        record.push(b"over the end", true);
        record.told.store(u64::MAX, Relaxed);
        assert!(record.tell().len() <= TEXT);
    }

    #[test]
    fn an_earlier_start_is_shown_as_lines_of_text() {
        assert_eq!(
            shown(b"error: no memory\r\n\n\x1b[2Jx\x01AX"),
            "last start: error: no memory\nlast start: ?[2Jx?AX\n"
        );
        assert_eq!(shown(b"last start: once\n"), "last start: once\n");
        assert_eq!(shown(b""), "");
    }
}
