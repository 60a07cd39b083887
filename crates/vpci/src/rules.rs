//! Which bits of config space a guest may see and change: one rule for each 32-bit register, none: nothing.

use axvm_pci::Width;
use litemap::LiteMap;

use crate::messages::Register;

/// What one 32-bit register is to the guest. A bit in no field reads as zero and can't be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Bits that read as the function has them.
    pub shown: u32,
    /// Bits that read as one.
    pub fixed: u32,
    /// Bits that may be written.
    pub written: u32,
    /// Bits that a written one clears.
    pub cleared: u32,
    /// Bits that may be turned off, not on.
    pub lowered: u32,
    /// What else is to be done.
    pub special: Option<Special>,
}

/// A register that is more than bits to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// The command register, in bits 15:0: virtual.
    Command,
    /// This BAR: virtual.
    Bar(u8),
    /// No BAR or ROM. Its size is asked for by a write, so that is no refusal.
    Absent,
    /// The interrupt line, in bits 7:0: virtual.
    Line,
    /// The power state, in bits 1:0: performed.
    Power,
    /// The reset bit of Express device control, bit 15: performed.
    Express,
    /// MSI control, in bits 31:16: the vectors given may not be more than it is capable of.
    Msi,
    /// A register of messages that the bridge has: virtual, and performed.
    Message(Register),
}

impl Special {
    /// The bits that are not passed to the function.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Command => 0xffff,
            Self::Bar(_) | Self::Absent => u32::MAX,
            Self::Line => 0xff,
            Self::Power => 0b11,
            Self::Express => 1 << 15,
            Self::Msi => 0,
            Self::Message(Register::MsiControl | Register::MsixControl) => 0xffff_0000,
            Self::Message(_) => u32::MAX,
        }
    }
}

/// The rules of one function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(LiteMap<u16, Rule>);

impl Rules {
    /// The rule for the register at `offset`, a multiple of 4.
    pub fn get(&self, offset: u16) -> Rule {
        self.0.get(&offset).copied().unwrap_or_default()
    }

    /// The rule's entry for the register that holds `offset`, and how far its bits are shifted there.
    fn entry(&mut self, offset: u16) -> (&mut Rule, u32) {
        (self.0.entry(offset & !3).or_default(), u32::from(offset & 3) * 8)
    }

    /// Shows the bytes from `start` to before `end`.
    pub fn show(&mut self, start: u16, end: u16) {
        for byte in start..end {
            let (rule, shift) = self.entry(byte);
            rule.shown |= 0xff << shift;
        }
    }

    /// Shows something fixed instead of these bits.
    pub fn fix(&mut self, offset: u16, mask: u32, value: u32) {
        let (rule, shift) = self.entry(offset);
        rule.shown &= !(mask << shift);
        rule.fixed = rule.fixed & !(mask << shift) | (value & mask) << shift;
    }

    /// Lets these bits be written.
    pub fn write(&mut self, offset: u16, mask: u32) {
        let (rule, shift) = self.entry(offset);
        rule.written |= mask << shift;
    }

    /// Lets a written one clear these bits.
    pub fn clear(&mut self, offset: u16, mask: u32) {
        let (rule, shift) = self.entry(offset);
        rule.cleared |= mask << shift;
    }

    /// Lets these bits be turned off.
    pub fn lower(&mut self, offset: u16, mask: u32) {
        let (rule, shift) = self.entry(offset);
        rule.lowered |= mask << shift;
    }

    /// Marks a register.
    pub fn special(&mut self, offset: u16, special: Special) {
        self.entry(offset).0.special = Some(special);
    }
}

/// An access, seen as one to a whole 32-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The register's offset, a multiple of 4.
    pub register: u16,
    /// The bits that are accessed.
    pub lanes: u32,
    shift: u32,
}

impl Access {
    /// The access of `width` at `offset`; `None` if it isn't naturally aligned or wider than a register.
    pub fn new(offset: u16, width: Width) -> Option<Self> {
        let lanes = match width {
            Width::B1 => 0xff,
            Width::B2 => 0xffff,
            Width::B4 => u32::MAX,
            Width::B8 => return None,
        };
        if u64::from(offset) & (width.bytes() - 1) != 0 {
            return None;
        }
        let shift = u32::from(offset & 3) * 8;
        Some(Self { register: offset & !3, lanes: lanes << shift, shift })
    }

    /// What the access reads of a register's value.
    pub fn extract(self, register: u32) -> u32 {
        (register & self.lanes) >> self.shift
    }

    /// A written value where it is in the register.
    pub fn place(self, value: u32) -> u32 {
        (value << self.shift) & self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_touches_its_own_bytes_of_the_register_only() {
        let access = Access::new(0x3e, Width::B2).unwrap();
        assert_eq!((access.register, access.lanes), (0x3c, 0xffff_0000));
        assert_eq!(access.extract(0x1234_5678), 0x1234);
        assert_eq!(access.place(0xffff_abcd), 0xabcd_0000);
        assert_eq!(Access::new(0x3d, Width::B2), None);
        assert_eq!(Access::new(0x38, Width::B8), None);
    }

    #[test]
    fn what_no_rule_names_is_neither_shown_nor_written() {
        let mut rules = Rules::default();
        rules.show(0x42, 0x46);
        assert_eq!(rules.get(0x40).shown, 0xffff_0000);
        assert_eq!(rules.get(0x44).shown, 0x0000_ffff);
        assert_eq!(rules.get(0x48), Rule::default());
        rules.fix(0x43, 0xff, 0x5a);
        assert_eq!((rules.get(0x40).shown, rules.get(0x40).fixed), (0x00ff_0000, 0x5a00_0000));
    }
}
