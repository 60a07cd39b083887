//! What whoever carries out a plan can't go beyond, as data for the planner.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What one ITS can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItsLimits {
    /// Bits of a device id, of those that its table has entries for.
    pub device_bits: u8,
    /// Bits of an event id (GITS_TYPER.ID_bits + 1, Arm IHI 0069, 12.19.9).
    pub event_bits: u8,
}

/// The limits of a host. A host that runs fills them in from its hardware ([`Platform`](crate::model::Platform) then says what it
/// found); on a desk they are [`Limits::default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// VMs at a time: each has a tag for its translations, and 0 is nobody's (VTCR_EL2.VS=0, and SMMUs without VMID16).
    pub vms: u16,
    /// vCPUs that a virtual interrupt controller serves.
    pub vcpus: u16,
    /// List registers of a CPU.
    pub list_registers: u8,
    /// Lines have INTIDs below this: those of the GIC (GICD_TYPER.ITLinesNumber), and of a virtual one.
    pub lines: u16,
    /// Physical LPIs of the host's own choice, for MSIs that it injects.
    pub lpis: u32,
    /// LPIs under the guest's own numbers, for a VM whose MSIs the hardware delivers.
    pub guest_lpis: u32,
    /// Bytes for tables: second stages, DMA maps, stream tables, event tables.
    pub table_bytes: u64,
    /// Of each SMMU, by position: bits of a stream id that can be given to a VM. Where one is missing, it isn't known.
    pub stream_bits: Vec<u8>,
    /// Of each ITS, by position. Where one is missing, it isn't known.
    pub its: Vec<ItsLimits>,
}

impl Default for Limits {
    /// What the bare-metal host has on a machine that lacks nothing. Of SMMUs and ITSs nothing is known: their registers say it.
    fn default() -> Self {
        Self {
            vms: 255,
            vcpus: 256,
            list_registers: 4,
            lines: 992,
            lpis: 16_384,
            guest_lpis: 8_192,
            table_bytes: 5 << 20,
            stream_bits: Vec::new(),
            its: Vec::new(),
        }
    }
}
