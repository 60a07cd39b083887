//! What a VM's GIC consists of.

use alloc::vec::Vec;

use axvm_addr::VcpuId;

use crate::id::{Intid, ItsDeviceId};
use crate::spec::list_register::LIST_REGISTERS_MAX;
use crate::spec::{AFFINITY_MASK, LPI_FIRST, PPI_FIRST, SPI_END, SPI_FIRST, Trigger};

/// The most vCPUs that one virtual GIC serves.
pub const VCPUS_MAX: usize = 256;

/// The most event id bits of a device: what MSI-X can use.
pub const EVENT_BITS_MAX: u32 = 11;

/// How the physical SPI behind a guest's line is held while the guest serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineDelivery {
    /// It stays active, and the list register has the hardware bit: the guest's end of interrupt deactivates
    /// it, with no exit. A VM that takes physical interrupts itself (HCR_EL2.IMO = 0) can end the active
    /// state of anyone's SPI: beside such a VM the line would come again and again while it is served.
    #[default]
    Hardware,
    /// It is disabled and its active state ended as soon as it is taken, the list register is a software
    /// one, and the guest's end of interrupt is an exit that enables it again. Nothing that anyone does to
    /// active states matters to it.
    MaskUntilEnd,
}

/// An SPI that exists for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineConfig {
    /// The guest's INTID.
    pub guest: Intid,
    /// The physical SPI that it stands for; `None` for the line of an emulated device. With direct delivery
    /// the former has the guest's number, and for the latter the physical SPI of the guest's number is made
    /// pending: one that no device has.
    pub host: Option<Intid>,
    /// Its trigger at reset.
    pub trigger: Trigger,
    /// How the physical one is held while the guest serves it. Nothing to a line without one.
    pub delivery: LineDelivery,
}

/// The virtual ITS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItsConfig {
    /// The devices of the VM that may send MSIs.
    pub devices: Vec<ItsDeviceId>,
    /// The number of event id bits of each device, 1 to [`EVENT_BITS_MAX`].
    pub event_bits: u32,
    /// The number of INTID bits, 14 to 24: LPIs are 8192 up to `1 << lpi_id_bits`.
    pub lpi_id_bits: u32,
    /// The hardware delivers them to the vCPUs (GICv4): an event is mapped to the virtual LPI of the guest's own number, and is
    /// in no list register. With [`VgicConfig::direct`] it means nothing.
    pub virtual_lpis: bool,
    /// Where the hardware delivers them, it can't be kept from that again: GICR_CTLR.EnableLPIs stays one once it is, which the
    /// architecture permits (IHI 0069, GICR_CTLR.CES).
    pub lpis_stay_enabled: bool,
}

/// Interrupts that reach the guest without the hypervisor.
///
/// The guest's processors take physical interrupts (HCR_EL2.IMO is zero) and see physical numbers. So every
/// private interrupt and line of the guest is the physical one of the same number, and the distributor and
/// the redistributors are a filter before the real ones: set-up is kept here and told to the backend, pending
/// and active states are the hardware's. List registers aren't used. Only group 1 is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The SGIs that don't exist for the guest, a bit each: the one by which the hypervisor calls a CPU, and those
    /// that the secure world keeps.
    pub reserved_sgis: u16,
}

/// A VM's virtual GIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VgicConfig {
    /// The affinity of each vCPU, in MPIDR_EL1's layout.
    pub vcpus: Vec<u64>,
    /// The number of SPI lines that the distributor says it has: a multiple of 32 up to 960.
    pub spis: u32,
    /// Those of them that exist. Registers of the others read as zero and ignore writes.
    pub lines: Vec<LineConfig>,
    /// The PPIs that stand for the CPU's own of the same INTID: the virtual timer's at least.
    pub hardware_ppis: Vec<Intid>,
    /// The number of list registers of the CPU: ICH_VTR_EL2.ListRegs + 1.
    pub list_registers: usize,
    /// The number of priority bits: ICH_VTR_EL2.PRIbits + 1, 4 to 8.
    pub priority_bits: u32,
    /// The virtual ITS, if there is one. Without it there are no LPIs.
    pub its: Option<ItsConfig>,
    /// Deliver without list registers.
    pub direct: Option<Direct>,
}

