//! A table: its header, and the records that it consists of.

use alloc::vec::Vec;
use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::signature::Signature;

/// The header that all tables have (ACPI 6.5, 5.2.6).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub signature: [u8; 4],
    pub length: U32,
    pub revision: u8,
    checksum: u8,
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: U32,
    creator_id: U32,
    creator_revision: U32,
}

/// Bytes of it.
pub(crate) const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 36);

/// A table whose length and checksum are right.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    signature: Signature,
    bytes: Vec<u8>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.signature, self.bytes.len())
    }
}

impl Table {
    /// The table that these bytes are: a dump of it. What follows the length that it says it has is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Short`], [`Error::Checksum`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let mut bytes = bytes.into();
        let (signature, length) = match Header::ref_from_prefix(&bytes) {
            Ok((header, _)) => (Signature(header.signature), header.length.get() as usize),
            Err(_) => {
                let table = Signature(core::array::from_fn(|at| bytes.get(at).copied().unwrap_or(b'?')));
                return Err(Error::Short { table, has: bytes.len(), needs: HEADER });
            }
        };
        let needs = length.max(HEADER);
        if bytes.len() < needs || length < HEADER {
            return Err(Error::Short { table: signature, has: bytes.len().min(length), needs });
        }
        bytes.truncate(length);
        match checksum(&bytes) {
            0 => Ok(Self { signature, bytes }),
            by => Err(Error::Checksum { table: signature, by }),
        }
    }

    /// What it is called.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// Who made it, and what they call the machine (OEMID, OEM Table ID): six bytes and eight, with spaces or zeros at their ends.
    pub fn maker(&self) -> (&[u8], &[u8]) {
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        (part(10, 16), part(16, 24))
    }

    /// All of its bytes, with the header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it begins with, header included, and what follows. Whatever it is called.
    pub(crate) fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
        wanted: &[u8; 4],
    ) -> Result<(&T, Records<'_>), Error> {
        if self.signature.0 != *wanted {
            return Err(Error::OtherTable { is: self.signature, wanted: Signature(*wanted) });
        }
        let (fixed, rest) = T::ref_from_prefix(&self.bytes).map_err(|_| Error::Short {
            table: self.signature,
            has: self.bytes.len(),
            needs: size_of::<T>(),
        })?;
        Ok((fixed, Records { table: self.signature, offset: size_of::<T>(), rest }))
    }
}

/// What the bytes of something with a checksum sum up to: zero, if it is whole.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// What is left of a table, or of a record of one, that consists of records.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a> {
    table: Signature,
    offset: usize,
    rest: &'a [u8],
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    table: Signature,
    /// Where it begins in the table.
    pub offset: usize,
    /// All of it.
    pub bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// The next one. How long it is, the bytes from its beginning on say.
    pub fn next(&mut self, length: impl FnOnce(&[u8]) -> Option<usize>) -> Option<Result<Record<'a>, Error>> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = length(self.rest);
        let offset = self.offset;
        // One without a length has no next one either.
        let split = bytes.filter(|bytes| *bytes > 0).and_then(|bytes| self.rest.split_at_checked(bytes));
        let Some((record, rest)) = split else {
            self.rest = &[];
            return Some(Err(Error::Record { table: self.table, offset, bytes: bytes.unwrap_or(0) }));
        };
        (self.rest, self.offset) = (rest, offset + record.len());
        Some(Ok(Record { table: self.table, offset, bytes: record }))
    }

    /// The next one, of which the second byte is the length.
    pub fn next_by_second_byte(&mut self) -> Option<Result<Record<'a>, Error>> {
        self.next(|bytes| bytes.get(1).map(|length| usize::from(*length)))
    }

    /// The next one, of which bytes 2 and 3 are the length.
    pub fn next_by_second_word(&mut self) -> Option<Result<Record<'a>, Error>> {
        self.next(|bytes| {
            let length = bytes.get(2..4)?.try_into().ok()?;
            Some(usize::from(u16::from_le_bytes(length)))
        })
    }
}

impl<'a> Record<'a> {
    /// What it begins with, and what follows.
    pub fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
    ) -> Result<(&'a T, Records<'a>), Error> {
        let (fixed, rest) = T::ref_from_prefix(self.bytes).map_err(|_| self.error())?;
        Ok((fixed, Records { table: self.table, offset: self.offset + size_of::<T>(), rest }))
    }

    /// That it doesn't fit.
    pub fn error(&self) -> Error {
        Error::Record { table: self.table, offset: self.offset, bytes: self.bytes.len() }
    }

    /// That it is half of a range.
    pub fn half_a_range(&self) -> Error {
        Error::Range { table: self.table, offset: self.offset }
    }
}

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// In memory.
    Memory,
    /// At a port.
    Port,
    /// In PCI config space, of segment 0 and bus 0.
    PciConfig,
    /// Somewhere else.
    Other(u8),
}

