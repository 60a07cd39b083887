//! The packed form: a postcard value in an envelope of magic, format version, length and checksum.
//!
//! ```text
//!  0  magic, 8 bytes, says what kind of value it is
//!  8  u32  format version
//! 12  u32  length of the value in bytes
//! 16  u32  CRC-32 (ISO-HDLC) of bytes 0 to 16 and of the value
//! 20       the value
//! ```
//!
//! All numbers are little-endian. The checksum finds damage, not malice: whoever can write the packed form can write any
//! system file. So the reader trusts nothing that a checksum can't promise: every length is checked against the bytes there.

use alloc::vec::Vec;

use crc::{CRC_32_ISO_HDLC, Crc};
use serde::de::{DeserializeOwned, Error, SeqAccess};
use serde::{Deserialize, Serialize};

/// The version of the packed form. Postcard has no field names: any change of the types in it changes this number.
pub const FORMAT: u32 = 5;

/// The bytes before the value.
pub const ENVELOPE: usize = 20;

/// The checksum. One table of 1 KiB: the faster variants need 8 or 16 KiB of the hypervisor's image.
pub(crate) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// `Deserialize` of a struct from its fields in their order, which is all that the packed form has. Each is put into a value that is
/// whole from the start, so that wherever an error comes there is one thing to drop: a third of the code of serde's derive.
macro_rules! deserialize_in_order {
    // Those behind a semicolon aren't packed.
    ($type:ident { $($field:ident),+ $(,)? $(; $left:ident)? }) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct InOrder;
                impl<'de> serde::de::Visitor<'de> for InOrder {
                    type Value = $type;

                    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                        f.write_str(stringify!($type))
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<$type, A::Error> {
                        let mut value = $type::default();
                        // Each field is named, or this doesn't compile.
                        let $type { $($field,)+ $($left: _)? } = &mut value;
                        $($crate::packed::next(&mut seq, $field)?;)+
                        Ok(value)
                    }
                }
                deserializer.deserialize_struct(stringify!($type), &[$(stringify!($field)),+], InOrder)
            }
        }
    };
}
pub(crate) use deserialize_in_order;

/// Reads the next field.
pub(crate) fn next<'de, A, T>(seq: &mut A, field: &mut T) -> Result<(), A::Error>
where
    A: SeqAccess<'de>,
    T: Deserialize<'de>,
{
    *field = seq.next_element()?.ok_or_else(|| A::Error::custom("a field is missing"))?;
    Ok(())
}

/// Why bytes are not a packed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// It doesn't begin as it should.
    #[error("not a packed value of this kind: the first bytes are others")]
    Magic,
    /// It is of another format version.
    #[error("format version {found}, but only {FORMAT} is understood")]
    Format {
        /// The version found.
        found: u32,
    },
    /// It ends too early.
    #[error("{needed} bytes were announced, {there} are there")]
    Truncated {
        /// The bytes announced.
        needed: u64,
        /// The bytes there.
        there: u64,
    },
    /// The checksum differs.
    #[error("damaged: checksum {computed:#010x}, stored {stored:#010x}")]
    Checksum {
        /// The one stored.
        stored: u32,
        /// The one computed.
        computed: u32,
    },
    /// The checksum is right, but the value isn't one: written by a program that disagrees about the format.
    #[error("the checksum holds, but the value can't be decoded")]
    Value,
    /// It can't be written: a value of 4 GiB and more, or one that postcard has no form for.
    #[error("the value can't be packed")]
    Unpackable,
}

/// Packs `value`.
///
/// # Errors
///
/// [`PackedError::Unpackable`].
pub fn pack<T: Serialize>(magic: [u8; 8], value: &T) -> Result<Vec<u8>, PackedError> {
    let body = postcard::to_allocvec(value).map_err(|_| PackedError::Unpackable)?;
    let length = u32::try_from(body.len()).map_err(|_| PackedError::Unpackable)?;
    let mut packed = Vec::with_capacity(ENVELOPE.saturating_add(body.len()));
    packed.extend_from_slice(&magic);
    packed.extend_from_slice(&FORMAT.to_le_bytes());
    packed.extend_from_slice(&length.to_le_bytes());
    let sum = checksum(&packed, &body);
    packed.extend_from_slice(&sum.to_le_bytes());
    packed.extend_from_slice(&body);
    Ok(packed)
}

/// Reads a packed value from the front of `bytes`; what follows it is not looked at. Gives the number of bytes it took too.
///
/// # Errors
///
/// Any other [`PackedError`].
pub fn unpack<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Result<(T, usize), PackedError> {
    let short = |needed: u64| PackedError::Truncated { needed, there: bytes.len() as u64 };
    let found = bytes.first_chunk::<8>().ok_or(short(ENVELOPE as u64))?;
    if *found != magic {
        return Err(PackedError::Magic);
    }
    let word = |at: usize| -> Result<u32, PackedError> {
        let rest = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        rest.map(|word| u32::from_le_bytes(*word)).ok_or(short(ENVELOPE as u64))
    };
    let format = word(8)?;
    if format != FORMAT {
        return Err(PackedError::Format { found: format });
    }
    let length = word(12)?;
    let stored = word(16)?;
    let end = (length as usize).checked_add(ENVELOPE).ok_or(PackedError::Value)?;
    let front = bytes.get(..16).ok_or(short(ENVELOPE as u64))?;
    let body = bytes.get(ENVELOPE..end).ok_or(short(end as u64))?;
    let computed = checksum(front, body);
    if computed != stored {
        return Err(PackedError::Checksum { stored, computed });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok((value, end)),
        _ => Err(PackedError::Value),
    }
}

fn checksum(front: &[u8], body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(front);
    digest.update(body);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    const MAGIC: [u8; 8] = *b"test-one";

    #[test]
    fn every_single_flipped_bit_is_found() {
        let packed = pack(MAGIC, &(7u16, String::from("seven"))).unwrap();
        for bit in 0..packed.len() * 8 {
            let mut damaged = packed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unpack::<(u16, String)>(MAGIC, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_value_cut_anywhere_is_truncated() {
        let packed = pack(MAGIC, &vec![1u32, 2, 3]).unwrap();
        for end in 0..packed.len() {
            let cut = unpack::<Vec<u32>>(MAGIC, &packed[..end]);
            assert!(matches!(cut, Err(PackedError::Truncated { .. })), "{end}: {cut:?}");
        }
    }

    #[test]
    fn bytes_left_over_inside_the_value_are_refused_and_after_it_are_ignored() {
        let mut packed = pack(MAGIC, &(1u8, 2u8)).unwrap();
        assert_eq!(unpack::<u8>(MAGIC, &packed), Err(PackedError::Value));
        packed.push(9);
        assert_eq!(unpack::<(u8, u8)>(MAGIC, &packed), Ok(((1, 2), packed.len() - 1)));
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(text in ".*", numbers in prop::collection::vec(any::<u64>(), 0..20)) {
            let value = (text, numbers);
            let packed = pack(MAGIC, &value).unwrap();
            prop_assert_eq!(unpack::<(String, Vec<u64>)>(MAGIC, &packed), Ok((value, packed.len())));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack::<(String, Vec<u64>)>(MAGIC, &bytes);
        }
    }
}
