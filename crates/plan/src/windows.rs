//! The windows of host bridges as a VM has them: a raw region may take the edge of one, and BARs have the rest.

use axvm_addr::{Address, Gpa, Span};

/// What is cut off is whole blocks of this, so that small BARs lie where they would.
const BLOCK: u64 = 1 << 20;

/// The largest piece of a window that these spans leave.
pub(super) fn rest(window: Span<Gpa>, taken: impl Iterator<Item = Span<Gpa>>) -> Span<Gpa> {
    let mut taken: alloc::vec::Vec<Span<Gpa>> = taken.filter(|span| span.overlaps(&window)).collect();
    if taken.is_empty() {
        return window;
    }
    taken.sort_unstable_by_key(Span::start);
    let mut best = Span::default();
    let mut from = window.start();
    for span in taken.iter().copied().chain(Span::new(window.end(), 0)) {
        let to = if span.is_empty() { window.end() } else { span.start().align_down(BLOCK) };
        let piece = to.0.checked_sub(from.0).and_then(|size| Span::new(from, size).ok());
        best = piece.filter(|piece| piece.size() > best.size()).unwrap_or(best);
        let past = span.end().checked_add(BLOCK - 1).map_or(window.end(), |past| past.align_down(BLOCK));
        from = from.max(past);
    }
    best
}

/// Whether so much is left that a VM with functions can still place them.
pub(super) fn is_enough(window: Span<Gpa>, rest: Span<Gpa>) -> bool {
    rest.size() >= window.size() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, size: u64) -> Span<Gpa> {
        Span::new(Gpa(start), size).unwrap()
    }

    #[test]
    fn the_largest_piece_is_left() {
        let window = span(0x1000_0000, 0x1000_0000);
        let left = |taken: &[Span<Gpa>]| rest(window, taken.iter().copied());
        assert_eq!(left(&[]), window);
        assert_eq!(left(&[span(0x900_0000, 0x1000), span(0x2000_0000, 0x1000)]), window, "beside it");
        assert_eq!(left(&[span(0x1000_0000, 0x1000)]), span(0x1010_0000, 0xff0_0000));
        assert_eq!(left(&[span(0x1fff_f000, 0x2000)]), span(0x1000_0000, 0xff0_0000));
        let two = [span(0x1400_0000, 0x1000), span(0x1000_0000, 0x1000)];
        assert_eq!(left(&two), span(0x1410_0000, 0xbf0_0000));
        assert!(left(&[window]).is_empty());
        assert!(is_enough(window, left(&two)) && !is_enough(window, left(&[span(0x17f0_0000, 0x20_0000)])));
    }
}
