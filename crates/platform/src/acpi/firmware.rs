//! Power, reset and the PM timer, by the FADT and the sleep type that AML has for S5.

use alloc::format;
use alloc::vec::Vec;

use axvm_acpi::fadt::Fadt;
use axvm_acpi::{GenericAddress, Space};
use axvm_addr::{Hpa, Irq, PciAddress, Ports, Span, Trigger};

use crate::model::{
    AcpiFirmware, AcpiReset, Apic, Kept, KeptPorts, KeptWhat, Place, PowerOff, Register, SleepRegister,
};

/// The sleep types of S5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SleepTypes {
    pub a: u8,
    pub b: u8,
}

pub(super) fn firmware(fadt: &Fadt, s5: Option<SleepTypes>, apic: &Apic) -> AcpiFirmware {
    let power_off = s5.and_then(|SleepTypes { a, b }| {
        let sleep = |at: Option<GenericAddress>, sleep_type| {
            Some(SleepRegister { register: register(at?)?, sleep_type: sleep_type & 7 })
        };
        let [pm1a, pm1b] = fadt.pm1_control;
        if fadt.hardware_reduced {
            return Some(PowerOff::SleepControl(sleep(fadt.sleep_control, a)?));
        }
        Some(PowerOff::Pm1 { a: sleep(pm1a, a)?, b: sleep(pm1b, b) })
    });
    let reset = fadt
        .reset
        .and_then(|reset| Some(AcpiReset { register: register(reset.register)?, value: reset.value }));
    let timer = fadt.blocks.iter().find(|block| block.name == "PM_TMR");
    let timer = timer.and_then(|block| Some(Register { bits: fadt.timer_bits, ..register(block.at)? }));
    // By its level, unless an override says otherwise (5.2.9, SCI_INT).
    let known = apic.overrides.iter().find(|it| u16::from(it.isa) == fadt.sci);
    let line = known.map_or_else(|| apic.line(Irq(fadt.sci.into()), Trigger::Level), |it| it.is).line;
    let event = (!fadt.hardware_reduced).then_some(line);
    AcpiFirmware { power_off, reset, timer, event }
}

fn register(at: GenericAddress) -> Option<Register> {
    let place = match at.space {
        Space::Memory => Place::Memory(Hpa(at.address)),
        Space::Port => Place::Port(u16::try_from(at.address).ok()?),
        // Of segment 0 and bus 0: device, function and offset, 16 bits each (ACPI 6.5, table 5.1).
        Space::PciConfig => {
            let part = |shift: u32| u16::try_from(at.address >> shift & 0xffff).ok();
            let function =
                PciAddress::new(0, 0, u8::try_from(part(32)?).ok()?, u8::try_from(part(16)?).ok()?)?;
            Place::PciConfig { function, offset: part(0)? }
        }
        Space::Other(_) => return None,
    };
    Some(Register { place, bits: at.bits })
}

/// ACPI's own ports and registers.
pub(super) fn blocks(fadt: &Fadt) -> (Vec<KeptPorts>, Vec<Kept>) {
    let (mut ports, mut kept) = (Vec::new(), Vec::new());
    for block in &fadt.blocks {
        let owner = format!("ACPI's {}", block.name);
        match block.at.space {
            Space::Port => {
                let first = u16::try_from(block.at.address).ok();
                let found = first.and_then(|first| Ports::of(first, block.bytes.max(1)));
                ports.extend(found.map(|ports| KeptPorts { ports, owner }));
            }
            Space::Memory => {
                let span = Span::new(Hpa(block.at.address), u64::from(block.bytes.max(1)));
                kept.extend(span.map(|span| Kept { span, what: KeptWhat::Machine, owner }));
            }
            Space::PciConfig | Space::Other(_) => {}
        }
    }
    (ports, kept)
}

/// The ports of a PC that move the whole machine, whatever a table says of them: first, last, and what they are.
const PC: [(u16, u16, &str); 15] = [
    (0x00, 0x1f, "a DMA controller"),
    (0x20, 0x21, "an interrupt controller"),
    (0x40, 0x43, "the interval timer"),
    (0x50, 0x53, "the interval timer"),
    (0x60, 0x60, "the keyboard controller, which resets the machine"),
    (0x61, 0x61, "NMI status and control"),
    (0x64, 0x64, "the keyboard controller, which resets the machine"),
    (0x80, 0x91, "the DMA controllers' pages"),
    (0x92, 0x92, "the fast reset"),
    (0x93, 0x9f, "the DMA controllers' pages"),
    (0xa0, 0xa1, "an interrupt controller"),
    (0xb2, 0xb3, "calls to firmware's system management"),
    (0xc0, 0xdf, "a DMA controller"),
    (0x4d0, 0x4d1, "the interrupt controllers' edges and levels"),
    (0xcf8, 0xcff, "PCI's configuration, and the reset among it"),
];

pub(super) fn pc_ports() -> Vec<KeptPorts> {
    let kept = |&(first, last, owner): &(u16, u16, &str)| {
        Ports::new(first, last).map(|ports| KeptPorts { ports, owner: owner.into() })
    };
    PC.iter().filter_map(kept).collect()
}
