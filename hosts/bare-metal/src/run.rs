//! The run loop of a vCPU on its CPU.

use axvm::events::Kind;
use axvm::vm::Turn;
use axvm_addr::VcpuId;

use crate::arch::{Next, Resident, Running, Slept};
use crate::log;
use crate::vm::Vm;

/// Runs a vCPU until it is off or its VM stops. Returns at once, with `false`, if it isn't to be started.
pub fn run(vm: &Vm, vcpu: VcpuId) -> bool {
    match vm.run_vcpu(vcpu, |start| Resident::on(vm, vcpu, start, until_off)) {
        Ok(turn) => turn == Turn::Over,
        Err(error) => {
            log::error!("{}: vCPU {vcpu} can't run: {error}", vm.name());
            true
        }
    }
}

/// Runs a vCPU that has its CPU, until it is off or its VM stops.
fn until_off(running: &mut Running<'_>) {
    let vm = running.vm;
    vm.host().note_first_entry();
    let mut next = Next::Resume;
    while !vm.is_stopping() {
        next = match next {
            Next::Resume => running.run(),
            Next::Suspend { deadline } => match running.sleep(deadline) {
                Slept::Asleep => next,
                Slept::Awake => Next::Resume,
                Slept::Forged => {
                    vm.violated(Kind::Interrupt, None);
                    Next::Resume
                }
            },
            Next::Off => return,
            Next::Stop(reason) => return vm.stop(reason),
        };
    }
}
