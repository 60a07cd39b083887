//! A small bare-metal guest that tries to leave its VM, and says how far it came.
//!
//! Words of its command line (`/chosen/bootargs`) choose what it tries, in that order; each gives one line
//! `ATTACK name result`, where `result` begins with one of
//!
//! - `blocked`: the attack was kept from having an effect that the guest can see;
//! - `succeeded`: it had one;
//! - `ok` or `broken`: for what must work;
//! - `skipped`: what it needs isn't there.
//!
//! Then `ATTACK done`, and it powers itself off. See `attacks::SHARED` and the architecture's own `ALL` for the words. Numbers that some of
//! them use: `axvm.target=ADDRESS` (where to read and write; for `victim`, where it keeps its secret),
//! `axvm.secret=VALUE` (the eight bytes that lie there), `axvm.seconds=N` (how long `victim` waits, and `edu-dma-hold-core`),
//! `axvm.functions=N` (how many PCI functions the VM has), `axvm.device=ID` (a neighbour's at the ITS),
//! `axvm.line=INTID` (of its PCI function), `axvm.clock=ADDRESS` and `axvm.clock-line=INTID` (of a PL031 given as a raw
//! region), `axvm.pins=ADDRESS` and `axvm.pins-line=INTID` (of a PL061's registers from GPIODIR on),
//! `axvm.typed=N` (how many bytes are typed), `axvm.resets=N` (how often it resets itself), `axvm.rounds=N` (how long `counts` does, and a storm), `axvm.hole=ADDRESS` and `axvm.trapped-hole=ADDRESS` (registers that don't answer).
//!
//! On x86_64 `axvm.window=ADDRESS` is where BARs may be. There `edu` keeps the count of starts, and no `axvm.clock` does.
//!
//! It touches no address that its device tree doesn't name or its command line doesn't ask for, and it never
//! gives `edu` an offset outside its internal buffer: that would corrupt QEMU, not test AxVM.
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod attacks;
mod carry;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

#[cfg(target_arch = "aarch64")]
use axvm_guest_runtime::registers;
use axvm_guest_runtime::{board, edu, machine, println, uart};

axvm_guest_runtime::entry!("ATTACK", attacks::run);
