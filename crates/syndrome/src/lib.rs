#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod abort;
mod given;
mod state;
mod taken;
mod wait;

pub use abort::{DataAbort, InstructionAbort, Kind, Status, fault_address};
pub use state::{Condition, is_aarch32, is_el0, past, past_aarch64};
pub use taken::Taken;
pub use wait::{Deadline, Wait, WaitFor};

/// The bits `high` to `low` of a register.
const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & (u64::MAX >> (63 - (high - low)))
}

const fn bit(value: u64, at: u32) -> bool {
    value >> at & 1 != 0
}

/// Exception classes (ESR_EL2.EC).
pub mod class {
    /// WFI, WFE and their forms with a deadline.
    pub const WAIT: u8 = 0x01;
    /// HVC of AArch64.
    pub const HVC: u8 = 0x16;
    /// SMC of AArch64.
    pub const SMC: u8 = 0x17;
    /// MSR, MRS or a system instruction of AArch64.
    pub const SYSTEM: u8 = 0x18;
    /// SVE that CPTR_EL2 traps.
    pub const SVE: u8 = 0x19;
    /// An instruction abort from a lower level.
    pub const INSTRUCTION_ABORT: u8 = 0x20;
    /// An instruction abort from the level that takes it.
    pub const INSTRUCTION_ABORT_SAME: u8 = 0x21;
    /// A data abort from a lower level.
    pub const DATA_ABORT: u8 = 0x24;
    /// A data abort from the level that takes it.
    pub const DATA_ABORT_SAME: u8 = 0x25;
}

/// How long the instruction is that was trapped (ESR_EL2.IL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// 16 bits: of T32.
    Two,
    /// 32 bits, and where the length has no meaning.
    Four,
}

impl Length {
    /// In bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// The value of ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u64);

/// Why an exception was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// WFI, WFE, WFIT or WFET.
    Wait(Wait),
    /// HVC: it returns behind itself.
    Hvc {
        /// Its immediate.
        immediate: u16,
    },
    /// A trapped SMC: it returns to itself.
    Smc {
        /// Its immediate.
        immediate: u16,
    },
    /// MSR, MRS or a system instruction.
    System(SystemAccess),
    /// An instruction that couldn't be fetched.
    InstructionAbort(InstructionAbort),
    /// An access that couldn't be made.
    DataAbort(DataAbort),
    /// All else: its class.
    Other(u8),
}

impl Syndrome {
    /// EC, the class.
    #[inline(always)]
    pub const fn class(self) -> u8 {
        bits(self.0, 31, 26) as u8
    }

    /// IL.
    #[inline(always)]
    pub const fn length(self) -> Length {
        if bit(self.0, 25) { Length::Four } else { Length::Two }
    }

    /// All of it.
    pub const fn cause(self) -> Cause {
        match self.class() {
            class::WAIT => Cause::Wait(Wait::of_syndrome(self)),
            class::HVC => Cause::Hvc { immediate: bits(self.0, 15, 0) as u16 },
            class::SMC => Cause::Smc { immediate: bits(self.0, 15, 0) as u16 },
            class::SYSTEM => Cause::System(SystemAccess(self.0)),
            class::INSTRUCTION_ABORT => Cause::InstructionAbort(InstructionAbort(self.0)),
            class::DATA_ABORT => Cause::DataAbort(DataAbort(self.0)),
            other => Cause::Other(other),
        }
    }
}

/// A trapped MSR, MRS or system instruction (ISS of EC 0x18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemAccess(pub u64);

/// A system register's place: op0, op1, CRn, CRm, op2.
pub type Encoding = (u8, u8, u8, u8, u8);

impl SystemAccess {
    /// Which register: Op0 (21:20), Op1 (16:14), CRn (13:10), CRm (4:1), Op2 (19:17).
    #[inline(always)]
    pub const fn encoding(self) -> Encoding {
        let esr = self.0;
        (
            bits(esr, 21, 20) as u8,
            bits(esr, 16, 14) as u8,
            bits(esr, 13, 10) as u8,
            bits(esr, 4, 1) as u8,
            bits(esr, 19, 17) as u8,
        )
    }

    /// The general register that is read or written: Rt (9:5).
    #[inline(always)]
    pub const fn register(self) -> u64 {
        bits(self.0, 9, 5)
    }

    /// Direction (0): the system register is read.
    #[inline(always)]
    pub const fn is_read(self) -> bool {
        bit(self.0, 0)
    }

    /// The ISS of such an access without direction and Rt: which register, as one number.
    #[inline(always)]
    pub const fn place(self) -> u32 {
        (self.0 & 0x3f_fc1e) as u32
    }

    /// Whether it is a write of this register: one comparison.
    #[inline(always)]
    pub const fn writes(self, encoding: Encoding) -> bool {
        let (op0, op1, crn, crm, op2) = encoding;
        let place = (op0 as u64) << 20
            | (op2 as u64) << 17
            | (op1 as u64) << 14
            | (crn as u64) << 10
            | (crm as u64) << 1;
        // All of the ISS up to Op0 but for Rt.
        const LOOKED_AT: u64 = 0x3f_fc1f;
        self.0 & LOOKED_AT == place
    }
}
