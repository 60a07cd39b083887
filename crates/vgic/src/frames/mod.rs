//! The register frames that a guest sees.

mod distributor;
mod its;
mod redistributors;

pub use distributor::Distributor;
pub use its::Its;
pub use redistributors::Redistributors;
