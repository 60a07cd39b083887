//! The virtual PCI host bridge: what a guest sees of PCI.
//!
//! A guest sees an ECAM region (PCIe 7.2.2) in which its own functions answer, at the addresses that they
//! have in the machine, and nobody else. It is their owner, but not of everything in their config space:
//! [`HostBridge`] says which reads pass and which writes.
//!
//! | part | what the guest reads | what the guest may write |
//! |---|---|---|
//! | command | what it wrote | memory decode, bus mastering (if the backend agrees), INTx disable |
//! | status | the function's | ones, to clear the error bits |
//! | cache line, latency | the function's | all |
//! | interrupt line | what it wrote | all; the function's own is left alone |
//! | BARs | what it wrote, at least a page in size | all; moves the mapping, never the hardware |
//! | I/O BARs, ROM, BIST, CardBus pointer | zero | nothing |
//! | power management | the function's, without PME and D1, D2 | D0 and D3hot; a one, to clear PME status |
//! | MSI, MSI-X | the function's | address, data, masks, enable, how many vectors |
//! | Express, device control | the function's | relaxed ordering, no snoop, read request size, FLR |
//! | Express, link control | the function's | zeros, to turn ASPM and clock power management off |
//! | Express, device control 2 | the function's | completion timeout |
//! | Express, the rest | the function's | ones, to clear the error bits of device status |
//! | vendor specific (both lists), serial number | the function's | nothing |
//! | every other capability, known or not | nothing: it isn't in the list | nothing |
//! | every other byte | zero in the capability area, else the function's | nothing |
//!
//! What isn't known is hidden, not shown read-only: a driver that finds a capability takes its writes to have
//! worked.
//!
//! While memory decode is off, in D3hot and in reset the BARs are not in the guest's second stage. The fault
//! path asks [`HostBridge::claims`]: what it claims reads as all ones and ignores writes, as a PCI bus does
//! where nobody answers.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod backend;
mod bars;
mod bridge;
mod function;
mod layout;
mod rules;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Refused};
pub use bridge::{AssignedFunction, BridgeConfig, BridgeError, HostBridge, Window};
