//! aarch64 at EL1.

mod boot;
mod el2;
pub mod icc;
pub mod machine;
pub mod registers;
