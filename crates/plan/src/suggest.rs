//! The nearest name to one that isn't there.

use alloc::vec::Vec;

/// The candidate nearest to `wanted` by edits, if it is near enough that a person may have meant it: at most a third of the
/// letters differ.
pub(super) fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(wanted, candidate), candidate))
        .min()
        .filter(|&(edits, _)| edits <= wanted.len().max(3) / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            *cell = left;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_slip_of_the_fingers_is_found_and_another_word_is_not() {
        let there = ["/pl011@9000000", "/pl031@9010000", "/fw-cfg@9020000"];
        assert_eq!(nearest("/pl031@9010001", there), Some("/pl031@9010000"));
        assert_eq!(nearest("/ethernet", there), None);
    }
}
