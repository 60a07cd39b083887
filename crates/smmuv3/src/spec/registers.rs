//! Registers (6.3), the non-secure programming interface: offsets from the SMMU's base, and fields.

use super::Field;

/// Bytes of an SMMU's registers: pages 0 and 1 of 64 KiB each (6.1).
pub const REGISTER_BYTES: u64 = 0x2_0000;

/// SMMU_IDR0 (6.3.1): features.
pub mod idr0 {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x0;
    /// Stage 2 translation.
    pub const S2P: Field = Field::bit(0);
    /// Stage 1 translation.
    pub const S1P: Field = Field::bit(1);
    /// Translation table formats: bit 0 AArch32, bit 1 AArch64.
    pub const TTF: Field = Field::new(3, 2);
    /// Coherent access to translations, structures and queues.
    pub const COHACC: Field = Field::bit(4);
    /// Broadcast TLB maintenance.
    pub const BTM: Field = Field::bit(5);
    /// EL2 stream worlds.
    pub const HYP: Field = Field::bit(9);
    /// PCIe ATS.
    pub const ATS: Field = Field::bit(10);
    /// Message signalled interrupts of the SMMU's own.
    pub const MSI: Field = Field::bit(13);
    /// PCIe page requests.
    pub const PRI: Field = Field::bit(16);
    /// VMIDs of 16 bits.
    pub const VMID16: Field = Field::bit(18);
    /// Endianness of translation table walks: 0 both, 2 little, 3 big.
    pub const TTENDIAN: Field = Field::new(22, 21);
    /// Stalling faults: 0 possible, 1 never, 2 always.
    pub const STALL_MODEL: Field = Field::new(25, 24);
    /// Stream table levels: 0 linear, 1 two-level as well.
    pub const ST_LEVEL: Field = Field::new(28, 27);
}

/// SMMU_IDR1 (6.3.2): sizes.
pub mod idr1 {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x4;
    /// Bits of a StreamID.
    pub const SIDSIZE: Field = Field::new(5, 0);
    /// log2 of the largest event queue.
    pub const EVENTQS: Field = Field::new(20, 16);
    /// log2 of the largest command queue.
    pub const CMDQS: Field = Field::new(25, 21);
    /// The queues' base addresses are fixed.
    pub const QUEUES_PRESET: Field = Field::bit(29);
    /// The stream table's base address is fixed.
    pub const TABLES_PRESET: Field = Field::bit(30);
}

/// SMMU_IDR5 (6.3.6): addresses.
pub mod idr5 {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x14;
    /// Output address size: 0 to 6 for 32, 36, 40, 42, 44, 48 and 52 bits.
    pub const OAS: Field = Field::new(2, 0);
    /// The 4 KiB granule.
    pub const GRAN4K: Field = Field::bit(4);
}

/// SMMU_CR0 (6.3.9) and SMMU_CR0ACK (6.3.10): what is enabled.
pub mod cr0 {
    use super::Field;
    /// Offset of SMMU_CR0.
    pub const OFFSET: usize = 0x20;
    /// Offset of SMMU_CR0ACK, which follows SMMU_CR0 once a change has taken effect.
    pub const ACK_OFFSET: usize = 0x24;
    /// Translation.
    pub const SMMUEN: Field = Field::bit(0);
    /// Page request queue.
    pub const PRIQEN: Field = Field::bit(1);
    /// Event queue.
    pub const EVENTQEN: Field = Field::bit(2);
    /// Command queue.
    pub const CMDQEN: Field = Field::bit(3);
    /// ATS Translated transactions are checked against the stream table. Clear, they would pass unchecked.
    pub const ATSCHK: Field = Field::bit(4);
}

/// SMMU_CR1 (6.3.11): how queues and tables are accessed.
pub mod cr1 {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x28;
    /// Queues: inner cacheability, 1 write-back.
    pub const QUEUE_IC: Field = Field::new(1, 0);
    /// Queues: outer cacheability.
    pub const QUEUE_OC: Field = Field::new(3, 2);
    /// Queues: shareability, 2 outer, 3 inner.
    pub const QUEUE_SH: Field = Field::new(5, 4);
    /// Tables: inner cacheability.
    pub const TABLE_IC: Field = Field::new(7, 6);
    /// Tables: outer cacheability.
    pub const TABLE_OC: Field = Field::new(9, 8);
    /// Tables: shareability.
    pub const TABLE_SH: Field = Field::new(11, 10);
}

/// SMMU_CR2 (6.3.12): behaviour.
pub mod cr2 {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x2c;
    /// A transaction with a StreamID out of range is recorded (C_BAD_STREAMID).
    pub const RECINVSID: Field = Field::bit(1);
    /// Private TLB maintenance: the processors' broadcast invalidations don't act here.
    pub const PTM: Field = Field::bit(2);
}

