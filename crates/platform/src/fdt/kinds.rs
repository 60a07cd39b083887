//! What is known of kinds of devices, by their `compatible`.

/// Interrupt controllers that are GICv3 or GICv4.
pub(super) const GIC: &[&str] = &["arm,gic-v3"];
/// Interrupt translation services.
pub(super) const ITS: &[&str] = &["arm,gic-v3-its"];
/// SMMUs of version 3.
pub(super) const SMMU: &[&str] = &["arm,smmu-v3"];
/// PCI host bridges with a generic config space.
pub(super) const PCI_HOST: &[&str] = &["pci-host-ecam-generic"];
/// Generic timers.
pub(super) const TIMER: &[&str] = &["arm,armv8-timer"];
/// PSCI with the standard function ids.
pub(super) const PSCI: &[&str] = &["arm,psci-1.0", "arm,psci-0.2"];

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
