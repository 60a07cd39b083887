//! What the vectors keep of a vCPU while the hypervisor runs on its CPU: the layout that Rust and assembly share.

/// The registers of a vCPU that the hypervisor's own code would overwrite. Layout known to the assembly below.
#[repr(C)]
#[derive(Default)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where the guest goes on (ELR_EL2).
    pub pc: u64,
    /// Its processor state (SPSR_EL2).
    pub pstate: u64,
    /// What its CPU does first when it is left.
    pub entry: EntryWork,
}

/// What a CPU does at each way in from a guest before anything that predicted branches could steer: rounds of a loop in bits 7:0, or
/// bit 8 for CLRBHB, or a call of the firmware in the upper half. Layout known to the assembly below.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryWork(u64);

impl EntryWork {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// CLRBHB.
    pub const fn clear_instruction() -> Self {
        Self(1 << 8)
    }

    /// So many rounds of the loop.
    pub const fn rounds(rounds: u8) -> Self {
        Self(rounds as u64)
    }

    /// An SMC.
    pub const fn firmware(function: u32) -> Self {
        Self((function as u64) << 32)
    }

    /// As it is kept beside the CPU.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The other way round.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}
