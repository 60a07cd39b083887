//! What a guest may not do by itself: every intercept bit and every control bit, with its reason, in one table.
//!
//! Words are written as a whole. Each bit that the manual defines has a row (AMD64 APM 2, 15.9 and appendix B); what it reserves stays zero. A row
//! says which feature its bits need: without it they are reserved, and what holds then is the row's too ([`Needs::without`]). Before any guest runs a CPU
//! has to be in a certain state: that is [`FIRST`].

use crate::features::{Feature, Features};
use crate::vmcb::{Control, Intercepts, VirtualInterrupt};

mod first;
mod table;

pub use first::{FIRST, First, first};
pub use table::{FIELDS, INTERCEPTS};

/// Who takes a guest's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// The hypervisor, which injects them.
    Emulated,
    /// The guest, on a CPU of its own.
    Direct,
}

/// An intercept vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Control registers.
    Cr,
    /// Debug registers.
    Dr,
    /// Exceptions.
    Exceptions,
    /// Interrupts and instructions.
    General,
    /// SVM's instructions and further ones.
    Svm,
    /// Instructions that came later.
    Later,
}

/// When a bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// For guests of one kind.
    Only(Interrupts),
    /// While the hypervisor waits for what it says: who runs the guest sets and clears it.
    Awaited,
    /// Never.
    Never,
}

/// What a CPU must have for a row's bits to be there.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Whether it has it.
    pub has: fn(&Features) -> bool,
    /// What holds on a CPU that hasn't got it.
    pub without: &'static str,
}

/// Bits of an intercept vector and why they are as they are.
#[derive(Clone, Copy, Debug)]
pub struct Intercept {
    /// Which vector.
    pub word: Word,
    /// The first bit.
    pub first: u8,
    /// The last.
    pub last: u8,
    /// What is intercepted.
    pub name: &'static str,
    /// When.
    pub when: When,
    /// On CPUs with a feature only.
    pub needs: Option<Needs>,
    /// Why.
    pub why: &'static str,
}

impl Intercept {
    /// Its bits.
    pub const fn bits(&self) -> u32 {
        (u32::MAX >> (31 - (self.last & 31))) & (u32::MAX << (self.first & 31))
    }

    fn is_set(&self, interrupts: Interrupts, features: &Features) -> bool {
        self.when.holds(interrupts) && self.needs.is_none_or(|needs| (needs.has)(features))
    }
}

impl When {
    fn holds(self, interrupts: Interrupts) -> bool {
        match self {
            Self::Always => true,
            Self::Only(kind) => kind == interrupts,
            Self::Awaited | Self::Never => false,
        }
    }
}

/// A field of the control area that isn't an intercept vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Offset 0x60.
    VirtualInterrupt,
    /// Offset 0x90.
    Nested,
    /// Offset 0xb8.
    VirtualExtensions,
}

/// Bits of such a field and why they are as they are.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Which.
    pub place: Place,
    /// The bits.
    pub bits: u64,
    /// Their name.
    pub name: &'static str,
    /// When they are set.
    pub when: When,
    /// Why.
    pub why: &'static str,
}

/// What a row of [`INTERCEPTS`] is asked for while it is awaited: the end of an interrupt shadow or of masked interrupts (VINTR).
pub const AWAIT_WINDOW: u32 = 1 << 4;
/// The same for IRET, which ends an NMI's handler.
pub const AWAIT_IRET: u32 = 1 << 20;

/// The intercept vectors of a guest.
pub fn intercepts(interrupts: Interrupts, features: &Features) -> Intercepts {
    let word = |word| {
        INTERCEPTS
            .iter()
            .filter(|row| row.word == word && row.is_set(interrupts, features))
            .fold(0, |bits, row| bits | row.bits())
    };
    Intercepts {
        cr: word(Word::Cr),
        dr: word(Word::Dr),
        exceptions: word(Word::Exceptions),
        general: word(Word::General),
        svm: word(Word::Svm),
        later: word(Word::Later),
    }
}

/// A field's value for a guest.
pub fn field(place: Place, interrupts: Interrupts) -> u64 {
    FIELDS
        .iter()
        .filter(|row| row.place == place && row.when.holds(interrupts))
        .fold(0, |bits, row| bits | row.bits)
}

/// What is a vCPU's own of its control area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Host-physical address of its [`crate::permissions::IoPermissions`].
    pub io_permissions: u64,
    /// Host-physical address of its [`crate::permissions::MsrPermissions`].
    pub msr_permissions: u64,
    /// Host-physical address of its nested page table's top.
    pub nested_cr3: u64,
    /// Its address space identifier: 1 to [`Features::asids`] - 1.
    pub asid: u32,
    /// Is added to its time-stamp counter.
    pub tsc_offset: u64,
}

/// The control area of a vCPU before its first run.
pub fn area(interrupts: Interrupts, features: &Features, own: &Own) -> Control {
    let mut area = Control::zero();
    area.intercepts = intercepts(interrupts, features);
    area.io_permissions = own.io_permissions;
    area.msr_permissions = own.msr_permissions;
    area.tsc_offset = own.tsc_offset;
    area.asid = own.asid;
    area.virtual_interrupt = VirtualInterrupt(field(Place::VirtualInterrupt, interrupts) as u32);
    area.nested = field(Place::Nested, interrupts);
    area.nested_cr3 = own.nested_cr3;
    area.virtual_extensions = field(Place::VirtualExtensions, interrupts);
    area
}

/// How the TLB is to be flushed of one guest.
pub fn flush(features: &Features) -> crate::vmcb::TlbControl {
    if features.svm.contains(Feature::FLUSH_BY_ASID) {
        crate::vmcb::TlbControl::FlushGuest
    } else {
        crate::vmcb::TlbControl::FlushAll
    }
}

#[cfg(test)]
mod tests;
