//! How `edu`'s message comes to a CPU: as a vector of its local APIC. Interrupts stay masked but for moments.

use core::cell::UnsafeCell;

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::apic::Local;
use axvm_guest_runtime::machine::{
    Fault, frequency, now, out8, sleep, start_cpu, take_interrupt, triple_fault,
};

use crate::board::Board;
use crate::edu::Edu;

/// What a message of `edu`'s is called: its vector.
pub const MESSAGE: u64 = 0x51;
/// The timer's.
const TIMER: u8 = 0x52;

/// Where a message is written to reach the CPU with this id (Intel SDM 3, 11.11.1).
fn doorbell(id: u8) -> u64 {
    0xfee0_0000 | u64::from(id) << 12
}

/// `edu`, whose message is to come to the calling CPU.
pub struct Hearing {
    /// The device.
    pub edu: Edu,
    apic: Local,
}

impl Hearing {
    /// Has the calling CPU take messages. `None`: the board has no `edu`.
    pub fn begin(board: &Board) -> Result<Option<Self>, Fault> {
        let Some(edu) = Edu::of(board) else { return Ok(None) };
        let apic = Local::new(board.madt.local_apic.0);
        apic.start()?;
        Ok(Some(Self { edu, apic }))
    }

    /// Lets the device send it.
    pub fn open(&self) -> Result<(), Fault> {
        self.edu.enable_msi(doorbell(self.apic.id()?), MESSAGE as u16)
    }

    /// Takes what is pending, and ends it.
    pub fn take(&self) -> Option<u64> {
        take_interrupt(&self.apic).map(u64::from)
    }

    /// Sleeps, by HLT, until something comes, and takes that. A timer ends a sleep, after so many ticks, that nothing else ends.
    pub fn sleep(&self, ticks: u64) -> Result<Option<u64>, String> {
        let silent = |Fault| String::from("broken: the local APIC doesn't answer");
        self.apic.start_timer(TIMER, ticks).map_err(silent)?;
        let came = sleep(&self.apic).map(u64::from);
        self.apic.stop_timer().map_err(silent)?;
        Ok(came)
    }
}

/// The second CPU's stack.
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; 16 << 10]>);

// SAFETY: nothing in Rust refers to its bytes; the second CPU, started once, has them.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; 16 << 10]));

/// Starts the VM's second CPU with a function.
pub fn on_other_cpu(board: &Board, function: extern "C" fn() -> !) -> bool {
    let apic = Local::new(board.madt.local_apic.0);
    let Ok(own) = apic.id() else { return false };
    let Some(other) = board.cpus().find(|id| *id != own) else { return false };
    let top = STACK.0.get() as u64 + (16 << 10);
    // SAFETY: each scenario that asks for it is the only one of its guest's, and the stack is there for it alone.
    unsafe { start_cpu(&apic, other, top, function) }
}

/// The reset register that the FADT names, and a triple fault, in turns. It comes back only if that does nothing.
pub fn reset(board: &Board, nth: u32) -> String {
    let Some((port, value)) = board.reset() else { return "skipped: no reset register".into() };
    if nth & 1 == 1 {
        triple_fault();
    }
    out8(port, value);
    // Where it takes effect later.
    let start = now();
    while now() - start < frequency() {}
    format!("broken: {value:#x} at port {port:#x} does nothing")
}

/// What was kept over the last start, in `edu`: no reset of a VM touches a device that the file has change hands as it is. `None`: there is none.
pub fn kept(board: &Board) -> Option<Result<u32, Fault>> {
    Some(Edu::answering(board)?.kept())
}

/// Keeps a word for the next start.
pub fn keep(board: &Board, word: u32) -> Result<(), Fault> {
    Edu::answering(board).ok_or(Fault)?.keep(word)
}
