//! The debug registers of a guest (Arm ARM, DDI 0487, D24.3): all its accesses to them are trapped (MDCR_EL2.TDA, TDOSA, TDRA), and
//! answered from here.
//!
//! | registers | what the guest gets |
//! |---|---|
//! | MDSCR_EL1 | single step (SS), breakpoints on (MDE), also at EL1 (KDE), EL0 kept from the debug channel (TDCC) |
//! | DBGBVR, DBGBCR, DBGWVR, DBGWCR, as many as there are | breakpoints and watchpoints at EL0 and EL1 |
//! | OSLAR, OSLSR | an OS lock that is open; closing it does nothing |
//! | OSDLR, DBGPRCR, OSECCR, MDRAR, claim tags, authentication status | nothing: they read as zero, writes are lost |
//! | the debug communication channel | the same: nobody is at its other end |
//!
//! What is left out of MDSCR_EL1 is the external debugger's (D24.3.20): HDE has the core halt at a breakpoint, INTdis masks
//! interrupts at all levels, EL2 among them, TDA, RXO, TXU are the debugger's channel.

use crate::Encoding;

/// So many breakpoints, and so many watchpoints, a CPU has at most.
pub const MOST: usize = 16;

/// MDSCR_EL1.SS, TDCC, KDE, MDE.
const CONTROL: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15;

/// OSLSR_EL1: an OS lock is implemented (OSLM, bit 3), and open.
const OS_LOCK_OPEN: u64 = 1 << 3;

/// A hardware register that a guest's write reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// MDSCR_EL1.
    Control,
    /// DBGBVR\<n\>_EL1.
    BreakpointValue(u8),
    /// DBGBCR\<n\>_EL1.
    BreakpointControl(u8),
    /// DBGWVR\<n\>_EL1.
    WatchpointValue(u8),
    /// DBGWCR\<n\>_EL1.
    WatchpointControl(u8),
}

/// There is no such register: the instruction is undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undefined;

/// What has to be written to hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub register: Register,
    /// What.
    pub value: u64,
}

/// An address to match, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Point {
    value: u64,
    control: u64,
}

/// The debug registers of a vCPU, as its CPU has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    control: u64,
    breakpoints: [Point; MOST],
    watchpoints: [Point; MOST],
    breakpoint_count: u8,
    watchpoint_count: u8,
}

/// What an encoding is.
enum Named {
    Hardware(Register),
    /// Reads as this, writes are lost.
    Constant(u64),
    /// Can't be read; writes are lost.
    WriteOnly,
    /// Reads as this, and can't be written.
    ReadOnly(u64),
}

impl Debug {
    /// After reset, on a CPU with this ID_AA64DFR0_EL1: all zero.
    pub fn reset(dfr0: u64) -> Self {
        // BRPs, WRPs: one less than there are.
        let count = |shift: u32| (dfr0 >> shift & 0xf) as u8 + 1;
        Self {
            control: 0,
            breakpoints: [Point::default(); MOST],
            watchpoints: [Point::default(); MOST],
            breakpoint_count: count(12),
            watchpoint_count: count(20),
        }
    }

    /// The hardware registers of a CPU: all of them are written at a vCPU's start.
    pub fn registers(&self) -> impl Iterator<Item = Register> {
        let breakpoints = (0..self.breakpoint_count)
            .flat_map(|n| [Register::BreakpointControl(n), Register::BreakpointValue(n)]);
        let watchpoints = (0..self.watchpoint_count)
            .flat_map(|n| [Register::WatchpointControl(n), Register::WatchpointValue(n)]);
        core::iter::once(Register::Control).chain(breakpoints).chain(watchpoints)
    }

