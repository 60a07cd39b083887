//! What the manual says (Arm IHI 0070): registers, stream table entries, commands and events, as pure
//! data. Each item names its section.

pub mod commands;
pub mod events;
pub mod registers;
pub mod stream_table;

/// A field of a register or of a 64-bit word of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    low: u32,
    width: u32,
}

impl Field {
    /// The field from bit `low` to bit `high`, both inclusive, as the manual writes them in reverse.
    pub const fn new(high: u32, low: u32) -> Self {
        assert!(low <= high && high < 64);
        Self { low, width: high - low + 1 }
    }

    /// The single bit at `position`.
    pub const fn bit(position: u32) -> Self {
        Self::new(position, position)
    }

    const fn ones(self) -> u64 {
        u64::MAX >> (64 - self.width)
    }

    /// The field's bits in place.
    pub const fn mask(self) -> u64 {
        self.ones() << self.low
    }

    /// The field's value in a word.
    pub const fn get(self, word: u64) -> u64 {
        word >> self.low & self.ones()
    }

    /// Whether any bit of the field is set in a word.
    pub const fn is_set(self, word: u64) -> bool {
        self.get(word) != 0
    }

    /// The field with this value in place; bits that don't fit are dropped.
    pub const fn put(self, value: u64) -> u64 {
        (value & self.ones()) << self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_reads_what_was_put_and_touches_nothing_else() {
        let field = Field::new(20, 16);
        assert_eq!(field.mask(), 0x1f_0000);
        assert_eq!(field.put(0x3f), 0x1f_0000);
        assert_eq!(field.get(0xffff_ffff_ffe9_ffff), 9);
        assert_eq!(Field::new(63, 0).mask(), u64::MAX);
        assert!(Field::bit(63).is_set(1 << 63) && !Field::bit(63).is_set(1 << 62));
    }
}
