//! IOMMUs, and which devices each serves: by the IVRS (AMD) or the DMAR (Intel).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_acpi::dmar::{Dmar, Scope, ScopeKind};
use axvm_acpi::ivrs::{self, Ivrs, Special};
use axvm_addr::{DmaSource, Hpa, IommuId, PciAddress, Span};

use crate::model::{Apic, FirmwareDma, IdMapping, Iommu, IommuKind, IommuScope, PciScope, PciStep};

/// All requester ids of a segment.
const ALL: u32 = 0x1_0000;

/// A part of the requester ids of a segment.
pub(super) struct Mapping {
    pub segment: u16,
    pub ids: IdMapping,
}

/// What the tables say of IOMMUs.
#[derive(Default)]
pub(super) struct Found {
    pub iommus: Vec<Iommu>,
    /// Of several for one id the first counts.
    pub mappings: Vec<Mapping>,
    pub scopes: Vec<IommuScope>,
    /// The I/O APICs, by their ids.
    pub io_apics: Vec<(u8, DmaSource)>,
    pub firmware_dma: Vec<FirmwareDma>,
    pub no_x2apic: bool,
    pub unclear: Vec<String>,
}

impl Found {
    /// An I/O APIC that AMD's table doesn't name sends what no entry of an IOMMU is for. Firmware leaves them all out where interrupts aren't to be
    /// remapped, which the table can't say otherwise: then none is taken to be.
    pub(super) fn distrust_remapping(&mut self, apic: &Apic) {
        let Some(unnamed) = apic.io_apics.iter().find(|it| it.source.is_none()) else { return };
        let mut any = false;
        for iommu in &mut self.iommus {
            if let IommuKind::AmdVi { remaps_interrupts, .. } = &mut iommu.kind {
                (any, *remaps_interrupts) = (true, false);
            }
        }
        if any {
            self.unclear.push(format!(
                "the IVRS doesn't name I/O APIC {}: interrupts aren't remapped, and no device that has an IOMMU can be given",
                unnamed.id
            ));
        }
    }
}

/// Registers of AMD's: 16 KiB, or 512 KiB with performance counters (48882, 3.4); the larger ones say so themselves.
const AMD_REGISTERS: u64 = 16 << 10;
/// Those of Intel's: a page at least (VT-d 4.1, 11.1).
const INTEL_REGISTERS: u64 = 4 << 10;
/// IVHD's flag: page tables are walked through the caches.
const COHERENT: u8 = 1 << 5;
/// More devices behind one id than a bus has aren't told apart.
const MOST_ALIASES: u32 = 256;

pub(super) fn amd(ivrs: &Ivrs) -> Found {
    let mut found = Found::default();
    for (position, iommu) in (0..).zip(&ivrs.iommus) {
        let path = format!("ivhd{position}");
        if !iommu.unclear.is_empty() {
            found.unclear.push(format!(
                "{path}: the IVRS has entries of kinds that aren't known: which devices it serves isn't clear, and none can be given away"
            ));
            let ids = IdMapping { first: 0, count: ALL, target: None, base: 0 };
            found.mappings.push(Mapping { segment: iommu.segment, ids });
        }
        for special in &iommu.special {
            let source = DmaSource::new(position, special.id.into());
            match special.what {
                Special::IoApic(id) => found.io_apics.push((id, source)),
                Special::Hpet(_) => {}
                Special::Other(kind) => {
                    found
                        .unclear
                        .push(format!("{path}: the IVRS has a device of a kind that isn't known ({kind})"));
                }
            }
        }
        // The last entry that names a device counts (48882, 5.2.2.1).
        for devices in iommu.devices.iter().rev() {
            for ids in ids(devices, position) {
                found.mappings.push(Mapping { segment: iommu.segment, ids });
            }
        }
        found.iommus.push(Iommu {
            path,
            registers: Span::new(iommu.registers, AMD_REGISTERS).unwrap_or_default(),
            coherent: iommu.flags & COHERENT != 0,
            kind: IommuKind::AmdVi {
                function: PciAddress::from_requester_id(iommu.segment, iommu.id),
                capability: iommu.capability,
                control: iommu.flags & 0xf,
                features: iommu.features,
                remaps_interrupts: true,
            },
        });
    }
    for reserved in &ivrs.reserved {
        match Span::new(reserved.start, reserved.bytes) {
            // A block doesn't say its segment: those of IOMMUs that have others are taken for it too.
            Ok(span) => {
                let mut segments: Vec<u16> = ivrs.iommus.iter().map(|iommu| iommu.segment).collect();
                segments.sort_unstable();
                segments.dedup();
                found.firmware_dma.extend(segments.into_iter().map(|segment| FirmwareDma {
                    span,
                    functions: PciScope::Ids { segment, first: reserved.first, last: reserved.last },
                }));
            }
            Err(_) => {
                found.unclear.push("the IVRS has memory that reaches past the end of all memory".to_string())
            }
        }
    }
    found
}

