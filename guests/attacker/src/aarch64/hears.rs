//! How `edu`'s message comes to a CPU: by the ITS, as an LPI. Interrupts stay masked, and are taken by asking.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::icc;
use axvm_platform::model::PsciConduit;
use smccc::psci::{PSCI_CPU_SUSPEND_64, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_64};

use crate::board::Board;
use crate::edu::{Edu, requester_id};
use crate::machine::{Fault, Start, call, load32, mpidr, start_cpu, start_timer, stop_timer, store32};

/// What a message of `edu`'s is called.
pub const MESSAGE: u64 = LPI;

/// `edu`, whose message is to come to the calling CPU.
pub struct Hearing {
    /// The device.
    pub edu: Edu,
    doorbell: u64,
    conduit: PsciConduit,
}

impl Hearing {
    /// Leads the message to the calling CPU, and the timer. `None`: the board has no `edu`.
    pub fn begin(board: &Board) -> Result<Option<Self>, Fault> {
        let (Some(edu), Some(id)) = (Edu::of(board), requester_id(&board.platform)) else {
            return Ok(None);
        };
        let gic = Gic::find(&board.platform).ok_or(Fault)?;
        let own = gic.redistributor(mpidr())?;
        gic.start()?;
        own.start()?;
        icc::open();
        gic.map_msi(id, &own, board.scratch.next_multiple_of(0x1_0000))?;
        // The third of the binding is the virtual timer's.
        own.enable(board.platform.timer.get(2).ok_or(Fault)?.irq.0)?;
        let conduit = board.platform.psci().unwrap_or(PsciConduit::Hvc);
        Ok(Some(Self { edu, doorbell: gic.doorbell().ok_or(Fault)?, conduit }))
    }

    /// Lets the device send it.
    pub fn open(&self) -> Result<(), Fault> {
        self.edu.enable_msi(self.doorbell, 0)
    }

    /// Takes what is pending, and ends it.
    pub fn take(&self) -> Option<u64> {
        let came = icc::acknowledge();
        if came == icc::NONE {
            return None;
        }
        icc::end(came);
        Some(came)
    }

    /// Sleeps, by PSCI CPU_SUSPEND (Arm DEN 0022, 5.4) in a standby state, until something comes, and takes that. A timer ends a sleep, after so
    /// many ticks, that nothing else ends.
    pub fn sleep(&self, ticks: u64) -> Result<Option<u64>, String> {
        start_timer(ticks);
        let answer = call(self.conduit, PSCI_CPU_SUSPEND_64, [0, 0, 0]);
        let came = icc::acknowledge();
        stop_timer();
        icc::end(came);
        match answer {
            Some(0) => Ok((came != icc::NONE).then_some(came)),
            other => Err(format!("broken: CPU_SUSPEND came back with {other:?}")),
        }
    }
}

/// Starts the VM's second CPU with a function.
pub fn on_other_cpu(board: &Board, function: extern "C" fn() -> !) -> bool {
    const STACK: usize = 0x4000;
    let Some(conduit) = board.conduit else { return false };
    let Some(other) = board.platform.cpus.get(1) else { return false };
    let stack = Box::leak(alloc::vec![0u128; STACK / 16].into_boxed_slice());
    let start = Box::leak(Box::new(Start { stack_top: stack.as_ptr() as u64 + STACK as u64, function }));
    // SAFETY: the stack was allocated for it just now, and nothing else knows of it.
    unsafe { start_cpu(conduit, other.hardware_id, start) }
}

/// PSCI SYSTEM_RESET and SYSTEM_RESET2 (5.1.10 and 5.1.21) in turns. It comes back only if that is refused: with what came of it.
pub fn reset(board: &Board, nth: u32) -> String {
    let function = if nth & 1 == 0 { PSCI_SYSTEM_RESET } else { PSCI_SYSTEM_RESET2_64 };
    let conduit = board.conduit.unwrap_or(PsciConduit::Hvc);
    // A vendor's own reset is refused.
    let vendors = call(conduit, PSCI_SYSTEM_RESET2_64, [1 << 31, 0, 0]);
    let result = call(conduit, function, [0; 3]);
    format!("broken: {function:#x} came back with {result:?}, a vendor's with {vendors:?}")
}

/// The match register of a PL031 (`axvm.clock`), which no reset of a VM touches.
const MR: u64 = 0x04;

/// What was kept over the last start. `None`: there is nothing to keep it in.
pub fn kept(board: &Board) -> Option<Result<u32, Fault>> {
    Some(load32(board.number("axvm.clock")? + MR))
}

/// Keeps a word for the next start.
pub fn keep(board: &Board, word: u32) -> Result<(), Fault> {
    store32(board.number("axvm.clock").ok_or(Fault)? + MR, word)
}
