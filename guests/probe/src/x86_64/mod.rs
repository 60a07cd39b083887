//! What is measured on x86_64, and how.

mod floor;
pub mod measure;
pub mod probes;
