//! Protections that can be left out, one at a time, to show that the test of each can fail.
//!
//! Only an image built with the feature `protection-off` has them; it is a test image, says so at boot, and a build without debug
//! assertions refuses to be one. In any other image [`is_off`] is a constant `false`, and a bundle that names a protection
//! is refused. The names are `axvm_system::protection`'s.

use alloc::string::String;
use core::sync::atomic::{AtomicU8, Ordering};

use axvm::events::Action;
use axvm_addr::{Address, Gpa, Hpa, Span, VcpuId, VmId};
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{PciPlan, RamPiece};
use axvm_platform::model::Platform;
use axvm_system::model::Item;
use axvm_system::protection::NAMES;
pub use axvm_system::protection::Protection;

use crate::host::Host;
use crate::log;

mod failures;
mod leaks;

pub use failures::{fail_next, fails, try_each};
pub use leaks::{leak, leak_line};

use Protection::{Block, Config, Inject, OwnCode, OwnMap, OwnRam, OwnStack, Rate, Restart};

#[cfg(all(feature = "protection-off", not(debug_assertions)))]
compile_error!("an image in which a protection can be left out is for tests: build it with debug assertions");

static OFF: AtomicU8 = AtomicU8::new(0);

/// Whether this protection is off. Never, but in a test image.
#[inline(always)]
pub fn is_off(protection: Protection) -> bool {
    cfg!(feature = "protection-off") && OFF.load(Ordering::Relaxed) == protection as u8
}

/// Leaves out what the bundle names, if anything, and says so.
///
/// # Errors
///
/// The image has no such thing to leave out.
pub fn choose(name: Option<&str>) -> Result<(), Problem> {
    let Some(name) = name else { return Ok(()) };
    let refuse = |why: String| Err(Problem::new(Item::File, Rule::Hypervisor, why));
    if cfg!(not(feature = "protection-off")) {
        return refuse(alloc::format!(
            "protection \"{name}\" can't be off: this is a release image; only a test image (feature `protection-off`) can do that"
        ));
    }
    let Some(&(name, protection)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let known: alloc::vec::Vec<&str> = NAMES.iter().map(|&(name, _)| name).collect();
        return refuse(alloc::format!("there is no protection \"{name}\"; there are {}", known.join(", ")));
    };
    OFF.store(protection as u8, Ordering::Relaxed);
    log::warn!("NOT PROTECTED: {name} is off. This is a test image.");
    Ok(())
}

/// Where the bundle asks for it, ends the first start as one that can tell nobody why, and with a reset
/// ([`crate::console::Emergency::end`]).
pub fn test_restart() {
    if is_off(Restart) && !crate::record::has_shown() {
        crate::console::take_away();
        crate::boot::last_words(&"restart: nobody hears this");
    }
}

/// The end of a start that can tell nobody why: where the bundle asks for it, a reset.
pub fn restart_or(end: fn() -> !) -> ! {
    if is_off(Restart) { crate::arch::system_reset() } else { end() }
}

/// Where the bundle asks for it, has the hypervisor do what its own mappings forbid, to show that it ends with a fault.
pub fn test_own_mappings(host: &Host) {
    if is_off(OwnMap) {
        host.platform.memory.iter().for_each(|&bank| crate::arch::add_memory(bank));
    }
    if is_off(OwnMap) || is_off(OwnRam) {
        let guests = host.plans.iter().flat_map(|vm| &vm.ram).map(|piece| ("guest's RAM", piece.hpa));
        let kept = host.platform.reserved.iter().filter(|it| it.no_map);
        for (what, at) in guests.chain(kept.map(|it| ("no-map memory", it.span.start()))) {
            // SAFETY: reading memory changes nothing; that it isn't mapped is survived, and is what is asked.
            let can = match unsafe { crate::arch::probe_read(at.0, 4) } {
                Ok(_) => "can",
                Err(_) => "can't",
            };
            log::info!("own-ram: {what} {can} be read by the hypervisor");
        }
    }
    #[cfg(feature = "protection-off")]
    if is_off(Protection::OwnMemory) {
        match crate::arch::check_memory() {
            Ok(()) => log::info!("own-memory: what drivers are promised of memory holds"),
            Err(promise) => log::error!("own-memory: this doesn't hold: {promise}"),
        }
    }
    if is_off(OwnCode) {
        // SAFETY: not sound, and not meant to be: the page is mapped read-only, so that this faults and doesn't return.
        unsafe { (crate::arch::image_start() as *mut u64).write_volatile(0) };
        log::error!("the hypervisor's code can be written");
    }
    if is_off(OwnStack) {
        log::error!("the stack has no end: {}", use_up_stack(1));
    }
}

