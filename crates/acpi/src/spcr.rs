//! SPCR: the console (Microsoft's Serial Port Console Redirection Table, revision 2 and later).

use axvm_addr::PciAddress;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{GenericAddress, Header, RawGenericAddress, Table, Word};

/// What the SPCR says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spcr {
    /// What kind of UART it is (DBG2, table 3): 0 a 16550 as ever, 1 one with the layout of its 16450 part, 3 a PL011, 0x12 a 16550 at any
    /// address.
    pub kind: u8,
    /// Its registers; nothing: the console is off.
    pub registers: Option<GenericAddress>,
    /// Its global system interrupt, where it has one.
    pub gsi: Option<u32>,
    /// Its PCI function, where it is one.
    pub function: Option<PciAddress>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    kind: u8,
    _reserved: [u8; 3],
    registers: RawGenericAddress,
    interrupt_kind: u8,
    _irq: u8,
    gsi: U32,
    _baud: u8,
    _settings: [u8; 5],
    pci_device: Word,
    _pci_vendor: Word,
    bus: u8,
    device: u8,
    function: u8,
    _pci_flags: U32,
    segment: u8,
    _clock: U32,
}

const _: () = assert!(size_of::<Fixed>() == 80);
const _: () = assert!(size_of::<RawGenericAddress>() == size_of::<(U32, U64)>());

/// Bits of the interrupt's kind that say that the global system interrupt counts: I/O APIC, I/O SAPIC, GIC.
const GSI: u8 = 0b1110;

impl Spcr {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't an SPCR, or too short for one.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (raw, _) = table.fixed::<Fixed>(b"SPCR")?;
        Ok(Self::of(raw))
    }

    /// What the bytes of one say, of which nothing was checked: for whoever has no memory yet for a [`Table`].
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = Fixed::ref_from_prefix(bytes).ok()?;
        Some(Self::of(raw))
    }

    fn of(raw: &Fixed) -> Self {
        let function = PciAddress::new(raw.segment.into(), raw.bus, raw.device, raw.function);
        Self {
            kind: raw.kind,
            registers: raw.registers.get(),
            gsi: (raw.interrupt_kind & GSI != 0).then_some(raw.gsi.get()),
            function: function.filter(|_| raw.pci_device.get() != 0xffff),
        }
    }
}
