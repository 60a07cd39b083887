//! Hands the small guests' linker script to the linker.

include!("../runtime/link.rs");
