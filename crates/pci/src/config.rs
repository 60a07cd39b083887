//! Access to config space.

use axvm_addr::PciAddress;
pub use axvm_axdevice::Width;

/// The config space of a machine's functions.
///
/// Accesses here are naturally aligned and at most four bytes wide.
pub trait ConfigSpace {
    /// Reads; all ones if nobody answers or the access aborts.
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32;

    /// Writes.
    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32);
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    fn read(&self, function: PciAddress, offset: u16, width: Width) -> u32 {
        (**self).read(function, offset, width)
    }

    fn write(&self, function: PciAddress, offset: u16, width: Width, value: u32) {
        (**self).write(function, offset, width, value);
    }
}

/// One function's config space.
pub struct Registers<'a, C: ?Sized> {
    config: &'a C,
    function: PciAddress,
}

impl<C: ?Sized> Clone for Registers<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: ?Sized> Copy for Registers<'_, C> {}

impl<'a, C: ConfigSpace + ?Sized> Registers<'a, C> {
    /// The registers of `function`.
    pub fn new(config: &'a C, function: PciAddress) -> Self {
        Self { config, function }
    }

    /// Reads 8 bits.
    pub fn read8(self, offset: u16) -> u8 {
        self.config.read(self.function, offset, Width::B1) as u8
    }

    /// Reads 16 bits.
    pub fn read16(self, offset: u16) -> u16 {
        self.config.read(self.function, offset, Width::B2) as u16
    }

    /// Reads 32 bits.
    pub fn read32(self, offset: u16) -> u32 {
        self.config.read(self.function, offset, Width::B4)
    }

    /// Writes 8 bits.
    pub fn write8(self, offset: u16, value: u8) {
        self.config.write(self.function, offset, Width::B1, value.into());
    }

    /// Writes 16 bits.
    pub fn write16(self, offset: u16, value: u16) {
        self.config.write(self.function, offset, Width::B2, value.into());
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: u16, value: u32) {
        self.config.write(self.function, offset, Width::B4, value);
    }

    /// Sets the bits of `mask` to those of `value`, leaving the others as they are.
    pub fn update16(self, offset: u16, mask: u16, value: u16) {
        self.write16(offset, (self.read16(offset) & !mask) | (value & mask));
    }
}
