//! The last words of the hypervisor: of a CPU that has come upon a fault of the hypervisor's own. What that is the architecture says.

use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{arch, console};

static SPEAKING: AtomicBool = AtomicBool::new(false);

/// Begins them. The first to fault speaks; a fault while speaking ends at once.
pub fn speak() -> console::Emergency {
    if SPEAKING.swap(true, Ordering::AcqRel) {
        arch::halt()
    }
    console::emergency()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut out = speak();
    let _ = writeln!(out, "hypervisor fault: {info}");
    out.end()
}
