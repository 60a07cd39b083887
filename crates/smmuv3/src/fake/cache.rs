//! The processors' caches, as an SMMU that isn't coherent with them experiences them: a line that was read or written
//! stays, and its words with it, until it is cleaned.

extern crate std;

use std::collections::BTreeMap;

use super::State;

/// Bytes of a line.
const LINE: u64 = 64;

#[derive(Debug, Default)]
pub struct Line {
    words: [u64; 8],
    dirty: bool,
}

#[derive(Debug, Default)]
pub struct Cache(BTreeMap<u64, Line>);

impl State {
    fn memory(&self, address: u64) -> u64 {
        self.written.get(&address).copied().unwrap_or_else(|| self.word(address))
    }

    /// The line with an address, and which of its words it is.
    fn line(&mut self, address: u64) -> Option<(&mut Line, usize)> {
        self.cache.as_ref()?;
        let start = address & !(LINE - 1);
        let words = core::array::from_fn(|word| self.memory(start + word as u64 * 8));
        let line = self.cache.as_mut()?.0.entry(start).or_insert(Line { words, dirty: false });
        Some((line, (address - start) as usize / 8))
    }

    pub fn processor_reads(&mut self, address: u64) -> u64 {
        match self.line(address) {
            Some((line, word)) => line.words[word],
            None => self.memory(address),
        }
    }

    pub fn processor_writes(&mut self, address: u64, value: u64) {
        match self.line(address) {
            Some((line, word)) => {
                line.words[word] = value;
                line.dirty = true;
            }
            None => {
                self.written.insert(address, value);
            }
        }
    }

    /// What was somebody else's is zeroed by the processor: in its caches.
    pub fn zero(&mut self, start: u64, bytes: u64) {
        if self.cache.is_some() {
            for address in (start..start + bytes).step_by(8) {
                self.visible.insert(address, 0xdead_dead_dead_dead);
                self.processor_writes(address, 0);
            }
        }
    }

    pub fn clean(&mut self, address: u64, bytes: u64) {
        for start in (address & !(LINE - 1)..address + bytes).step_by(LINE as usize) {
            let Some(line) = self.cache.as_mut().and_then(|cache| cache.0.remove(&start)) else { continue };
            if line.dirty {
                // All of it, also what the SMMU may have written in between.
                let words = (start..).step_by(8).zip(line.words);
                self.written.extend(words);
            }
        }
    }
}
