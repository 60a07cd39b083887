//! I/O ports, of which x86 alone has any.

use core::fmt;

use serde::{Deserialize, Serialize};

/// I/O ports that follow each other, both ends included. There is one at least, and none past 0xffff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    first: u16,
    /// How many follow the first.
    more: u16,
}

impl Ports {
    /// From the first to the last; `None` if the last is below the first.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        match last.checked_sub(first) {
            Some(more) => Some(Self { first, more }),
            None => None,
        }
    }

    /// So many from the first on; `None` if there is none or one past 0xffff.
    pub const fn of(first: u16, count: u32) -> Option<Self> {
        match count.checked_sub(1) {
            Some(more) if first as u32 + more <= 0xffff => Some(Self { first, more: more as u16 }),
            _ => None,
        }
    }

    /// A single one.
    pub const fn one(port: u16) -> Self {
        Self { first: port, more: 0 }
    }

    /// The first.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The last. Ports that came by deserialisation and reach too far end at the last there is, so that they stay ports.
    pub const fn last(&self) -> u16 {
        self.first.saturating_add(self.more)
    }

    /// How many.
    pub const fn count(&self) -> u32 {
        (self.last() - self.first) as u32 + 1
    }

    /// Whether it is one of them.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last()
    }

    /// Whether all of the others are among them.
    pub const fn encloses(&self, other: &Self) -> bool {
        self.first <= other.first && other.last() <= self.last()
    }

    /// Whether they have one in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn ports_have_both_ends_and_stay_below_the_end() {
        let com2 = Ports::of(0x2f8, 8).unwrap();
        assert_eq!(com2, Ports::new(0x2f8, 0x2ff).unwrap());
        assert_eq!((com2.first(), com2.last(), com2.count()), (0x2f8, 0x2ff, 8));
        assert_eq!(com2.to_string(), "0x2f8-0x2ff");
        assert!(com2.contains(0x2f8) && com2.contains(0x2ff));
        assert!(!com2.contains(0x2f7) && !com2.contains(0x300));
        assert_eq!(Ports::new(5, 4), None);
        assert_eq!(Ports::of(5, 0), None);
        assert_eq!(Ports::of(0xffff, 1), Some(Ports::one(0xffff)));
        assert_eq!(Ports::of(0xffff, 2), None);
        assert_eq!(Ports::of(0, 0x1_0000).map(|all| all.count()), Some(0x1_0000));
        assert_eq!(Ports::of(0, 0x1_0001), None);
        assert_eq!(Ports::of(1, u32::MAX), None);
    }

    #[test]
    fn ports_overlap_if_one_is_the_same() {
        let ports = |first, last| Ports::new(first, last).unwrap();
        assert!(ports(0, 7).overlaps(&ports(7, 9)) && ports(7, 9).overlaps(&ports(0, 7)));
        assert!(!ports(0, 7).overlaps(&ports(8, 9)) && !ports(8, 9).overlaps(&ports(0, 7)));
        assert!(ports(0, 7).encloses(&ports(0, 7)) && ports(0, 7).encloses(&ports(3, 3)));
        assert!(!ports(0, 7).encloses(&ports(7, 8)) && !ports(1, 7).encloses(&ports(0, 7)));
    }

    #[test]
    fn ports_from_a_file_end_where_ports_end() {
        let ports = Ports { first: 0xfff0, more: 0xff };
        assert_eq!((ports.last(), ports.count()), (0xffff, 16));
    }
}
