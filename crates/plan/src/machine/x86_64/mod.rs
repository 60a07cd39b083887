//! x86_64: APICs, an IOMMU that remaps interrupts, ports, and ACPI.
//!
//! The machine that its guests see is its own, whatever the board is: RAM from 0 on, one I/O APIC whose pins are the board's first lines, a 16550,
//! PCI below and above 4 GiB, and ACPI's fixed registers.

pub(crate) mod layout;
pub(crate) mod load;
pub(crate) mod mode;
mod write;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Gpa, Hpa, Interrupt, Irq, PciAddress, Ports, Span, Trigger};
use axvm_guest::image::Setup;
use axvm_guest::{AcpiDescription, Description, IoApicDescription, PowerDescription};
use axvm_platform::model::{Iommu, IommuKind, Place, Platform, PowerOff};
use serde::{Deserialize, Serialize};

use super::{Driven, DrivenPorts, Emulated, EmulatedPorts, Held, Tables, Words};
use crate::findings::Findings;
use crate::hardware::Given;

pub(crate) use write::write;

/// That this build serves machines of this architecture. Without the feature there is no such value, so that nothing of what follows from
/// one takes room in the image.
#[cfg(feature = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served;
#[cfg(not(feature = "x86_64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Served {}

/// The lines of a guest's I/O APIC, but for 0, which is a timer's that no guest has.
pub(crate) const LINES: Range<u32> = 1..PINS as u32;

/// Those of a guest's functions, where they aren't the board's: where a PC has PCI's.
pub(crate) const LINES_OF_FUNCTIONS: Range<u32> = 16..PINS as u32;

/// The pins of a guest's I/O APIC, as that of a PC.
const PINS: u8 = 24;

/// Where interrupts are sent by writing: each address there is a message to a local APIC (Intel SDM, volume 3, 11.11.1).
const MESSAGES: (u64, u64) = (0xfee0_0000, 1 << 20);

/// The way to config space by ports (PCI 3.0, 3.2.2.3.2), and the port beside it that resets the machine.
const CONFIG_PORTS: (u16, u32) = (0xcf8, 8);

/// What the platform calls the timer that sends messages of its own.
const HPET: &str = "hpet";

pub(crate) const WORDS: Words = Words {
    iommu: "IOMMU",
    source: "requester id",
    msi: "IOMMU that remaps interrupts",
    sender: "requester",
    irq: "GSI",
    irqchip: "an I/O APIC",
    routable: "one that a guest's I/O APIC has (GSI 1 to 23)",
    console: "a 16550",
    console_compatible: "ns16550a",
    watchdog: "a watchdog",
    cant_start: "the MADT doesn't say that it is enabled",
    tag: "ASID",
    board_by: "ACPI",
    guest_by: "ACPI tables",
    qemu_msi: "-M q35 -device amd-iommu,intremap=on,dma-remap=on",
    qemu_iommu: "-M q35 -device amd-iommu,intremap=on,dma-remap=on",
};

pub(crate) const TABLES: Tables = Tables {
    // Nested tables and those of an IOMMU (AMD64 Architecture Programmer's Manual, volume 2, 5.3; AMD 48882, 2.2.3).
    table: 4096,
    root: 4096,
    // The table of devices is as large as it gets from the beginning on, and all VMs'.
    sources: 0,
    source_bits: 16,
    // A device's interrupt remapping table has memory for all the entries that there can be (AMD 48882, 2.2.5.2).
    message: 16,
    messages: 2048 * 16,
    receiver: 0,
};

/// What only x86_64 has, for one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct X86_64Plan {
    pub(crate) served: Served,
    /// Where each vCPU sees its local APIC.
    pub local_apic: Span<Gpa>,
    /// The emulated I/O APIC.
    pub io_apic: IoApicPlan,
    /// What switches the VM's power.
    pub power: PowerPlan,
    /// How its first vCPU begins.
    pub entry: EntryPlan,
    /// The GDT with which 64-bit code begins.
    pub gdt: Span<Gpa>,
    /// The page tables with which 64-bit code begins: the root.
    pub page_tables: Gpa,
    /// Where its command line lies.
    pub(crate) command_line: Gpa,
}

/// An emulated I/O APIC. Its pin n is the line n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicPlan {
    /// Its id.
    pub id: u8,
    /// Its registers: a page.
    pub registers: Span<Gpa>,
    /// How many pins it has.
    pub pins: u8,
}

