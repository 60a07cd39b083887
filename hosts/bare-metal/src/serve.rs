//! What the hypervisor's own CPU does while VMs run: consoles, security events, the end of VMs, the end of the run.

use axvm::report::Report;
use axvm::restart::Afterwards;
use axvm::vm::State;
use axvm_addr::CpuId;
use axvm_monitor::{self as monitor, Ends, Leaving, attend_suspension, leaving, say_lost, say_where};
use axvm_system::wire::Channel;

use crate::host::Host;
use crate::log;
use crate::typed::Keyboard;
use crate::vm::{StopReason, Vm, VmRef};
use crate::{arch, console, cpus, protection, report, security, watchdogs};

/// Bytes of a console that are shown before another one gets its turn.
const OUTPUT_AT_ONCE: usize = 512;

/// Serves until every VM that was started has stopped; then reports and switches the machine off.
pub fn serve(host: &'static Host) -> ! {
    let mut keyboard = Keyboard::new(host);
    let mut ends = Ends::new(host.plans.len());
    protection::test_own_mappings(host);
    arch::settle_clock();
    loop {
        arch::take_interrupts(None);
        protection::test_injection(host);
        let settled = host.take_settled();
        let mut busy = security::attend(host);
        if !settled.is_empty() {
            // What devices did that are to change hands was done by the VMs that had them.
            security::attend_all(host);
            host.settle(settled);
        }
        busy |= console::attend(host);
        let vms = host.vms();
        busy |= show_output(&vms);
        keyboard.attend(host, &vms, &ends);
        let look_again_us = watchdogs::attend(&vms);
        for vm in vms {
            busy |= attend_suspension(&vm, &log::Console);
            busy |= attend_end(host, vm, &mut ends);
        }
        host.take_retired().into_iter().for_each(hand_back);
        let is_in_use = |vm: &VmRef| vm.plan().autostart || vm.state() != State::Built;
        let running = !host.has_started() || host.vms().iter().any(is_in_use) || host.any_unsettled();
        // Whoever has taken the last VM apart has said before that it has the console no more.
        if !running && !busy && !console::attend(host) {
            security::attend(host);
            finish(host, ends);
        }
        if !busy {
            host.wait(keyboard.ask_again_us(host).into_iter().chain(look_again_us).min());
        }
    }
}

/// Shows what the guests have written. Whether there was anything.
fn show_output(vms: &[VmRef]) -> bool {
    let mut busy = false;
    for vm in vms {
        let bytes = vm.ends().output.take(OUTPUT_AT_ONCE);
        if !bytes.is_empty() {
            busy = true;
            console::send(Channel::Console(vm.id()), &bytes);
            if let Some(uart) = &vm.ends().console {
                uart.pump();
            }
        }
    }
    busy
}

/// Looks after a VM that has stopped. Whether there is still something to do for it.
fn attend_end(host: &'static Host, vm: VmRef, ends: &mut Ends) -> bool {
    let overdue = match leaving(&vm) {
        Leaving::NotAsked => return false,
        Leaving::Underway => return true,
        Leaving::Over { overdue } => overdue,
    };
    // Its CPUs have left it: what they have recorded is held against this life of it, and not against the next.
    security::take_records(host);
    say_where(&vm, &log::Console);
    let id = vm.id();
    ends.note(id, monitor::report(&vm));
    if !overdue.is_empty() {
        give_up(host, vm, &overdue);
        return true;
    }
    host.let_go(vm);
    security::forget(host, id);
    true
}

/// Has a VM taken apart that nobody holds any more. Resets take seconds and zeroing takes as long as there is RAM: a CPU of the VM's
/// does it, so that others' events are answered.
fn hand_back(vm: Vm) {
    match vm.plan().cpus.first().and_then(|vcpu| cpus::get(vcpu.cpu)) {
        Some(cpu) => cpu.give_to_take_apart(vm),
        None => take_apart(vm),
    }
}

/// Gives back all that a VM has: its devices by way of quarantine, its RAM zeroed. If it is to, it starts again from nothing.
pub fn take_apart(vm: Vm) {
    let (id, host) = (vm.id(), vm.hal().host());
    let reason = vm.state().reason();
    match vm.dispose(&host.registry) {
        Ok(disposed) => {
            protection::leak(host);
            let whole = disposed.stuck.is_empty() && !disposed.ram_withheld;
            for stuck in &disposed.stuck {
                log::error!("{}: {}", stuck.device, stuck.why);
            }
            if !whole {
                host.note_failed(id);
            }
            let plan = &disposed.plan;
            let reason = match host.security.has_to_stop(id) {
                true => Some(StopReason::Violation),
                false => reason,
            };
            match reason.map_or(Afterwards::Stays, |reason| host.after_end(plan, reason)) {
                Afterwards::Again if whole => {
                    log::info!("{}: it starts again ({})", plan.name, reason.map_or("", StopReason::name));
                    host.note_between();
                    host.start_again(plan);
                }
                Afterwards::TooOften => {
                    log::warn!("{}: it has ended too often in a row and stays stopped", plan.name)
                }
                Afterwards::Again | Afterwards::Stays => {}
            }
            console::release(host);
        }
        Err(_) => {
            log::error!("VM {id}: something still refers to it: its memory and devices stay with nobody");
            host.claims.lock().withhold_all(id, &[]);
        }
    }
    host.note_settled(id, reason);
}

/// Goes on without CPUs that haven't left a VM in time. They keep it, and with it its memory: its second stage is revoked already,
/// now its devices lose the bus. Nobody gets any of that until the machine is reset.
fn give_up(host: &'static Host, vm: VmRef, overdue: &[CpuId]) {
    say_lost(&vm, overdue, &log::Console);
    host.add_lost_cpus(overdue);
    host.claims.lock().withhold_all(vm.id(), overdue);
    security::quarantine_all(host, vm.id());
    host.forget_vm(vm.id());
    security::forget(host, vm.id());
    // A CPU that comes back after all must not be the last to have it: freeing isn't that CPU's to do.
    vm.keep();
}

/// Ends the run.
fn finish(host: &'static Host, ends: Ends) -> ! {
    let vms = ends.at_end(&host.plans, |id| host.vm(id).map(|vm| monitor::report(&vm)));
    report::send(&Report::at_end(host.figures(), vms, security::records(host)));
    arch::system_off()
}
