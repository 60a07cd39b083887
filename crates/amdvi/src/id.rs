//! What an IOMMU knows a device by.

/// A device id (48882, 1.3): on PCI the requester id, bus, device and function. An I/O APIC has the one that the IVRS gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);
