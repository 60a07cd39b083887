//! What a VM is configured with, in the vocabulary of the AxVM family.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{CpuId, Gpa, Hpa, Irq};
use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// The attributes of a mapping in a VM's address space.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MappingFlags: u8 {
        /// The guest may read.
        const READ = 1 << 0;
        /// The guest may write.
        const WRITE = 1 << 1;
        /// The guest may execute.
        const EXECUTE = 1 << 2;
        /// The guest's user mode may access, where the guest's own tables say so (second stages that tell).
        const USER = 1 << 3;
        /// Registers: no caching, no speculation.
        const DEVICE = 1 << 4;
        /// Memory that is not cached (prefetchable BARs).
        const UNCACHED = 1 << 5;
    }
}

/// How interrupts reach a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VMInterruptMode {
    /// No device interrupt is delivered; console and timer remain.
    NoIrq,
    /// The hypervisor takes them and injects.
    #[default]
    Emulated,
    /// They reach the guest without the hypervisor.
    Passthrough,
}

impl VMInterruptMode {
    /// Its name in the system file and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoIrq => "none",
            Self::Emulated => "emulated",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A raw region of a passthrough device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassThroughDeviceConfig {
    /// Its name.
    pub name: String,
    /// Where the guest sees it.
    pub base_gpa: Gpa,
    /// Where it is.
    pub base_hpa: Hpa,
    /// Bytes.
    pub length: u64,
    /// Its line, if it has one.
    pub irq: Option<Irq>,
}

/// What a VM is built from: the part of the plan that the core itself carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AxVMConfig {
    /// The VM's name.
    pub name: String,
    /// The physical CPU of each vCPU.
    pub cpus: Vec<CpuId>,
    /// How interrupts reach it.
    pub interrupt_mode: VMInterruptMode,
    /// Regions of passthrough devices.
    pub pass_through_devices: Vec<PassThroughDeviceConfig>,
}
