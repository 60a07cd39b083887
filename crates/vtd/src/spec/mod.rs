//! What the manual says (Intel Virtualization Technology for Directed I/O, D51397, revision 4.1): registers, table entries, descriptors and
//! fault records, as pure data. Each item names its section.

pub mod commands;
pub mod faults;
pub mod interrupts;
pub mod registers;
pub mod tables;
