//! Whoever looks after the VMs while they run: consoles, keys, security events, the end of VMs, the end of the run.

use std::sync::Arc;
use std::time::Duration;

use axvm::report::Report;
use axvm::vm::State;
use axvm_monitor::{self as monitor, Ends, Leaving, attend_suspension, leaving, say_where};
use axvm_system::wire::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::host::Host;
use crate::rest::Questions;
use crate::typed::Keyboard;
use crate::{Vm, caller, security, watchdogs};

/// Bytes of a console that are shown before another one gets its turn.
const OUTPUT_AT_ONCE: usize = 512;

/// How often something under way is looked at.
const SOON: Duration = caller::REPEAT;

/// Serves until every VM that was started has stopped, then reports.
pub fn serve(host: &'static Host) {
    let mut keyboard = Keyboard::new(host);
    let mut ends = Ends::new(host.plans.len());
    let mut questions = Questions::begin();
    loop {
        host.bell.heard();
        let mut busy = host.repeat_calls();
        busy |= host.vfio.lead(|why| host.link.info(format_args!("{why}")));
        security::attend(host);
        host.settle();
        let vms = host.vms();
        busy |= show_output(host, &vms);
        keyboard.attend(host, &vms, &ends);
        let look_again_us = watchdogs::attend(host, &vms);
        let ask_again = questions.attend(host, &vms);
        for vm in vms {
            busy |= attend_suspension(&vm, &host.link);
            busy |= attend_end(host, vm, &mut ends);
        }
        let is_in_use = |vm: &Arc<Vm>| vm.plan().autostart || vm.state() != State::Built;
        if !host.vms().iter().any(is_in_use) && !host.any_unsettled() {
            security::attend(host);
            return finish(host, ends);
        }
        let again = look_again_us
            .map(Duration::from_micros)
            .into_iter()
            .chain(ask_again)
            .chain(keyboard.look_again());
        let most = busy.then_some(SOON).into_iter().chain(again).min();
        wait(host, &keyboard, most);
    }
}

/// Until something is typed, somebody calls, or that much time is over.
fn wait(host: &Host, keyboard: &Keyboard, most: Option<Duration>) {
    let timeout = most.and_then(|most| Timespec::try_from(most).ok());
    let bell = PollFd::new(&*host.bell, PollFlags::IN);
    let keys = keyboard.source().map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN));
    let mut sources: Vec<PollFd<'_>> = std::iter::once(bell).chain(keys).collect();
    // A signal: everything is looked at.
    let _ = poll(&mut sources, timeout.as_ref());
}

/// Shows what the guests have written. Whether there was anything.
fn show_output(host: &Host, vms: &[Arc<Vm>]) -> bool {
    let mut busy = false;
    for vm in vms {
        let bytes = vm.ends().output.take(OUTPUT_AT_ONCE);
        if !bytes.is_empty() {
            busy |= !vm.ends().output.is_empty();
            host.link.send(Channel::Console(vm.id()), &bytes);
            if let Some(uart) = &vm.ends().console {
                uart.pump();
            }
        }
    }
    busy
}

/// Looks after a VM that has stopped. Whether there is still something to do for it.
fn attend_end(host: &'static Host, vm: Arc<Vm>, ends: &mut Ends) -> bool {
    let overdue = match leaving(&vm) {
        Leaving::NotAsked => return false,
        Leaving::Underway => return true,
        Leaving::Over { overdue } => overdue,
    };
    // Its threads have left it: what they have recorded is held against this life of it, and not against the next.
    security::attend(host);
    say_where(&vm, &host.link);
    ends.note(vm.id(), monitor::report(&vm));
    if overdue.is_empty() {
        host.retire(vm);
    } else {
        host.give_up(vm, &overdue);
    }
    true
}

/// Ends the run.
fn finish(host: &Host, ends: Ends) {
    let vms = ends.at_end(&host.plans, |id| host.vm(id).map(|vm| monitor::report(&vm)));
    host.link.report(&Report::at_end(host.figures(), vms, security::records(host)));
}
