//! Registers of the local APIC (AMD64 APM 2, 16; Intel SDM 3, 12) and of the I/O APIC (Intel 82093AA, 3; version 0x20 of it by ICH9, 13.5).

use bitfield_struct::bitfield;

/// Offsets of a local APIC's registers (APM 2, table 16-2). The MSR of the same in x2APIC mode is 0x800 and a sixteenth of it.
pub mod offset {
    /// APIC ID.
    pub const ID: u16 = 0x020;
    /// Version.
    pub const VERSION: u16 = 0x030;
    /// Task Priority.
    pub const TPR: u16 = 0x080;
    /// Arbitration Priority.
    pub const APR: u16 = 0x090;
    /// Processor Priority.
    pub const PPR: u16 = 0x0a0;
    /// End of Interrupt.
    pub const EOI: u16 = 0x0b0;
    /// Logical Destination.
    pub const LDR: u16 = 0x0d0;
    /// Destination Format.
    pub const DFR: u16 = 0x0e0;
    /// Spurious Interrupt Vector.
    pub const SVR: u16 = 0x0f0;
    /// In-Service: eight of them, 16 bytes apart.
    pub const ISR: u16 = 0x100;
    /// Trigger Mode: eight.
    pub const TMR: u16 = 0x180;
    /// Interrupt Request: eight.
    pub const IRR: u16 = 0x200;
    /// Error Status.
    pub const ESR: u16 = 0x280;
    /// Interrupt Command, lower half.
    pub const ICR: u16 = 0x300;
    /// Interrupt Command, upper half; x2APIC has one of 64 bits.
    pub const ICR_HIGH: u16 = 0x310;
    /// Local vector table: timer.
    pub const LVT_TIMER: u16 = 0x320;
    /// Local vector table: thermal sensor.
    pub const LVT_THERMAL: u16 = 0x330;
    /// Local vector table: performance counters.
    pub const LVT_COUNTERS: u16 = 0x340;
    /// Local vector table: LINT0.
    pub const LVT_LINT0: u16 = 0x350;
    /// Local vector table: LINT1.
    pub const LVT_LINT1: u16 = 0x360;
    /// Local vector table: errors.
    pub const LVT_ERROR: u16 = 0x370;
    /// Timer, initial count.
    pub const INITIAL_COUNT: u16 = 0x380;
    /// Timer, current count.
    pub const CURRENT_COUNT: u16 = 0x390;
    /// Timer, divide configuration.
    pub const DIVIDE: u16 = 0x3e0;
    /// Self IPI, x2APIC only.
    pub const SELF_IPI: u16 = 0x3f0;
}

/// The APIC Base Address Register.
pub const MSR_BASE: u32 = 0x1b;
/// When a timer in TSC-deadline mode ends.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// The timer's count, of x2APIC mode.
pub const MSR_CURRENT_COUNT: u32 = 0x839;

/// The Version register: 0x14, six entries of the local vector table (APM 2, 16.3.4). End-of-interrupt messages can't be suppressed.
pub const VERSION: u32 = 0x0005_0014;

/// APIC Base Address Register, MSR 0x1b (APM 2, 16.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicBase {
    #[bits(8)]
    __: u8,
    /// BSC: this is the processor that boots.
    pub first: bool,
    __: bool,
    /// EXTD: x2APIC mode.
    pub x2apic: bool,
    /// AE: the APIC is there.
    pub enabled: bool,
    /// Bits 51:12 of its registers' address.
    #[bits(40)]
    pub address: u64,
    #[bits(12)]
    __: u16,
}

/// Spurious Interrupt Vector (APM 2, 16.4.7).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Spurious {
    /// The vector.
    pub vector: u8,
    /// ASE: the APIC is enabled by software.
    pub enabled: bool,
    /// FCC.
    pub no_focus: bool,
    #[bits(22)]
    __: u32,
}

/// How an interrupt is delivered (APM 2, 16.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryMode {
    /// To all that are named.
    Fixed = 0,
    /// To the one of them with the lowest priority.
    LowestPriority = 1,
    /// SMI.
    Smi = 2,
    /// No encoding.
    Reserved3 = 3,
    /// NMI.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// STARTUP; in an I/O APIC no encoding.
    Startup = 6,
    /// From the 8259.
    External = 7,
}

impl DeliveryMode {
    pub(crate) const fn into_bits(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_bits(value: u8) -> Self {
        match value {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved3,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::External,
        }
    }
}

/// Whom an IPI is for without a destination (APM 2, 16.5, DSH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shorthand {
    /// The destination says.
    No = 0,
    /// The sender.
    Own = 1,
    /// All.
    All = 2,
    /// All but the sender.
    Others = 3,
}

