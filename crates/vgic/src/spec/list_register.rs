//! ICH_LR\<n\>_EL2 and ICH_HCR_EL2 (IHI 0069, 12.4).

use super::Group;
use crate::id::Intid;

/// The most list registers that an implementation has.
pub const LIST_REGISTERS_MAX: usize = 16;

/// ICH_HCR_EL2.En: the virtual CPU interface operates.
pub const HCR_EN: u64 = 1 << 0;
/// ICH_HCR_EL2.LRENPIE: maintenance interrupt while EOIcount isn't zero.
pub const HCR_LRENPIE: u64 = 1 << 2;
/// ICH_HCR_EL2.NPIE: maintenance interrupt while no list register has an interrupt that is pending and not active.
pub const HCR_NPIE: u64 = 1 << 3;
/// ICH_HCR_EL2.TDIR: writes of ICC_DIR_EL1 are trapped, where the CPU can (ICH_VTR_EL2.TDS).
pub const HCR_TDIR: u64 = 1 << 14;

/// ICH_HCR_EL2.EOIcount: how many interrupts the guest ended that were in no list register.
pub const fn hcr_eoi_count(hcr: u64) -> u32 {
    (hcr >> 27 & 0x1f) as u32
}

/// The state of the interrupt in a list register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bit 62.
    pub pending: bool,
    /// Bit 63.
    pub active: bool,
}

/// A list register's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListRegister(pub u64);

impl ListRegister {
    /// A list register for an interrupt that the hypervisor makes up. `eoi` asks for a maintenance interrupt
    /// when the guest ends it.
    pub const fn software(intid: Intid, priority: u8, group: Group, state: State, eoi: bool) -> Self {
        Self(Self::common(intid, priority, group, state) | (eoi as u64) << 41)
    }

    /// A list register for a hardware interrupt: when the guest ends it, the physical interrupt `host` is
    /// deactivated. Such a register must not be pending and active at once.
    pub const fn hardware(intid: Intid, host: Intid, priority: u8, group: Group, state: State) -> Self {
        Self(Self::common(intid, priority, group, state) | 1 << 61 | (host.0 as u64 & 0x1fff) << 32)
    }

    const fn common(intid: Intid, priority: u8, group: Group, state: State) -> u64 {
        (state.active as u64) << 63
            | (state.pending as u64) << 62
            | (matches!(group, Group::One) as u64) << 60
            | (priority as u64) << 48
            | intid.0 as u64
    }

    /// The state.
    pub const fn state(self) -> State {
        State { pending: self.0 >> 62 & 1 != 0, active: self.0 >> 63 != 0 }
    }

    /// Whether an interrupt is in it.
    pub const fn in_use(self) -> bool {
        self.0 >> 62 != 0
    }

    /// The INTID that the guest sees.
    pub const fn intid(self) -> Intid {
        Intid(self.0 as u32)
    }

    /// The priority.
    pub const fn priority(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Its group.
    pub const fn group(self) -> Group {
        if self.0 >> 60 & 1 != 0 { Group::One } else { Group::Zero }
    }

    /// The physical interrupt, if it stands for one.
    pub const fn host(self) -> Option<Intid> {
        if self.0 >> 61 & 1 != 0 { Some(Intid((self.0 >> 32) as u32 & 0x1fff)) } else { None }
    }

    /// Whether it is a hardware interrupt that is pending only: bits 63 to 61.
    pub const fn is_pending_hardware(self) -> bool {
        self.0 >> 61 == 0b011
    }

    /// Whether it is this software interrupt of group 1, made up by the hypervisor and pending only: bits 63 to 60, and
    /// the INTID.
    pub const fn is_pending_software(self, intid: Intid) -> bool {
        self.0 >> 60 == 0b0101 && self.0 as u32 == intid.0
    }

    /// The physical interrupt of a hardware interrupt.
    pub const fn host_field(self) -> Intid {
        Intid((self.0 >> 32) as u32 & 0x1fff)
    }

    /// Whether the end of the interrupt raises a maintenance interrupt.
    pub const fn eoi(self) -> bool {
        self.host().is_none() && self.0 >> 41 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: State = State { pending: true, active: false };
    const ACTIVE: State = State { pending: false, active: true };

    #[test]
    fn a_hardware_list_register_has_its_fields_where_the_manual_says() {
        let lr = ListRegister::hardware(Intid(27), Intid(30), 0xa0, Group::One, PENDING);
        assert_eq!(lr.0, 1 << 62 | 1 << 61 | 1 << 60 | 0xa0 << 48 | 30 << 32 | 27);
        assert_eq!(lr.host(), Some(Intid(30)));
        assert_eq!(lr.state(), PENDING);
        assert!(!lr.eoi());
    }

    #[test]
    fn a_software_list_register_has_its_fields_where_the_manual_says() {
        let lr = ListRegister::software(Intid(8192), 0x08, Group::Zero, ACTIVE, true);
        assert_eq!(lr.0, 1 << 63 | 0x08 << 48 | 1 << 41 | 8192);
        assert_eq!((lr.intid(), lr.priority(), lr.group(), lr.host()), (Intid(8192), 8, Group::Zero, None));
        assert!(lr.eoi() && lr.in_use());
    }

    #[test]
    fn the_eoi_count_is_in_bits_31_to_27() {
        assert_eq!(hcr_eoi_count(HCR_EN | 3 << 27 | 1 << 32), 3);
    }
}
