//! What keeps devices to their VM's memory.

use core::fmt;

use axvm_addr::{DmaSource, IommuId};

/// What a device tried that nobody lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault {
    /// Whose requests they are.
    pub source: DmaSource,
    /// Whether it was a write, where that is known.
    pub write: Option<bool>,
    /// Where it went, where that is known.
    pub address: Option<u64>,
}

/// What came of taking an IOMMU's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// There are more.
    pub more: bool,
    /// Some found no room, and are missing.
    pub lost: bool,
}

/// What an IOMMU can and can't do beside keeping devices out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It tells what it has blocked. Where it doesn't, violations of devices are refused, but nobody hears of them, and no policy acts.
    pub reports_faults: bool,
    /// A page of what is mapped can be taken away by itself. Where not, only what was mapped at once is taken away at once.
    pub cuts_mappings: bool,
}

/// The host's IOMMUs. An id of a source says at which of them it arrives. From the start every source is blocked.
pub trait Iommu {
    /// What the sources of a VM share at an IOMMU: its DMA map.
    type Domain;
    /// Why it can't.
    type Error: fmt::Debug + fmt::Display;

    /// Lets a source reach what is in a domain, and nothing else.
    ///
    /// # Errors
    ///
    /// There is no such source, or it couldn't be confirmed; it is blocked again by [`Iommu::block`].
    fn attach(&self, source: DmaSource, domain: &Self::Domain) -> Result<(), Self::Error>;

    /// Blocks a source. When it returns without an error that is confirmed: nothing of it reaches memory, nor is underway. Doing it again
    /// does no harm.
    ///
    /// # Errors
    ///
    /// It couldn't be confirmed in time.
    fn block(&self, source: DmaSource) -> Result<(), Self::Error>;

    /// Has a source that is blocked leave no more records.
    ///
    /// # Errors
    ///
    /// It couldn't be confirmed in time.
    fn silence(&self, source: DmaSource) -> Result<(), Self::Error>;

    /// Hands over what an IOMMU has blocked since it was asked last, at most `limit` records.
    fn drain(&self, iommu: IommuId, limit: usize, each: impl FnMut(DmaFault)) -> Drained;

    /// What an IOMMU can and can't do.
    fn abilities(&self, iommu: IommuId) -> Abilities;
}
