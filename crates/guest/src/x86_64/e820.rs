//! The memory map in the terms of the BIOS call that all of x86 still speaks (ACPI 6.5, 15.1).

use alloc::vec::Vec;

use axvm_addr::{Gpa, Span};

/// What a range is (ACPI 6.5, table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM for whoever runs.
    Ram = 1,
    /// Not for use.
    Reserved = 2,
}

/// A range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where.
    pub span: Span<Gpa>,
    /// What it is.
    pub kind: Kind,
}

/// The memory map of a guest with this RAM, of which `reserved` isn't for use, and nor are `others`, which are no RAM. In order, nothing twice.
pub fn map(ram: &[Span<Gpa>], reserved: Span<Gpa>, others: &[Span<Gpa>]) -> Vec<Range> {
    let mut map = Vec::new();
    let mut add = |start: Gpa, end: Gpa, kind| {
        let size = end.0.saturating_sub(start.0);
        if let Ok(span) = Span::new(start, size)
            && size > 0
        {
            map.push(Range { span, kind });
        }
    };
    for bank in ram {
        let (start, end) = (bank.start(), bank.end());
        let cut = |at: Gpa| at.clamp(start, end);
        add(start, cut(reserved.start()), Kind::Ram);
        add(cut(reserved.start()), cut(reserved.end()), Kind::Reserved);
        add(cut(reserved.end()), end, Kind::Ram);
    }
    map.extend(others.iter().map(|&span| Range { span, kind: Kind::Reserved }));
    map.sort_unstable_by_key(|range| range.span.start());
    map
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn span(start: u64, end: u64) -> Span<Gpa> {
        Span::new(Gpa(start), end - start).unwrap()
    }

    #[test]
    fn what_is_reserved_is_cut_out_of_the_bank_that_it_lies_in() {
        let banks = [span(0, 0xc000_0000), span(1 << 32, 5 << 30)];
        let range = |start, end, kind| Range { span: span(start, end), kind };
        assert_eq!(
            map(&banks, span(0x9_fc00, 0x10_0000), &[span(0xe000_0000, 0xe010_0000)]),
            vec![
                range(0, 0x9_fc00, Kind::Ram),
                range(0x9_fc00, 0x10_0000, Kind::Reserved),
                range(0x10_0000, 0xc000_0000, Kind::Ram),
                range(0xe000_0000, 0xe010_0000, Kind::Reserved),
                range(1 << 32, 5 << 30, Kind::Ram),
            ]
        );
    }

    #[test]
    fn what_is_reserved_elsewhere_changes_nothing() {
        let banks = [span(0x20_0000, 0x40_0000)];
        let whole = vec![Range { span: banks[0], kind: Kind::Ram }];
        for reserved in [span(0x10_0000, 0x20_0000), span(0x40_0000, 0x50_0000), Span::default()] {
            assert_eq!(map(&banks, reserved, &[]), whole, "{reserved}");
        }
    }
}
