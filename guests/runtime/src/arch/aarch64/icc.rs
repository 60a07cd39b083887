//! The GIC's CPU interface by its registers (Arm IHI 0069, 12.2), for guests that test what each of them does.
//! Interrupts stay masked (PSTATE) for most of them, so that what is pending is taken by asking.

use core::arch::asm;

macro_rules! readable {
    ($read:ident, $name:literal, $what:literal) => {
        #[doc = concat!("Reads ", $what, ".")]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: a register of the interrupt controller; PSTATE isn't changed.
            unsafe { asm!(concat!("mrs {0}, ", $name), "dsb sy", out(reg) value) };
            value
        }
    };
}

macro_rules! writable {
    ($write:ident, $name:literal, $what:literal) => {
        #[doc = concat!("Writes ", $what, ".")]
        pub fn $write(value: u64) {
            // SAFETY: a register of the interrupt controller; PSTATE isn't changed, and a program that takes interrupts has
            // vectors for them.
            unsafe { asm!("dsb sy", concat!("msr ", $name, ", {0}"), "isb", in(reg) value) };
        }
    };
}

readable!(sre, "S3_0_C12_C12_5", "ICC_SRE_EL1");
writable!(set_sre, "S3_0_C12_C12_5", "ICC_SRE_EL1");
writable!(set_mask, "S3_0_C4_C6_0", "ICC_PMR_EL1: what isn't more urgent than this is masked");
readable!(mask, "S3_0_C4_C6_0", "ICC_PMR_EL1");
writable!(set_binary_point, "S3_0_C12_C12_3", "ICC_BPR1_EL1: which bits of a priority preempt");
readable!(highest_pending, "S3_0_C12_C12_2", "ICC_HPPIR1_EL1: what would be taken");
readable!(control, "S3_0_C12_C12_4", "ICC_CTLR_EL1");
writable!(set_control, "S3_0_C12_C12_4", "ICC_CTLR_EL1");
writable!(set_group1, "S3_0_C12_C12_7", "ICC_IGRPEN1_EL1");
writable!(set_active_priorities, "S3_0_C12_C9_0", "ICC_AP1R0_EL1");
readable!(running_priority, "S3_0_C12_C11_3", "ICC_RPR_EL1");
readable!(acknowledge, "S3_0_C12_C12_0", "ICC_IAR1_EL1: takes the most urgent interrupt");
writable!(end, "S3_0_C12_C12_1", "ICC_EOIR1_EL1");
writable!(set_group0, "S3_0_C12_C12_6", "ICC_IGRPEN0_EL1");
readable!(acknowledge_group0, "S3_0_C12_C8_0", "ICC_IAR0_EL1: takes the most urgent interrupt of Group 0");
writable!(end_group0, "S3_0_C12_C8_1", "ICC_EOIR0_EL1");
writable!(deactivate, "S3_0_C12_C11_1", "ICC_DIR_EL1");

/// ICC_CTLR_EL1.EOImode: the end of an interrupt drops the priority, and ICC_DIR_EL1 ends its active state.
pub const EOI_MODE: u64 = 1 << 1;

/// Nothing is pending, or may be taken.
pub const NONE: u64 = 1023;

/// System registers on, everything let through, Group 1 on.
pub fn open() {
    set_sre(sre() | 1);
    set_mask(0xff);
    set_group1(1);
}

/// Keeps the CPU for good: no exception is taken, nothing is accessed.
pub fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Sleeps for good, as far as it is the CPU's to say.
pub fn sleep() -> ! {
    loop {
        // SAFETY: waiting touches nothing.
        unsafe { asm!("dsb sy", "wfi") };
    }
}
