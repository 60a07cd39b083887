//! Event records (7.3): four words each.

use axvm_addr::{Gpa, Iova};

use super::Field;
use crate::id::StreamId;

/// Bytes of a record.
pub const BYTES: u64 = 32;
const _: () = assert!(size_of::<Record>() as u64 == BYTES);

/// A record as it lies in the queue.
pub type Record = [u64; 4];

/// Word 0: the event's number.
pub const TYPE: Field = Field::new(7, 0);
/// Word 0: the substream is valid.
pub const SSV: Field = Field::bit(11);
/// Word 0: the substream.
pub const SUBSTREAM: Field = Field::new(31, 12);
/// Word 0: the stream.
pub const STREAM: Field = Field::new(63, 32);
/// Word 1: an instruction fetch.
pub const IND: Field = Field::bit(34);
/// Word 1: a read (set) or a write.
pub const RNW: Field = Field::bit(35);
/// Word 1: the fault is stage 2's, and the record has an intermediate address.
pub const S2: Field = Field::bit(39);
/// Word 1: what was being done when the fault came.
pub const CLASS: Field = Field::new(41, 40);
/// Word 3: bits 51:12 of the intermediate address, in place.
pub const IPA: Field = Field::new(51, 12);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// C_BAD_STREAMID (7.3.3): a stream outside the table.
    BadStreamId,
    /// C_BAD_STE (7.3.5): a stream that is assigned to nobody, or an entry that makes no sense.
    BadStreamEntry,
    /// F_TRANSLATION (7.3.13): nothing is mapped there.
    Translation,
    /// F_ADDR_SIZE (7.3.14): an address too large.
    AddressSize,
    /// F_ACCESS (7.3.15): an access flag is clear.
    Access,
    /// F_PERMISSION (7.3.16): what is mapped there doesn't allow it.
    Permission,
    /// Another event, by its number.
    Other(u8),
}

impl Kind {
    /// The kind that an event's number stands for.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0x02 => Self::BadStreamId,
            0x04 => Self::BadStreamEntry,
            0x10 => Self::Translation,
            0x11 => Self::AddressSize,
            0x12 => Self::Access,
            0x13 => Self::Permission,
            other => Self::Other(other),
        }
    }

    /// The number that the manual gives the event.
    pub const fn code(self) -> u8 {
        match self {
            Self::BadStreamId => 0x02,
            Self::BadStreamEntry => 0x04,
            Self::Translation => 0x10,
            Self::AddressSize => 0x11,
            Self::Access => 0x12,
            Self::Permission => 0x13,
            Self::Other(code) => code,
        }
    }

    /// Whether the record has an input address, a direction and a class: F_UUT, F_BAD_ATS_TREQ,
    /// F_TRANSL_FORBIDDEN, F_WALK_EABT, the faults of translation, F_TLB_CONFLICT (7.3.2 to 7.3.17).
    const fn has_address(self) -> bool {
        matches!(self.code(), 0x01 | 0x05 | 0x07 | 0x0b | 0x10..=0x13 | 0x20)
    }

    /// Whether the record has an intermediate address when [`S2`] says so (7.3.13 to 7.3.17).
    const fn has_ipa(self) -> bool {
        matches!(self.code(), 0x10..=0x13 | 0x20)
    }
}

/// What was being done when a fault came (7.3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A context descriptor was being fetched.
    ContextDescriptor,
    /// A table was being walked.
    TableWalk,
    /// The transaction's own address was being translated.
    Input,
    /// The reserved encoding.
    Reserved,
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who caused it.
    pub stream: StreamId,
    /// What happened.
    pub kind: Kind,
    /// The address that the device put out, where the record has one.
    pub iova: Option<Iova>,
    /// The page of the address that stage 2 refused, where the record has one.
    pub ipa: Option<Gpa>,
    /// Whether the device wanted to write, where the record says so.
    pub write: Option<bool>,
    /// What was being done, where the record says so.
    pub class: Option<Class>,
    /// The record itself.
    pub raw: Record,
}

impl Event {
    /// Decodes a record. Any four words are one.
    pub const fn decode(raw: Record) -> Self {
        let [word0, word1, word2, word3] = raw;
        let kind = Kind::from_code(TYPE.get(word0) as u8);
        let has_address = kind.has_address();
        let class = match CLASS.get(word1) {
            0 => Class::ContextDescriptor,
            1 => Class::TableWalk,
            2 => Class::Input,
            _ => Class::Reserved,
        };
        Self {
            stream: StreamId(STREAM.get(word0) as u32),
            kind,
            iova: if has_address { Some(Iova(word2)) } else { None },
            ipa: if kind.has_ipa() && S2.is_set(word1) { Some(Gpa(word3 & IPA.mask())) } else { None },
            write: if has_address { Some(!RNW.is_set(word1)) } else { None },
            class: if has_address { Some(class) } else { None },
            raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_2_translation_fault_is_decoded_whole() {
        // 7.3.13: stream in bits 63:32, S2 in 103, class in 105:104, RnW in 99, address in 191:128, IPA in 243:204.
        let raw = [0x0010 << 32 | 0x10, 1 << (103 - 64) | 2 << (104 - 64), 0x4000_1234, 0x4000_1000];
        let event = Event::decode(raw);
        assert_eq!(event.stream, StreamId(16));
        assert_eq!(event.kind, Kind::Translation);
        assert_eq!((event.iova, event.ipa), (Some(Iova(0x4000_1234)), Some(Gpa(0x4000_1000))));
        assert_eq!((event.write, event.class), (Some(true), Some(Class::Input)));
        let read = Event::decode([raw[0], raw[1] | 1 << (99 - 64), raw[2], raw[3]]);
        assert_eq!(read.write, Some(false));
    }

    #[test]
    fn an_unassigned_stream_has_neither_address_nor_direction() {
        for (code, kind) in [(0x04, Kind::BadStreamEntry), (0x02, Kind::BadStreamId)] {
            let event = Event::decode([7 << 32 | code, u64::MAX, u64::MAX, u64::MAX]);
            assert_eq!((event.stream, event.kind), (StreamId(7), kind));
            assert_eq!((event.iova, event.ipa, event.write, event.class), (None, None, None, None));
        }
    }

    #[test]
    fn every_number_keeps_its_kind() {
        for code in 0..=u8::MAX {
            assert_eq!(Kind::from_code(code).code(), code);
        }
    }
}
