//! Resource descriptors: what `_CRS` and `_PRS` give (ACPI 6.5, 6.4).

use alloc::vec::Vec;

/// Which level of a line is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// High.
    High,
    /// Low.
    Low,
}

/// What of a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// Its edge.
    Edge,
    /// Its level.
    Level,
}

/// Addresses on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// What must be added to one to get that on the bus above.
    pub translation: u64,
    /// How many: it may be fewer than lie between the first and the last, where the range can be moved.
    pub length: u64,
    /// It is for what is on the bus below, not for the device itself.
    pub produced: bool,
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Lines of ISA (6.4.2.1).
    Irq {
        /// Their numbers.
        lines: Vec<u8>,
        /// How they signal; `None`: as ISA's do.
        signals: Option<(Sense, Polarity)>,
    },
    /// Lines by their global numbers (6.4.3.6).
    Interrupt {
        /// Their numbers.
        lines: Vec<u32>,
        /// What of them counts.
        sense: Sense,
        /// Which level is active.
        polarity: Polarity,
    },
    /// Ports (6.4.2.5, 6.4.2.6).
    Ports {
        /// The first that the range can begin at.
        first: u16,
        /// The last that it can begin at.
        last: u16,
        /// How many.
        count: u8,
    },
    /// Memory (6.4.3.1 to 6.4.3.5.3).
    Memory {
        /// Where.
        range: Range,
        /// It is prefetchable, as far as this says it.
        prefetchable: bool,
    },
    /// Ports, as a range (6.4.3.5).
    PortRange {
        /// Which.
        range: Range,
        /// The bus above has them in memory, or in a sparse way: they are not the CPU's ports.
        translated: bool,
    },
    /// Bus numbers (6.4.3.5).
    Buses(Range),
    /// Something else: the tag.
    Other(u8),
}

/// Descriptors, to their end tag. `None`: they are cut off.
pub fn read(bytes: &[u8]) -> Option<Vec<Resource>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    loop {
        let (tag, body, after) = next(rest)?;
        rest = after;
        match (tag, body) {
            // The end.
            (0x0f, _) => return Some(found),
            // Where dependent functions begin and end: choices of `_PRS`.
            (0x06 | 0x07, _) => {}
            (tag, body) => found.push(one(tag, body)?),
        }
    }
}

/// A descriptor's tag (small ones 0 to 15, large ones from 0x80 on), what it says, and what follows.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&lead, rest) = bytes.split_first()?;
    let (tag, length, rest) = if lead & 0x80 == 0 {
        (lead >> 3, usize::from(lead & 7), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        (lead, usize::from(u16::from_le_bytes(*length)), rest)
    };
    let (body, after) = rest.split_at_checked(length)?;
    Some((tag, body, after))
}