/// SMMU_GBPA (6.3.14): what happens to transactions while SMMU_CR0.SMMUEN is 0.
pub mod gbpa {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x44;
    /// All of them abort.
    pub const ABORT: Field = Field::bit(20);
    /// Written 1 with a change; reads 0 when the change has taken effect.
    pub const UPDATE: Field = Field::bit(31);
}

/// SMMU_IRQ_CTRL (6.3.16) and SMMU_IRQ_CTRLACK (6.3.17): which interrupts are enabled.
pub mod irq_ctrl {
    use super::Field;
    /// Offset of SMMU_IRQ_CTRL.
    pub const OFFSET: usize = 0x50;
    /// Offset of SMMU_IRQ_CTRLACK.
    pub const ACK_OFFSET: usize = 0x54;
    /// Global errors.
    pub const GERROR_IRQEN: Field = Field::bit(0);
    /// Event queue.
    pub const EVENTQ_IRQEN: Field = Field::bit(2);
}

/// SMMU_GERROR (6.3.18) and SMMU_GERRORN (6.3.19): an error is active while its bits in both differ.
pub mod gerror {
    use super::Field;
    /// Offset of SMMU_GERROR.
    pub const OFFSET: usize = 0x60;
    /// Offset of SMMU_GERRORN.
    pub const ACK_OFFSET: usize = 0x64;
    /// Offset of SMMU_GERROR_IRQ_CFG0 (6.3.20): where its MSI is written; 0: none.
    pub const IRQ_CFG0_OFFSET: usize = 0x68;
    /// The command queue has stopped at a command.
    pub const CMDQ_ERR: Field = Field::bit(0);
    /// An event could not be recorded.
    pub const EVENTQ_ABT_ERR: Field = Field::bit(2);
    /// A page request could not be recorded.
    pub const PRIQ_ABT_ERR: Field = Field::bit(3);
    /// A command's MSI aborted.
    pub const MSI_CMDQ_ABT_ERR: Field = Field::bit(4);
    /// The event queue's MSI aborted.
    pub const MSI_EVENTQ_ABT_ERR: Field = Field::bit(5);
    /// The page request queue's MSI aborted.
    pub const MSI_PRIQ_ABT_ERR: Field = Field::bit(6);
    /// The global error's MSI aborted.
    pub const MSI_GERROR_ABT_ERR: Field = Field::bit(7);
    /// The SMMU has entered service failure mode: all transactions abort until reset.
    pub const SFM_ERR: Field = Field::bit(8);
}

/// SMMU_STRTAB_BASE (6.3.23).
pub mod strtab_base {
    use super::Field;
    /// Offset, 64 bits.
    pub const OFFSET: usize = 0x80;
    /// Bits 51:6 of the table's address, in place.
    pub const ADDR: Field = Field::new(51, 6);
    /// Read-allocate hint.
    pub const RA: Field = Field::bit(62);
}

/// SMMU_STRTAB_BASE_CFG (6.3.24).
pub mod strtab_base_cfg {
    use super::Field;
    /// Offset.
    pub const OFFSET: usize = 0x88;
    /// Bits of StreamID that the table serves; higher StreamIDs are out of range.
    pub const LOG2SIZE: Field = Field::new(5, 0);
    /// Bits of StreamID that a second-level table resolves: 6, 8 or 10.
    pub const SPLIT: Field = Field::new(10, 6);
    /// 0 linear, 1 two-level.
    pub const FMT: Field = Field::new(17, 16);
}

/// SMMU_CMDQ_BASE, _PROD and _CONS (6.3.25 to 6.3.27).
pub mod cmdq {
    use super::Field;
    /// Offset of the base, 64 bits.
    pub const BASE_OFFSET: usize = 0x90;
    /// Offset of the producer index, which software moves.
    pub const PROD_OFFSET: usize = 0x98;
    /// Offset of the consumer index, which the SMMU moves.
    pub const CONS_OFFSET: usize = 0x9c;
    /// Why consumption has stopped.
    pub const CONS_ERR: Field = Field::new(30, 24);
}

/// SMMU_EVENTQ_BASE, _PROD and _CONS (6.3.28 to 6.3.30).
pub mod eventq {
    use super::Field;
    /// Offset of the base, 64 bits.
    pub const BASE_OFFSET: usize = 0xa0;
    /// Offset of the producer index, in register page 1.
    pub const PROD_OFFSET: usize = 0x100a8;
    /// Offset of the consumer index, in register page 1.
    pub const CONS_OFFSET: usize = 0x100ac;
    /// Offset of SMMU_EVENTQ_IRQ_CFG0 (6.3.31): where its MSI is written; 0: none.
    pub const IRQ_CFG0_OFFSET: usize = 0xb0;
    /// In PROD: toggled when events were lost; in CONS: software's acknowledgement, the same value.
    pub const OVERFLOW: Field = Field::bit(31);
}

