//! Words of a line: what stands between blanks, or between quotation marks.

use alloc::string::String;

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    /// It, without quotation marks.
    pub text: &'a str,
    /// Where it begins in the line, with its quotation mark.
    pub start: usize,
}

/// A quotation mark has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenQuote;

/// A line's words, one after the other.
pub(crate) struct Words<'a> {
    line: &'a str,
    at: usize,
}

const QUOTE: char = '"';

/// Whether a character stands between words.
const fn is_blank(character: char) -> bool {
    character.is_ascii_whitespace()
}

impl<'a> Words<'a> {
    pub(crate) const fn of(line: &'a str) -> Self {
        Self { line, at: 0 }
    }

    /// What is left.
    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Result<Word<'a>, OpenQuote>;

    fn next(&mut self) -> Option<Self::Item> {
        self.at = self.line.len() - self.rest().trim_start_matches(is_blank).len();
        let (rest, start) = (self.rest(), self.at);
        if rest.is_empty() {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix(QUOTE) {
            let Some((text, _)) = quoted.split_once(QUOTE) else {
                self.at = self.line.len();
                return Some(Err(OpenQuote));
            };
            self.at += text.len() + 2;
            return Some(Ok(Word { text, start }));
        }
        let text = rest.split(is_blank).next().unwrap_or_default();
        self.at += text.len();
        Some(Ok(Word { text, start }))
    }
}

/// Writes a word as it is typed: in quotation marks where it needs them. (No name has a quotation mark in it.)
pub(crate) fn write_word(word: &str, line: &mut String) {
    let quoted = word.is_empty() || word.contains(is_blank);
    if quoted {
        line.push(QUOTE);
    }
    line.push_str(word);
    if quoted {
        line.push(QUOTE);
    }
}
