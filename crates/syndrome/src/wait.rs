//! WFI, WFE, and WFIT and WFET of FEAT_WFxT.

use crate::state::{Condition, holds};
use crate::{Syndrome, bit, bits};

/// What an instruction waits for (TI, bit 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// An interrupt: WFI, WFIT.
    Interrupt,
    /// An event: WFE, WFET.
    Event,
}

/// Until when (TI, bit 1): a value of CNTVCT_EL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// It waits for as long as it takes.
    None,
    /// What this general register has; 31 is the zero register.
    InRegister(u8),
    /// There is one, but the syndrome doesn't say in which register (RV is 0).
    Unknown,
}

/// A trapped WFI, WFE, WFIT or WFET (ISS of EC 0x01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What for.
    pub waits_for: WaitFor,
    /// Until when.
    pub deadline: Deadline,
    /// COND (23:20), if it holds (CV, bit 24): AArch32 can be trapped though the condition fails.
    pub condition: Option<Condition>,
}

impl Wait {
    pub(crate) const fn of_syndrome(syndrome: Syndrome) -> Self {
        let esr = syndrome.0;
        // TI (1:0), RV (2), RN (9:5).
        let waits_for = if bit(esr, 0) { WaitFor::Event } else { WaitFor::Interrupt };
        let deadline = match (bit(esr, 1), bit(esr, 2)) {
            (false, _) => Deadline::None,
            (true, true) => Deadline::InRegister(bits(esr, 9, 5) as u8),
            (true, false) => Deadline::Unknown,
        };
        let condition = if bit(esr, 24) { Some(Condition(bits(esr, 23, 20) as u8)) } else { None };
        Self { waits_for, deadline, condition }
    }

    /// What an instruction of AArch64 waits for, and until when, if it is one of these (DDI 0487, C6.2): for where the syndrome
    /// doesn't say it.
    pub const fn of_instruction(instruction: u32) -> Option<Self> {
        let register = Deadline::InRegister((instruction & 0x1f) as u8);
        let (waits_for, deadline) = match (instruction, instruction & !0x1f) {
            (0xd503_207f, _) => (WaitFor::Interrupt, Deadline::None),
            (0xd503_205f, _) => (WaitFor::Event, Deadline::None),
            (_, 0xd503_1020) => (WaitFor::Interrupt, register),
            (_, 0xd503_1000) => (WaitFor::Event, register),
            _ => return None,
        };
        Some(Self { waits_for, deadline, condition: None })
    }

    /// Whether the instruction is executed at all, in this processor state (SPSR_EL2).
    pub const fn is_executed(&self, state: u64) -> bool {
        holds(self.condition, state)
    }
}