    fn name(&self, register: Encoding) -> Option<Named> {
        use Register::{BreakpointControl, BreakpointValue, Control, WatchpointControl, WatchpointValue};
        Some(match register {
            (2, 0, 0, 2, 2) => Named::Hardware(Control),
            (2, 0, 0, n, 4) if n < self.breakpoint_count => Named::Hardware(BreakpointValue(n)),
            (2, 0, 0, n, 5) if n < self.breakpoint_count => Named::Hardware(BreakpointControl(n)),
            (2, 0, 0, n, 6) if n < self.watchpoint_count => Named::Hardware(WatchpointValue(n)),
            (2, 0, 0, n, 7) if n < self.watchpoint_count => Named::Hardware(WatchpointControl(n)),
            // MDCCINT; OSDTRRX, OSDTRTX, OSECCR; OSDLR, DBGPRCR; the claim tags; DBGDTR, DBGDTRRX and DBGDTRTX.
            (2, 0, 0, 2, 0)
            | (2, 0, 0, 0 | 3 | 6, 2)
            | (2, 0, 1, 3 | 4, 4)
            | (2, 0, 7, 8 | 9, 6)
            | (2, 3, 0, 4 | 5, 0) => Named::Constant(0),
            (2, 0, 1, 0, 4) => Named::WriteOnly,
            (2, 0, 1, 1, 4) => Named::ReadOnly(OS_LOCK_OPEN),
            // MDRAR, DBGAUTHSTATUS, MDCCSR.
            (2, 0, 1, 0, 0) | (2, 0, 7, 14, 6) | (2, 3, 0, 1, 0) => Named::ReadOnly(0),
            _ => return None,
        })
    }

    fn slot(&mut self, register: Register) -> Option<&mut u64> {
        Some(match register {
            Register::Control => &mut self.control,
            Register::BreakpointValue(n) => &mut self.breakpoints.get_mut(usize::from(n))?.value,
            Register::BreakpointControl(n) => &mut self.breakpoints.get_mut(usize::from(n))?.control,
            Register::WatchpointValue(n) => &mut self.watchpoints.get_mut(usize::from(n))?.value,
            Register::WatchpointControl(n) => &mut self.watchpoints.get_mut(usize::from(n))?.control,
        })
    }

    /// What a read gives.
    ///
    /// # Errors
    ///
    /// [`Undefined`]: no such register, or none that can be read.
    pub fn read(&mut self, register: Encoding) -> Result<u64, Undefined> {
        match self.name(register).ok_or(Undefined)? {
            Named::Hardware(register) => self.slot(register).map(|slot| *slot).ok_or(Undefined),
            Named::Constant(value) | Named::ReadOnly(value) => Ok(value),
            Named::WriteOnly => Err(Undefined),
        }
    }

    /// What has to be written for a write, if anything.
    ///
    /// # Errors
    ///
    /// [`Undefined`]: no such register, or none that can be written.
    pub fn write(&mut self, register: Encoding, value: u64) -> Result<Option<Write>, Undefined> {
        let register = match self.name(register).ok_or(Undefined)? {
            Named::Hardware(register) => register,
            Named::Constant(_) | Named::WriteOnly => return Ok(None),
            Named::ReadOnly(_) => return Err(Undefined),
        };
        let value = match register {
            Register::Control => value & CONTROL,
            Register::BreakpointControl(_) => breakpoint(value),
            Register::WatchpointControl(_) => watchpoint(value),
            Register::BreakpointValue(_) | Register::WatchpointValue(_) => value,
        };
        *self.slot(register).ok_or(Undefined)? = value;
        Ok(Some(Write { register, value }))
    }
}

/// DBGBCR.E, DBGWCR.E.
const ENABLED: u64 = 1;

/// DBGBCR<n>_EL1 of a guest: enabled, levels (PMC), bytes (BAS), linked to (LBN), kind (BT). Kinds of 8 and more match what a
/// hypervisor tells its guests apart by (the VMID, CONTEXTIDR_EL2), which isn't there for one.
fn breakpoint(value: u64) -> u64 {
    let kept = value & (ENABLED | 3 << 1 | 0xf << 5 | 0xf << 16 | 0x7 << 20);
    if at_own_levels(value) && value >> 23 & 1 == 0 { kept } else { kept & !ENABLED }
}

