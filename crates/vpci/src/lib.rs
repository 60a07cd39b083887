#![doc = include_str!("../README.md")]
//!
//! # What a guest reads and writes
//!
//! | part | what the guest reads | what the guest may write |
//! |---|---|---|
//! | command | what it wrote | memory and I/O decode, bus mastering (if the backend agrees), INTx disable |
//! | status | the function's | ones, to clear the error bits |
//! | cache line, latency | the function's | all |
//! | interrupt line | what it wrote | all; the function's own is left alone |
//! | BARs | what it wrote, at least a page in size | all; moves the mapping, never the hardware |
//! | I/O BARs | what it wrote | all; moves its ports, never the hardware's. Zero and nothing where the host gives no ports |
//! | ROM, BIST, CardBus pointer | zero | nothing |
//! | power management | the function's, without PME and D1, D2 | D0 and D3hot; a one, to clear PME status |
//! | MSI, MSI-X | the function's, or what it wrote | address, data, masks, enable, how many vectors: the function's own, or the bridge's ([`Messages`]) |
//! | Express, device control | the function's | relaxed ordering, no snoop, read request size, FLR |
//! | Express, link control | the function's | zeros, to turn ASPM and clock power management off |
//! | Express, device control 2 | the function's | completion timeout |
//! | Express, the rest | the function's | ones, to clear the error bits of device status |
//! | vendor specific (both lists), serial number | the function's | nothing |
//! | every other capability, known or not | nothing: it isn't in the list | nothing |
//! | every other byte | zero in the capability area, else the function's | nothing |
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
mod messages;
mod ports;
mod rules;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BarPart, BarPorts, Messages, MsiMessage, Refused};
pub use bridge::{AssignedFunction, BridgeConfig, BridgeError, HostBridge};
pub use ports::{ConfigPorts, IoWindow};
