//! What the identification registers say.

use axvm_iommu::Registers;

use crate::error::Error;
use crate::spec::registers::{idr0, idr1, idr5, output_bits};

/// What an SMMU can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Stage 2 translation (IDR0.S2P).
    pub stage2: bool,
    /// AArch64 translation tables (IDR0.TTF).
    pub aarch64_tables: bool,
    /// The size of output addresses in bits (IDR5.OAS).
    pub output_bits: u32,
    /// Tables, structures and queues are accessed coherently with the processors' caches (IDR0.COHACC).
    pub coherent: bool,
    /// VMIDs have 16 bits rather than 8 (IDR0.VMID16).
    pub vmid16: bool,
    /// Bits of a StreamID (IDR1.SIDSIZE).
    pub stream_bits: u32,
    /// Two-level stream tables (IDR0.ST_LEVEL).
    pub two_level: bool,
    /// log2 of the largest command queue (IDR1.CMDQS).
    pub command_queue_log2: u32,
    /// log2 of the largest event queue (IDR1.EVENTQS).
    pub event_queue_log2: u32,
    /// PCIe ATS (IDR0.ATS).
    pub ats: bool,
    /// EL2 stream worlds (IDR0.HYP).
    pub hyp: bool,
    /// The SMMU can signal by MSI (IDR0.MSI).
    pub msi: bool,
    little_endian: bool,
    granule_4k: bool,
    preset: bool,
    stall_forced: bool,
}

impl Features {
    /// Reads them. It changes nothing, and judges nothing.
    pub fn read(registers: &impl Registers) -> Self {
        let read = |offset| u64::from(registers.read32(offset));
        let (idr0, idr1, idr5) = (read(idr0::OFFSET), read(idr1::OFFSET), read(idr5::OFFSET));
        Self {
            stage2: idr0::S2P.is_set(idr0),
            aarch64_tables: idr0::TTF.get(idr0) & 0b10 != 0,
            output_bits: output_bits(idr5::OAS.get(idr5)),
            coherent: idr0::COHACC.is_set(idr0),
            vmid16: idr0::VMID16.is_set(idr0),
            stream_bits: (idr1::SIDSIZE.get(idr1) as u32).min(32),
            two_level: idr0::ST_LEVEL.get(idr0) != 0,
            command_queue_log2: (idr1::CMDQS.get(idr1) as u32).min(19),
            event_queue_log2: (idr1::EVENTQS.get(idr1) as u32).min(19),
            ats: idr0::ATS.is_set(idr0),
            hyp: idr0::HYP.is_set(idr0),
            msi: idr0::MSI.is_set(idr0),
            little_endian: idr0::TTENDIAN.get(idr0) != 3,
            granule_4k: idr5::GRAN4K.is_set(idr5),
            preset: idr1::TABLES_PRESET.is_set(idr1) || idr1::QUEUES_PRESET.is_set(idr1),
            stall_forced: idr0::STALL_MODEL.get(idr0) == 2,
        }
    }

    /// Whether this driver can serve the SMMU.
    ///
    /// # Errors
    ///
    /// The first feature that is missing.
    pub fn check(&self) -> Result<(), Error> {
        if !self.stage2 {
            Err(Error::NoStage2)
        } else if !self.aarch64_tables {
            Err(Error::NoAarch64Tables)
        } else if !self.little_endian {
            Err(Error::BigEndianOnly)
        } else if !self.granule_4k {
            Err(Error::No4KGranule)
        } else if self.stall_forced {
            Err(Error::StallForced)
        } else if self.preset {
            Err(Error::Preset)
        } else {
            Ok(())
        }
    }
}
