//! 256 bits: a local APIC's IRR, ISR and TMR.

/// A set of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vectors([u32; 8]);

impl Vectors {
    /// So many words of 32, the lowest first.
    pub fn new(words: [u32; 8]) -> Self {
        Self(words)
    }

    /// Takes the highest of them out.
    pub fn pop(&mut self) -> Option<u8> {
        let vector = self.highest()?;
        self.set(vector, false);
        Some(vector)
    }

    pub fn contains(&self, vector: u8) -> bool {
        self.word(usize::from(vector / 32)) >> (vector % 32) & 1 != 0
    }

    pub fn set(&mut self, vector: u8, present: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 32)) {
            let bit = 1 << (vector % 32);
            *word = if present { *word | bit } else { *word & !bit };
        }
    }

    /// The highest of them. Asked several times at each entry of a guest, of which most find nothing.
    pub fn highest(&self) -> Option<u8> {
        let [a, b, c, d, e, f, g, h] = self.0;
        if a | b | c | d | e | f | g | h == 0 {
            return None;
        }
        let mut number = 8u8;
        for word in self.0.iter().rev() {
            number -= 1;
            if let Some(bit) = 31u32.checked_sub(word.leading_zeros()) {
                return Some(number * 32 + bit as u8);
            }
        }
        None
    }

    /// So many of a register, 32 of them.
    pub fn word(&self, number: usize) -> u32 {
        self.0.get(number).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_found_and_each_has_its_bit() {
        let mut vectors = Vectors::default();
        assert_eq!(vectors.highest(), None);
        for vector in [16, 31, 32, 200, 255] {
            vectors.set(vector, true);
            assert_eq!(vectors.highest(), Some(vector));
        }
        assert_eq!((vectors.word(0), vectors.word(1), vectors.word(7)), (1 << 16 | 1 << 31, 1, 1 << 31));
        vectors.set(255, false);
        assert!(!vectors.contains(255) && vectors.contains(200));
        assert_eq!(vectors.highest(), Some(200));
    }
}
