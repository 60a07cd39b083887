#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod id;
mod port;
mod window;

pub use address::{Address, Gpa, Hpa, Iova, Overflow, PAGE_SHIFT, PAGE_SIZE, Span};
pub use id::{
    CpuId, DmaSource, Interrupt, IommuId, Irq, MsiControllerId, MsiSource, PciAddress, SourceId, Trigger,
    VcpuId, VmId,
};
pub use port::Ports;
pub use window::{PciBuses, PciSpace, PciWindow};
