//! The words of a command line.

/// The number of a word `name=number`: decimal, or hexadecimal after `0x`. The last one counts.
pub fn number(line: &str, name: &str) -> Option<u64> {
    let value = line.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}
