//! What is measured on aarch64, and how.

pub mod measure;
pub mod probes;