/// Where the bundle asks for it, injects at the first VM's second vCPU a software interrupt and an LPI, as often as this is called:
/// by the hypervisor's CPU, whenever that looks around.
pub fn test_injection(host: &'static Host) {
    const AT: (VmId, VcpuId) = (VmId(0), VcpuId(1));
    if is_off(Inject) {
        for irq in crate::arch::INJECTED {
            // The VM or the LPI may not be there yet, or any more.
            if let Some(vm) = host.vm(AT.0) {
                let _ = vm.inject(AT.1, irq);
            }
        }
    }
}

/// Where the bundle asks for it: whether what the IOMMUs have recorded is left to itself, until a VM has been built again.
#[inline(always)]
pub fn keeps_late(host: &Host) -> bool {
    (is_off(Protection::LateRecords) || is_off(Protection::Charge)) && !host.has_rebuilt()
}

/// Recursion that the compiler can't turn into a loop.
#[inline(never)]
fn use_up_stack(depth: u64) -> u64 {
    let block = core::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { use_up_stack(depth + 1).wrapping_add(core::hint::black_box(block)[0]) }
}

/// Does what a protection consists of. Nothing, and `None`, where that is off.
#[inline(always)]
pub fn with<T>(protection: Protection, f: impl FnOnce() -> T) -> Option<T> {
    if is_off(protection) { None } else { Some(f()) }
}

/// Whether something is let be that a protection would have done: where that is off, and `wanted` says so.
#[inline(always)]
pub fn lets_be(protection: Protection, wanted: impl FnOnce() -> bool) -> bool {
    is_off(protection) && wanted()
}

/// What a violation leads to, by what was judged.
pub fn judged(action: Action) -> Action {
    if is_off(Protection::Quarantine) || is_off(Rate) { Action::Reported } else { action }
}

/// What a VM reaches without a protection: the machine's memory outside the VM's RAM, each address at itself. Nothing, where that is
/// on.
pub fn open_memory<E>(
    protection: Protection,
    memory: &[Span<Hpa>],
    ram: &[RamPiece],
    mut map: impl FnMut(Span<Gpa>, Hpa) -> Result<(), E>,
) -> Result<(), E> {
    for bank in memory.iter().filter(|_| is_off(protection)) {
        let mut at = bank.start().0;
        let mut own: alloc::vec::Vec<Span<Gpa>> = ram.iter().map(|piece| piece.gpa).collect();
        own.sort_unstable_by_key(|span| span.start());
        for span in own {
            open_span(at, span.start().0.min(bank.end().0), &mut map)?;
            at = at.max(span.end().0);
        }
        open_span(at, bank.end().0, &mut map)?;
    }
    Ok(())
}

fn open_span<E>(
    start: u64,
    end: u64,
    map: &mut impl FnMut(Span<Gpa>, Hpa) -> Result<(), E>,
) -> Result<(), E> {
    match end.checked_sub(start).filter(|&size| size > 0).map(|size| Span::new(Gpa(start), size)) {
        Some(Ok(span)) => map(span, Hpa(start)),
        _ => Ok(()),
    }
}

/// What is forwarded of a trapped block of registers: its own bytes.
pub fn forwarded_block(gpa: Span<Gpa>, hpa: Hpa) -> (Span<Gpa>, Hpa) {
    if is_off(Block) && gpa.start().page_offset() == hpa.page_offset() {
        (gpa.to_pages(), hpa.page())
    } else {
        (gpa, hpa)
    }
}

/// The machine's config space, where it is what a guest gets.
pub fn real_config_space(platform: &Platform, pci: &PciPlan) -> Option<Hpa> {
    let host = platform.pci_hosts.get(pci.host).filter(|_| is_off(Config))?;
    let buses = u64::from(pci.buses.first.checked_sub(host.buses.first)?);
    Some(Hpa(host.ecam.start().0 + (buses << 20)))
}
