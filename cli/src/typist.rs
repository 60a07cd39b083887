//! Types lines at U-Boot's prompt.

use std::collections::VecDeque;

/// What U-Boot says before it boots by itself; any key stops it.
const COUNTDOWN: &[u8] = b"Hit any key to stop autoboot";

/// Its prompt, at the start of a line.
const PROMPT: &[u8] = b"\n=> ";

/// Who types.
pub struct Typist {
    lines: VecDeque<String>,
    /// What was said since the last answer, the end of it.
    heard: Vec<u8>,
    stopped: bool,
}

impl Typist {
    /// One who types these lines, each when the prompt is there.
    pub fn new(lines: Vec<String>) -> Self {
        Self { lines: lines.into(), heard: Vec::new(), stopped: false }
    }

    /// Listens; what is to be typed now.
    pub fn hears(&mut self, said: &[u8]) -> Option<Vec<u8>> {
        self.heard.extend_from_slice(said);
        let contains = |what: &[u8]| self.heard.windows(what.len()).any(|part| part == what);
        let answer = if !self.stopped && contains(COUNTDOWN) {
            self.stopped = true;
            Some(b" ".to_vec())
        } else if contains(PROMPT) {
            self.stopped = true;
            self.lines.pop_front().map(|line| (line + "\n").into_bytes())
        } else {
            None
        };
        // Enough for what it waits for to come in pieces.
        let kept = if answer.is_some() { 0 } else { COUNTDOWN.len() };
        self.heard.drain(..self.heard.len().saturating_sub(kept));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_gets_a_line_and_nothing_else_does() {
        let mut typist = Typist::new(vec!["one".into(), "two".into()]);
        assert_eq!(typist.hears(b"U-Boot\nHit any key to st"), None);
        assert_eq!(typist.hears(b"op autoboot: 2"), Some(b" ".to_vec()));
        assert_eq!(typist.hears(b" 0 \r\n="), None);
        assert_eq!(typist.hears(b"> "), Some(b"one\n".to_vec()));
        assert_eq!(typist.hears(b"one => x\r\n"), None);
        assert_eq!(typist.hears(b"done\r\n=> "), Some(b"two\n".to_vec()));
        assert_eq!(typist.hears(b"two\r\nStarting kernel\r\n=> "), None);
    }
}