/// ACPI's fixed registers, and the reset register (ACPI 6.5, 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerPlan {
    /// PM1a_STS and PM1a_EN, 16 bits each.
    pub event: Ports,
    /// PM1a_CNT, 16 bits.
    pub control: Ports,
    /// PM_TMR, 32 bits: what a guest measures the rate of its local APIC's timer by.
    pub timer: Ports,
    /// The line of their events, which signals by its level.
    pub sci: Irq,
    /// What PM1a_CNT's SLP_TYP is for S5, the power switched off.
    pub s5: u8,
    /// The port that resets the machine.
    pub reset: u16,
    /// What is written to it.
    pub reset_value: u8,
}

/// How the first vCPU begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryPlan {
    /// At Linux's 64-bit entry (Documentation/arch/x86/boot.rst): in 64-bit mode on the plan's page tables and GDT, with interrupts off, and the
    /// boot parameters' address, [`LoadPlan::argument`](crate::LoadPlan::argument), in RSI.
    Linux64(Setup),
    /// At a PVH entry (Xen, docs/misc/pvh.pandoc): in 32-bit mode without paging, with flat segments, interrupts off, and the start info's
    /// address in EBX.
    Pvh,
    /// As at Linux's, with the address of a start info in RSI and RDI.
    Long,
}

impl X86_64Plan {
    pub(crate) fn registers(&self) -> Vec<Emulated> {
        alloc::vec![
            Emulated { span: self.local_apic, what: "the local APIC" },
            Emulated { span: self.io_apic.registers, what: "the I/O APIC" },
        ]
    }

    pub(crate) fn ports(&self) -> Vec<EmulatedPorts> {
        let PowerPlan { event, control, timer, reset, .. } = self.power;
        let emulated = |ports, what| EmulatedPorts { ports, what };
        let mut ports = alloc::vec![
            emulated(event, "ACPI's event registers"),
            emulated(control, "ACPI's control register"),
            emulated(timer, "ACPI's timer"),
            emulated(Ports::one(reset), "the reset register"),
        ];
        let (first, count) = CONFIG_PORTS;
        ports.extend(Ports::of(first, count).map(|ports| emulated(ports, "PCI's config space")));
        ports
    }
}

pub(crate) fn describe(plan: &X86_64Plan, description: &mut Description) {
    let PowerPlan { event, control, timer, sci, s5, reset, reset_value } = plan.power;
    description.acpi = Some(AcpiDescription {
        local_apic: plan.local_apic.start(),
        io_apic: IoApicDescription {
            id: plan.io_apic.id,
            registers: plan.io_apic.registers.start(),
            first: Irq(0),
        },
        power: PowerDescription { event, control, timer, sci, s5, reset, reset_value },
    });
}

pub(crate) fn lacks(platform: &Platform) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if platform.apic().is_none_or(|apic| apic.io_apics.is_empty()) {
        lacks.push("I/O APIC: AxVM serves no other interrupt controller");
    }
    if platform.limits.processors == axvm_platform::limits::Serves::No {
        lacks.push(
            "processors that run guests: they lack SVM with nested paging, or firmware has switched it off (QEMU: -cpu max,-la57)",
        );
    }
    if platform.acpi().is_none() {
        lacks.push("FADT, by which the board is reset and powered off");
    }
    lacks
}

pub(crate) fn irqchip(platform: &Platform) -> Vec<Driven> {
    let mut registers = Vec::new();
    let mut take = |span, what| registers.push(Driven { span, what });
    let (start, size) = MESSAGES;
    if let Ok(span) = Span::new(Hpa(start), size) {
        take(span, "the local APICs, and where messages to them are sent".into());
    }
    for io_apic in platform.apic().into_iter().flat_map(|apic| &apic.io_apics) {
        take(io_apic.registers, format!("the I/O APIC {}", io_apic.id));
    }
    let hpets = platform.devices.iter().filter(|device| device.path == HPET);
    for &span in hpets.flat_map(|hpet| &hpet.registers) {
        take(span, "the HPET".into());
    }
    registers
}

