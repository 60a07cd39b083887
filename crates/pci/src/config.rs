//! Access to config space.

use axvm_addr::PciAddress;
pub use axvm_axdevice::Width;

/// Whether this 32-bit value is what the root complex makes up where a function doesn't answer: all ones, or the pattern that
/// asks to try again, which some root ports give for any register (PCIe 2.3.2 has it for the vendor id alone).
pub const fn is_no_answer(value: u32) -> bool {
    value == u32::MAX || value == 0xffff_0000 | crate::spec::header::RETRY as u32
}

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

    /// Sets the bits of `mask` to those of `value`, leaving the others as they are, and says whether it did: of a
    /// function that doesn't answer the read nothing is written back.
    ///
    /// It is for control registers, of which none is all ones. So the answer itself tells: a look at the ids
    /// afterwards could find a function that came back in between.
    pub fn update16(self, offset: u16, mask: u16, value: u16) -> bool {
        let Some(before) = self.control16(offset) else { return false };
        self.write16(offset, before & !mask | value & mask);
        true
    }

    /// Reads a 16-bit control register; `None`: the function doesn't answer.
    pub fn control16(self, offset: u16) -> Option<u16> {
        // The whole of it is read, since half of what asks to try again looks like any other value.
        let both = self.read32(offset & !3);
        (!is_no_answer(both)).then_some((both >> (8 * (offset & 2))) as u16)
    }
}
