//! Registers (3.4): offsets from the IOMMU's base, and fields. All are of 64 bits.

use bitfield_struct::bitfield;

/// Bytes of the register block as far as the driver uses it (3.4): all that lies before the performance counters.
pub const REGISTER_BYTES: u64 = 0x4000;

/// Offsets (3.4).
pub mod offset {
    /// Device Table Base Address Register (3.4.1).
    pub const DEVICE_TABLE: usize = 0x0000;
    /// Command Buffer Base Address Register (3.4.2).
    pub const COMMAND_BASE: usize = 0x0008;
    /// Event Log Base Address Register (3.4.3).
    pub const EVENT_BASE: usize = 0x0010;
    /// IOMMU Control Register (3.4.4).
    pub const CONTROL: usize = 0x0018;
    /// IOMMU Exclusion Base Register (3.4.5).
    pub const EXCLUSION_BASE: usize = 0x0020;
    /// IOMMU Exclusion Range Limit Register (3.4.6).
    pub const EXCLUSION_LIMIT: usize = 0x0028;
    /// IOMMU Extended Feature Register (3.4.7).
    pub const FEATURES: usize = 0x0030;
    /// Command Buffer Head Pointer Register (3.4.13).
    pub const COMMAND_HEAD: usize = 0x2000;
    /// Command Buffer Tail Pointer Register (3.4.14).
    pub const COMMAND_TAIL: usize = 0x2008;
    /// Event Log Head Pointer Register (3.4.15).
    pub const EVENT_HEAD: usize = 0x2010;
    /// Event Log Tail Pointer Register (3.4.16).
    pub const EVENT_TAIL: usize = 0x2018;
    /// IOMMU Status Register (3.4.17).
    pub const STATUS: usize = 0x2020;
}

/// Device Table Base Address Register (3.4.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTableBase {
    /// The table's size in units of 4 KiB, less one.
    #[bits(9)]
    pub size: u16,
    #[bits(3)]
    __: u8,
    /// Bits 51:12 of its address.
    #[bits(40)]
    pub base: u64,
    #[bits(12)]
    __: u16,
}

/// Command Buffer Base Address Register and Event Log Base Address Register (3.4.2, 3.4.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RingBase {
    #[bits(12)]
    __: u16,
    /// Bits 51:12 of its address.
    #[bits(40)]
    pub base: u64,
    #[bits(4)]
    __: u8,
    /// log2 of its entries, of 16 bytes each: 8 to 15.
    #[bits(4)]
    pub length: u8,
    #[bits(4)]
    __: u8,
}

/// IOMMU Control Register (3.4.4), as far as it is used.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// IommuEn: requests are translated and checked. Clear, they pass.
    pub enabled: bool,
    /// HtTunEn, as the IVHD says.
    pub ht_tunnel: bool,
    /// EventLogEn.
    pub event_log: bool,
    /// EventIntEn: an MSI of the IOMMU's own when an event is recorded.
    pub event_interrupt: bool,
    /// ComWaitIntEn.
    pub completion_interrupt: bool,
    /// InvTimeOut: how long an invalidation of a device's own cache may take.
    #[bits(3)]
    pub invalidation_timeout: u8,
    /// PassPW, as the IVHD says.
    pub pass_posted_writes: bool,
    /// ResPassPW, as the IVHD says.
    pub responses_pass_posted_writes: bool,
    /// Coherent: reads of the device table are snooped.
    pub coherent: bool,
    /// Isoc, as the IVHD says.
    pub isochronous: bool,
    /// CmdBufEn.
    pub commands: bool,
    /// PPRLogEn, PprIntEn, PPREn: page requests.
    #[bits(3)]
    pub page_requests: u8,
    /// GTEn: guest translation.
    pub guest_translation: bool,
    /// GAEn: interrupt table entries have 128 bits.
    pub wide_interrupts: bool,
    #[bits(32)]
    __: u32,
    /// XTEn: destinations of 32 bits.
    pub x2apic: bool,
    #[bits(13)]
    __: u16,
}

/// IOMMU Extended Feature Register (3.4.7), as far as it is used.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedFeatures {
    /// PreFSup.
    pub prefetch: bool,
    /// PPRSup.
    pub page_requests: bool,
    /// XTSup.
    pub x2apic: bool,
    /// NXSup.
    pub no_execute: bool,
    /// GTSup.
    pub guest_translation: bool,
    __: bool,
    /// IASup: INVALIDATE_IOMMU_ALL.
    pub invalidate_all: bool,
    /// GASup: interrupt table entries of 128 bits.
    pub wide_interrupts: bool,
    /// HESup.
    pub hardware_errors: bool,
    /// PCSup.
    pub counters: bool,
    /// HATS: levels of the page tables, less four; 3 is reserved.
    #[bits(2)]
    pub levels: u8,
    #[bits(52)]
    __: u64,
}

/// IOMMU Status Register (3.4.17), as far as it is used. Bits of interrupts and overflows are cleared by writing a one.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// EventOverflow: the event log was full; it records nothing more until it is started anew.
    pub event_overflow: bool,
    /// EventLogInt: an event was recorded.
    pub event_interrupt: bool,
    /// ComWaitInt.
    pub completion_interrupt: bool,
    /// EventLogRun.
    pub event_log_runs: bool,
    /// CmdBufRun: commands are fetched. It clears at an illegal one.
    pub commands_run: bool,
    #[bits(59)]
    __: u64,
}

/// A head or tail pointer's offset in its ring (3.4.13 to 3.4.16).
pub const POINTER_MASK: u64 = 0x7_fff0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        let table = DeviceTableBase::new().with_size(511).with_base(0x1234_5000 >> 12);
        assert_eq!(u64::from(table), 0x1234_51ff, "3.4.1");
        let ring = RingBase::new().with_base(0xf_ffff_ffff_f000 >> 12).with_length(8);
        assert_eq!(u64::from(ring), 0x080f_ffff_ffff_f000, "3.4.2");
        let control = Control::new().with_enabled(true).with_event_log(true).with_event_interrupt(true);
        assert_eq!(u64::from(control), 0b1101, "3.4.4");
        assert_eq!(u64::from(Control::new().with_coherent(true)), 1 << 10);
        assert_eq!(u64::from(Control::new().with_commands(true)), 1 << 12);
        assert_eq!(u64::from(Control::new().with_page_requests(7)), 7 << 13);
        assert_eq!(u64::from(Control::new().with_guest_translation(true)), 1 << 16);
        assert_eq!(u64::from(Control::new().with_wide_interrupts(true)), 1 << 17);
        assert_eq!(u64::from(Control::new().with_x2apic(true)), 1 << 50);
        assert_eq!(u64::from(Control::new().with_isochronous(true)), 1 << 11);
        // As QEMU's has it: prefetch, page requests, guest translation, all, GA, HE, 6 levels.
        let features = ExtendedFeatures::from(0x29d3);
        assert!(features.invalidate_all() && features.wide_interrupts() && !features.x2apic(), "3.4.7");
        assert_eq!(features.levels(), 2);
        assert!(ExtendedFeatures::from(0x29d7).x2apic());
        let status = Status::from(0b1_1001);
        assert!(status.event_overflow() && status.event_log_runs() && status.commands_run(), "3.4.17");
    }
}
