//! Registers (11.4): offsets from the unit's base, and fields.

use bitfield_struct::bitfield;

/// Bytes of the register block that always are there (11.4). Where fault records are the Capability Register says.
pub const REGISTER_BYTES: u64 = 0x1000;

/// Offsets (11.4).
pub mod offset {
    /// Capability Register (11.4.2), 64 bits.
    pub const CAPABILITY: usize = 0x08;
    /// Extended Capability Register (11.4.3), 64 bits.
    pub const EXTENDED: usize = 0x10;
    /// Global Command Register (11.4.4.1), 32 bits.
    pub const COMMAND: usize = 0x18;
    /// Global Status Register (11.4.4.2), 32 bits.
    pub const STATUS: usize = 0x1c;
    /// Root Table Address Register (11.4.5), 64 bits.
    pub const ROOT_TABLE: usize = 0x20;
    /// Fault Status Register (11.4.7.1), 32 bits.
    pub const FAULT_STATUS: usize = 0x34;
    /// Fault Event Control Register (11.4.7.2), 32 bits.
    pub const FAULT_CONTROL: usize = 0x38;
    /// Fault Event Data Register (11.4.7.3), 32 bits.
    pub const FAULT_DATA: usize = 0x3c;
    /// Fault Event Address Register (11.4.7.4), 32 bits.
    pub const FAULT_ADDRESS: usize = 0x40;
    /// Fault Event Upper Address Register (11.4.7.5), 32 bits.
    pub const FAULT_UPPER_ADDRESS: usize = 0x44;
    /// Protected Memory Enable Register (11.4.8.1), 32 bits.
    pub const PROTECTED: usize = 0x64;
    /// Invalidation Queue Head Register (11.4.9.1), 64 bits.
    pub const QUEUE_HEAD: usize = 0x80;
    /// Invalidation Queue Tail Register (11.4.9.2), 64 bits.
    pub const QUEUE_TAIL: usize = 0x88;
    /// Invalidation Queue Address Register (11.4.9.3), 64 bits.
    pub const QUEUE_ADDRESS: usize = 0x90;
    /// Interrupt Remapping Table Address Register (11.4.10), 64 bits.
    pub const INTERRUPT_TABLE: usize = 0xb8;
}

/// Capability Register (11.4.2), as far as it is used.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: 4 and twice this are the bits of a domain id.
    #[bits(3)]
    pub domains: u8,
    __: bool,
    /// RWBF: buffers of writes have to be flushed before an invalidation.
    pub write_buffer: bool,
    #[bits(2)]
    __: u8,
    /// CM: also what isn't present is cached.
    pub caching_mode: bool,
    /// SAGAW: bit 1 three levels (39 bits), bit 2 four (48), bit 3 five (57).
    #[bits(5)]
    pub widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW: the bits of the largest address, less one.
    #[bits(6)]
    pub most_bits: u8,
    #[bits(2)]
    __: u8,
    /// FRO: where the fault records are, in units of 16 bytes.
    #[bits(10)]
    pub faults_at: u16,
    /// SSLPS: bit 0 blocks of 2 MiB, bit 1 of 1 GiB.
    #[bits(4)]
    pub blocks: u8,
    __: bool,
    /// PSI: single pages can be invalidated.
    pub pages: bool,
    /// NFR: fault records, less one.
    pub faults: u8,
    /// MAMV: log2 of the pages that one invalidation takes at most.
    #[bits(6)]
    pub most_pages: u8,
    /// DWD.
    pub drains_writes: bool,
    /// DRD.
    pub drains_reads: bool,
    #[bits(8)]
    __: u8,
}

/// Extended Capability Register (11.4.3), as far as it is used.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Extended {
    /// C: its reads of tables are snooped.
    pub coherent: bool,
    /// QI.
    pub queue: bool,
    /// DT.
    pub device_cache: bool,
    /// IR.
    pub interrupts: bool,
    /// EIM: destinations of 32 bits.
    pub x2apic: bool,
    __: bool,
    /// PT: requests of a device can pass untranslated.
    pub pass_through: bool,
    /// SC: tables can have accesses snooped.
    pub snoop_control: bool,
    #[bits(56)]
    __: u64,
}

