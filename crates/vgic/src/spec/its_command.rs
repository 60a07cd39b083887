//! The ITS commands of GICv3 (IHI 0069, 5.3): four doublewords each.

use crate::id::{ItsDeviceId, ItsEventId};

/// The size of a command in bytes.
pub const COMMAND_BYTES: u64 = 32;

const MOVI: u8 = 0x01;
const INT: u8 = 0x03;
const CLEAR: u8 = 0x04;
const SYNC: u8 = 0x05;
const MAPD: u8 = 0x08;
const MAPC: u8 = 0x09;
const MAPTI: u8 = 0x0a;
const MAPI: u8 = 0x0b;
const INV: u8 = 0x0c;
const INVALL: u8 = 0x0d;
const MOVALL: u8 = 0x0e;
const DISCARD: u8 = 0x0f;

/// A decoded command. Nothing in it has been checked but its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Maps a device to its interrupt translation table, or unmaps it.
    Mapd {
        /// The device.
        device: ItsDeviceId,
        /// The number of event id bits, 1 to 32.
        bits: u32,
        /// The address of the table.
        table: u64,
        /// Maps; else unmaps.
        valid: bool,
    },
    /// Maps a collection to a redistributor, or unmaps it.
    Mapc {
        /// The collection.
        collection: u16,
        /// The redistributor: a processor number, as GITS_TYPER.PTA is 0.
        target: u64,
        /// Maps; else unmaps.
        valid: bool,
    },
    /// Maps an event of a device to an LPI and a collection.
    Mapti {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
        /// The LPI.
        lpi: u32,
        /// The collection.
        collection: u16,
    },
    /// As MAPTI, with the event id as the LPI.
    Mapi {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
        /// The collection.
        collection: u16,
    },
    /// Moves an event to another collection.
    Movi {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
        /// The collection.
        collection: u16,
    },
    /// Moves all pending interrupts of one redistributor to another.
    Movall {
        /// From this redistributor.
        from: u64,
        /// To this one.
        to: u64,
    },
    /// Reads the LPI's configuration again.
    Inv {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
    },
    /// Reads the configuration of all LPIs of a collection again.
    Invall {
        /// The collection.
        collection: u16,
    },
    /// Unmaps an event and drops its pending state.
    Discard {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
    },
    /// Drops an event's pending state.
    Clear {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
    },
    /// Raises an event.
    Int {
        /// The device.
        device: ItsDeviceId,
        /// The event.
        event: ItsEventId,
    },
    /// Waits until all earlier commands for this redistributor have taken effect.
    Sync {
        /// The redistributor.
        target: u64,
    },
}

impl Command {
    /// The command in these doublewords, or `None` if it is none of GICv3's.
    pub const fn decode(words: &[u64; 4]) -> Option<Self> {
        let [w0, w1, w2, w3] = *words;
        let device = ItsDeviceId((w0 >> 32) as u32);
        let event = ItsEventId(w1 as u32);
        let collection = w2 as u16;
        let valid = w2 >> 63 != 0;
        Some(match w0 as u8 {
            MOVI => Self::Movi { device, event, collection },
            INT => Self::Int { device, event },
            CLEAR => Self::Clear { device, event },
            SYNC => Self::Sync { target: redistributor(w2) },
            MAPD => {
                Self::Mapd { device, bits: (w1 & 0x1f) as u32 + 1, table: w2 & 0x000f_ffff_ffff_ff00, valid }
            }
            MAPC => Self::Mapc { collection, target: redistributor(w2), valid },
            MAPTI => Self::Mapti { device, event, lpi: (w1 >> 32) as u32, collection },
            MAPI => Self::Mapi { device, event, collection },
            INV => Self::Inv { device, event },
            INVALL => Self::Invall { collection },
            MOVALL => Self::Movall { from: redistributor(w2), to: redistributor(w3) },
            DISCARD => Self::Discard { device, event },
            _ => return None,
        })
    }

