//! The plan: from system file and platform to what each VM gets. Pure.

mod model;

pub use model::*;
