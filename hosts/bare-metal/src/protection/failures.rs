//! Failures of the machine while a VM is built, which a test image brings about one after another: no memory for a table, a command that
//! the IOMMU doesn't hear.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::sync::Arc;

use axvm::taken::Taken;
use axvm::vm::AxVM;
use axvm_plan::VmPlan;

use super::{Protection, is_off};
use crate::hal::Hal;
use crate::host::Host;
use crate::log;

/// Steps since failures were asked for.
static STEPS: AtomicU32 = AtomicU32::new(0);
/// The first one that fails, from 1 on.
static FAIL_AT: AtomicU32 = AtomicU32::new(NEVER);

const NEVER: u32 = 0;

/// So many fail, one after the other: a command that is lost is heard with the next one, if that isn't.
const IN_A_ROW: u32 = 2;

/// Whether this step, of a kind that the bundle names, is to fail. Never, but in a test image.
#[inline(always)]
pub fn fails(kind: Protection) -> bool {
    is_off(kind) && {
        let (step, first) = (STEPS.fetch_add(1, Ordering::Relaxed) + 1, FAIL_AT.load(Ordering::Relaxed));
        first != NEVER && (first..first + IN_A_ROW).contains(&step)
    }
}

fn is_asked() -> bool {
    is_off(Protection::NoTable) || is_off(Protection::NoCommand)
}

fn fail_at(step: u32) {
    STEPS.store(0, Ordering::Relaxed);
    FAIL_AT.store(step, Ordering::Relaxed);
}

/// Where the bundle asks for it, builds a VM of this plan and takes it apart, over and over, and each time has another step of the building
/// fail. Says of each what came of it, and whether all is as before.
pub fn try_each(host: &'static Host, plan: &Arc<VmPlan>) {
    if !is_asked() {
        return;
    }
    // What is made once and stays, such as the second level of a table, isn't to count.
    attempt(host, plan, NEVER);
    for step in 1.. {
        let before = comparable(host);
        if !attempt(host, plan, step) {
            log::info!("failures: {}: {} steps failed in turn", plan.name, step - 1);
            return;
        };
        let after = comparable(host);
        if before == after {
            log::info!("failures: {}: step {step}: all is as before", plan.name);
        } else {
            log::error!("failures: {}: step {step}: NOT as before: {before:?} {after:?}", plan.name);
        }
    }
}

/// Where the bundle asks for it, has the second step of what comes fail.
pub fn fail_next() {
    if is_asked() {
        fail_at(2);
    }
}

/// What is taken, as far as VMs that run don't change it.
fn comparable(host: &Host) -> Taken {
    let taken = host.taken();
    if host.has_started() { Taken { memory_bytes: 0, lines: 0, ..taken } } else { taken }
}

/// Builds a VM and takes it apart. Whether a step failed; then what came of it is said.
fn attempt(host: &'static Host, plan: &Arc<VmPlan>, step: u32) -> bool {
    fail_at(step);
    let built = AxVM::new(plan.clone(), Arc::new(Hal::new(host)), &host.registry);
    let failed = step != NEVER && STEPS.load(Ordering::Relaxed) >= step;
    fail_at(NEVER);
    match built {
        Ok(vm) => match vm.dispose(&host.registry) {
            Ok(left) if left.stuck.is_empty() && !left.ram_withheld => {
                if failed {
                    log::info!("failures: {}: step {step}: made good", plan.name);
                }
            }
            _ => log::error!("failures: {}: step {step}: it can't be taken apart", plan.name),
        },
        Err(error) => log::info!("failures: {}: step {step}: {error}", plan.name),
    }
    failed
}
