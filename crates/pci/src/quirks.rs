//! Functions that keep peers apart without saying so, and functions whose ACS capability can't be believed.
//!
//! Each entry rests on what the maker of the hardware has told the public: its datasheet, or its own change to Linux's list of such
//! functions (drivers/pci/quirks.c, `pci_dev_acs_enabled`), which [`Quirk::source`] names. What isn't here is as its capability
//! says.

use crate::function::Function;
use crate::ids::{BROADCOM, CAVIUM, INTEL, Ids};
use crate::spec::express::PortType;

/// What a maker says of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A root port without an ACS capability that validates the source of requests and sends none to a peer.
    PortIsolates,
    /// A function of several in one device, without an ACS capability, that sends nothing to the others.
    FunctionIsolates,
    /// The ACS capability isn't laid out as PCIe 7.7.8 says, so that what is written to it does nothing.
    Wrong,
}

/// An entry of the list.
#[derive(Clone, Debug)]
pub struct Quirk {
    /// Which functions.
    pub ids: Ids,
    /// What is said of them.
    pub word: Word,
    /// What they are, and who says it.
    pub source: &'static str,
}

const fn quirk(vendor: u16, first: u16, last: u16, word: Word, source: &'static str) -> Quirk {
    Quirk { ids: Ids { vendor, devices: first..=last }, word, source }
}

use Word::{FunctionIsolates, PortIsolates, Wrong};

const QUALCOMM: u16 = 0x17cb;
const HXT: u16 = 0x1dbf;
const APPLIED_MICRO: u16 = 0x10e8;
const AMPERE: u16 = 0x1def;
const ANNAPURNA: u16 = 0x1c36;
const NXP: u16 = 0x1957;
const SOLARFLARE: u16 = 0x1924;
const SERVER_ENGINES: u16 = 0x19a2;
const EMULEX: u16 = 0x10df;
const WANGXUN: u16 = 0x8088;

const LX2: &str = "NXP LX2160A, LX2162A and kin: NXP's change to Linux";
const TEN_GIGABIT: &str = "Intel 82598 and 82599: Intel's word in Linux's change";
const GIGABIT: &str = "Intel 82571, 82575, 82576, 82580, I350: Intel's word in Linux's changes";
const PCH: &str = "Intel 100 and 200 Series PCH: datasheet volume 2 (registers of 32 bits, control at +8), and specification update";

