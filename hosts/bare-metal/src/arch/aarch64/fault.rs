//! Faults of the hypervisor itself: say all there is to say, and end the run.

use core::fmt::Write as _;

use axvm_syndrome::{DataAbort, Status, Syndrome, class};

use super::frame::Frame;
use super::guarded::{fixup, is_expected_error};
use super::image::image_start;
use super::names::{class_name, status_name};
use super::sysreg::mrs;
use crate::fault::speak;

/// An exception taken from EL2. Called by the vectors with the interrupted registers; returns only to the place where a
/// guarded access goes on after an abort.
pub extern "C" fn self_exception(frame: &mut Frame, vector: u64) {
    let esr = mrs!("esr_el2");
    let found = Syndrome(esr).class();
    // Vector 4: synchronous, on the stack that the hypervisor uses; a data abort of its own.
    if vector == 4
        && found == class::DATA_ABORT_SAME
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
    let mut out = speak();
    let _ = writeln!(
        out,
        "hypervisor fault: {} (vector {vector}, esr {esr:#x}{}), at {:#x}, address {:#x}",
        class_name(found),
        Said(
            matches!(found, class::INSTRUCTION_ABORT_SAME | class::DATA_ABORT_SAME)
                .then(|| DataAbort(esr).status())
        ),
        frame.pc.wrapping_sub(image_start()),
        mrs!("far_el2"),
    );
    for (index, chunk) in frame.x.chunks(4).enumerate() {
        let _ = write!(out, "  x{:<2}", index * 4);
        for value in chunk {
            let _ = write!(out, " {value:016x}");
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "  pstate {:#x}, image at {:#x}", frame.pstate, image_start());
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
    let mut out = speak();
    let pc = mrs!("elr_el2").wrapping_sub(image_start());
    let _ = writeln!(out, "hypervisor fault: stack overflow, at {pc:#x}");
    out.end()
}
