//! What firmware may write when it is told that there are I/O APICs (`_PIC`): registers of AMD's chipsets that lead PCI's lines there. Without
//! them lines stay with the old interrupt controllers, or appear at a second input beside their own while they are masked, which may be
//! another VM's.
//!
//! A list of registers, and of them only what leads lines; whatever else firmware writes has no effect. What is in the list is what some 260
//! PCs with these chipsets write there, and what AMD's manuals say of it.

use alloc::vec::Vec;

use axvm_addr::PciAddress;

use super::Chipset;

/// Vendors of host bridges that have these registers: AMD, and Hygon, whose processors are made after AMD's.
const VENDORS: [u64; 2] = [0x1022, 0x1d94];

/// The southbridge's interrupt router: a register that chooses, and one in which the chosen one is seen (AMD's PPRs: FCH::IO::PCI_INTR_INDEX
/// and PCI_INTR_DATA; BKDGs before: IOC00, IOC01).
mod router {
    pub const INDEX: u16 = 0xc00;
    pub const DATA: u16 = 0xc01;
    /// The eight lines of PCI are first; with this bit, where they go as inputs of the I/O APIC, without it of the 8259s.
    pub const TO_IO_APIC: u8 = 1 << 7;
    pub const LINES: u8 = 8;
    /// Inputs have five bits, of which 0x1f is none.
    pub const MOST: u8 = 0x1f;
}

/// A register that chooses, and one in which the chosen one is seen, in the config space of a host bridge's first function.
struct Pair {
    index: u16,
    data: u16,
    /// The registers with [`TO_SOUTHBRIDGE`] that are seen there.
    features: &'static [u32],
    /// Those that firmware only reads, for how often it does the rest.
    read: &'static [u32],
    /// Chooses of which of several dies the register is.
    die: Option<u16>,
}

/// In the features of the northbridge's I/O APIC: a line that is masked there goes to the southbridge (Ioapic_sb_feature_en).
const TO_SOUTHBRIDGE: u32 = 1 << 4;
/// More dies than a package has.
const DIES: u32 = 8;

const PAIRS: [Pair; 2] = [
    // From family 17h on: the I/O APIC's FEATURES_ENABLE (PPRs: IOHC::NB_SMN_INDEX_2, NB_SMN_DATA_2), which the dies for desktops have
    // elsewhere than others.
    Pair {
        index: 0xb8,
        data: 0xbc,
        features: &[0x1430_0000, 0x1460_0000],
        read: &[0x1_c604],
        die: Some(0xb4),
    },
    // Before: its feature control (BKDGs for families 15h and 16h: D0F0xF8, D0F0xFC_x00).
    Pair { index: 0xf8, data: 0xfc, features: &[0], read: &[], die: None },
];

/// A register of a chipset is written, so that PCI's lines lead to I/O APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// A byte, to an I/O port.
    Port {
        /// The port.
        port: u16,
        /// The byte.
        value: u8,
    },
    /// Four bytes, to the config space of a function.
    Config {
        /// The function, by its address at the time.
        function: PciAddress,
        /// Where: a multiple of four.
        offset: u16,
        /// What.
        value: u32,
    },
}

/// Firmware being told: what it has chosen so far.
#[derive(Default)]
pub(super) struct Routing {
    /// The router's register.
    line: Option<u8>,
    chosen: Vec<Chosen>,
}

/// What a choosing register has now, and what it had.
struct Chosen {
    function: PciAddress,
    offset: u16,
    now: u32,
    before: u32,
}

impl Routing {
    /// A byte to a port: what is written, if it is.
    pub fn port(&mut self, port: u64, bytes: u8, value: u64, chipset: &dyn Chipset) -> Option<Lead> {
        let root = PciAddress::new(0, 0, 0, 0)?;
        let (port, value) = (u16::try_from(port).ok()?, u8::try_from(value).ok()?);
        if bytes != 1 || !is_makers(root, chipset) {
            return None;
        }
        match port {
            router::INDEX if value & !router::TO_IO_APIC < router::LINES => self.line = Some(value),
            router::DATA if value <= router::MOST && self.line.is_some() => {}
            _ => return None,
        }
        Some(Lead::Port { port, value })
    }

    /// To config space: what is written, if it is.
    pub fn config(
        &mut self,
        function: PciAddress,
        offset: u16,
        bytes: u8,
        value: u64,
        chipset: &dyn Chipset,
    ) -> Option<Lead> {
        let value = u32::try_from(value).ok().filter(|_| bytes == 4)?;
        let is_first = (function.device(), function.function()) == (0, 0);
        if !is_first || !is_makers(function, chipset) {
            return None;
        }
        let ask = |offset| u32::try_from(chipset.config(function, offset, 4)?).ok();
        let pair = PAIRS.iter().find(|it| [Some(it.index), Some(it.data), it.die].contains(&Some(offset)))?;
        if offset == pair.data {
            let now = self.chosen(function, pair.index).map_or_else(|| ask(pair.index), |it| Some(it.now))?;
            // Nothing else may become of it, and what it is may not be guessed.
            let is_known = pair.features.contains(&now) && ask(offset)? & !TO_SOUTHBRIDGE == value;
            return is_known.then_some(Lead::Config { function, offset, value });
        }
        if self.chosen(function, offset).is_none() {
            let before = ask(offset)?;
            self.chosen.push(Chosen { function, offset, now: before, before });
        }
        let chosen = self.chosen(function, offset)?;
        let may_be = match offset == pair.index {
            true => pair.features.contains(&value) || pair.read.contains(&value),
            false => value < DIES,
        };
        if !may_be && value != chosen.before {
            return None;
        }
        chosen.now = value;
        Some(Lead::Config { function, offset, value })
    }

    fn chosen(&mut self, function: PciAddress, offset: u16) -> Option<&mut Chosen> {
        self.chosen.iter_mut().find(|it| (it.function, it.offset) == (function, offset))
    }
}

/// Whether a function is of a maker whose chipsets have these registers.
fn is_makers(function: PciAddress, chipset: &dyn Chipset) -> bool {
    chipset.config(function, 0, 2).is_some_and(|vendor| VENDORS.contains(&vendor))
}
