//! What a unit knows a device by.

/// A source id (3.4.1): on PCI the requester id, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);
