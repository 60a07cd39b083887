//! What the manual says (AMD I/O Virtualization Technology Specification, 48882, revision 3): registers, device table entries,
//! interrupt table entries, commands and events, as pure data. Each item names its section.

pub mod commands;
pub mod device_table;
pub mod events;
pub mod interrupts;
pub mod registers;
