//! Identifiers.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A VM: its position in the system file, from 0.
    VmId(u16)
}
id! {
    /// A virtual CPU: its position among its VM's CPUs, from 0.
    VcpuId(u16)
}
id! {
    /// A physical CPU: its position among the device tree's cpu nodes or the enabled MADT entries, from 0.
    CpuId(u16)
}
id! {
    /// An interrupt by the number that its machine gives it: an INTID on aarch64, a GSI on x86_64, a source of the APLIC on riscv64.
    Irq(u32)
}
id! {
    /// An IOMMU: its position among the platform's, from 0.
    IommuId(u16)
}
id! {
    /// A controller of message interrupts: its position among the platform's, from 0.
    MsiControllerId(u16)
}
id! {
    /// What an IOMMU knows a DMA master by (a stream id, a requester id), or a controller of message interrupts their sender.
    SourceId(u32)
}

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// On an edge.
    Edge,
    /// While its level is active.
    Level,
}

/// A wired interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Its number at the interrupt controller.
    pub irq: Irq,
    /// How it signals.
    pub trigger: Trigger,
}

/// Where a device's DMA arrives: at which IOMMU, and in whose name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DmaSource {
    /// The IOMMU.
    pub iommu: IommuId,
    /// What it knows the device by.
    pub id: SourceId,
}

impl DmaSource {
    /// What `iommu` knows by `id`.
    pub const fn new(iommu: u16, id: u32) -> Self {
        Self { iommu: IommuId(iommu), id: SourceId(id) }
    }
}

/// Where a device's message interrupts arrive: at which controller, and in whose name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MsiSource {
    /// The controller.
    pub controller: MsiControllerId,
    /// What it knows the device by.
    pub id: SourceId,
}

impl MsiSource {
    /// What `controller` knows by `id`.
    pub const fn new(controller: u16, id: u32) -> Self {
        Self { controller: MsiControllerId(controller), id: SourceId(id) }
    }
}

/// The geographic address of a PCI function: `0000:00:02.0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// The segment (Linux: domain): one for each host bridge with a config space of its own.
    pub segment: u16,
    /// The bus number.
    pub bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The function at these numbers, or `None` if `device` isn't below 32 or `function` below 8.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self { segment, bus, device, function }) } else { None }
    }

    /// The function with this requester id: bus in bits 15:8, device in 7:3, function in 2:0.
    pub const fn from_requester_id(segment: u16, id: u16) -> Self {
        Self { segment, bus: (id >> 8) as u8, device: (id >> 3) as u8 & 31, function: id as u8 & 7 }
    }

    /// The device (slot) number, below 32.
    pub const fn device(&self) -> u8 {
        self.device & 31
    }

    /// The function number, below 8.
    pub const fn function(&self) -> u8 {
        self.function & 7
    }

    /// The 16-bit id that the function's transactions carry.
    pub const fn requester_id(&self) -> u16 {
        (self.bus as u16) << 8 | (self.device() as u16) << 3 | self.function() as u16
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device(), self.function())
    }
}

/// Text that isn't a PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPciAddress;

impl fmt::Display for NotAPciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI address: expected segment:bus:device.function, as in 0000:00:02.0")
    }
}

impl core::error::Error for NotAPciAddress {}

impl FromStr for PciAddress {
    type Err = NotAPciAddress;

    /// Reads `0000:00:02.0`, or `00:02.0` for segment 0.
    fn from_str(text: &str) -> Result<Self, NotAPciAddress> {
        fn hex(digits: &str, most: usize) -> Result<u16, NotAPciAddress> {
            if digits.is_empty() || digits.len() > most || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(NotAPciAddress);
            }
            u16::from_str_radix(digits, 16).map_err(|_| NotAPciAddress)
        }
        let (front, function) = text.rsplit_once('.').ok_or(NotAPciAddress)?;
        let (front, device) = front.rsplit_once(':').ok_or(NotAPciAddress)?;
        let (segment, bus) = front.split_once(':').unwrap_or(("0", front));
        Self::new(hex(segment, 4)?, hex(bus, 2)? as u8, hex(device, 2)? as u8, hex(function, 1)? as u8)
            .ok_or(NotAPciAddress)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_pci_address_prints_as_it_is_read() {
        for text in ["0000:00:02.0", "0001:ff:1f.7"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        assert_eq!("00:02.0".parse::<PciAddress>().unwrap().to_string(), "0000:00:02.0");
    }

    #[test]
    fn numbers_out_of_range_and_stray_signs_are_no_address() {
        for text in ["0000:00:20.0", "0000:00:02.8", "0000:00:02", "0000:00:+2.0", "", "00:100:02.0"] {
            assert_eq!(text.parse::<PciAddress>(), Err(NotAPciAddress), "{text}");
        }
    }

    #[test]
    fn a_requester_id_names_the_function_it_was_made_from() {
        let address = PciAddress::new(3, 0x12, 0x1f, 7).unwrap();
        assert_eq!(address.requester_id(), 0x12ff);
        assert_eq!(PciAddress::from_requester_id(3, 0x12ff), address);
    }
}