impl Shorthand {
    pub(crate) const fn into_bits(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_bits(value: u8) -> Self {
        match value {
            0 => Self::No,
            1 => Self::Own,
            2 => Self::All,
            _ => Self::Others,
        }
    }
}

/// Interrupt Command Register, lower half (APM 2, 16.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// The vector.
    pub vector: u8,
    /// MT.
    #[bits(3)]
    pub mode: DeliveryMode,
    /// DM: the destination is a logical one.
    pub logical: bool,
    /// DS: it is under way. Read only.
    pub pending: bool,
    __: bool,
    /// L: the level is asserted.
    pub assert: bool,
    /// TGM: by level.
    pub level: bool,
    #[bits(2)]
    __: u8,
    /// DSH.
    #[bits(2)]
    pub shorthand: Shorthand,
    #[bits(12)]
    __: u16,
}

/// An entry of the local vector table (APM 2, 16.4). Not every entry has every field.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LocalVector {
    /// The vector.
    pub vector: u8,
    /// MT.
    #[bits(3)]
    pub mode: DeliveryMode,
    __: bool,
    /// DS.
    pub pending: bool,
    /// Polarity: active low.
    pub low: bool,
    /// RIR.
    pub remote: bool,
    /// TGM: by level.
    pub level: bool,
    /// M: masked.
    pub masked: bool,
    /// TMM, and TSC deadline: what the timer does.
    #[bits(2)]
    pub timer: TimerMode,
    #[bits(13)]
    __: u16,
}

/// What a timer does when it ends (Intel SDM 3, 12.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TimerMode {
    /// Nothing.
    OneShot = 0,
    /// It begins again.
    Periodic = 1,
    /// It ends at a value of the time-stamp counter, MSR 0x6e0.
    TscDeadline = 2,
    /// No encoding.
    Reserved = 3,
}

impl TimerMode {
    pub(crate) const fn into_bits(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_bits(value: u8) -> Self {
        match value {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

/// Error Status (APM 2, 16.4.6): a vector below 16 was to be sent.
pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// A vector below 16 has come.
pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
/// A register was accessed that there isn't.
pub const ILLEGAL_REGISTER: u32 = 1 << 7;

/// Vectors below are exceptions' or reserved: no APIC delivers them.
pub const FIRST_VECTOR: u8 = 16;

/// Pins of an I/O APIC.
pub const PINS: usize = 24;

/// Registers of an I/O APIC that are in memory (82093AA, 3.1; ICH9, 13.5.1).
pub mod io {
    /// IOREGSEL: which register the window shows.
    pub const SELECT: u64 = 0x00;
    /// IOWIN.
    pub const WINDOW: u64 = 0x10;
    /// EOI: the end of an interrupt with this vector.
    pub const EOI: u64 = 0x40;
    /// IOAPICID, by the window.
    pub const ID: u8 = 0x00;
    /// IOAPICVER.
    pub const VERSION: u8 = 0x01;
    /// IOAPICARB.
    pub const ARBITRATION: u8 = 0x02;
    /// The first half of the first entry; two registers each.
    pub const ENTRIES: u8 = 0x10;
}

/// IOAPICVER: version 0x20, which has an EOI register, and the number of the last entry.
pub const IO_VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

/// An entry of an I/O APIC's redirection table (82093AA, 3.2.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Redirection {
    /// The vector.
    pub vector: u8,
    /// DELMOD.
    #[bits(3)]
    pub mode: DeliveryMode,
    /// DESTMOD: the destination is a logical one.
    pub logical: bool,
    /// DELIVS. Read only.
    pub pending: bool,
    /// INTPOL: active low.
    pub low: bool,
    /// Remote IRR: a local APIC has it, and hasn't ended it. Read only.
    pub remote: bool,
    /// By level.
    pub level: bool,
    /// Masked.
    pub masked: bool,
    #[bits(39)]
    __: u64,
    /// The destination.
    pub destination: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        let command = Command::new().with_vector(0x41).with_mode(DeliveryMode::Startup).with_logical(true);
        assert_eq!(u32::from(command), 0xe41, "APM 2, 16.5");
        let command = Command::new().with_assert(true).with_level(true).with_shorthand(Shorthand::Others);
        assert_eq!(u32::from(command), 0xc_c000);
        assert_eq!(u32::from(Command::new().with_pending(true)), 1 << 12);
        let vector = LocalVector::new().with_masked(true).with_timer(TimerMode::TscDeadline);
        assert_eq!(u32::from(vector), 0x5_0000, "SDM 3, 12.5.1");
        let vector = LocalVector::new().with_low(true).with_remote(true).with_level(true).with_pending(true);
        assert_eq!(u32::from(vector), 0xf000);
        assert_eq!(u32::from(Spurious::new().with_enabled(true).with_vector(0xff)), 0x1ff, "16.4.7");
        let base =
            ApicBase::new().with_first(true).with_x2apic(true).with_enabled(true).with_address(0xfee00);
        assert_eq!(u64::from(base), 0xfee0_0d00, "16.3.1");
        let entry = Redirection::new().with_vector(0x31).with_level(true).with_low(true).with_destination(3);
        assert_eq!(u64::from(entry), 0x0300_0000_0000_a031, "82093AA, 3.2.4");
        assert_eq!(u64::from(Redirection::new().with_masked(true).with_remote(true)), 0x1_4000);
        assert_eq!(IO_VERSION, 0x0017_0020);
    }
}
