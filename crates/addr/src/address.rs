//! Addresses and spans of addresses.

use core::fmt;

use serde::{Deserialize, Serialize};

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// The smallest unit of translation and so of protection, in bytes: 4 KiB on every architecture served here.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// What the address types have in common.
pub trait Address: Copy + Ord + fmt::Debug + fmt::LowerHex {
    /// The address with this numeric value.
    fn new(value: u64) -> Self;

    /// The numeric value.
    fn get(self) -> u64;

    /// The address `bytes` further, or `None` past the end of the address space.
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.get().checked_add(bytes).map(Self::new)
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    fn is_aligned(self, alignment: u64) -> bool {
        self.get() & (alignment - 1) == 0
    }

    /// The address rounded down to a multiple of `alignment`, a power of two.
    fn align_down(self, alignment: u64) -> Self {
        Self::new(self.get() & !(alignment - 1))
    }

    /// The start of the page that holds this address.
    fn page(self) -> Self {
        self.align_down(PAGE_SIZE)
    }

    /// The position within its page.
    fn page_offset(self) -> u64 {
        self.get() & (PAGE_SIZE - 1)
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl Address for $name {
            fn new(value: u64) -> Self {
                Self(value)
            }

            fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-physical address (Arm: IPA): what a guest's processor puts out after its own translation.
    Gpa
}
address! {
    /// A host-physical address: what the machine's bus sees.
    Hpa
}
address! {
    /// An I/O virtual address: what a device puts out when it masters the bus, before the IOMMU.
    Iova
}

/// A span whose end would lie past the end of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A span of addresses of one kind: `start` up to, not including, `start + size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span<A> {
    start: A,
    size: u64,
}

impl<A: Address> Span<A> {
    /// The span of `size` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the end doesn't fit into 64 bits.
    pub fn new(start: A, size: u64) -> Result<Self, Overflow> {
        start.checked_add(size).ok_or(Overflow)?;
        Ok(Self { start, size })
    }

    /// The first address.
    pub fn start(&self) -> A {
        self.start
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first address past the span. A span that came by deserialisation and overflows ends at the last
    /// address, so that it stays a span.
    pub fn end(&self) -> A {
        A::new(self.start.get().saturating_add(self.size))
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: A) -> bool {
        self.start <= address && address < self.end()
    }

    /// Whether all of `other` lies in it. An empty span lies nowhere.
    pub fn encloses(&self, other: &Self) -> bool {
        !other.is_empty() && self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end() && other.start < self.end()
    }

    /// How far `address` lies into the span, or `None` outside it.
    pub fn offset_of(&self, address: A) -> Option<u64> {
        self.contains(address).then(|| address.get() - self.start.get())
    }

    /// Whether `start` and `size` are multiples of `alignment`, a power of two.
    pub fn is_aligned(&self, alignment: u64) -> bool {
        self.start.is_aligned(alignment) && self.size & (alignment - 1) == 0
    }

    /// The smallest span of whole pages around this one; at the top of the address space it is cut to whole
    /// pages below it.
    pub fn to_pages(&self) -> Self {
        let start = self.start.page();
        let end = self.end().get().checked_next_multiple_of(PAGE_SIZE).unwrap_or(!(PAGE_SIZE - 1));
        Self { start, size: end.saturating_sub(start.get()) }
    }
}

impl<A: Address> fmt::Display for Span<A> {
    /// `0x9000000-0x9000fff`, both ends inclusive, as `/proc/iomem` prints ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end().get().wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, size: u64) -> Span<Gpa> {
        Span::new(Gpa(start), size).unwrap()
    }

    #[test]
    fn a_span_that_wraps_is_refused() {
        assert_eq!(Span::new(Gpa(u64::MAX), 1), Err(Overflow));
        assert!(Span::new(Gpa(u64::MAX), 0).is_ok());
    }

    #[test]
    fn neighbours_do_not_overlap_and_one_shared_byte_does() {
        assert!(!span(0x1000, 0x1000).overlaps(&span(0x2000, 0x1000)));
        assert!(span(0x1000, 0x1001).overlaps(&span(0x2000, 0x1000)));
        assert!(!span(0x1000, 0).overlaps(&span(0, 0x10000)));
    }

    #[test]
    fn an_enclosing_span_holds_both_ends() {
        assert!(span(0x1000, 0x1000).encloses(&span(0x1000, 0x1000)));
        assert!(!span(0x1000, 0x1000).encloses(&span(0x1fff, 2)));
        assert!(!span(0x1000, 0x1000).encloses(&span(0x1800, 0)));
    }

    #[test]
    fn pages_around_a_small_block_are_the_pages_it_touches() {
        assert_eq!(span(0x1ff0, 0x20).to_pages(), span(0x1000, 0x2000));
        assert_eq!(span(0xa000200, 0x200).to_pages(), span(0xa000000, 0x1000));
    }
}
