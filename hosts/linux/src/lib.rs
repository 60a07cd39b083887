#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it answers |
//! |---|---|
//! | [`probe`] | what this machine is, and what its Linux offers |
//! | [`kvm`], [`rights`] | whether KVM has what is needed; whether this process may do what is needed |
//! | [`start`] | from the tool's bundle to running VMs |
//! | [`confine`] | what the process gives up before any guest runs |
//! | [`host`] | which VMs there are, and how each comes and goes |
//! | [`serve`], [`typed`], [`shell`], [`rest`] | what goes on while VMs run; what is typed; who executes nothing any more |
//! | [`hal`] | what the core asks of its host |
//! | [`vcpu`], [`elements`], [`caller`] | a vCPU in its thread, an exit by a port in parts, and how the thread is called |
//! | [`irqchip`], [`space`], [`memory`] | interrupt controller, memory slots, guests' memory |
//! | [`images`] | the guests' images, in their files |
//! | [`vfio`], [`guard`] | devices; who takes them from their drivers and gives them back |
//! | [`security`] | what was tried beyond a plan, and what it leads to |
//! | [`link`], [`output`], [`watchdogs`] | the line to the tool, guests' consoles, their watchdogs |
//! | `arch` | what each architecture gives |

use std::sync::{Mutex, MutexGuard};

mod arch;
pub mod caller;
pub mod confine;
pub mod elements;
pub mod error;
pub mod guard;
pub mod hal;
pub mod host;
pub mod images;
pub mod irqchip;
pub mod kvm;
pub mod link;
pub mod memory;
pub mod output;
pub mod probe;
#[cfg(any(target_arch = "aarch64", test))]
mod psci;
pub mod rest;
pub mod rights;
pub mod security;
pub mod serve;
pub mod shell;
pub mod space;
pub mod start;
pub mod typed;
pub mod vcpu;
pub mod vfio;
pub mod watchdogs;

/// A VM: the core's, over this process.
pub type Vm = axvm::vm::AxVM<hal::Hal>;

/// A lock. A thread that panicked with it ends the process, so that nobody sees what it left.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
