//! The hardware, as AML reaches it: by regions of address spaces (ACPI 6.5, 5.5.2.4).

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory.
    Memory,
    /// I/O ports.
    Ports,
    /// Config space of the PCI function that the region's device is.
    PciConfig,
    /// Something else: an embedded controller, SMBus, CMOS.
    Other(u8),
}

impl Space {
    pub(crate) fn new(number: u8) -> Self {
        match number {
            0 => Self::Memory,
            1 => Self::Ports,
            2 => Self::PciConfig,
            other => Self::Other(other),
        }
    }
}

/// A PCI function that AML asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// Its segment.
    pub segment: u16,
    /// Its bus, as the bridges above it have it now.
    pub bus: u8,
    /// Its device number, below 32.
    pub device: u8,
    /// Its function number, below 8.
    pub function: u8,
}

/// Who answers when AML reads from hardware, and takes what it writes: nothing, unless that is implemented.
///
/// What is in doubt ([`Answer::is_sure`](crate::Answer::is_sure)), as a value or because it isn't known whether firmware would come there, is
/// never written. What isn't taken is counted ([`Aml::writes`](crate::Aml::writes)), and has no effect.
pub trait Hardware {
    /// So many bytes (1, 2, 4 or 8) at an address. `None`: there is no answer; AML goes on with zero, and what comes of it is in doubt
    /// ([`Answer::is_sure`](crate::Answer::is_sure)).
    ///
    /// Not of PCI's config space: that is [`config`](Self::config)'s.
    fn read(&mut self, space: Space, address: u64, bytes: u8) -> Option<u64>;

    /// So many bytes (1, 2 or 4, at a multiple of them) of a PCI function's config space; all ones where there is no such function. `None`:
    /// there is no answer, which is what there is unless this is implemented.
    fn config(&mut self, function: PciFunction, offset: u16, bytes: u8) -> Option<u64> {
        let _ = (function, offset, bytes);
        None
    }

    /// Writes so many bytes (1, 2, 4 or 8) to an address, but of PCI's config space. Gives whether it is taken; AML goes on in any case.
    fn write(&mut self, space: Space, address: u64, bytes: u8, value: u64) -> bool {
        let _ = (space, address, bytes, value);
        false
    }

    /// Writes so many bytes (1, 2 or 4, at a multiple of them) to a PCI function's config space. Gives whether it is taken.
    fn set_config(&mut self, function: PciFunction, offset: u16, bytes: u8, value: u64) -> bool {
        let _ = (function, offset, bytes, value);
        false
    }
}

/// No hardware at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Hardware for Nothing {
    fn read(&mut self, _: Space, _: u64, _: u8) -> Option<u64> {
        None
    }
}
