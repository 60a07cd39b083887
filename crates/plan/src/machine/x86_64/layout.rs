//! Where a guest sees its APICs, its console and its power.

use alloc::vec::Vec;

use axvm_addr::{Gpa, Irq, Ports, Span};
use axvm_guest::Place;
use axvm_guest::image::{ImageKind, VmImages};
use axvm_guest::x86_64::long_mode;

use super::{EntryPlan, IoApicPlan, LINES, PINS, PowerPlan, Served, X86_64Plan};
use crate::findings::{Findings, VmRef};
use crate::hardware::Given;
use crate::machine::{Emulated, MachinePlan, OwnLayout};
use crate::model::ConsolePlan;
use crate::problem::Rule;

/// PCI from 3 GiB on, with config space behind the window of 32-bit BARs, and platform devices up to the I/O APIC. RAM is on both sides.
pub(crate) const OWN: OwnLayout = OwnLayout {
    ram: Gpa(0),
    emulated: Gpa(0xe800_0000),
    devices: 0xf000_0000..0xfc00_0000,
    config_spaces: 0xe000_0000..0xe800_0000,
    low_window: LOW_END..0xe000_0000,
    high_bits: 39,
    port_window: Ports::new(0x1000, 0xffff),
    port_memory: None,
};

/// Where RAM below 4 GiB ends at most, and what is above that, up to where the window of 64-bit BARs may begin.
const LOW_END: u64 = 0xc000_0000;
const HIGH: (u64, u64) = (1 << 32, 0x60_0000_0000);

/// Where RAM is.
pub(crate) const RAM: [(u64, u64); 2] = [(0, LOW_END), HIGH];

/// The APICs, where a PC has them.
const LOCAL_APIC: u64 = 0xfee0_0000;
const IO_APIC: u64 = 0xfec0_0000;

/// What is below 1 MiB of what the first vCPU is handed: GDT, page tables, boot parameters or start info, command line. From
/// [`RESERVED`] on there is nothing for the guest but ACPI's tables.
const GDT: u64 = 0x1000;
const PAGE_TABLES: u64 = 0x2000;
pub(crate) const ARGUMENT: u64 = 0x8000;
pub(crate) const COMMAND_LINE: u64 = 0x1_0000;
pub(crate) const HANDED: (u64, u64) = (GDT, 0x2_0000 - GDT);
pub(crate) const RESERVED: (u64, u64) = (0x9_fc00, (1 << 20) - 0x9_fc00);
pub(crate) const TABLES: (u64, u64) = (0xe_0000, 0x2_0000);

const _: () = assert!(
    PAGE_TABLES + long_mode::TABLES_BYTES <= ARGUMENT,
    "the page tables lie below what is handed over"
);
const _: () = assert!(GDT + long_mode::GDT_BYTES <= PAGE_TABLES, "the GDT lies below the page tables");

/// Where UARTs are on a PC, and their lines. The console is the first that no device of the VM's is in the way of.
const UARTS: [(u16, Irq); 4] = [(0x3f8, Irq(4)), (0x2f8, Irq(3)), (0x3e8, Irq(4)), (0x2e8, Irq(3))];
const UART_PORTS: u32 = 8;

/// ACPI's fixed registers: PM1a_STS and PM1a_EN, then PM1a_CNT, then PM_TMR; S5 has a type that is no other state's.
const EVENT: Option<Ports> = Ports::of(0x600, 4);
const CONTROL: Option<Ports> = Ports::of(0x604, 2);
const TIMER: Option<Ports> = Ports::of(0x608, 4);
const S5: u8 = 5;

/// The line of ACPI's events, as on a PC, where nothing has it.
const SCI: Irq = Irq(9);

/// The reset register of a PC, and what resets all of it.
const RESET: (u16, u8) = (0xcf9, 6);

pub(crate) fn span((start, size): (u64, u64)) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap_or_default()
}

fn page(start: u64) -> Span<Gpa> {
    span((start, axvm_addr::PAGE_SIZE))
}

pub(crate) fn plan(
    vm: VmRef<'_>,
    served: Served,
    images: Option<&VmImages>,
    given: &[&Given<'_>],
    findings: &mut Findings,
) -> MachinePlan {
    let has = |irq: Irq| given.iter().any(|it| it.hardware.lines.iter().any(|line| line.irq == irq));
    let uart = |irq: Irq| UARTS.iter().any(|(_, line)| *line == irq);
    let sci = core::iter::once(SCI).chain(LINES.rev().map(Irq)).find(|&irq| !has(irq) && !uart(irq));
    if sci.is_none() {
        findings.vm(vm, "", Rule::NoRoom, "no line is left for ACPI's events: give it fewer devices");
    }
    let none = Ports::one(0);
    MachinePlan::X86_64(X86_64Plan {
        served,
        local_apic: page(LOCAL_APIC),
        io_apic: IoApicPlan { id: 0, registers: page(IO_APIC), pins: PINS },
        power: PowerPlan {
            event: EVENT.unwrap_or(none),
            control: CONTROL.unwrap_or(none),
            timer: TIMER.unwrap_or(none),
            sci: sci.unwrap_or(SCI),
            s5: S5,
            reset: RESET.0,
            reset_value: RESET.1,
        },
        entry: entry(images),
        gdt: span((GDT, long_mode::GDT_BYTES)),
        page_tables: Gpa(PAGE_TABLES),
        command_line: Gpa(COMMAND_LINE),
    })
}

fn entry(images: Option<&VmImages>) -> EntryPlan {
    let kernel = images.and_then(|images| images.kernel.as_ref().ok());
    match kernel.map(|kernel| (kernel.kind, &kernel.setup)) {
        Some((ImageKind::BzImage, Some(setup))) => EntryPlan::Linux64(setup.clone()),
        Some((ImageKind::PvhElf, _)) => EntryPlan::Pvh,
        _ => EntryPlan::Long,
    }
}

/// Where guests see what there can be of APICs.
pub(crate) fn fixed() -> Vec<Emulated> {
    let (start, size) = super::MESSAGES;
    alloc::vec![
        Emulated { span: page(IO_APIC), what: "the emulated I/O APIC" },
        Emulated { span: span((start, size)), what: "the local APICs, and where messages to them are sent" },
    ]
}

/// The console: the first UART of a PC that the VM has room for.
pub(crate) fn console(given: &[&Given<'_>]) -> Option<ConsolePlan> {
    let is_free = |ports: Ports, irq: Irq| {
        !given.iter().any(|it| {
            it.hardware.ports.iter().any(|block| block.ports.overlaps(&ports))
                || it.hardware.lines.iter().any(|line| line.irq == irq)
        })
    };
    UARTS.iter().find_map(|&(first, irq)| {
        let ports = Ports::of(first, UART_PORTS).filter(|&ports| is_free(ports, irq))?;
        Some(ConsolePlan { at: Place::Ports(ports), irq })
    })
}
