//! Access control services: what of them is turned on, and what then is on (PCIe 6.12, 7.7.8).

use crate::config::{ConfigSpace, Registers};
use crate::function::Function;
use crate::quirks::{self, Word};
use crate::spec::EXTENDED_SIZE;
use crate::spec::express::PortType;
use crate::spec::extended::{self, Acs};

/// The egress control vector's registers: 256 bits where its size reads 0.
const VECTOR_WORDS: u16 = 8;

/// Turns on all that keeps traffic between peers away from them, as far as it is there.
///
/// Egress control opens ways where requests are redirected, so it is only for functions that have nothing else: all
/// their siblings are barred then.
pub(crate) fn enable<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) {
    let Some(offset) = function.extended_capability(extended::ACS) else { return };
    let bits = registers.read16(offset + extended::ACS_CAPABILITY);
    let capable = Acs::from_bits_retain(bits & !extended::ACS_ENHANCED);
    // Nobody here uses ATS, so an address that claims to be translated is a lie.
    let mut on = capable & (Acs::ISOLATION | Acs::TRANSLATION_BLOCKING);
    if bits & extended::ACS_ENHANCED != 0 && function.port.is_some_and(PortType::has_link_below) {
        on |= Acs::ENHANCED;
    }
    if !function.bridge
        && capable.contains(Acs::EGRESS_CONTROL)
        && !capable.contains(Acs::REQUEST_REDIRECT)
        && let Some(last) = last_vector_word(offset, bits)
    {
        for at in (offset + extended::ACS_EGRESS_VECTOR..=last).step_by(4) {
            registers.write32(at, u32::MAX);
        }
        on |= Acs::EGRESS_CONTROL;
    }
    registers.write16(offset + extended::ACS_CONTROL, on.bits());
}

/// The last register of the egress control vector, if it is inside config space.
fn last_vector_word(offset: u16, capability: u16) -> Option<u16> {
    let words = match capability >> 8 {
        0 => VECTOR_WORDS,
        bits => bits.div_ceil(32),
    };
    let last = offset + extended::ACS_EGRESS_VECTOR + 4 * (words - 1);
    (last < EXTENDED_SIZE).then_some(last)
}

/// What a function's ACS is capable of, and what of it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    capable: Acs,
    on: Acs,
    /// The siblings, by function number, that egress control bars.
    barred: u32,
}

impl Control {
    /// Reads it; `None`: there is no such capability, or it can't be believed. Where its maker says that a function without one
    /// isolates, it is as if it had one with all on.
    pub fn read<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Option<Self> {
        let word = quirks::of(function).map(|quirk| quirk.word);
        let offset = match (function.extended_capability(extended::ACS), word) {
            (_, Some(Word::Wrong)) => return None,
            (None, Some(Word::PortIsolates | Word::FunctionIsolates)) => {
                return Some(Self { capable: Acs::ISOLATION, on: Acs::ISOLATION, barred: 0 });
            }
            (offset, _) => offset?,
        };
        let bits = registers.read16(offset + extended::ACS_CAPABILITY);
        let capable = Acs::from_bits_retain(bits & !extended::ACS_ENHANCED);
        let vector = capable.contains(Acs::EGRESS_CONTROL) && last_vector_word(offset, bits).is_some();
        Some(Self {
            capable,
            on: Acs::from_bits_retain(registers.read16(offset + extended::ACS_CONTROL)),
            barred: if vector { registers.read32(offset + extended::ACS_EGRESS_VECTOR) } else { 0 },
        })
    }

    /// Whether all of `services` is on.
    pub fn has(self, services: Acs) -> bool {
        self.on.contains(services)
    }

    /// Whether one of `services` is on.
    pub fn has_any(self, services: Acs) -> bool {
        self.on.intersects(services)
    }

    /// Whether of `services` all is on that the capability lists. Root ports and functions leave out what they have no
    /// use for, since they never send to a peer (PCIe 6.12.1.1, 6.12.1.2).
    pub fn has_listed(self, services: Acs) -> bool {
        self.on.contains(self.capable & services)
    }

    /// Whether something that is on opens a way past the redirects.
    pub fn lets_through(self) -> bool {
        self.on.intersects(Acs::DIRECT_TRANSLATED | Acs::EGRESS_CONTROL)
    }

    /// Whether a function of a multi-function device sends nothing to its sibling with this number.
    pub fn keeps_from(self, sibling: u8) -> bool {
        let redirects = self.has_listed(Acs::REDIRECT);
        if self.capable.contains(Acs::EGRESS_CONTROL) && !self.capable.contains(Acs::REQUEST_REDIRECT) {
            let barred = self.on.contains(Acs::EGRESS_CONTROL) && self.barred >> sibling & 1 != 0;
            return redirects && barred && !self.on.contains(Acs::DIRECT_TRANSLATED);
        }
        redirects && !self.lets_through()
    }
}