/// What both queues' base registers have (6.3.25, 6.3.28).
pub mod queue_base {
    use super::Field;
    /// log2 of the number of entries.
    pub const LOG2SIZE: Field = Field::new(4, 0);
    /// Bits 51:5 of the queue's address, in place.
    pub const ADDR: Field = Field::new(51, 5);
    /// Allocation hint.
    pub const ALLOCATE: Field = Field::bit(62);
    /// The index in a PROD or CONS register, its wrap bit included.
    pub const INDEX: Field = Field::new(19, 0);
}

/// The size in bits that an `OAS` encoding stands for; encodings yet to be defined are taken as 52.
pub const fn output_bits(oas: u64) -> u32 {
    match oas {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}

/// The encoding of the largest size that isn't above `bits`, as in `OAS` and a stream table entry's `S2PS`. Never
/// above 48 bits, which is all that tables of the 4 KiB granule hold. `None` below 32.
pub const fn output_size_field(bits: u32) -> Option<u64> {
    let mut field = 5;
    while output_bits(field) > bits {
        if field == 0 {
            return None;
        }
        field -= 1;
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identification_fields_lie_where_a_known_implementation_has_them() {
        // Read from QEMU 10.0's virt board.
        let value = 0x0d44_101b;
        assert!(idr0::S2P.is_set(value) && idr0::S1P.is_set(value) && idr0::COHACC.is_set(value));
        assert_eq!(idr0::TTF.get(value), 2);
        assert!(idr0::VMID16.is_set(value) && !idr0::HYP.is_set(value) && !idr0::BTM.is_set(value));
        assert!(!idr0::ATS.is_set(value) && !idr0::PRI.is_set(value) && !idr0::MSI.is_set(value));
        assert_eq!((idr0::TTENDIAN.get(value), idr0::ST_LEVEL.get(value)), (2, 1));
        assert_eq!(idr0::STALL_MODEL.get(value), 1);
        let sizes = 19 << 21 | 19 << 16 | 16;
        assert_eq!(
            (idr1::SIDSIZE.get(sizes), idr1::EVENTQS.get(sizes), idr1::CMDQS.get(sizes)),
            (16, 19, 19)
        );
        assert_eq!(output_bits(idr5::OAS.get(0x74)), 44);
        assert!(idr5::GRAN4K.is_set(0x74));
    }

    #[test]
    fn control_fields_have_the_bits_of_the_manual() {
        // 6.3.9, 6.3.11, 6.3.12, 6.3.14.
        let enable = cr0::SMMUEN.mask() | cr0::EVENTQEN.mask() | cr0::CMDQEN.mask() | cr0::ATSCHK.mask();
        assert_eq!(enable, 0b11101);
        let inner_write_back = cr1::QUEUE_IC.put(1)
            | cr1::QUEUE_OC.put(1)
            | cr1::QUEUE_SH.put(3)
            | cr1::TABLE_IC.put(1)
            | cr1::TABLE_OC.put(1)
            | cr1::TABLE_SH.put(3);
        assert_eq!(inner_write_back, 0b1101_0111_0101);
        assert_eq!(cr2::RECINVSID.mask() | cr2::PTM.mask(), 0b110);
        assert_eq!(gbpa::ABORT.mask() | gbpa::UPDATE.mask(), 0x8010_0000);
        assert_eq!(irq_ctrl::GERROR_IRQEN.mask() | irq_ctrl::EVENTQ_IRQEN.mask(), 0b101);
    }

    #[test]
    fn an_output_size_is_rounded_down_to_one_that_can_be_said() {
        for (bits, field) in [(32, 0), (35, 0), (36, 1), (40, 2), (42, 3), (44, 4), (47, 4), (48, 5), (52, 5)]
        {
            assert_eq!(output_size_field(bits), Some(field), "{bits}");
        }
        assert_eq!(output_size_field(31), None);
    }

    #[test]
    fn table_and_queue_bases_hold_addresses_in_place() {
        // 6.3.23 to 6.3.25.
        assert_eq!(strtab_base::ADDR.mask(), 0x000f_ffff_ffff_ffc0);
        let config =
            strtab_base_cfg::FMT.put(1) | strtab_base_cfg::SPLIT.put(8) | strtab_base_cfg::LOG2SIZE.put(16);
        assert_eq!(config, 0x1_0210);
        assert_eq!(queue_base::ADDR.mask(), 0x000f_ffff_ffff_ffe0);
        assert_eq!(cmdq::CONS_ERR.get(0x0200_0005), 2);
        assert_eq!(queue_base::INDEX.get(0x8000_0005), 5);
    }
}