    /// The command's doublewords.
    pub const fn encode(&self) -> [u64; 4] {
        match *self {
            Self::Movi { device, event, collection } => {
                [head(MOVI, device), event.0 as u64, collection as u64, 0]
            }
            Self::Int { device, event } => [head(INT, device), event.0 as u64, 0, 0],
            Self::Clear { device, event } => [head(CLEAR, device), event.0 as u64, 0, 0],
            Self::Sync { target } => [SYNC as u64, 0, rdbase(target), 0],
            Self::Mapd { device, bits, table, valid } => [
                head(MAPD, device),
                bits.saturating_sub(1) as u64 & 0x1f,
                (valid as u64) << 63 | table & 0x000f_ffff_ffff_ff00,
                0,
            ],
            Self::Mapc { collection, target, valid } => {
                [MAPC as u64, 0, (valid as u64) << 63 | rdbase(target) | collection as u64, 0]
            }
            Self::Mapti { device, event, lpi, collection } => {
                [head(MAPTI, device), (lpi as u64) << 32 | event.0 as u64, collection as u64, 0]
            }
            Self::Mapi { device, event, collection } => {
                [head(MAPI, device), event.0 as u64, collection as u64, 0]
            }
            Self::Inv { device, event } => [head(INV, device), event.0 as u64, 0, 0],
            Self::Invall { collection } => [INVALL as u64, 0, collection as u64, 0],
            Self::Movall { from, to } => [MOVALL as u64, 0, rdbase(from), rdbase(to)],
            Self::Discard { device, event } => [head(DISCARD, device), event.0 as u64, 0, 0],
        }
    }
}

const fn head(opcode: u8, device: ItsDeviceId) -> u64 {
    (device.0 as u64) << 32 | opcode as u64
}

/// RDbase: bits 50:16 of its doubleword.
const fn redistributor(word: u64) -> u64 {
    word >> 16 & 0x7_ffff_ffff
}

const fn rdbase(target: u64) -> u64 {
    (target & 0x7_ffff_ffff) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
    const EVENT: ItsEventId = ItsEventId(3);

    #[test]
    fn commands_have_their_fields_where_the_manual_says() {
        let mapd = Command::Mapd { device: DEVICE, bits: 5, table: 0x4000_1100, valid: true };
        assert_eq!(mapd.encode(), [0x10_0000_0008, 4, 1 << 63 | 0x4000_1100, 0]);
        let mapti = Command::Mapti { device: DEVICE, event: EVENT, lpi: 8195, collection: 1 };
        assert_eq!(mapti.encode(), [0x10_0000_000a, 8195 << 32 | 3, 1, 0]);
        let mapc = Command::Mapc { collection: 2, target: 1, valid: true };
        assert_eq!(mapc.encode(), [9, 0, 1 << 63 | 1 << 16 | 2, 0]);
        assert_eq!(Command::Movall { from: 1, to: 2 }.encode(), [14, 0, 1 << 16, 2 << 16]);
    }

    #[test]
    fn a_command_decodes_to_what_was_encoded() {
        for command in [
            Command::Mapd { device: DEVICE, bits: 32, table: 0x100, valid: false },
            Command::Mapc { collection: 2, target: 7, valid: false },
            Command::Mapti { device: DEVICE, event: EVENT, lpi: 9000, collection: 1 },
            Command::Mapi { device: DEVICE, event: EVENT, collection: 1 },
            Command::Movi { device: DEVICE, event: EVENT, collection: 4 },
            Command::Movall { from: 3, to: 1 },
            Command::Inv { device: DEVICE, event: EVENT },
            Command::Invall { collection: 9 },
            Command::Discard { device: DEVICE, event: EVENT },
            Command::Clear { device: DEVICE, event: EVENT },
            Command::Int { device: DEVICE, event: EVENT },
            Command::Sync { target: 1 },
        ] {
            assert_eq!(Command::decode(&command.encode()), Some(command));
        }
    }

    #[test]
    fn commands_of_gicv4_and_unknown_ones_are_none() {
        for opcode in [0u64, 0x02, 0x29, 0x2a, 0xff] {
            assert_eq!(Command::decode(&[opcode, 0, 0, 0]), None);
        }
    }
}
