//! What the calling CPU does against speculation that a guest steers: `axvm_cpu::speculation` says what, here it is set up.

use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::CpuId;
use axvm_cpu::firmware::{Firmware, WORKAROUND_2, answers};
use axvm_cpu::speculation::{Core, Entry, Said, StoreBypass, plan};
use spin::Mutex;

use super::firmware;
use super::frame::EntryWork;
use super::sysreg::mrs;
use crate::log;

/// Whether some CPU is one that has to be told twice to forget translations. Never unset: whoever invalidates may be another CPU.
static INVALIDATE_TWICE: AtomicBool = AtomicBool::new(false);

/// The kinds of core that were said, by MIDR_EL1; the rest is zero, which no core has. A board with more kinds says some not at all.
static SAID: Mutex<[u64; 16]> = Mutex::new([0; 16]);

/// Sets the calling CPU up, but for what it does at each way in from a guest: which is said, for `vectors::install`.
pub fn set_up(cpu: CpuId) -> EntryWork {
    let field = |register: u64, shift: u32| (register >> shift & 0xf) as u8;
    let core = Core {
        midr: mrs!("midr_el1"),
        csv2: field(mrs!("id_aa64pfr0_el1"), 56),
        clear_instruction: field(mrs!("s3_0_c0_c6_2"), 28) != 0,
        clears_at_exceptions: field(mrs!("id_aa64mmfr1_el1"), 60) != 0,
        ssbs: field(mrs!("id_aa64pfr1_el1"), 4) != 0,
    };
    let said = if firmware::is_reached() { answers(firmware::smccc_query) } else { Firmware::default() };
    let plan = plan(&core, &said);
    if plan.store_bypass == StoreBypass::Firmware {
        firmware::smccc_query(WORKAROUND_2, 1);
    }
    if plan.repeat_tlbi {
        INVALIDATE_TWICE.store(true, Ordering::SeqCst);
    }
    let work = match plan.entry {
        Entry::Nothing => EntryWork::NONE,
        Entry::ClearInstruction => EntryWork::clear_instruction(),
        Entry::Loop(rounds) => EntryWork::rounds(rounds),
        Entry::Firmware(call) => EntryWork::firmware(call as u32),
    };
    let mut said = SAID.lock();
    if !said.contains(&core.midr)
        && let Some(free) = said.iter_mut().find(|midr| **midr == 0)
    {
        *free = core.midr;
        drop(said);
        log::info!("CPU {cpu}: {}", Said(&core, &plan));
    }
    work
}

/// Whether translations are to be invalidated twice.
pub fn invalidate_twice() -> bool {
    INVALIDATE_TWICE.load(Ordering::SeqCst)
}
