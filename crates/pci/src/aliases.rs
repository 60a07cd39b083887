//! Functions that send with other requester ids than their own, and bridges that do otherwise than their capability says.
//!
//! An IOMMU tells devices apart by requester ids. A function that also sends with another one reaches the memory of whoever that one
//! is given to, so all of its ids are attached to its own VM, or it isn't given. None of this is in config space: each entry rests on what
//! users and makers have reported, as Linux collects it ([`Alias::source`]; drivers/pci/quirks.c).

use axvm_addr::PciAddress;
use core::ops::RangeInclusive;

use crate::function::Function;
use crate::ids::{BROADCOM, INTEL, Ids};

/// Whose id it sends with, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum As {
    /// That function of its own device, whether or not it is there.
    Function(u8),
    /// Each of these functions of each of these devices on its own bus, whether or not they are there.
    OnBus {
        /// The devices' numbers.
        devices: RangeInclusive<u8>,
        /// The functions' numbers.
        functions: RangeInclusive<u8>,
    },
}

/// An entry of the list.
#[derive(Clone, Debug)]
pub struct Alias {
    /// Which functions.
    pub ids: Ids,
    /// Whose id they send with.
    pub sends_as: As,
    /// What they are, and where it was reported.
    pub source: &'static str,
}

const fn alias(vendor: u16, devices: RangeInclusive<u16>, sends_as: As, source: &'static str) -> Alias {
    Alias { ids: Ids { vendor, devices }, sends_as, source }
}

const fn one(device: u8, function: u8) -> As {
    As::OnBus { devices: device..=device, functions: function..=function }
}

const RICOH: u16 = 0x1180;
const GLENFLY: u16 = 0x6766;
const MARVELL: u16 = 0x1b4b;
const HIGHPOINT: u16 = 0x1103;
const JMICRON: u16 = 0x197b;
const LITE_ON: u16 = 0x1c28;
const ADAPTEC: u16 = 0x9005;

const SATA: &str = "Marvell 88SE91xx, 88SE92xx: bugzilla.kernel.org 42679";
const READER: &str = "Ricoh card readers: bugzilla.redhat.com 605888";
const COPROCESSOR: &str = "Intel MIC x200: Intel's change to Linux";
const ACCELERATOR: &str = "Intel VCA, whose processors send with ids of their own: Intel's change to Linux";

/// The list.
pub const ALIASES: &[Alias] = &[
    alias(RICOH, 0xe476..=0xe476, As::Function(0), READER),
    alias(RICOH, 0xe832..=0xe832, As::Function(0), READER),
    alias(GLENFLY, 0x3d40..=0x3d41, As::Function(0), "Glenfly graphics: Glenfly's change to Linux"),
    alias(MARVELL, 0x9120..=0x9120, As::Function(1), SATA),
    alias(MARVELL, 0x9123..=0x9123, As::Function(1), SATA),
    alias(MARVELL, 0x9125..=0x9125, As::Function(1), SATA),
    alias(MARVELL, 0x9128..=0x9128, As::Function(1), SATA),
    alias(MARVELL, 0x9130..=0x9130, As::Function(1), SATA),
    alias(MARVELL, 0x9170..=0x9170, As::Function(1), SATA),
    alias(MARVELL, 0x9172..=0x9172, As::Function(1), SATA),
    alias(MARVELL, 0x917a..=0x917a, As::Function(1), SATA),
    alias(MARVELL, 0x9182..=0x9183, As::Function(1), SATA),
    alias(MARVELL, 0x91a0..=0x91a0, As::Function(1), SATA),
    alias(MARVELL, 0x9215..=0x9215, As::Function(1), SATA),
    alias(MARVELL, 0x9220..=0x9220, As::Function(1), SATA),
    alias(MARVELL, 0x9230..=0x9230, As::Function(1), SATA),
    alias(MARVELL, 0x9235..=0x9235, As::Function(1), SATA),
    alias(HIGHPOINT, 0x0642..=0x0642, As::Function(1), "HighPoint RocketRAID 642L (a Marvell chip)"),
    alias(HIGHPOINT, 0x0645..=0x0645, As::Function(1), "HighPoint RocketRAID 644L (a Marvell chip)"),
    alias(JMICRON, 0x2392..=0x2392, As::Function(1), "JMicron JMB388: bugs.gentoo.org 497630"),
    alias(
        LITE_ON,
        0x0122..=0x0122,
        As::Function(1),
        "Plextor M6E (a Marvell chip): bugzilla.kernel.org 42679",
    ),
    // The DMA engine behind the card's own bridge, which hides it.
    alias(ADAPTEC, 0x0285..=0x0285, one(1, 0), "Adaptec 3405 and 3805: Linux's list"),
    alias(INTEL, 0x2260..=0x2260, one(0x10, 0), COPROCESSOR),
    alias(INTEL, 0x2260..=0x2260, one(0x11, 0), COPROCESSOR),
    alias(INTEL, 0x2260..=0x2260, one(0x12, 3), COPROCESSOR),
    alias(INTEL, 0x2264..=0x2264, one(0x10, 0), COPROCESSOR),
    alias(INTEL, 0x2264..=0x2264, one(0x11, 0), COPROCESSOR),
    alias(INTEL, 0x2264..=0x2264, one(0x12, 3), COPROCESSOR),
    alias(INTEL, 0x2954..=0x2956, As::OnBus { devices: 0..=31, functions: 0..=4 }, ACCELERATOR),
    alias(INTEL, 0x2958..=0x295a, As::OnBus { devices: 0..=31, functions: 0..=4 }, ACCELERATOR),
];