/// DBGWCR<n>_EL1 of a guest: enabled, levels (PAC), loads and stores (LSC), bytes (BAS), linked to (LBN, WT), mask.
fn watchpoint(value: u64) -> u64 {
    let kept = value & (ENABLED | 3 << 1 | 3 << 3 | 0xff << 5 | 0xf << 16 | 1 << 20 | 0x1f << 24);
    if at_own_levels(value) { kept } else { kept & !ENABLED }
}

/// Whether it can match at EL0 or EL1 outside the secure world (D2.8.5): SSC (15:14) says in which security state, HMC (13) that
/// levels above EL1 match too, and without one of EL1 and EL0 (PMC, PAC: 2:1) none of these does. Neither is written to hardware:
/// there is no level above for the guest, and no other state.
fn at_own_levels(value: u64) -> bool {
    let (higher, levels) = (value >> 13 & 1 != 0, value >> 1 & 3);
    value >> 14 & 3 <= 1 && !(higher && levels & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{FIRST, State};

    /// Six breakpoints, four watchpoints, as Cortex-A76 has them.
    const DFR0: u64 = 5 << 12 | 3 << 20;

    const MDSCR: Encoding = (2, 0, 0, 2, 2);
    const OSECCR: Encoding = (2, 0, 0, 6, 2);

    /// The external debug interface as the manual describes it for MDSCR_EL1 (D24.3.20): with the OS lock closed the guest's write
    /// is EDSCR's too.
    #[derive(Default)]
    struct Cpu {
        os_lock: bool,
        double_lock: bool,
        mdscr: u64,
        edscr: u64,
    }

    impl Cpu {
        const HDE: u64 = 1 << 14;
        const INTDIS: u64 = 3 << 22;

        fn write(&mut self, value: u64) {
            self.mdscr = value & (1 | 1 << 12 | 1 << 13 | 1 << 15);
            if self.os_lock {
                self.edscr = value & (Self::HDE | Self::INTDIS | 1 << 6 | 1 << 21 | 0xf << 26);
            }
        }

        /// As firmware may leave it: the lock closed, as at reset, and interrupts masked for a debugger.
        fn from_firmware() -> Self {
            Self { os_lock: true, double_lock: true, mdscr: 0, edscr: Self::INTDIS }
        }

        fn establish(&mut self, states: impl Iterator<Item = State>) {
            for state in states {
                match state {
                    State::DebugControlClear => self.write(0),
                    State::DoubleLockOpen => self.double_lock = false,
                    State::OsLockOpen => self.os_lock = false,
                    State::NoVirtualError => {}
                }
            }
        }

        /// D2.3: no exception but that of BRK while either lock is closed.
        fn breakpoints_fire(&self) -> bool {
            !self.os_lock && !self.double_lock && self.mdscr >> 15 & 1 != 0
        }

        fn masks_interrupts_or_halts(&self) -> bool {
            self.edscr & (Self::HDE | Self::INTDIS) != 0
        }
    }

    #[test]
    fn a_guest_masks_no_interrupts_and_halts_no_core() {
        // Even if the lock were closed: two protections, each enough.
        for os_lock in [false, true] {
            let (mut debug, mut cpu) = (Debug::reset(DFR0), Cpu { os_lock, ..Cpu::default() });
            let write = debug.write(MDSCR, u64::MAX).unwrap().unwrap();
            assert_eq!(write.register, Register::Control);
            cpu.write(write.value);
            assert!(!cpu.masks_interrupts_or_halts(), "OS lock {os_lock}");
            assert_eq!(cpu.mdscr, 0xb001);
            assert_eq!(debug.read(MDSCR), Ok(0xb001));
        }
        // What the guest's own register would have done.
        let mut cpu = Cpu { os_lock: true, ..Cpu::default() };
        cpu.write(u64::MAX);
        assert!(cpu.masks_interrupts_or_halts());
    }

    #[test]
    fn a_cpu_that_came_up_has_its_locks_open_and_nothing_masked() {
        let mut cpu = Cpu::from_firmware();
        cpu.write(1 << 15);
        assert!(!cpu.breakpoints_fire(), "the locks are closed at reset");
        let mut cpu = Cpu::from_firmware();
        cpu.establish(FIRST.iter().map(|first| first.state));
        assert!(!cpu.masks_interrupts_or_halts());
        cpu.write(1 << 15);
        assert!(cpu.breakpoints_fire());
        // The other way round what firmware left would stay for good.
        let mut cpu = Cpu::from_firmware();
        cpu.establish(FIRST.iter().rev().map(|first| first.state));
        assert!(cpu.masks_interrupts_or_halts());
    }

    #[test]
    fn breakpoints_are_as_many_as_there_are() {
        let mut debug = Debug::reset(DFR0);
        assert_eq!(debug.write((2, 0, 0, 5, 4), 0x1000).map(|it| it.is_some()), Ok(true));
        assert_eq!(debug.write((2, 0, 0, 6, 4), 0x1000), Err(Undefined));
        assert_eq!(debug.write((2, 0, 0, 3, 7), 1).map(|it| it.is_some()), Ok(true));
        assert_eq!(debug.read((2, 0, 0, 4, 7)), Err(Undefined));
        assert_eq!(debug.registers().count(), 1 + 2 * 6 + 2 * 4);
        assert_eq!(debug.read((2, 0, 0, 5, 4)), Ok(0x1000));
    }

    #[test]
    fn what_linux_writes_is_taken_as_it_is() {
        // arch/arm64/include/asm/hw_breakpoint.h: BAS at 5, type (LSC) at 3, privilege at 1, enabled.
        let kernel = 0xf << 5 | 1 << 1 | 1;
        assert_eq!(breakpoint(kernel), kernel);
        let user = 0xff << 5 | 3 << 3 | 2 << 1 | 1;
        assert_eq!(watchpoint(user), user);
    }

    #[test]
    fn nothing_matches_above_the_guest() {
        // EL1 and above becomes EL1; EL2 alone, another security state, the VMID: nothing.
        assert_eq!(breakpoint(1 << 13 | 1 << 1 | 1), 1 << 1 | 1);
        assert_eq!(breakpoint(1 << 13 | 3 << 1 | 1), 3 << 1 | 1);
        for value in [1 << 13 | 1, 1 << 13 | 3 << 14 | 1, 2 << 14 | 1 << 1 | 1, 8 << 20 | 3 << 1 | 1] {
            assert_eq!(breakpoint(value) & ENABLED, 0, "{value:#x}");
        }
        assert_eq!(watchpoint(1 << 13 | 1) & ENABLED, 0);
        for value in 0..=0xffff_u64 {
            assert_eq!((breakpoint(value) | watchpoint(value)) & (7 << 13), 0, "HMC and SSC stay zero");
        }
    }

    #[test]
    fn the_lock_and_the_channel_are_nobodys() {
        let mut debug = Debug::reset(DFR0);
        let untouched = debug.clone();
        // OSLAR: closing the lock is taken, and nothing comes of it.
        assert_eq!(debug.write((2, 0, 1, 0, 4), 1), Ok(None));
        assert_eq!(debug.read((2, 0, 1, 0, 4)), Err(Undefined));
        assert_eq!(debug.read((2, 0, 1, 1, 4)), Ok(1 << 3));
        assert_eq!(debug.write((2, 0, 1, 1, 4), 0), Err(Undefined));
        for register in
            [OSECCR, (2, 0, 0, 0, 2), (2, 0, 0, 3, 2), (2, 0, 0, 2, 0), (2, 3, 0, 4, 0), (2, 3, 0, 5, 0)]
        {
            assert_eq!(debug.write(register, u64::MAX), Ok(None), "{register:?}");
            assert_eq!(debug.read(register), Ok(0), "{register:?}");
        }
        assert_eq!(debug, untouched);
    }

    #[test]
    fn every_encoding_has_an_answer() {
        let mut debug = Debug::reset(u64::MAX);
        for op1 in 0..8 {
            for crn in 0..16 {
                for crm in 0..16 {
                    for op2 in 0..8 {
                        let register = (2, op1, crn, crm, op2);
                        if let Ok(Some(write)) = debug.write(register, u64::MAX) {
                            assert_eq!(debug.read(register), Ok(write.value));
                        }
                    }
                }
            }
        }
    }
}
