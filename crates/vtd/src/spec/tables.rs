//! Root and context entries of legacy mode (9.1, 9.3): which tables a device's requests are translated by.

use bitfield_struct::bitfield;

/// Bytes of an entry of either table, of which each has 256.
pub const ENTRY_BYTES: u64 = 16;

/// The first word of a root entry (9.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Root {
    /// P: the bus has a context table. Without it all requests of its devices are blocked.
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// CTP: the context table's address, from bit 12 on.
    #[bits(52)]
    pub table: u64,
}

/// The first word of a context entry (9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextLow {
    /// P: requests are translated. Without it they are blocked.
    pub present: bool,
    /// FPD: what is blocked isn't recorded.
    pub silent: bool,
    /// TT: 0 what isn't translated yet is translated, and what a device says it has translated is blocked.
    #[bits(2)]
    pub kind: u8,
    __: u8,
    /// SSPTPTR: the root of the second-stage tables, from bit 12 on.
    #[bits(52)]
    pub root: u64,
}

/// The second word.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextHigh {
    /// AW: 1 three levels, 2 four.
    #[bits(3)]
    pub width: u8,
    #[bits(5)]
    __: u8,
    /// DID: what translations are tagged with.
    #[bits(16)]
    pub domain: u16,
    #[bits(40)]
    __: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        assert_eq!(u64::from(Root::new().with_present(true).with_table(0x12345)), 0x1234_5001, "9.1");
        let low = ContextLow::new().with_present(true).with_silent(true).with_root(0x12345);
        assert_eq!(u64::from(low), 0x1234_5003, "9.3");
        assert_eq!(u64::from(ContextLow::new().with_kind(2)), 8);
        assert_eq!(u64::from(ContextHigh::new().with_width(2).with_domain(0x1234)), 0x12_3402);
    }
}
