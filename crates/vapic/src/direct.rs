//! Guests that have their CPUs' local APICs for themselves: which registers they reach without an exit, and what the rest is.
//!
//! A local APIC in x2APIC mode is MSRs, each of which can be opened or not. What a guest can do to others by one is closed: the interrupt
//! command register names any CPU of the machine, entries of the local vector table can give more than an interrupt of the CPU's own, and
//! what has an id would show the machine's. The rest concerns the CPU alone, which is the guest's: one that ends nothing, masks everything or
//! turns its APIC off hears less, and nobody else does.

use crate::spec::{LocalVector, TimerMode};

/// What a guest does with a register by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It reads it.
    Read,
    /// It writes it.
    Write,
    /// Both.
    Both,
}

/// MSRs that a guest reaches without an exit.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// The manual's name.
    pub name: &'static str,
    /// In which way.
    pub opening: Opening,
    /// Why that is no harm.
    pub why: &'static str,
}

const fn open(first: u32, last: u32, name: &'static str, opening: Opening, why: &'static str) -> Open {
    Open { first, last, name, opening, why }
}

/// All of them (Intel SDM 3, table 11-6; AMD64 APM 2, table 16-6). Every other register of the local APIC exits, and is answered by
/// [`crate::Apics`] or refused.
pub const OPEN: &[Open] = &[
    open(0x808, 0x808, "TPR", Opening::Both, "it keeps back interrupts of this CPU; NMIs come all the same"),
    open(0x80a, 0x80a, "PPR", Opening::Read, "it says what this CPU is at"),
    open(
        EOI,
        EOI,
        "EOI",
        Opening::Write,
        "only edges are in service in hardware, whose end is told to nobody",
    ),
    open(
        0x810,
        0x827,
        "ISR, TMR, IRR",
        Opening::Read,
        "they say what has come to this CPU, all of which is the guest's",
    ),
    open(
        LVT_TIMER,
        LVT_TIMER,
        "LVT timer",
        Opening::Both,
        "the timer's entry has a vector and no kind of delivery",
    ),
    open(0x838, 0x838, "initial count", Opening::Both, "the timer interrupts this CPU"),
    open(0x839, 0x839, "current count", Opening::Read, "as the initial count"),
    open(0x83e, 0x83e, "divide configuration", Opening::Both, "as the initial count"),
    open(0x83f, 0x83f, "SELF IPI", Opening::Write, "it interrupts this CPU alone, by a vector"),
];

/// The MSR by which interrupts are ended: it exits while one is in service that counts by its level.
pub const EOI: u32 = 0x80b;

/// The first vector that is sent to another CPU, or by a device, on a guest's behalf: those below are exceptions' (APM 2, 8.2), and no CPU
/// that has been left is to take one as such.
pub const FIRST_SENT: u8 = 32;

/// The timer's entry. On a processor that takes reserved bits of it, writes of it exit.
pub const LVT_TIMER: u32 = 0x832;

/// Further ones that are answered with what stands for them.
pub(crate) const SVR: u32 = 0x80f;
pub(crate) const ESR: u32 = 0x828;
pub(crate) const LVT_ERROR: u32 = 0x837;

/// Whether an access that exits is answered, and not refused: of the base, what has an id (ID, LDR), the version, SVR, ESR, the command register and the
/// local vector table. The rest is the guest's own, where a stand-in would lie, or isn't there.
pub(crate) const fn is_answered(msr: u32) -> bool {
    matches!(msr, crate::spec::MSR_BASE | 0x802 | 0x803 | 0x80d | SVR | ESR | 0x830 | LVT_TIMER..=LVT_ERROR)
}

/// A register of the physical local APIC that becomes what the guest has written, as far as that is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Spurious Interrupt Vector: whether the APIC is on, and a vector.
    Spurious,
    /// The timer's entry of the local vector table.
    Timer,
    /// The entry of errors.
    Error,
}

/// What goes to hardware of an entry of the local vector table: a vector, whether it is masked, and of the timer's its mode. No kind of
/// delivery but the ordinary one, nor the mode with deadlines, which no guest is offered.
pub fn harmless(entry: LocalVector) -> u32 {
    let timer = match entry.timer() {
        TimerMode::Periodic => TimerMode::Periodic,
        TimerMode::OneShot | TimerMode::TscDeadline | TimerMode::Reserved => TimerMode::OneShot,
    };
    LocalVector::new().with_vector(entry.vector()).with_masked(entry.masked()).with_timer(timer).into()
}

/// How long a CPU must have been without a new interrupt, in microseconds, for nothing to be on its way any more: an interrupt is so for
/// less than one.
const QUIET_US: u64 = 20;
/// How often something may be found: more often than interrupts can have been on their way when their senders were stopped.
const MOST_FOUND: u32 = 1000;

/// Looks for interrupts that a CPU has left of whoever had it, until there are none any more: `look` drops what it finds, and says
/// whether that was something. Gives whether it became quiet; not, if interrupts go on coming.
///
/// It ends by the clock: each time that something is found it goes on for `QUIET_US` microseconds at most, and that is so `MOST_FOUND` times. Whoever is
/// kept from running in between, by firmware for example, takes that neither for quiet nor for a storm.
pub fn until_quiet(mut now_us: impl FnMut() -> u64, mut look: impl FnMut() -> bool) -> bool {
    let (mut since, mut found) = (now_us(), 0u32);
    loop {
        // Before it is looked: what comes afterwards is found the next time.
        let now = now_us();
        if look() {
            found += 1;
            if found > MOST_FOUND {
                return false;
            }
            since = now_us();
        } else if now.saturating_sub(since) >= QUIET_US {
            return true;
        }
    }
}
