//! No attack: a guest that leaves its machine without a CPU, and one that forgets its watchdog.

use alloc::format;
use alloc::string::String;

use axvm_platform::model::PsciConduit;
use smccc::psci::PSCI_CPU_OFF;

use crate::board::Board;
use crate::machine::{call, store32};
use crate::println;

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