fn number(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(count)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn one(tag: u8, body: &[u8]) -> Option<Resource> {
    let at = |at, count| number(body, at, count);
    let fixed = |start: u64, length: u64, prefetchable| Resource::Memory {
        range: Range {
            first: start,
            last: start.saturating_add(length.saturating_sub(1)),
            translation: 0,
            length,
            produced: false,
        },
        prefetchable,
    };
    Some(match tag {
        0x04 => {
            let mask = at(0, 2)?;
            let lines = (0..16).filter(|line| mask >> line & 1 != 0).collect();
            let signals = at(2, 1).map(|flags| {
                let sense = if flags & 1 != 0 { Sense::Edge } else { Sense::Level };
                (sense, if flags & 8 != 0 { Polarity::Low } else { Polarity::High })
            });
            Resource::Irq { lines, signals }
        }
        0x08 => Resource::Ports { first: at(1, 2)? as u16, last: at(3, 2)? as u16, count: at(6, 1)? as u8 },
        0x09 => {
            let first = (at(0, 2)? & 0x3ff) as u16;
            Resource::Ports { first, last: first, count: at(2, 1)? as u8 }
        }
        // Of 24 bits: in units of 256 bytes.
        0x81 => fixed(at(1, 2)? << 8, at(7, 2)? << 8, false),
        0x85 => {
            let (first, last, length) = (at(1, 4)?, at(5, 4)?, at(13, 4)?);
            let last = last.saturating_add(length.saturating_sub(1));
            let range = Range { first, last, translation: 0, length, produced: false };
            Resource::Memory { range, prefetchable: false }
        }
        0x86 => fixed(at(1, 4)?, at(5, 4)?, false),
        0x87 => address(body, 4, 3)?,
        0x88 => address(body, 2, 3)?,
        0x8a => address(body, 8, 3)?,
        // The extended one has a revision and a reserved byte besides.
        0x8b => address(body, 8, 5)?,
        0x89 => {
            let flags = at(0, 1)?;
            let count = usize::try_from(at(1, 1)?).ok()?;
            let line = |number: usize| at(2 + 4 * number, 4).map(|line| line as u32);
            Resource::Interrupt {
                lines: (0..count).map(line).collect::<Option<_>>()?,
                sense: if flags & 2 != 0 { Sense::Edge } else { Sense::Level },
                polarity: if flags & 4 != 0 { Polarity::Low } else { Polarity::High },
            }
        }
        other => Resource::Other(other),
    })
}

/// An address space descriptor (6.4.3.5) with numbers of so many bytes.
fn address(body: &[u8], wide: usize, numbers: usize) -> Option<Resource> {
    let at = |at| number(body, at, 1);
    let value = |place: usize| number(body, numbers + place * wide, wide);
    let (kind, general, specific) = (at(0)?, at(1)?, at(2)?);
    let range = Range {
        first: value(1)?,
        last: value(2)?,
        translation: value(3)?,
        length: value(4)?,
        produced: general & 1 == 0,
    };
    Some(match kind {
        // Bits 2:1 of the flags: 3 is prefetchable (6.4.3.5.5, _MEM).
        0 => Resource::Memory { range, prefetchable: specific >> 1 & 3 == 3 },
        // _TTP, and _TRS.
        1 => Resource::PortRange { range, translated: specific & 0x10 != 0 || range.translation != 0 },
        2 => Resource::Buses(range),
        other => Resource::Other(other as u8),
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn what_a_template_says_is_read() {
        // As iasl writes IO(Decode16, 0x2f8, 0x2f8, 0, 8), IRQNoFlags {3}, IRQ(Level, ActiveLow) {4}, FixedIO(0x3f6, 2).
        let bytes =
            [0x47, 1, 0xf8, 2, 0xf8, 2, 0, 8, 0x22, 8, 0, 0x23, 0x10, 0, 0x18, 0x4b, 0xf6, 3, 2, 0x79, 0];
        let expected = vec![
            Resource::Ports { first: 0x2f8, last: 0x2f8, count: 8 },
            Resource::Irq { lines: vec![3], signals: None },
            Resource::Irq { lines: vec![4], signals: Some((Sense::Level, Polarity::Low)) },
            Resource::Ports { first: 0x3f6, last: 0x3f6, count: 2 },
        ];
        assert_eq!(read(&bytes), Some(expected));
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let bytes = [0x47, 1, 0xf8, 2, 0xf8, 2, 0, 8, 0x79, 0];
        for length in 0..bytes.len() - 1 {
            assert_eq!(read(&bytes[..length]), None, "{length}");
        }
        assert_eq!(read(&[0x89, 6, 0, 1, 2, 5, 0, 0, 0, 0x79, 0]), None, "two lines, one number");
    }

    #[test]
    fn a_window_is_what_is_produced() {
        // DWordMemory(ResourceProducer, ..., 0x80000000, 0xafffffff, 0, 0x30000000), prefetchable.
        let mut bytes = vec![0x87, 0x17, 0, 0, 0x0c, 7];
        for number in [0u32, 0x8000_0000, 0xafff_ffff, 0, 0x3000_0000] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([0x79, 0]);
        let range = Range {
            first: 0x8000_0000,
            last: 0xafff_ffff,
            translation: 0,
            length: 0x3000_0000,
            produced: true,
        };
        assert_eq!(read(&bytes), Some(vec![Resource::Memory { range, prefetchable: true }]));
    }
}
