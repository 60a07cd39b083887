//! aarch64 at EL1.

pub mod board;
mod boot;
mod el2;
pub mod icc;
pub mod machine;
pub mod registers;
pub mod uart;