pub(crate) fn irqchip_lines(platform: &Platform) -> Vec<Held> {
    let event = platform.acpi().and_then(|firmware| firmware.event);
    let mut held: Vec<Held> =
        event.map(|line| Held::new(line, "ACPI's events (SCI)".into())).into_iter().collect();
    let nmis = platform.apic().into_iter().flat_map(|apic| &apic.nmis);
    held.extend(nmis.map(|&irq| {
        Held::new(
            Interrupt { irq, trigger: Trigger::Edge },
            "an NMI, by which the board says that it is broken".into(),
        )
    }));
    held
}

pub(crate) fn reserved_node(path: &str) -> Option<&'static str> {
    (path == HPET).then_some("the HPET, whose messages go past the IOMMU")
}

/// Ports of a PC's that are the hypervisor's, or nobody's, whether or not the firmware names them: whoever has one of these can interrupt,
/// reset or end the board, have firmware run, or say something in the hypervisor's place.
const OWN_PORTS: [(u16, u32, &str); 10] = [
    (0x20, 2, "the 8259"),
    (0xa0, 2, "the 8259"),
    (0x40, 4, "the 8254"),
    (0x61, 1, "the 8254's gate and the board's NMIs"),
    (0x64, 1, "the keyboard controller's commands, of which one resets the board"),
    (0x80, 1, "the port of POST codes"),
    (0x92, 1, "the reset and A20 port"),
    (0xb2, 2, "the ports by which firmware is called (SMI)"),
    // QEMU's `isa-debugcon` and `isa-debug-exit`, where those are by custom.
    (0xe9, 1, "an emulator's debug port"),
    (0xf4, 4, "an emulator's exit"),
];

/// The ports of the board's that no guest is given: those with which the hypervisor works.
pub(crate) fn ports(platform: &Platform) -> Vec<DrivenPorts> {
    let mut ports = Vec::new();
    let mut take = |found: Option<Ports>, what: &str| {
        ports.extend(found.map(|ports| DrivenPorts { ports, what: what.into() }));
    };
    let (first, count) = CONFIG_PORTS;
    take(Ports::of(first, count), "PCI's config space");
    for (first, count, what) in OWN_PORTS {
        take(Ports::of(first, count), what);
    }
    let firmware = platform.acpi();
    let registers = firmware.into_iter().flat_map(|firmware| {
        let off = firmware.power_off.into_iter().flat_map(|off| match off {
            PowerOff::Pm1 { a, b } => [Some(a.register), b.map(|b| b.register)],
            PowerOff::SleepControl(it) => [Some(it.register), None],
        });
        let others = [firmware.reset.map(|reset| reset.register), firmware.timer];
        off.chain(others).flatten()
    });
    for register in registers {
        if let Place::Port(port) = register.place {
            take(
                Ports::of(port, u32::from(register.bits).div_ceil(8).max(1)),
                "ACPI's registers of power and time",
            );
        }
    }
    ports
}

/// The IOMMU that is a PCI function.
pub(crate) fn iommu_at(platform: &Platform, address: PciAddress) -> Option<&'static str> {
    let is_it = |kind: IommuKind| matches!(kind, IommuKind::AmdVi { function, .. } if function == address);
    platform.iommus.iter().any(|iommu| is_it(iommu.kind)).then_some("an IOMMU, which bounds others' DMA")
}

/// Whether all that a device sends arrives at an IOMMU that bounds its messages too: by one that doesn't, it could send any processor any
/// interrupt.
pub(crate) fn bounds_messages(platform: &Platform, iommu: axvm_addr::IommuId) -> bool {
    platform.iommu(iommu).is_some_and(Iommu::remaps_messages)
}

/// What QEMU's tables have as their maker.
const QEMU: &str = "BOCHS";

/// Says what an emulated IOMMU doesn't do that the real one does, where a device is given behind one.
pub(crate) fn note_iommus(given: &[&Given<'_>], platform: &Platform, findings: &mut Findings) {
    let is_vtd = |iommu| {
        let iommu = platform.iommu(iommu);
        iommu.is_some_and(|iommu| matches!(iommu.kind, IommuKind::VtD { .. }))
    };
    let mut sources = given.iter().flat_map(|device| &device.hardware.sources);
    if platform.model.starts_with(QEMU) && sources.any(|source| is_vtd(source.iommu)) {
        findings.note(format_args!(
            "the board: QEMU's VT-d lets devices send any interrupt to any processor by DMA, which a machine's doesn't: a hostile VM \
             that has a device isn't kept from others' interrupts here (with -device amd-iommu it is)"
        ));
    }
}
