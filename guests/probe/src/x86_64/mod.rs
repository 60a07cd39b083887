//! What is measured on x86_64, and how.

pub mod measure;
pub mod probes;
