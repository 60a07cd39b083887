//! Functions like those of QEMU's boards, with the ids, BARs and capabilities that they have there.

use super::FakeFunction;
use crate::spec::express::SIZE_V2;
use crate::spec::{capability, extended};

const _: () = assert!(SIZE_V2 == 0x3c);

impl FakeFunction {
    /// An NVMe controller: MSI-X in BAR 0, function-level reset.
    pub fn nvme() -> Self {
        Self::new(0x1b36, 0x0010, 0x01_08_02).bar(0, 0x4000, 0b100).pin(1).express(0, true).power(true).msix(
            65,
            (0, 0x2000),
            (0, 0x3000),
        )
    }

    /// A network card with 32-bit BARs, I/O ports, MSI and MSI-X in BAR 3, no function-level reset.
    pub fn e1000e() -> Self {
        let mut new = Self::new(0x8086, 0x10d3, 0x02_00_00)
            .bar(0, 0x2_0000, 0)
            .bar(1, 0x2_0000, 0)
            .bar(2, 0x20, 1)
            .bar(3, 0x4000, 0)
            .rom(0x4_0000)
            .pin(1)
            .power(false)
            .msi(0, false)
            .express(0, false)
            .msix(5, (3, 0), (3, 0x2000))
            .loose_extended(extended::AER, 0x48);
        new.extended(extended::SERIAL_NUMBER, 0xc);
        new
    }

    /// A network card with virtual functions.
    pub fn igb() -> Self {
        Self::new(0x8086, 0x10c9, 0x02_00_00)
            .bar(0, 0x2_0000, 0)
            .bar(1, 0x2_0000, 0)
            .bar(2, 0x20, 1)
            .bar(3, 0x4000, 0b100)
            .pin(1)
            .power(true)
            .msi(0, true)
            .msix(10, (3, 0), (3, 0x2000))
            .express(0, true)
            .loose_extended(extended::AER, 0x48)
            .loose_extended(extended::ARI, 8)
            .loose_extended(extended::SRIOV, 0x40)
    }

    /// The teaching device: a DMA engine, MSI, nothing else.
    pub fn edu() -> Self {
        Self::new(0x1234, 0x11e8, 0x00_ff_00).bar(0, 0x10_0000, 0).pin(1).msi(0, false)
    }

    /// A function with a vendor-specific capability, ATS, page requests and PASIDs.
    pub fn accelerator() -> Self {
        Self::new(0x1af4, 0x1041, 0x12_00_00)
            .bar(0, 0x1000, 0)
            .bar(2, 0x1000_0000, 0b1100)
            .bar(4, 0x200, 0)
            .pin(1)
            .loose_capability(capability::VENDOR, 0x14)
            .loose_capability(0x7e, 0x10)
            .express(0, true)
            .power(false)
            .loose_extended(extended::ATS, 8)
            .loose_extended(extended::PRI, 0x10)
            .loose_extended(extended::PASID, 8)
            .loose_extended(extended::RESIZABLE_BAR, 0x10)
            .loose_extended(extended::VENDOR, 0x20)
    }

    /// A virtio disk with these features; behind a port it has an Express capability.
    pub fn virtio_disk(features: u64) -> Self {
        Self::new(0x1af4, 0x1042, 0x01_00_00)
            .bar(1, 0x1000, 0)
            .bar(4, 0x4000, 0b1100)
            .pin(1)
            .msix(2, (1, 0), (1, 0x800))
            .virtio(4, features)
    }

    /// A root port; its ACS is capable of these bits, 0: it has none.
    pub fn root_port(acs: u16) -> Self {
        let new = Self::new(0x1b36, 0x000c, 0x06_04_00).bridge().pin(1).express(4, false);
        if acs == 0 { new } else { new.acs(acs) }
    }

    /// A switch's port of type 5 (upstream) or 6 (downstream), with ACS as for root ports.
    pub fn switch_port(port: u16, acs: u16) -> Self {
        let new = Self::new(0x104c, 0x8232, 0x06_04_00).bridge().express(port, false);
        if acs == 0 { new } else { new.acs(acs) }
    }

    /// A bridge to a conventional bus.
    pub fn conventional_bridge() -> Self {
        Self::new(0x1b36, 0x000e, 0x06_04_00).bridge().pin(1).express(7, false)
    }
}