/// Global Command and Global Status (11.4.4). The pointers' bits are commands in the first, and say in the second that they are done.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Global {
    #[bits(23)]
    __: u32,
    /// CFI: MSIs of the old format pass.
    pub compatibility: bool,
    /// SIRTP: the interrupt table's address is taken over.
    pub interrupt_table: bool,
    /// IRE: interrupts are remapped.
    pub interrupts: bool,
    /// QIE: the invalidation queue.
    pub queue: bool,
    /// WBF: the write buffer is flushed.
    pub write_buffer: bool,
    #[bits(2)]
    __: u8,
    /// SRTP: the root table's address is taken over.
    pub root_table: bool,
    /// TE: requests are translated. Clear, they pass.
    pub translation: bool,
}

/// Root Table Address (11.4.5): legacy mode.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootTable {
    #[bits(10)]
    __: u16,
    /// TTM: 0 legacy mode.
    #[bits(2)]
    pub mode: u8,
    /// Its address, from bit 12 on.
    #[bits(52)]
    pub address: u64,
}

/// Invalidation Queue Address (11.4.9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueAddress {
    /// QS: log2 of its pages.
    #[bits(3)]
    pub pages: u8,
    __: u8,
    /// DW: descriptors of 256 bits.
    pub wide: bool,
    /// Its address, from bit 12 on.
    #[bits(52)]
    pub address: u64,
}

/// Interrupt Remapping Table Address (11.4.10).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptTable {
    /// S: log2 of its entries, less one.
    #[bits(4)]
    pub size: u8,
    #[bits(7)]
    __: u8,
    /// EIME: destinations have 32 bits.
    pub x2apic: bool,
    /// Its address, from bit 12 on.
    #[bits(52)]
    pub address: u64,
}

/// Fault Status (11.4.7.1). All but the index are cleared by writing a one, pending faults by their records.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStatus {
    /// PFO: a fault had no record.
    pub overflow: bool,
    /// PPF: there are records.
    pub pending: bool,
    #[bits(2)]
    __: u8,
    /// IQE: the queue has stopped at a descriptor.
    pub queue_error: bool,
    /// ICE: a device hasn't completed an invalidation.
    pub completion_error: bool,
    /// ITE: a device hasn't answered in time.
    pub timeout_error: bool,
    __: bool,
    /// FRI: the first record.
    pub first: u8,
    #[bits(16)]
    __: u16,
}

/// Fault Event Control (11.4.7.2): IM, the unit sends no interrupt of its own.
pub const FAULT_MASKED: u32 = 1 << 31;

/// Protected Memory Enable (11.4.8.1): EPM and PRS.
pub const PROTECTED_ENABLE: u32 = 1 << 31;
/// Its regions are protected.
pub const PROTECTED_STATUS: u32 = 1;

/// Where head and tail are in their registers (11.4.9.1).
pub const POINTER_MASK: u64 = 0x7_fff0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        // As QEMU 11's unit has them.
        let capability = Capability::from(0x00d2_008c_222f_0606);
        assert_eq!((capability.domains(), capability.widths(), capability.most_bits()), (6, 6, 47));
        assert_eq!((capability.faults_at(), capability.faults(), capability.blocks()), (0x22, 0, 3));
        assert!(capability.pages() && !capability.caching_mode() && !capability.write_buffer());
        assert_eq!(capability.most_pages(), 18);
        assert!(capability.drains_reads() && capability.drains_writes());
        let extended = Extended::from(0xf0_0f5a);
        assert!(!extended.coherent() && extended.queue() && extended.interrupts() && extended.x2apic());
        assert!(extended.pass_through() && !extended.snoop_control());
        assert_eq!(u64::from(Extended::new().with_snoop_control(true)), 1 << 7, "11.4.3");
        assert_eq!(u32::from(Global::new().with_translation(true).with_root_table(true)), 0xc000_0000);
        assert_eq!(u32::from(Global::new().with_write_buffer(true).with_queue(true)), 0x0c00_0000);
        assert_eq!(u32::from(Global::new().with_interrupts(true).with_interrupt_table(true)), 0x0300_0000);
        assert_eq!(u32::from(Global::new().with_compatibility(true)), 0x0080_0000);
        assert_eq!(u64::from(RootTable::new().with_address(0x12345)), 0x1234_5000);
        assert_eq!(u64::from(QueueAddress::new().with_pages(1).with_address(0x12345)), 0x1234_5001);
        let table = InterruptTable::new().with_size(15).with_x2apic(true).with_address(0x12345);
        assert_eq!(u64::from(table), 0x1234_580f);
        let status = FaultStatus::from(0x0313);
        assert!(status.overflow() && status.pending() && status.queue_error());
        assert_eq!(status.first(), 3);
    }
}
