//! Extended capabilities: ids, and the registers of those that the hypervisor keeps. Offsets are from their
//! start.

use bitflags::bitflags;

/// Advanced error reporting (PCIe 7.8.4).
pub const AER: u16 = 0x01;
/// Virtual channels (PCIe 7.9.1).
pub const VIRTUAL_CHANNEL: u16 = 0x02;
/// Device serial number (PCIe 7.9.3).
pub const SERIAL_NUMBER: u16 = 0x03;
/// Vendor specific (PCIe 7.9.5).
pub const VENDOR: u16 = 0x0b;
/// Access control services (PCIe 7.7.8).
pub const ACS: u16 = 0x0d;
/// Alternative routing id (PCIe 7.8.7).
pub const ARI: u16 = 0x0e;
/// Address translation services (PCIe 10.5.1).
pub const ATS: u16 = 0x0f;
/// Single-root I/O virtualization (PCIe 9.3.3).
pub const SRIOV: u16 = 0x10;
/// Multi-root I/O virtualization.
pub const MRIOV: u16 = 0x11;
/// Multicast (PCIe 7.9.11).
pub const MULTICAST: u16 = 0x12;
/// Page requests (PCIe 10.5.2).
pub const PRI: u16 = 0x13;
/// Resizable BARs (PCIe 7.8.6).
pub const RESIZABLE_BAR: u16 = 0x15;
/// Dynamic power allocation (PCIe 7.9.12).
pub const POWER_ALLOCATION: u16 = 0x16;
/// Latency tolerance reporting (PCIe 7.8.2).
pub const LATENCY_TOLERANCE: u16 = 0x18;
/// Secondary PCI Express (PCIe 7.7.3).
pub const SECONDARY_EXPRESS: u16 = 0x19;
/// Process address space ids (PCIe 7.8.8).
pub const PASID: u16 = 0x1b;
/// Downstream port containment (PCIe 7.9.15).
pub const CONTAINMENT: u16 = 0x1d;
/// L1 power substates (PCIe 7.8.3).
pub const L1_SUBSTATES: u16 = 0x1e;
/// Precision time measurement (PCIe 7.9.16).
pub const TIME_MEASUREMENT: u16 = 0x1f;

/// ACS capability, 16 bits (PCIe 7.7.8.2): which of the services in bits 6:0 of the control register there are, and
/// [`ACS_ENHANCED`]; bits 15:8 are the size of the egress control vector.
pub const ACS_CAPABILITY: u16 = 4;
/// ACS control, 16 bits (PCIe 7.7.8.3).
pub const ACS_CONTROL: u16 = 6;
/// The egress control vector, up to 256 bits (PCIe 7.7.8.4); in a multi-function device one bit for each function.
pub const ACS_EGRESS_VECTOR: u16 = 8;
/// In [`ACS_CAPABILITY`]: bits 12:7 of the control register are there.
pub const ACS_ENHANCED: u16 = 1 << 7;

bitflags! {
    /// What a port or a function of a multi-function device does with traffic between peers (PCIe 6.12.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Acs: u16 {
        /// Checks the requester id's bus number.
        const SOURCE_VALIDATION = 1 << 0;
        /// Blocks requests with a translated address.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Sends peer requests up.
        const REQUEST_REDIRECT = 1 << 2;
        /// Sends peer completions up.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Sends what comes up for the port's own egress up, not back down.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Egress control: a vector says which peers are barred, and opens the way to the others.
        const EGRESS_CONTROL = 1 << 5;
        /// Lets translated peer requests through, whatever the redirects say.
        const DIRECT_TRANSLATED = 1 << 6;
        /// Blocks I/O requests that come up.
        const IO_BLOCKING = 1 << 7;
        /// Blocks requests for registers of downstream ports.
        const PORT_TARGET_BLOCK = 1 << 8;
        /// Sends requests for registers of downstream ports up.
        const PORT_TARGET_REDIRECT = 1 << 9;
        /// Blocks requests for registers of the upstream port.
        const UPSTREAM_TARGET_BLOCK = 1 << 10;
        /// Sends requests for registers of the upstream port up.
        const UPSTREAM_TARGET_REDIRECT = 1 << 11;
        /// Sends requests up that fall into the upstream port's window and into no downstream port's.
        const UNCLAIMED_REDIRECT = 1 << 12;
    }
}

