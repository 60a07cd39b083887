//! Newtypes for the addresses and identifiers that a hypervisor must not mix up.
//!
//! A bare integer is never an address here: a guest-physical address ([`Gpa`]), a host-physical address
//! ([`Hpa`]) and an I/O virtual address ([`Iova`]) are different types, and so are the ids of VMs, CPUs, DMA
//! streams and interrupts.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod id;

pub use address::{Address, Gpa, Hpa, Iova, Overflow, PAGE_SHIFT, PAGE_SIZE, Span};
pub use id::{CpuId, Intid, ItsDeviceId, ItsEventId, PciAddress, StreamId, VcpuId, VmId};
