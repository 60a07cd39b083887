//! Small readings of text: sizes, names, and which word was meant.

use alloc::vec::Vec;

/// A number of bytes: decimal or `0x` digits, `_` between them, then nothing or K, M, G (binary).
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

/// Decimal or `0x` digits with `_` between them.
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let ends_well = |end: Option<char>| end.is_some_and(|end| end.is_digit(radix));
    if !ends_well(digits.chars().next()) || !ends_well(digits.chars().last()) {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// Whether a name can stand before console lines and in reports: letters, digits, `-`, `_` and `.`.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

/// The one of `known` with the fewest edits from `text`.
pub(super) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().min_by_key(|word| edits(text, word))
}

/// How many single characters have to be put in, taken out, replaced or swapped with their neighbour (optimal string
/// alignment).
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = Vec::with_capacity(to.len() + 1);
        row.push(i);
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut fewest = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                fewest = fewest.min(before[j - 2] + 1);
            }
            row.push(fewest);
        }
        before = core::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_anything_else_is_none() {
        let read = ["512M", "2G", "64K", "4096", "0x2000_0000", "1_000"].map(size);
        assert_eq!(read, [512 << 20, 2 << 30, 64 << 10, 4096, 0x2000_0000, 1000].map(Some));
        for text in ["", "M", "512MB", "512 M", "-1", "+1", "1.5G", "0x", "_1", "1_", "17179869184G", "512m"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_word_is_the_one_meant() {
        let known = ["kernel", "initrd", "cmdline", "name"];
        assert_eq!(nearest("kernal", &known), Some("kernel"));
        assert_eq!(nearest("intird", &known), Some("initrd"));
        assert_eq!(nearest("command_line", &known), Some("cmdline"));
    }
}
