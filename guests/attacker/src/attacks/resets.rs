//! No attack: a guest that has its machine start again, one that leaves it without a CPU, and one that forgets its watchdog.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::format;
use alloc::string::String;

use axvm_platform::model::PsciConduit;
use smccc::psci::{PSCI_CPU_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_64};

use crate::board::Board;
use crate::machine::{Fault, call, load32, store32};
use crate::println;

/// What the image brings, and what a start leaves in its place.
const LOADED: u32 = 0x10ad_ed00;
const USED: u32 = 0x05ed_05ed;
static WORD: AtomicU32 = AtomicU32::new(LOADED);

/// Where in the RAM that the attacks use nobody else writes.
const UNUSED: u64 = 0xf_0000;

/// PSCI SYSTEM_RESET and SYSTEM_RESET2 (Arm DEN 0022, 5.1.10 and 5.1.21) in turns, `axvm.resets` times. How often it has been started the
/// match register of a PL031 (`axvm.clock`) keeps, which no reset of a VM touches. Each time the image is as it was loaded, and all other
/// memory zero.
pub fn resets(board: &Board) -> String {
    const MR: u64 = 0x04;
    let (Some(clock), Some(wanted)) = (board.number("axvm.clock"), board.number("axvm.resets")) else {
        return "skipped: no axvm.clock, axvm.resets".into();
    };
    let test = || {
        let before = load32(clock + MR)?;
        let (word, unused) = (WORD.swap(USED, Ordering::Relaxed), load32(board.scratch + UNUSED)?);
        store32(board.scratch + UNUSED, USED)?;
        if (word, unused) != (LOADED, 0) {
            return Ok(format!("broken: start {} finds {word:#x} and {unused:#x}", before + 1));
        }
        if u64::from(before) >= wanted {
            store32(clock + MR, 0)?;
            return Ok(format!("ok: start {}", before + 1));
        }
        store32(clock + MR, before + 1)?;
        println!("ATTACK resets: the end of start {}", before + 1);
        let function = if before & 1 == 0 { PSCI_SYSTEM_RESET } else { PSCI_SYSTEM_RESET2_64 };
        let conduit = board.conduit.unwrap_or(PsciConduit::Hvc);
        // A vendor's own reset is refused.
        let vendors = call(conduit, PSCI_SYSTEM_RESET2_64, [1 << 31, 0, 0]);
        let result = call(conduit, function, [0; 3]);
        Ok(format!("broken: {function:#x} came back with {result:?}, a vendor's with {vendors:?}"))
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// The generic watchdog (Arm DEN0094): it is switched on, with very little time, and forgotten.
pub fn watchdog(board: &Board) -> String {
    const WCS: u64 = 0;
    const WOR: u64 = 8;
    let is_one = |kind: &String| kind == "arm,sbsa-gwdt";
    let mut devices = board.platform.devices.iter();
    let control =
        devices.find(|device| device.compatible.iter().any(is_one)).and_then(|it| it.registers.first());
    let Some(control) = control.map(|span| span.start().0) else { return "skipped: no watchdog".into() };
    println!("ATTACK watchdog forgets");
    if store32(control + WOR, 1000).and_then(|()| store32(control + WCS, 1)).is_err() {
        return "broken: its registers don't answer".into();
    }
    // Long enough for any machine: the thousand ticks are over at once.
    for _ in 0..2_000_000_000u64 {
        core::hint::spin_loop();
    }
    "broken: it has not expired".into()
}

/// PSCI CPU_OFF (5.1.3) on the only CPU.
pub fn cpu_off(board: &Board) -> String {
    println!("ATTACK cpu-off calls");
    let result = call(board.conduit.unwrap_or(PsciConduit::Hvc), PSCI_CPU_OFF, [0; 3]);
    format!("broken: CPU_OFF came back with {result:?}")
}
