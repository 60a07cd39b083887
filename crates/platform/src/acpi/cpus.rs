//! CPUs and interrupt controllers, by the MADT.

use alloc::format;
use alloc::vec::Vec;

use axvm_acpi::madt::{self, Madt, Usable};
use axvm_acpi::srat::Srat;
use axvm_addr::{Address, CpuId, Hpa, Interrupt, Irq, PAGE_SIZE, Span, Trigger};

use crate::model::{Apic, ApicLine, Cpu, IoApic, IsaInterrupt, Polarity, Proximity};

/// The CPUs that are in use.
pub(super) fn cpus(madt: &Madt) -> Vec<Cpu> {
    let used = madt.cpus.iter().filter(|cpu| cpu.usable == Usable::Now);
    used.map(|cpu| Cpu { path: format!("apic{}", cpu.apic), hardware_id: cpu.apic.into(), usable: true })
        .collect()
}

/// Which of the CPUs and which memory are near each other. One domain is none.
pub(super) fn proximity(srat: &Srat, cpus: &[Cpu]) -> Vec<Proximity> {
    let mut found: Vec<Proximity> = Vec::new();
    let domains = srat.cpus.iter().map(|it| it.domain).chain(srat.memory.iter().map(|it| it.domain));
    for domain in domains {
        if found.iter().any(|it| it.domain == domain) {
            continue;
        }
        let is_near = |cpu: &Cpu| {
            let near = srat.cpus.iter().find(|it| u64::from(it.apic) == cpu.hardware_id);
            near.is_some_and(|near| near.domain == domain)
        };
        let near = (0..).zip(cpus).filter(|(_, cpu)| is_near(cpu));
        let memory = srat.memory.iter().filter(|it| it.domain == domain);
        found.push(Proximity {
            domain,
            cpus: near.map(|(number, _)| CpuId(number)).collect(),
            memory: memory.map(|it| it.span).collect(),
        });
    }
    if found.len() < 2 {
        found.clear();
    }
    found
}

/// The APICs, as far as the MADT knows them.
pub(super) fn apic(madt: &Madt) -> Apic {
    Apic {
        local: page(madt.local_apic),
        io_apics: madt
            .io_apics
            .iter()
            .map(|it| IoApic { id: it.id, registers: page(it.registers), gsi_base: it.first, source: None })
            .collect(),
        overrides: madt.overrides.iter().map(|it| isa(&madt.isa(it.isa))).collect(),
        legacy_8259: madt.pics,
        lines: Vec::new(),
        nmis: madt.nmis.iter().map(|&gsi| Irq(gsi)).collect(),
        no_x2apic: false,
    }
}

/// The page with registers.
fn page(at: Hpa) -> Span<Hpa> {
    Span::new(at.page(), PAGE_SIZE).unwrap_or_default()
}

fn isa(it: &madt::Override) -> IsaInterrupt {
    let trigger = match it.sense {
        madt::Sense::Level => Trigger::Level,
        madt::Sense::Edge | madt::Sense::Bus => Trigger::Edge,
    };
    let polarity = match it.polarity {
        madt::Polarity::Low => Polarity::Low,
        madt::Polarity::High | madt::Polarity::Bus => Polarity::High,
    };
    IsaInterrupt { isa: it.isa, is: ApicLine { line: Interrupt { irq: Irq(it.gsi), trigger }, polarity } }
}
