//! 256 bits: a local APIC's IRR, ISR and TMR.

/// A set of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vectors([u64; 4]);

impl Vectors {
    /// None.
    pub const NONE: Self = Self([0; 4]);

    /// Those below one of the first 64.
    pub const fn below(end: u8) -> Self {
        Self([(1 << (end & 63)) - 1, 0, 0, 0])
    }

    /// So many words of 64, the lowest first.
    pub fn new(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// Takes the highest of them out.
    pub fn pop(&mut self) -> Option<u8> {
        let vector = self.highest()?;
        self.set(vector, false);
        Some(vector)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// With those of another set.
    #[inline]
    pub fn with(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a | e, b | f, c | g, d | h])
    }

    /// Without those of another set.
    #[inline]
    pub fn without(self, other: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a & !e, b & !f, c & !g, d & !h])
    }

    pub fn contains(&self, vector: u8) -> bool {
        self.0.get(usize::from(vector / 64)).is_some_and(|word| word >> (vector % 64) & 1 != 0)
    }

    pub fn set(&mut self, vector: u8, present: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 64)) {
            let bit = 1 << (vector % 64);
            *word = if present { *word | bit } else { *word & !bit };
        }
    }

    /// The highest of them. Asked several times at each entry of a guest, of which most find nothing.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let [a, b, c, d] = self.0;
        let (word, first) = if d != 0 {
            (d, 192)
        } else if c != 0 {
            (c, 128)
        } else if b != 0 {
            (b, 64)
        } else {
            (a, 0)
        };
        // Zero has no bit.
        63u32.checked_sub(word.leading_zeros()).map(|bit| first + bit as u8)
    }

    /// So many of a register, 32 of them.
    pub fn word(&self, number: usize) -> u32 {
        self.0.get(number / 2).map_or(0, |word| (word >> (32 * (number % 2))) as u32)
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
        assert!(!vectors.is_empty() && Vectors::NONE.is_empty());
        let mut other = Vectors::default();
        other.set(200, true);
        other.set(64, true);
        assert!(vectors.with(other).contains(64) && vectors.with(other).contains(31));
        assert!(!vectors.without(other).contains(200) && vectors.without(other).contains(255));
        vectors.set(255, false);
        assert!(!vectors.contains(255) && vectors.contains(200));
        assert_eq!(vectors.highest(), Some(200));
    }
}
