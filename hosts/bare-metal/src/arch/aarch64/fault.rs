//! Faults of the hypervisor itself: say all there is to say, and end the run.

use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_syndrome::{DataAbort, Kind, Status, Syndrome};

use super::sysreg::mrs;
use super::vectors::{Frame, fixup, is_expected_error};
use crate::console;

/// What an exception class says, in words (Arm ARM, ESR_EL2.EC).
pub fn class_name(class: u8) -> &'static str {
    match class {
        0x00 => "unknown reason",
        0x01 => "WFI or WFE",
        0x07 => "access to SIMD or floating point",
        0x0e => "illegal execution state",
        0x15 => "SVC",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "MSR, MRS or system instruction",
        0x19 => "access to SVE",
        0x1a => "ERET",
        0x20 => "instruction abort from a lower level",
        0x21 => "instruction abort",
        0x22 => "PC alignment fault",
        0x24 => "data abort from a lower level",
        0x25 => "data abort",
        0x26 => "SP alignment fault",
        0x2f => "SError",
        0x30 | 0x31 => "breakpoint",
        0x3c => "BRK",
        _ => "other",
    }
}

/// What a fault status says, in words.
pub fn status_name(status: Status) -> &'static str {
    match status.kind() {
        Kind::AddressSize => "address size fault",
        Kind::Translation => "translation fault",
        Kind::AccessFlag => "access flag fault",
        Kind::Permission => "permission fault",
        Kind::External => "synchronous external abort",
        Kind::ExternalInWalk => "external abort on a table walk",
        Kind::Parity | Kind::ParityInWalk => "damaged memory",
        Kind::Alignment => "alignment fault",
        Kind::Other => "other fault",
    }
}

/// An exception taken from EL2. Called by the vectors with the interrupted registers; returns only to the place where a
/// guarded access goes on after an abort.
pub extern "C" fn self_exception(frame: &mut Frame, vector: u64) {
    let esr = mrs!("esr_el2");
    let class = Syndrome(esr).class();
    // Vector 4: synchronous, on the stack that the hypervisor uses. 0x25: a data abort of its own.
    if vector == 4
        && class == 0x25
        && let Some(place) = fixup(frame.pc)
    {
        frame.pc = place;
        return;
    }
    // Vector 7: an SError. Where one is taken on purpose it is an access's answer, whatever its syndrome says: processors with
    // FEAT_RAS call a plain bus error uncontainable (AET 0), which a guest makes by touching a register whose clock is off. It is charged
    // to whose access it was, as one that is taken from the guest.
    if vector == 7 && is_expected_error(frame.pc) {
        return;
    }
    let mut out = Report::begin();
    let _ = writeln!(
        out,
        "hypervisor fault: {} (vector {vector}, esr {esr:#x}{}), at {:#x}, address {:#x}",
        class_name(class),
        Said(matches!(class, 0x21 | 0x25).then(|| DataAbort(esr).status())),
        frame.pc.wrapping_sub(super::image_start()),
        mrs!("far_el2"),
    );
    for (index, chunk) in frame.x.chunks(4).enumerate() {
        let _ = write!(out, "  x{:<2}", index * 4);
        for value in chunk {
            let _ = write!(out, " {value:016x}");
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "  pstate {:#x}, image at {:#x}", frame.pstate, super::image_start());
    out.end()
}

/// A fault status, where there is one.
struct Said(Option<Status>);

impl core::fmt::Display for Said {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |status| write!(f, ": {}", status_name(status)))
    }
}

/// The stack pointer ran into the guard below the stack.
pub extern "C" fn stack_overflow() -> ! {
    let mut out = Report::begin();
    let pc = mrs!("elr_el2").wrapping_sub(super::image_start());
    let _ = writeln!(out, "hypervisor fault: stack overflow, at {pc:#x}");
    out.end()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut out = Report::begin();
    let _ = writeln!(out, "hypervisor fault: {info}");
    out.end()
}

/// The last words of a CPU. The first to fault speaks; a fault while speaking ends at once.
struct Report;

static SPEAKING: AtomicBool = AtomicBool::new(false);

impl Report {
    fn begin() -> console::Emergency {
        if SPEAKING.swap(true, Ordering::AcqRel) {
            super::halt()
        }
        console::emergency()
    }
}
