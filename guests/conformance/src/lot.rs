//! Random numbers that are always the same, and sums of what was seen: what walks are made of.

/// Where a walk begins, and how far it goes, if the command line doesn't say otherwise.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// See [`SEED`].
pub const STEPS: u64 = 2_000;

/// Numbers that look random (Marsaglia's xorshift); not zero at first.
pub struct Lot(pub u64);

impl Lot {
    /// The next one, below another.
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }
}

/// A sum of words in which none can be another (FNV-1a).
pub struct Sum(pub u64);

impl Sum {
    /// Of nothing.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds words.
    pub fn add(&mut self, words: impl IntoIterator<Item = u64>) {
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x100_0000_01b3);
        }
    }
}
