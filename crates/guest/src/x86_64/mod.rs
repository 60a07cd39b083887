//! What an x86_64 guest finds in its RAM when it starts, beside its kernel: pieces that whoever has the memory copies.
//!
//! | module | what it writes |
//! |---|---|
//! | [`acpi`] | the description of the machine, as ACPI tables |
//! | [`boot_params`] | what Linux's 64-bit entry is handed |
//! | [`start_info`] | what a PVH entry is handed |
//! | [`long_mode`] | the GDT and the page tables with which 64-bit code begins |
//! | [`e820`] | the memory map that the two above hand over |

pub mod acpi;
pub mod boot_params;
pub mod e820;
pub mod long_mode;
pub mod start_info;
