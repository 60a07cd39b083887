//! What an SMMU knows a DMA master by.

use core::fmt;

use axvm_addr::SourceId;

/// What an SMMU knows a DMA master by (Arm IHI 0070, 3.2). PCI: a function of the requester id, by the device tree's `iommu-map`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<SourceId> for StreamId {
    fn from(id: SourceId) -> Self {
        Self(id.0)
    }
}

impl From<StreamId> for SourceId {
    fn from(stream: StreamId) -> Self {
        Self(stream.0)
    }
}
