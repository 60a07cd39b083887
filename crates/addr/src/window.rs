//! Windows through which PCI buses are reached.

use serde::{Deserialize, Serialize};

use crate::address::Span;

/// What a window of a PCI host bridge is for (the Open Firmware PCI bus binding, 2.2.1.1: the `ss` bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciSpace {
    /// I/O ports.
    Io,
    /// Memory with 32-bit addresses.
    Memory32,
    /// Memory with 64-bit addresses.
    Memory64,
}

/// A window of a PCI host bridge, in which BARs lie: one entry of its `ranges`. `A` says whose CPUs see it there: [`Hpa`](crate::Hpa)
/// of a physical bridge, [`Gpa`](crate::Gpa) of a virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciWindow<A> {
    /// What it is for.
    pub space: PciSpace,
    /// Whether it is prefetchable.
    pub prefetchable: bool,
    /// The address of its start on the PCI bus.
    pub pci: u64,
    /// The same place as CPUs see it.
    pub cpu: Span<A>,
}

/// Bus numbers of a PCI host bridge, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBuses {
    /// The first: its root bus.
    pub first: u8,
    /// The last.
    pub last: u8,
}

impl PciBuses {
    /// From the first to the last.
    pub const fn new(first: u8, last: u8) -> Self {
        Self { first, last }
    }

    /// Whether it is one of them.
    pub const fn contains(&self, bus: u8) -> bool {
        self.first <= bus && bus <= self.last
    }
}