/// The list.
pub const QUIRKS: &[Quirk] = &[
    quirk(QUALCOMM, 0x0400, 0x0401, PortIsolates, "Qualcomm QDF2400 and QDF2432: Qualcomm's change to Linux"),
    quirk(HXT, 0x0401, 0x0401, PortIsolates, "HXT SD4800: HXT's change to Linux"),
    quirk(CAVIUM, 0xa000, 0xa7ff, PortIsolates, "Cavium ThunderX: Cavium's changes to Linux"),
    quirk(CAVIUM, 0xaf84, 0xaf84, PortIsolates, "Cavium ThunderX2: Cavium's change to Linux"),
    quirk(CAVIUM, 0xb884, 0xb884, PortIsolates, "Marvell ThunderX3: Marvell's change to Linux"),
    quirk(APPLIED_MICRO, 0xe004, 0xe004, PortIsolates, "AppliedMicro X-Gene: AppliedMicro's change to Linux"),
    quirk(AMPERE, 0xe005, 0xe00c, PortIsolates, "Ampere eMAG: Ampere's change to Linux"),
    quirk(BROADCOM, 0xd714, 0xd714, PortIsolates, "Broadcom Stingray: Broadcom's change to Linux"),
    quirk(ANNAPURNA, 0x0031, 0x0031, PortIsolates, "Amazon Annapurna Labs: Amazon's change to Linux"),
    quirk(NXP, 0x8d80, 0x8d83, PortIsolates, LX2),
    quirk(NXP, 0x8d88, 0x8d8b, PortIsolates, LX2),
    quirk(NXP, 0x8d90, 0x8d93, PortIsolates, LX2),
    quirk(NXP, 0x8d98, 0x8d9b, PortIsolates, LX2),
    quirk(NXP, 0x8da0, 0x8da1, PortIsolates, LX2),
    quirk(NXP, 0x8da8, 0x8da9, PortIsolates, LX2),
    quirk(NXP, 0x8db0, 0x8db1, PortIsolates, LX2),
    quirk(NXP, 0x8db8, 0x8db9, PortIsolates, LX2),
    quirk(SOLARFLARE, 0x0903, 0x0903, FunctionIsolates, "Solarflare SFC9120: Solarflare's change to Linux"),
    quirk(SOLARFLARE, 0x0923, 0x0923, FunctionIsolates, "Solarflare SFC9140: Solarflare's change to Linux"),
    quirk(SOLARFLARE, 0x0a03, 0x0a03, FunctionIsolates, "Solarflare SFC9220: Solarflare's change to Linux"),
    quirk(BROADCOM, 0x16d7, 0x16d7, FunctionIsolates, "Broadcom BCM57414: Broadcom's change to Linux"),
    quirk(BROADCOM, 0x1750, 0x1752, FunctionIsolates, "Broadcom BCM5750x: Broadcom's change to Linux"),
    quirk(CAVIUM, 0xa026, 0xa026, FunctionIsolates, "Marvell OcteonTX2 and TX3: Marvell's change to Linux"),
    quirk(CAVIUM, 0xa059, 0xa060, FunctionIsolates, "Marvell OcteonTX2 and TX3: Marvell's change to Linux"),
    quirk(SERVER_ENGINES, 0x0710, 0x0710, FunctionIsolates, "Emulex BE3-R: Emulex's change to Linux"),
    quirk(EMULEX, 0x0720, 0x0720, FunctionIsolates, "Emulex Skyhawk-R: Emulex's change to Linux"),
    quirk(WANGXUN, 0x0100, 0x010f, FunctionIsolates, "Wangxun SFxxx: Wangxun's change to Linux"),
    quirk(WANGXUN, 0x1001, 0x1001, FunctionIsolates, "Wangxun RP1000: Wangxun's change to Linux"),
    quirk(WANGXUN, 0x2001, 0x2001, FunctionIsolates, "Wangxun RP2000: Wangxun's change to Linux"),
    quirk(INTEL, 0x10c6, 0x10c6, FunctionIsolates, TEN_GIGABIT),
    quirk(INTEL, 0x10f7, 0x10fc, FunctionIsolates, TEN_GIGABIT),
    quirk(INTEL, 0x1507, 0x1507, FunctionIsolates, TEN_GIGABIT),
    quirk(INTEL, 0x151c, 0x151c, FunctionIsolates, TEN_GIGABIT),
    quirk(INTEL, 0x154d, 0x154d, FunctionIsolates, TEN_GIGABIT),
    quirk(INTEL, 0x105e, 0x1060, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x10a7, 0x10a7, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x10a9, 0x10a9, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x10c9, 0x10c9, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x10e6, 0x10e8, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x150e, 0x1511, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0x1521, 0x1524, FunctionIsolates, GIGABIT),
    quirk(INTEL, 0xa110, 0xa11f, Wrong, PCH),
    quirk(INTEL, 0xa167, 0xa16a, Wrong, PCH),
    quirk(INTEL, 0xa290, 0xa29f, Wrong, PCH),
    quirk(INTEL, 0xa2e7, 0xa2ee, Wrong, PCH),
    quirk(INTEL, 0x9d10, 0x9d1b, Wrong, PCH),
];

/// The entry that holds for a function, if there is one. Words on root ports are about root ports only: makers have given the
/// same numbers to other functions.
pub fn of(function: &Function) -> Option<&'static Quirk> {
    let is_root_port = function.port == Some(PortType::RootPort);
    QUIRKS.iter().find(|quirk| {
        let here = match quirk.word {
            Word::PortIsolates | Word::Wrong => is_root_port,
            Word::FunctionIsolates => !function.bridge,
        };
        here && quirk.ids.contain(function.vendor, function.device)
    })
}
