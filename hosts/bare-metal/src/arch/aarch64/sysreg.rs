//! Access to system registers by their names in the architecture manual (Arm ARM, DDI 0487, D24).

/// Reads a system register.
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a register that has no side effects on reads changes nothing that Rust knows of. The
        // registers read by this macro are of that kind, or (ICC_IAR1_EL1) only change the interrupt controller.
        #[allow(unused_unsafe, reason = "it is also used between writes, which are unsafe")]
        unsafe { core::arch::asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes a system register. The effect is guaranteed after the next `isb!()`.
///
/// Expands to an unsafe operation: the caller says why the new value doesn't break what Rust relies on.
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {0}"), in(reg) value, options(nostack))
    }};
}

/// Context synchronisation (Arm ARM, B2.6.10).
macro_rules! isb {
    () => {{
        // SAFETY: a barrier.
        #[allow(unused_unsafe, reason = "it is also used between writes, which are unsafe")]
        unsafe {
            core::arch::asm!("isb", options(nostack))
        }
    }};
}

/// Waits until all earlier accesses have completed (Arm ARM, B2.6.10).
macro_rules! dsb {
    ($domain:literal) => {{
        // SAFETY: a barrier.
        unsafe { core::arch::asm!(concat!("dsb ", $domain), options(nostack)) }
    }};
}

pub(crate) use {dsb, isb, mrs, msr};
