//! The last lines of a stream, for a run that ends without a report.

use std::collections::VecDeque;

use crate::console::plain;

/// How many are kept.
const KEPT_LINES: usize = 20;

/// The last lines of a stream.
#[derive(Default)]
pub struct Lines {
    complete: VecDeque<String>,
    partial: Vec<u8>,
}

impl Lines {
    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' && self.partial.len() < 4096 {
                self.partial.push(*byte);
            } else {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = plain(&std::mem::take(&mut self.partial));
        if !line.trim().is_empty() {
            self.complete.push_back(line);
        }
        if self.complete.len() > KEPT_LINES {
            self.complete.pop_front();
        }
    }

    /// All that are kept.
    pub fn finish(mut self) -> Vec<String> {
        self.end_line();
        self.complete.into()
    }
}
