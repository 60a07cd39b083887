//! What the physical host bridge has to be known by.

use alloc::vec::Vec;

use axvm_addr::{Hpa, PciBuses, PciWindow};
use serde::{Deserialize, Serialize};

/// A host bridge, as firmware describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBridge {
    /// Its segment.
    pub segment: u16,
    /// The first bus, which is the root bus, and the last.
    pub buses: PciBuses,
    /// Where BARs may go.
    pub windows: Vec<PciWindow<Hpa>>,
}
