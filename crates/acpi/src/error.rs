//! What can be wrong with tables.

use axvm_addr::Hpa;

use crate::signature::Signature;

/// Why tables can't be read. What can't be read isn't guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no RSDP at the address.
    #[error("there is no RSDP at {at:#x}")]
    NoRsdp {
        /// Where it should be.
        at: Hpa,
    },
    /// Neither XSDT nor RSDT.
    #[error("the RSDP at {at:#x} names neither an XSDT nor an RSDT")]
    NoRoot {
        /// Where the RSDP is.
        at: Hpa,
    },
    /// Memory that can't be read.
    #[error("{bytes} bytes of ACPI tables at {at:#x} can't be read")]
    Unreadable {
        /// Where.
        at: Hpa,
        /// How many.
        bytes: u64,
    },
    /// A table that is shorter than what it has to have, or than its header says.
    #[error("the ACPI table {table} is {has} bytes long: it needs {needs}")]
    Short {
        /// Which.
        table: Signature,
        /// What there is.
        has: usize,
        /// What there must be.
        needs: usize,
    },
    /// A table whose bytes don't sum up to zero (ACPI 6.5, 5.2.6).
    #[error("the ACPI table {table} is damaged: its checksum is off by {by:#x}")]
    Checksum {
        /// Which.
        table: Signature,
        /// The sum of its bytes.
        by: u8,
    },
    /// Another table than the one that was to be read.
    #[error("the ACPI table {is} isn't {wanted}")]
    OtherTable {
        /// What it is.
        is: Signature,
        /// What it should be.
        wanted: Signature,
    },
    /// A record that doesn't fit: into its table, or what it should hold into it.
    #[error("the ACPI table {table} has a record of {bytes} bytes at {offset:#x} that doesn't fit")]
    Record {
        /// The table.
        table: Signature,
        /// Where in it.
        offset: usize,
        /// The length that it says it has.
        bytes: usize,
    },
    /// A range of ids that begins and doesn't end, or ends without a beginning.
    #[error("the ACPI table {table} has half a range of ids at {offset:#x}")]
    Range {
        /// The table.
        table: Signature,
        /// Where in it.
        offset: usize,
    },
}