/// The entries that hold for a function.
pub fn of(function: &Function) -> impl Iterator<Item = &'static Alias> {
    let (vendor, device) = (function.vendor, function.device);
    ALIASES.iter().filter(move |alias| alias.ids.contain(vendor, device))
}

/// Calls `f` with each requester id that a function itself sends with beside its own.
pub(crate) fn each(function: &Function, mut f: impl FnMut(PciAddress)) {
    let PciAddress { segment, bus, .. } = function.address;
    for alias in of(function) {
        let (devices, functions) = match &alias.sends_as {
            As::Function(other) => (function.address.device()..=function.address.device(), *other..=*other),
            As::OnBus { devices, functions } => (devices.clone(), functions.clone()),
        };
        for device in devices {
            for number in functions.clone() {
                PciAddress::new(segment, bus, device, number)
                    .into_iter()
                    .filter(|&id| id != function.address)
                    .for_each(&mut f);
            }
        }
    }
}

/// How a bridge hands on what comes from below, where it isn't as its capability says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwards {
    /// As function 0 of the bus below it, though it has no Express capability.
    AsFunction0,
    /// As it is, though it is a bridge to conventional PCI.
    Unchanged,
    /// To the IOMMU and the interrupt controller, which are here: what stands above changes no id.
    ToIommu,
}

struct Odd {
    ids: Ids,
    forwards: Forwards,
}

const fn odd(vendor: u16, devices: RangeInclusive<u16>, forwards: Forwards) -> Odd {
    Odd { ids: Ids { vendor, devices }, forwards }
}

const ODD: &[Odd] = &[
    // ASMedia ASM1083 and ASM1085, Tundra Tsi381: bugzilla.kernel.org 44881.
    odd(0x1b21, 0x1080..=0x1080, Forwards::AsFunction0),
    odd(0x10e3, 0x8113..=0x8113, Forwards::AsFunction0),
    // ITE IT8892 and IT8893: bugzilla.kernel.org 73551.
    odd(0x1283, 0x8892..=0x8893, Forwards::AsFunction0),
    // Intel 82801: bugzilla.kernel.org 44881.
    odd(INTEL, 0x244e..=0x244e, Forwards::AsFunction0),
    // Aspeed AST1150: Aspeed's change to Linux.
    odd(0x1a03, 0x1150..=0x1150, Forwards::Unchanged),
    // Broadcom Vulcan and Cavium ThunderX2: Cavium's change to Linux.
    odd(BROADCOM, 0x9000..=0x9000, Forwards::ToIommu),
    odd(BROADCOM, 0x9084..=0x9084, Forwards::ToIommu),
];

/// What is odd about a bridge.
pub(crate) fn forwards(bridge: &Function) -> Option<Forwards> {
    ODD.iter().find(|odd| odd.ids.contain(bridge.vendor, bridge.device)).map(|odd| odd.forwards)
}
