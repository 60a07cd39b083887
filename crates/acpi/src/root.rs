//! Where the tables are (ACPI 6.5, 5.2.5 to 5.2.8).

use alloc::vec::Vec;

use axvm_addr::{Address, Hpa};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::signature::Signature;
use crate::table::{HEADER, Header, Table, checksum};

/// The memory that the tables lie in.
pub trait Memory {
    /// Reads bytes, all of them or none. Whether it could: firmware's tables name addresses that need not be memory.
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        (**self).read(at, into)
    }
}

/// The largest table that is read: a DSDT of some servers has hundreds of KiB.
const MOST: usize = 4 << 20;

/// The RSDP (5.2.5.3).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Rsdp {
    _signature: [u8; 8],
    _checksum: u8,
    _oem_id: [u8; 6],
    _revision: u8,
    _rsdt: U32,
    // From revision 2 on.
    _length: U32,
    xsdt: U64,
    _extended_checksum: u8,
    _reserved: [u8; 3],
}

/// Bytes of the RSDP of revision 0, which has an RSDT only.
const OLD_RSDP: usize = 20;

/// The tables of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    tables: Vec<Table>,
    damaged: Vec<Error>,
}

impl Tables {
    /// The tables that an RSDP leads to, the DSDT not among them (the FADT says where that is). One that is damaged is left out, and
    /// said: [`damaged`](Self::damaged).
    ///
    /// # Errors
    ///
    /// There is no RSDP, or its root table can't be read.
    pub fn read(memory: &impl Memory, rsdp: Hpa) -> Result<Self, Error> {
        let Root { at, wide } = root(memory, rsdp)?;
        let root = table(memory, at)?;
        let entries = root.bytes().get(HEADER..).unwrap_or_default();
        let address = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let mut found = Self::default();
        for entry in entries.chunks_exact(if wide { 8 } else { 4 }) {
            match address(entry) {
                0 => {}
                at => match table(memory, Hpa(at)) {
                    Ok(table) => found.tables.push(table),
                    Err(error) => found.damaged.push(error),
                },
            }
        }
        Ok(found)
    }

    /// Tables that were dumped, in their order.
    pub fn of(tables: Vec<Table>) -> Self {
        Self { tables, damaged: Vec::new() }
    }

    /// The first table of a name.
    pub fn find(&self, signature: &[u8; 4]) -> Option<&Table> {
        self.tables.iter().find(|table| table.signature() == Signature(*signature))
    }

    /// All of them.
    pub fn all(&self) -> &[Table] {
        &self.tables
    }

    /// What was left out, and why.
    pub fn damaged(&self) -> &[Error] {
        &self.damaged
    }
}

/// The table of tables.
struct Root {
    at: Hpa,
    /// Whether it is an XSDT, whose entries have eight bytes.
    wide: bool,
}

fn root(memory: &impl Memory, rsdp: Hpa) -> Result<Root, Error> {
    let old: [u8; OLD_RSDP] = array(memory, rsdp)?;
    if !old.starts_with(b"RSD PTR ") || checksum(&old) != 0 {
        return Err(Error::NoRsdp { at: rsdp });
    }
    let [.., revision, a, b, c, d] = old;
    let rsdt = u32::from_le_bytes([a, b, c, d]);
    let xsdt = if revision >= 2 {
        let bytes: [u8; size_of::<Rsdp>()] = array(memory, rsdp)?;
        let whole = Rsdp::ref_from_bytes(&bytes).map_err(|_| Error::NoRsdp { at: rsdp })?;
        if checksum(&bytes) == 0 { whole.xsdt.get() } else { 0 }
    } else {
        0
    };
    // The XSDT, where there is one, is what counts (5.2.5.3).
    match (xsdt, rsdt) {
        (0, 0) => Err(Error::NoRoot { at: rsdp }),
        (0, rsdt) => Ok(Root { at: Hpa(rsdt.into()), wide: false }),
        (xsdt, _) => Ok(Root { at: Hpa(xsdt), wide: true }),
    }
}

/// A table, as far as its header says what it is: nothing of it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub at: Hpa,
    /// What it is called.
    pub signature: Signature,
    /// How many bytes it says it has.
    pub bytes: u32,
}

/// More tables than firmware has.
const MOST_TABLES: u64 = 512;

/// Calls `f` with the root table, and with each table that it lists, without allocating: for whoever has no memory yet. Those whose
/// header can't be read are left out.
///
/// # Errors
///
/// There is no RSDP, or its root table can't be read.
pub fn list(memory: &impl Memory, rsdp: Hpa, f: &mut dyn FnMut(Listed)) -> Result<(), Error> {
    let Root { at, wide } = root(memory, rsdp)?;
    let root = listed(memory, at)?;
    f(root);
    let size: u64 = if wide { 8 } else { 4 };
    let entries = u64::from(root.bytes).saturating_sub(HEADER as u64) / size;
    for number in 0..entries.min(MOST_TABLES) {
        let place = at.checked_add(HEADER as u64 + number * size);
        let place = place.ok_or(Error::Unreadable { at, bytes: root.bytes.into() })?;
        let table = if wide {
            u64::from_le_bytes(array(memory, place)?)
        } else {
            u32::from_le_bytes(array(memory, place)?).into()
        };
        if table != 0 {
            listed(memory, Hpa(table)).into_iter().for_each(&mut *f);
        }
    }
    Ok(())
}

/// What the header at an address says.
///
/// # Errors
///
/// It can't be read.
pub fn listed(memory: &impl Memory, at: Hpa) -> Result<Listed, Error> {
    let header: [u8; HEADER] = array(memory, at)?;
    let unreadable = Error::Unreadable { at, bytes: HEADER as u64 };
    let header = Header::ref_from_bytes(&header).map_err(|_| unreadable)?;
    Ok(Listed { at, signature: Signature(header.signature), bytes: header.length.get() })
}

fn array<const N: usize>(memory: &impl Memory, at: Hpa) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    if at.checked_add(N as u64).is_some() && memory.read(at, &mut bytes) {
        Ok(bytes)
    } else {
        Err(Error::Unreadable { at, bytes: N as u64 })
    }
}

/// The table at an address.
pub(crate) fn table(memory: &impl Memory, at: Hpa) -> Result<Table, Error> {
    let header: [u8; HEADER] = array(memory, at)?;
    let length = Header::ref_from_bytes(&header).map_or(0, |header| header.length.get() as usize);
    let unreadable = Error::Unreadable { at, bytes: length as u64 };
    if length > MOST || at.checked_add(length as u64).is_none() {
        return Err(unreadable);
    }
    let mut bytes = alloc::vec![0; length];
    if memory.read(at, &mut bytes) { Table::new(bytes) } else { Err(unreadable) }
}
