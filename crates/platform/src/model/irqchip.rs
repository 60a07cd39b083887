//! Interrupt controllers.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Address, DmaSource, Hpa, Interrupt, Irq, Span, Trigger};
use serde::{Deserialize, Serialize};

/// An interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Irqchip {
    /// A GICv3.
    Gic(Gic),
    /// The APICs of an x86 machine.
    Apic(Apic),
}

/// A GICv3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gic {
    /// Its device-tree path.
    pub path: String,
    /// The distributor's registers.
    pub distributor: Span<Hpa>,
    /// The redistributor regions.
    pub redistributors: Vec<Span<Hpa>>,
    /// `redistributor-stride`, or 0: as GICR_TYPER says.
    pub redistributor_stride: u64,
    /// GICC, GICH and GICV of a legacy-compatible GIC, to keep from guests.
    pub legacy: Vec<Span<Hpa>>,
    /// The maintenance interrupt.
    pub maintenance: Option<Interrupt>,
    /// `dma-noncoherent`: its redistributors' tables are accessed past the processors' caches.
    pub not_coherent: bool,
    /// Its ITSs.
    pub its: Vec<Its>,
    /// Whether it delivers LPIs to a virtual processor that runs, by GICv4.0: an ITS that maps events to virtual LPIs, and
    /// redistributors and CPU interfaces that take them. No device tree says it: `None` until the hardware has been asked.
    pub virtual_lpis: Option<bool>,
}

/// An ITS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Its {
    /// Its device-tree path.
    pub path: String,
    /// Its registers: the control frame and, 64 KiB on, the page with the doorbell GITS_TRANSLATER, whatever `reg` says of
    /// its size.
    pub registers: Span<Hpa>,
    /// `dma-noncoherent`: its tables are accessed past the processors' caches.
    pub not_coherent: bool,
    /// `socionext,synquacer-pre-its`: the window through which devices write to it. What stands before it takes a device's id
    /// from the address that the device has written to, so that each could send in the name of any other: such an ITS isn't
    /// used.
    pub pre_its: Option<Span<Hpa>>,
}

impl Its {
    /// The page with GITS_TRANSLATER, the second of its two frames (Arm IHI 0069, 12.18).
    pub fn doorbell(&self) -> Option<Hpa> {
        self.registers.start().checked_add(0x1_0000)
    }
}

/// The APICs of an x86 machine. An [`Irq`] is a global system interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apic {
    /// Where each CPU sees its own local APIC, unless that is in x2APIC mode.
    pub local: Span<Hpa>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA's interrupts that are other global system interrupts, or signal otherwise than ISA's do.
    pub overrides: Vec<IsaInterrupt>,
    /// There are two 8259s too, which must be masked.
    pub legacy_8259: bool,
    /// How lines signal of which firmware says it.
    pub lines: Vec<ApicLine>,
    /// Global system interrupts that are NMIs.
    pub nmis: Vec<Irq>,
    /// Firmware asks that local APICs aren't switched to x2APIC mode (DMAR: X2APIC_OPT_OUT).
    pub no_x2apic: bool,
}

/// An I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    /// What ACPI knows it by.
    pub id: u8,
    /// Its registers: the page that they are in.
    pub registers: Span<Hpa>,
    /// The global system interrupt of its first pin.
    pub gsi_base: u32,
    /// At which IOMMU its interrupts arrive, and in whose name; `None`: none remaps them.
    pub source: Option<DmaSource>,
}

/// Which level of a line is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Polarity {
    /// High.
    High,
    /// Low.
    Low,
}

/// How a line of the I/O APICs signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApicLine {
    /// The line, and what of it counts.
    pub line: Interrupt,
    /// Which level is active.
    pub polarity: Polarity,
}

/// An ISA interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsaInterrupt {
    /// Its number on ISA.
    pub isa: u8,
    /// What it is.
    pub is: ApicLine,
}

impl Apic {
    /// The I/O APIC at which a line arrives, and its pin: the last that begins at it or before. Whether it has so many pins, its registers
    /// say.
    pub fn pin(&self, irq: Irq) -> Option<(&IoApic, u32)> {
        let io_apic = self.io_apics.iter().filter(|it| it.gsi_base <= irq.0).max_by_key(|it| it.gsi_base)?;
        Some((io_apic, irq.0 - io_apic.gsi_base))
    }

    /// What an ISA interrupt is (ACPI 6.5, 5.2.12.5): the global system interrupt of the same number, high and by its edge, unless
    /// firmware says otherwise.
    pub fn isa(&self, isa: u8) -> ApicLine {
        let other = self.overrides.iter().find(|it| it.isa == isa);
        other.map_or_else(|| self.line(Irq(isa.into()), Trigger::Edge), |it| it.is)
    }

    /// How a line signals: as firmware says, else as one of ISA (by its edge, high) or of PCI (by its level, low) does.
    pub fn line(&self, irq: Irq, otherwise: Trigger) -> ApicLine {
        let known = self.overrides.iter().map(|it| &it.is).chain(&self.lines).find(|it| it.line.irq == irq);
        known.copied().unwrap_or(ApicLine {
            line: Interrupt { irq, trigger: otherwise },
            polarity: match otherwise {
                Trigger::Edge => Polarity::High,
                Trigger::Level => Polarity::Low,
            },
        })
    }
}
