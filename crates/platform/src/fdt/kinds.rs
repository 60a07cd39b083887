//! What is known of kinds of devices, by their `compatible`.

/// A kind of device that the hypervisor itself drives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// An interrupt controller that is a GICv3 or GICv4.
    Gic,
    /// An interrupt translation service.
    Its,
    /// An SMMU of version 3.
    Smmu,
    /// A PCI host bridge with a generic config space.
    PciHost,
    /// A generic timer.
    Timer,
    /// PSCI with the standard function ids.
    Psci,
}

/// What they are called in `compatible`.
const KNOWN: &[(&str, Kind)] = &[
    ("arm,gic-v3", Kind::Gic),
    ("arm,gic-v3-its", Kind::Its),
    ("arm,smmu-v3", Kind::Smmu),
    ("pci-host-ecam-generic", Kind::PciHost),
    ("arm,armv8-timer", Kind::Timer),
    ("arm,psci-1.0", Kind::Psci),
    ("arm,psci-0.2", Kind::Psci),
];

/// The kinds that a node is of: a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds(u8);

impl Kinds {
    /// Those that a `compatible` names.
    pub fn of(compatible: &[u8]) -> Self {
        let texts = compatible.split(|&byte| byte == 0);
        let known = texts.flat_map(|text| KNOWN.iter().filter(move |(name, _)| name.as_bytes() == text));
        Self(known.fold(0, |kinds, &(_, kind)| kinds | 1 << kind as u8))
    }

    /// Whether it is one of them.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

/// Kinds that master the bus though their node need not say so.
const MASTERS: &[&str] = &[
    // Its queues lie in memory (Virtio 1.2, 4.2).
    "virtio,mmio",
    // It has a DMA interface (QEMU, docs/specs/fw_cfg.rst).
    "qemu,fw-cfg-mmio",
    // DMA controllers.
    "arm,pl080",
    "arm,pl081",
    "arm,pl330",
    // It fetches its frame buffer.
    "arm,pl110",
    "arm,pl111",
    // Host controllers for USB, SATA and SD cards work on descriptors in memory.
    "generic-ehci",
    "generic-ohci",
    "generic-xhci",
    "generic-ahci",
    "snps,dwc3",
    "arasan,sdhci-8.9a",
    // Debug Access: traces are written to memory.
    "arm,coresight-tmc",
];

/// Kinds that can't master the bus: peripherals with an APB slave port and nothing else. A DMA controller
/// may serve some of them, but then the node says `dmas`.
const SLAVES: &[&str] = &[
    // UARTs: Arm DDI 0183, DDI 0139 (PL010), Server Base System Architecture appendix B, CMSDK (DDI 0479).
    "arm,pl011",
    "arm,pl010",
    "arm,sbsa-uart",
    "arm,cmsdk-uart",
    "ns16550",
    "ns16550a",
    "snps,dw-apb-uart",
    // The real-time clock, Arm DDI 0224.
    "arm,pl031",
    // GPIO, Arm DDI 0190.
    "arm,pl061",
    // Keyboard and mouse, Arm DDI 0143.
    "arm,pl050",
    // Serial port, Arm DDI 0194.
    "arm,pl022",
    // Timers and watchdogs: Arm DDI 0271, DDI 0270, SBSA generic watchdog.
    "arm,sp804",
    "arm,sp805",
    "arm,sbsa-gwdt",
    // Memory that looks like flash (JEDEC JESD68).
    "cfi-flash",
];

/// Whether a device of these kinds masters the bus, if that is known. One kind that does outweighs one that
/// doesn't.
pub(super) fn masters_the_bus(kinds: &[&str]) -> Option<bool> {
    if kinds.iter().any(|kind| MASTERS.contains(kind)) {
        return Some(true);
    }
    kinds.iter().any(|kind| SLAVES.contains(kind)).then_some(false)
}
