//! MSI (PCI 6.8.1) and MSI-X (PCI 6.8.2). Offsets are from the capability's start.

/// Message control, 16 bits, of both.
pub const CONTROL: u16 = 2;

/// In an MSI's control: enabled.
pub const MSI_ENABLE: u16 = 1 << 0;
/// In an MSI's control: how many vectors it asks for, as a power of two.
pub const MSI_CAPABLE: u16 = 0b111 << 1;
/// In an MSI's control: how many it was given, as a power of two.
pub const MSI_GIVEN: u16 = 0b111 << 4;
/// In an MSI's control: its address has 64 bits.
pub const MSI_WIDE: u16 = 1 << 7;
/// In an MSI's control: it has mask and pending bits.
pub const MSI_MASKS: u16 = 1 << 8;
/// The MSI's address, 32 bits; its upper half follows where there is one.
pub const MSI_ADDRESS: u16 = 4;

/// The layout of an MSI capability, which its control register says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLayout {
    /// Whether the address has 64 bits.
    pub wide: bool,
    /// Where the 16 bits of data are.
    pub data: u16,
    /// Where the mask bits are (32 bits; the pending bits follow).
    pub mask: Option<u16>,
    /// The capability's size.
    pub size: u16,
}

impl MsiLayout {
    /// The layout for a control register's value.
    pub const fn new(control: u16) -> Self {
        let wide = control & MSI_WIDE != 0;
        let data = if wide { 0xc } else { 0x8 };
        if control & MSI_MASKS != 0 {
            Self { wide, data, mask: Some(data + 4), size: data + 12 }
        } else {
            Self { wide, data, mask: None, size: data + 4 }
        }
    }
}

/// In an MSI-X's control: the table's size less one.
pub const MSIX_SIZE_MASK: u16 = 0x7ff;
/// In an MSI-X's control: all vectors masked.
pub const MSIX_MASK_ALL: u16 = 1 << 14;
/// In an MSI-X's control: enabled.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// Where the table is: BAR in 2:0, offset in it in 31:3.
pub const MSIX_TABLE: u16 = 4;
/// Where the pending bits are, the same way.
pub const MSIX_PENDING: u16 = 8;
/// The capability's size.
pub const MSIX_SIZE: u16 = 12;

const _: () = assert!(MsiLayout::new(0).size == 12 && MsiLayout::new(MSI_WIDE | MSI_MASKS).size == 24);