/// A register's place (ACPI 6.5, 5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenericAddress {
    /// Where it is.
    pub space: Space,
    /// How many bits it has.
    pub bits: u8,
    /// How it is accessed, in bytes; 0: as wide as it is.
    pub access_bytes: u8,
    /// Its address there.
    pub address: u64,
}

/// How a table has it.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawGenericAddress {
    space: u8,
    bits: u8,
    _offset: u8,
    access: u8,
    address: U64,
}

impl RawGenericAddress {
    /// What it says; nothing, if it is all zero.
    pub fn get(&self) -> Option<GenericAddress> {
        if self.address.get() == 0 {
            return None;
        }
        let space = match self.space {
            0 => Space::Memory,
            1 => Space::Port,
            2 => Space::PciConfig,
            other => Space::Other(other),
        };
        let access_bytes = match self.access {
            access @ 1..=4 => 1 << (access - 1),
            _ => 0,
        };
        Some(GenericAddress { space, bits: self.bits, access_bytes, address: self.address.get() })
    }
}

/// Two bytes of a path or an id.
pub(crate) type Word = U16;

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;
    use std::vec;

    use super::*;

    fn sample(length: u32, bytes: usize) -> Vec<u8> {
        let mut table = vec![0; bytes.max(HEADER)];
        table[..4].copy_from_slice(b"TEST");
        table[4..8].copy_from_slice(&length.to_le_bytes());
        let end = (length as usize).clamp(HEADER, table.len());
        table[9] = 0u8.wrapping_sub(checksum(&table[..end]));
        table
    }

    #[test]
    fn a_table_is_as_long_as_it_says_and_whole() {
        let table = Table::new(sample(40, 50)).unwrap();
        assert_eq!((table.bytes().len(), table.signature().to_string().as_str()), (40, "TEST"));
        let table = |length, bytes| Table::new(sample(length, bytes)).unwrap_err();
        let name = Signature(*b"TEST");
        assert_eq!(table(60, 50), Error::Short { table: name, has: 50, needs: 60 });
        assert_eq!(table(10, 50), Error::Short { table: name, has: 10, needs: 36 });
        assert_eq!(Table::new(&b"TEST"[..]), Err(Error::Short { table: name, has: 4, needs: 36 }));
        let mut damaged = sample(40, 40);
        damaged[38] = 5;
        assert_eq!(Table::new(damaged), Err(Error::Checksum { table: name, by: 5 }));
    }

    #[test]
    fn records_end_with_the_table_or_with_what_does_not_fit() {
        let all = |bytes: &[u8]| {
            let mut records = Records { table: Signature(*b"TEST"), offset: 36, rest: bytes };
            let mut found = vec![];
            while let Some(record) = records.next_by_second_byte() {
                found.push(record.map(|record| (record.offset, record.bytes.len())));
            }
            found
        };
        let wrong = |offset, bytes| Err(Error::Record { table: Signature(*b"TEST"), offset, bytes });
        assert_eq!(all(&[0, 2, 1, 3, 9]), [Ok((36, 2)), Ok((38, 3))]);
        assert_eq!(all(&[0, 2, 1, 0, 9]), [Ok((36, 2)), wrong(38, 0)]);
        assert_eq!(all(&[0, 2, 1, 4, 9]), [Ok((36, 2)), wrong(38, 4)]);
        assert_eq!(all(&[0, 2, 1]), [Ok((36, 2)), wrong(38, 0)]);
        assert_eq!(all(&[]), []);
    }

    #[test]
    fn a_register_s_place_has_its_width_and_space() {
        let read = |bytes: [u8; 12]| RawGenericAddress::read_from_bytes(&bytes).unwrap().get();
        let place =
            |space, bits, access_bytes, address| Some(GenericAddress { space, bits, access_bytes, address });
        assert_eq!(read([1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]), place(Space::Port, 8, 1, 0xcf9));
        assert_eq!(
            read([0, 32, 0, 3, 0, 0, 0xb0, 0xfe, 0, 0, 0, 0]),
            place(Space::Memory, 32, 4, 0xfeb0_0000)
        );
        assert_eq!(read([0x0a, 8, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0]), place(Space::Other(10), 8, 0, 1));
        assert_eq!(read([1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
