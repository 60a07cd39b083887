//! Any system register, by its place in the encoding: the instruction is made at run time.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering;

use super::machine::{FAULTS, Fault, store32};

/// A system register's place (Arm ARM, DDI 0487, C5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// op0: 2 debug and trace, 3 all others.
    pub op0: u8,
    /// op1.
    pub op1: u8,
    /// CRn.
    pub crn: u8,
    /// CRm.
    pub crm: u8,
    /// op2.
    pub op2: u8,
}

impl Register {
    /// By its five numbers.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }

    /// Every place that MRS and MSR can name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..1_u32 << 15).map(|bits| {
            let field = |shift: u32, mask: u32| (bits >> shift & mask) as u8;
            Self::new(2 + field(14, 1), field(11, 7), field(7, 15), field(3, 15), field(0, 7))
        })
    }

    /// MRS (`read`) or MSR with x0 (C6.2: 1101 0101 00 L 1 o0 op1 CRn CRm op2 Rt).
    fn instruction(self, read: bool) -> u32 {
        let at = |field: u8, shift: u32| u32::from(field) << shift;
        let place = at(self.op0 & 1, 19) | at(self.op1, 16) | at(self.crn, 12) | at(self.crm, 8);
        0xd510_0000 | u32::from(read) << 21 | place | at(self.op2, 5)
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op0, op1, crn, crm, op2 } = self;
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// Where the instructions are made.
pub struct Registers {
    code: u64,
}

impl Registers {
    /// At `code`: 8 bytes of RAM outside the image, which nothing else uses.
    pub fn new(code: u64) -> Self {
        Self { code }
    }

    /// # Safety
    ///
    /// Reading or writing the register must not change what the program runs on.
    unsafe fn run(&self, instruction: u32, value: u64) -> Result<u64, Fault> {
        const RET: u32 = 0xd65f_03c0;
        store32(self.code, instruction)?;
        store32(self.code + 4, RET)?;
        let before = FAULTS.load(Ordering::Relaxed);
        let mut value = value;
        // SAFETY: the code was just written: one instruction on x0, by the caller's promise without an effect on the program, and
        // a return. An exception of the first is stepped over by the vectors.
        unsafe {
            asm!(
                "ic ivau, {code}",
                "dsb sy",
                "isb",
                "blr {code}",
                "isb",
                code = in(reg) self.code,
                inout("x0") value,
                out("x30") _,
            )
        };
        if FAULTS.load(Ordering::Relaxed) == before { Ok(value) } else { Err(Fault) }
    }

    /// Reads it.
    ///
    /// # Safety
    ///
    /// Reading it must not change what the program runs on.
    pub unsafe fn read(&self, register: Register) -> Result<u64, Fault> {
        // SAFETY: by the caller's promise.
        unsafe { self.run(register.instruction(true), 0) }
    }

    /// Writes it.
    ///
    /// # Safety
    ///
    /// The value must not change what the program runs on.
    pub unsafe fn write(&self, register: Register, value: u64) -> Result<(), Fault> {
        // SAFETY: by the caller's promise.
        unsafe { self.run(register.instruction(false), value) }.map(|_| ())
    }

    /// Why the last exception was taken (ESR_EL1).
    pub fn syndrome() -> u64 {
        let value: u64;
        // SAFETY: reading the register has no side effect.
        unsafe { asm!("mrs {0}, esr_el1", out(reg) value) };
        value
    }
}