/// What an entry maps. Devices behind one id have that one each.
fn ids(devices: &ivrs::Devices, iommu: u16) -> Vec<IdMapping> {
    let first = u32::from(devices.first);
    let count = u32::from(devices.last.saturating_sub(devices.first)) + 1;
    let target = Some(iommu);
    match devices.alias {
        None => alloc::vec![IdMapping { first, count, target, base: first }],
        Some(_) if count > MOST_ALIASES => alloc::vec![IdMapping { first, count, target: None, base: 0 }],
        Some(alias) => {
            let one = |id| IdMapping { first: id, count: 1, target, base: alias.into() };
            (first..first + count).map(one).collect()
        }
    }
}

pub(super) fn intel(dmar: &Dmar) -> Found {
    let mut found = Found { no_x2apic: dmar.no_x2apic, ..Found::default() };
    let mut rest = Vec::new();
    for (position, iommu) in (0..).zip(&dmar.iommus) {
        let path = format!("drhd{position}");
        for scope in &iommu.scopes {
            match scope.kind {
                ScopeKind::Function | ScopeKind::Bridge => found.scopes.push(IommuScope {
                    iommu: IommuId(position),
                    functions: functions(iommu.segment, scope),
                }),
                ScopeKind::IoApic(id) => match requester(scope) {
                    Some(requester) => found.io_apics.push((id, DmaSource::new(position, requester.into()))),
                    None => found.unclear.push(format!("{path}: where I/O APIC {id} is on PCI isn't clear")),
                },
                ScopeKind::Hpet(_) | ScopeKind::Named(_) => {}
                ScopeKind::Other(kind) => {
                    found
                        .unclear
                        .push(format!("{path}: the DMAR has a device of a kind that isn't known ({kind})"));
                }
            }
        }
        if iommu.includes_all {
            let ids = IdMapping { first: 0, count: ALL, target: Some(position), base: 0 };
            rest.push(Mapping { segment: iommu.segment, ids });
        }
        found.iommus.push(Iommu {
            path,
            registers: Span::new(iommu.registers, INTEL_REGISTERS).unwrap_or_default(),
            coherent: false,
            kind: IommuKind::VtD {
                remaps_interrupts: dmar.remaps_interrupts,
                address_bits: dmar.address_bits,
            },
        });
    }
    found.mappings = rest;
    for reserved in &dmar.reserved {
        let size = reserved.last.0.checked_sub(reserved.start.0).and_then(|more| more.checked_add(1));
        let Some(span) = size.and_then(|size| Span::<Hpa>::new(reserved.start, size).ok()) else {
            found.unclear.push("the DMAR has memory that ends before it begins".to_string());
            continue;
        };
        found.firmware_dma.extend(
            reserved
                .scopes
                .iter()
                .map(|scope| FirmwareDma { span, functions: functions(reserved.segment, scope) }),
        );
        // Reserved it is in any case.
        if reserved.scopes.is_empty() {
            let functions =
                PciScope::Path { segment: reserved.segment, bus: 0, steps: Vec::new(), below: false };
            found.firmware_dma.push(FirmwareDma { span, functions });
        }
    }
    found
}

fn functions(segment: u16, scope: &Scope) -> PciScope {
    let steps = scope.path.iter().map(|step| PciStep { device: step.device, function: step.function });
    let below = scope.kind == ScopeKind::Bridge;
    PciScope::Path { segment, bus: scope.bus, steps: steps.collect(), below }
}

/// The requester id of what is at the end of a path of one step.
fn requester(scope: &Scope) -> Option<u16> {
    let [step] = scope.path.as_slice() else { return None };
    Some(PciAddress::new(0, scope.bus, step.device, step.function)?.requester_id())
}