impl Acs {
    /// What makes a switch's port a boundary that nothing passes but through the root.
    pub const ISOLATION: Self = Self::SOURCE_VALIDATION
        .union(Self::REQUEST_REDIRECT)
        .union(Self::COMPLETION_REDIRECT)
        .union(Self::UPSTREAM_FORWARDING);
    /// What keeps a request from a peer.
    pub const REDIRECT: Self = Self::REQUEST_REDIRECT.union(Self::COMPLETION_REDIRECT);
    /// What is on where [`ACS_ENHANCED`] says that it is there.
    pub const ENHANCED: Self = Self::IO_BLOCKING
        .union(Self::PORT_TARGET_REDIRECT)
        .union(Self::UPSTREAM_TARGET_REDIRECT)
        .union(Self::UNCLAIMED_REDIRECT);
}

/// AER's uncorrectable error mask and severity and correctable error mask, 32 bits each (PCIe 7.8.4.3, 7.8.4.4, 7.8.4.6).
pub const AER_UNCORRECTABLE_MASK: u16 = 0x08;
/// See [`AER_UNCORRECTABLE_MASK`]: a one is fatal.
pub const AER_SEVERITY: u16 = 0x0c;
/// See [`AER_UNCORRECTABLE_MASK`].
pub const AER_CORRECTABLE_MASK: u16 = 0x14;
/// AER capabilities and control, 32 bits: end-to-end CRCs (PCIe 7.8.4.7).
pub const AER_CONTROL: u16 = 0x18;
/// Root error command, of root ports and event collectors: interrupts (PCIe 7.8.4.9).
pub const AER_ROOT_COMMAND: u16 = 0x2c;

/// Containment's capability, 16 bits (PCIe 7.9.15.2).
pub const CONTAINMENT_CAPABILITY: u16 = 4;
/// Containment's control, 16 bits: trigger, interrupt, messages (PCIe 7.9.15.3).
pub const CONTAINMENT_CONTROL: u16 = 6;
/// In [`CONTAINMENT_CAPABILITY`]: the root port's registers for programmed I/O are there.
pub const CONTAINMENT_ROOT: u16 = 1 << 5;
/// Which errors of programmed I/O the root port doesn't report (PCIe 7.9.15.7).
pub const CONTAINMENT_PIO_MASK: u16 = 0x10;
/// Which of them are uncorrectable, a system error, an exception of the processor: 32 bits each (PCIe 7.9.15.8 to 10).
pub const CONTAINMENT_PIO_EFFECTS: [u16; 3] = [0x14, 0x18, 0x1c];

/// Control of the first resizable BAR; of each other one 8 bytes on (PCIe 7.8.6.3).
pub const RESIZABLE_CONTROL: u16 = 8;
/// In [`RESIZABLE_CONTROL`] of the first: how many there are.
pub const RESIZABLE_COUNT: u16 = 0b111 << 5;
/// In [`RESIZABLE_CONTROL`]: the size, as a power of two.
pub const RESIZABLE_SIZE: u16 = 0x3f << 8;
/// How many BARs can be resizable.
pub const RESIZABLE_MOST: u16 = 6;

/// Multicast control, 16 bits (PCIe 7.9.11.3). Bit 15 enables it.
pub const MULTICAST_CONTROL: u16 = 6;
/// ATS control, 16 bits (PCIe 10.5.1.3). Bit 15 enables it.
pub const ATS_CONTROL: u16 = 6;
/// SR-IOV control, 16 bits (PCIe 9.3.3.3). Bit 0 enables the virtual functions, bit 3 their memory.
pub const SRIOV_CONTROL: u16 = 8;
/// PRI control, 16 bits (PCIe 10.5.2.2). Bit 0 enables it.
pub const PRI_CONTROL: u16 = 4;
/// PASID control, 16 bits (PCIe 7.8.8.3). Bit 0 enables it.
pub const PASID_CONTROL: u16 = 6;

const _: () = assert!(Acs::ISOLATION.bits() == 0b1_1101 && Acs::ENHANCED.bits() == 0b1_1010_1000_0000);
