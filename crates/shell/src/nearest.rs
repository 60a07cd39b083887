//! Which word was meant.

/// Longer words than this are compared by their beginnings: nobody's name is longer.
const LONGEST: usize = 64;

/// The most similar of some words: by how many letters must be put in, left out or exchanged.
pub fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    words.min_by_key(|word| distance(text.as_bytes(), word.as_bytes()))
}

/// The Levenshtein distance, row by row.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let other = other.get(..LONGEST).unwrap_or(other);
    let mut row = [0; LONGEST + 1];
    row.iter_mut().enumerate().for_each(|(place, cell)| *cell = place);
    for (place, letter) in one.iter().take(LONGEST).enumerate() {
        let mut diagonal = place;
        let mut left = place + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, against) in row.iter_mut().skip(1).zip(other) {
            let exchanged = diagonal + usize::from(letter != against);
            diagonal = *cell;
            left = exchanged.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.get(other.len()).copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_word_that_was_meant_is_found() {
        let words = ["start", "stop", "restart", "resume"];
        for (typed, meant) in [("strt", "start"), ("stopp", "stop"), ("resrt", "restart")] {
            assert_eq!(nearest(typed, words.into_iter()), Some(meant), "{typed}");
        }
        assert_eq!(nearest("a", [].into_iter()), None);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"abc", b""), 3);
    }

    proptest! {
        #[test]
        fn words_of_any_length_are_compared(one in any::<String>(), other in any::<String>()) {
            let forth = distance(one.as_bytes(), other.as_bytes());
            prop_assert_eq!(forth, distance(other.as_bytes(), one.as_bytes()));
            prop_assert_eq!(forth == 0, one.as_bytes().iter().take(LONGEST).eq(other.as_bytes().iter().take(LONGEST)));
        }
    }
}