/// A configuration that contradicts itself or the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No vCPU, or more than [`VCPUS_MAX`].
    #[error("{0} vCPUs: a virtual GIC serves 1 to {VCPUS_MAX}")]
    VcpuCount(usize),
    /// Bits beyond the affinity fields.
    #[error("vCPU {0}: {1:#x} is not an affinity")]
    NotAnAffinity(VcpuId, u64),
    /// Two vCPUs of one affinity.
    #[error("vCPUs {0} and {1} have the same affinity")]
    SameAffinity(VcpuId, VcpuId),
    /// Not a multiple of 32 up to 960.
    #[error("{0} SPI lines: expected a multiple of 32 up to 960")]
    SpiCount(u32),
    /// An SPI outside the distributor's lines.
    #[error("INTID {0} is not an SPI of this distributor")]
    NotAnSpi(Intid),
    /// A physical line that is no SPI.
    #[error("physical INTID {host} of the guest's INTID {guest} is not an SPI")]
    NotAHostSpi {
        /// The guest's INTID.
        guest: Intid,
        /// The physical one.
        host: Intid,
    },
    /// One INTID for two lines.
    #[error("INTID {0} is given to two lines")]
    LineTwice(Intid),
    /// One physical SPI for two lines.
    #[error("physical INTID {0} is given to two lines")]
    HostTwice(Intid),
    /// A line delivered directly has the number of its physical SPI.
    #[error("INTID {guest} can't be delivered directly: its physical INTID is {host}")]
    NotTheSame {
        /// The guest's INTID.
        guest: Intid,
        /// The physical one.
        host: Intid,
    },
    /// A hardware PPI that isn't one.
    #[error("INTID {0} is not a PPI")]
    NotAPpi(Intid),
    /// Fewer than 2 list registers, or more than 16. With one, the underflow interrupt that asks for more
    /// would never go away. All known CPUs have at least 4.
    #[error("{0} list registers: expected 2 to 16")]
    ListRegisters(usize),
    /// Not 4 to 8 priority bits.
    #[error("{0} priority bits: expected 4 to 8")]
    PriorityBits(u32),
    /// Not 1 to [`EVENT_BITS_MAX`] event id bits.
    #[error("{0} event id bits: expected 1 to {EVENT_BITS_MAX}")]
    EventBits(u32),
    /// Not 14 to 24 INTID bits.
    #[error("{0} LPI INTID bits: expected 14 to 24")]
    LpiIdBits(u32),
    /// A device id twice.
    #[error("ITS device {0} is given twice")]
    DeviceTwice(ItsDeviceId),
}

impl VgicConfig {
    /// Whether the parts fit together.
    ///
    /// # Errors
    ///
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.vcpus.is_empty() || self.vcpus.len() > VCPUS_MAX {
            return Err(ConfigError::VcpuCount(self.vcpus.len()));
        }
        for (number, affinity) in (0u16..).zip(&self.vcpus) {
            if affinity & !AFFINITY_MASK != 0 {
                return Err(ConfigError::NotAnAffinity(VcpuId(number), *affinity));
            }
            if let Some((other, _)) = (0u16..).zip(&self.vcpus).find(|(o, a)| *o < number && *a == affinity) {
                return Err(ConfigError::SameAffinity(VcpuId(other), VcpuId(number)));
            }
        }
        if !self.spis.is_multiple_of(32) || self.spis > 960 {
            return Err(ConfigError::SpiCount(self.spis));
        }
        self.check_lines()?;
        if let Some(ppi) = self.hardware_ppis.iter().find(|p| !(PPI_FIRST..SPI_FIRST).contains(&p.0)) {
            return Err(ConfigError::NotAPpi(*ppi));
        }
        if self.list_registers < 2 || self.list_registers > LIST_REGISTERS_MAX {
            return Err(ConfigError::ListRegisters(self.list_registers));
        }
        if !(4..=8).contains(&self.priority_bits) {
            return Err(ConfigError::PriorityBits(self.priority_bits));
        }
        self.its.as_ref().map_or(Ok(()), ItsConfig::check)
    }

    fn check_lines(&self) -> Result<(), ConfigError> {
        for (position, line) in self.lines.iter().enumerate() {
            if !(SPI_FIRST..SPI_FIRST + self.spis).contains(&line.guest.0) {
                return Err(ConfigError::NotAnSpi(line.guest));
            }
            if let Some(host) = line.host
                && !(SPI_FIRST..SPI_END).contains(&host.0)
            {
                return Err(ConfigError::NotAHostSpi { guest: line.guest, host });
            }
            if let Some(host) = line.host.filter(|&host| self.direct.is_some() && host != line.guest) {
                return Err(ConfigError::NotTheSame { guest: line.guest, host });
            }
            for earlier in self.lines.iter().take(position) {
                if earlier.guest == line.guest {
                    return Err(ConfigError::LineTwice(line.guest));
                }
                if let (Some(a), Some(b)) = (earlier.host, line.host)
                    && a == b
                {
                    return Err(ConfigError::HostTwice(a));
                }
            }
        }
        Ok(())
    }

    /// Whether LPIs reach the guest from the hardware, under the guest's own numbers: physical or virtual ones.
    pub(crate) fn hardware_lpis(&self) -> bool {
        self.its.as_ref().is_some_and(|its| self.direct.is_some() || its.virtual_lpis)
    }

    /// Whether LPIs that are enabled can be disabled.
    pub(crate) fn lpis_can_be_disabled(&self) -> bool {
        !self.hardware_lpis() || self.its.as_ref().is_some_and(|its| !its.lpis_stay_enabled)
    }

    /// The number of INTID bits of the whole GIC.
    pub(crate) fn id_bits(&self) -> u32 {
        self.its.as_ref().map_or(10, |its| its.lpi_id_bits)
    }
}

impl ItsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if !(1..=EVENT_BITS_MAX).contains(&self.event_bits) {
            return Err(ConfigError::EventBits(self.event_bits));
        }
        if 1 << self.lpi_id_bits.min(31) <= LPI_FIRST || self.lpi_id_bits > 24 {
            return Err(ConfigError::LpiIdBits(self.lpi_id_bits));
        }
        for (position, device) in self.devices.iter().enumerate() {
            if self.devices.iter().take(position).any(|d| d == device) {
                return Err(ConfigError::DeviceTwice(*device));
            }
        }
        Ok(())
    }

    /// The number of device id bits: what the largest assigned id needs, so that the guest's table is small.
    pub(crate) fn device_bits(&self) -> u32 {
        let largest = self.devices.iter().map(|d| d.0).max().unwrap_or(0);
        (u32::BITS - largest.leading_zeros()).max(1)
    }
}
