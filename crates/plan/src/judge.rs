//! Whether platform devices may be given for what they are: in use, without power over others, needing none, and with DMA
//! that is confined. Asked of the device that the file names, and of every other one that lies in the registers given.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{DmaSource, Hpa, IommuId, SourceId, Span};
use axvm_platform::model::{Platform, PlatformDevice};
use axvm_platform::roles::Role;
use axvm_system::model::{Dma, Hazard};

use super::findings::{DeviceRef, Findings};
use super::machine::{Machine, Words};
use crate::problem::Rule;

/// What the file says of a device, and the key that it is named by.
pub(super) struct Said<'a> {
    pub(super) key: &'a str,
    pub(super) dma: &'a Dma,
    pub(super) accept: &'a [Hazard],
}

/// Devices of the platform that a VM reaches by some registers, each with its position.
pub(super) type Reached<'a> = Vec<(usize, &'a PlatformDevice)>;

/// The device of this name, if there is one, then all others of which any register lies in these. A bus above it is none of
/// them, though its registers may be a window with those of all that is on it: who has the bus has the device, but not the
/// other way round.
pub(super) fn reached<'a>(
    platform: &'a Platform,
    named: Option<(usize, &'a PlatformDevice)>,
    registers: &[Span<Hpa>],
) -> Reached<'a> {
    let path = named.map_or("", |(_, device)| device.path.as_str());
    let is_above = |bus: &PlatformDevice| {
        bus.ranges && path.strip_prefix(bus.path.as_str()).is_some_and(|rest| rest.starts_with('/'))
    };
    let inside = platform.devices.iter().enumerate().filter(|(_, device)| {
        device.path != path
            && device.registers.iter().any(|theirs| registers.iter().any(|block| block.overlaps(theirs)))
            && !is_above(device)
    });
    named.into_iter().chain(inside).collect()
}

/// How messages name a device: `it`, or what lies in its registers.
struct Subject<'a>(Option<&'a str>);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("it"),
            Some(path) => write!(f, "{path}, which lies in its registers,"),
        }
    }
}

/// Judges all that is reached, of which the first is what the file names, if that is a node. The streams with which it
/// all masters the bus.
pub(super) fn judge(
    reference: DeviceRef<'_>,
    reached: &Reached<'_>,
    is_node: bool,
    said: &Said<'_>,
    platform: &Platform,
    findings: &mut Findings,
) -> Vec<DmaSource> {
    let is_named = |position: usize| is_node && position == 0;
    for (position, (_, device)) in reached.iter().enumerate() {
        let subject = Subject((!is_named(position)).then_some(device.path.as_str()));
        if !device.enabled {
            // Boards describe one block as several kinds of device, of which one is in use.
            let is_alias =
                |(_, other): &(usize, &PlatformDevice)| other.enabled && other.registers == device.registers;
            if is_named(position) || !reached.iter().any(is_alias) {
                findings.device(
                    reference,
                    said.key,
                    Rule::DeviceDisabled,
                    format_args!("{subject} has a `status` in the device tree that isn't \"okay\": firmware keeps it or it isn't wired"),
                );
            }
            continue;
        }
        check_roles(reference, &subject, device, said, findings);
        check_needs(reference, &subject, device, said, findings);
    }
    streams(reference, reached, is_node, said.dma, platform, findings)
}

/// What its owner could do to others.
fn check_roles(
    reference: DeviceRef<'_>,
    subject: &Subject<'_>,
    device: &PlatformDevice,
    said: &Said<'_>,
    findings: &mut Findings,
) {
    for role in device.roles() {
        let (hazard, what) = match role {
            Role::Provider => (
                Hazard::Provider,
                "gives others what they live by (clocks, power, pins, interrupts, shared registers)",
            ),
            Role::Bus => (Hazard::Bus, "is a bus with other devices"),
            Role::Iommu => (Hazard::Iommu, "is an IOMMU: it bounds others' DMA"),
            Role::Flash => (Hazard::Flash, "keeps what the board's next start reads"),
            Role::Watchdog => (Hazard::Watchdog, "is a watchdog: it can reset the board"),
            Role::Debug => (Hazard::Debug, "can stop CPUs and read their registers"),
        };
        let word = name(hazard);
        if said.accept.contains(&hazard) {
            let DeviceRef { vm, name, .. } = reference;
            findings.note(format_args!("{vm}: {name}: {subject} {what}; the file accepts that"));
        } else {
            findings.device(
                reference,
                said.key,
                Rule::Hazard,
                format_args!("{subject} {what}: say `accept = [\"{word}\"]` to give it all the same"),
            );
        }
    }
}

fn name(hazard: Hazard) -> &'static str {
    Hazard::ALL.iter().find(|(_, other)| *other == hazard).map_or("", |(name, _)| name)
}

/// What it depends on and a guest can't be given.
fn check_needs(
    reference: DeviceRef<'_>,
    subject: &Subject<'_>,
    device: &PlatformDevice,
    said: &Said<'_>,
    findings: &mut Findings,
) {
    for provider in device.providers.iter().filter(|provider| provider.fixed_clock.is_none()) {
        let (path, property) = (&provider.path, &provider.property);
        if said.accept.contains(&Hazard::Dependency) {
            let DeviceRef { vm, name, .. } = reference;
            findings.note(format_args!(
                "{vm}: {name}: {subject} needs {path} ({property}), which stays as it is and isn't in the guest's device tree"
            ));
        } else {
            findings.device(
                reference,
                said.key,
                Rule::Provider,
                format_args!(
                    "{subject} needs, or may need, {path} ({property}), which isn't a fixed clock and which others may share: \
                     say `accept = [\"dependency\"]` to give it with that as it is"
                ),
            );
        }
    }
}

/// The streams with which devices master the bus; a problem if one of them may do so unbounded.
fn streams(
    reference: DeviceRef<'_>,
    reached: &Reached<'_>,
    is_node: bool,
    said: &Dma,
    platform: &Platform,
    findings: &mut Findings,
) -> Vec<DmaSource> {
    let words = Machine::of(platform).words();
    let mut known: Vec<DmaSource> =
        reached.iter().flat_map(|(_, device)| device.sources.iter().copied()).collect();
    known.sort_unstable();
    known.dedup();
    let unconfined = |(_, (_, device)): &(usize, &(usize, &PlatformDevice))| {
        device.bus_master == Some(true) && device.sources.is_empty()
    };
    if let Some((position, (_, device))) = reached.iter().enumerate().find(unconfined) {
        let subject = Subject((!is_node || position > 0).then_some(device.path.as_str()));
        let kind = device.compatible.first().map_or("", String::as_str);
        findings.device(
            reference,
            "",
            Rule::Dma,
            format_args!(
                "{subject} masters the bus ({kind}) outside every IOMMU: its DMA can't be confined, so it can't be given"
            ),
        );
        return known;
    }
    let unknown = reached.is_empty()
        || reached.iter().any(|(_, device)| device.bus_master.is_none() && device.sources.is_empty());
    let differs = match said {
        Dma::Unstated => false,
        Dma::None => !known.is_empty(),
        Dma::Streams(said) => {
            let is_said = |source: &DmaSource| said.contains(&source.id);
            let is_known = |said: &SourceId| known.iter().any(|source| source.id == *said);
            !known.is_empty() && !(known.iter().all(is_said) && (unknown || said.iter().all(is_known)))
        }
    };
    if differs {
        findings.device(
            reference,
            if matches!(said, Dma::None) { "dma" } else { "streams" },
            Rule::Dma,
            format_args!("the device tree says otherwise: it masters the bus as {}", Sources(&known, words)),
        );
        return known;
    }
    match said {
        Dma::Unstated if unknown => findings.device(
            reference,
            "",
            Rule::Dma,
            "whether it masters the bus isn't known: say `dma = \"none\"` if you know that it doesn't, or `streams = [..]`",
        ),
        Dma::Streams(_) if platform.iommus.len() != 1 && (unknown || known.is_empty()) => findings.device(
            reference,
            "streams",
            Rule::Dma,
            format_args!(
                "the board has {} {}s, so {} ids alone don't say where the device is: its device tree must",
                platform.iommus.len(),
                words.iommu,
                words.source
            ),
        ),
        Dma::Streams(ids) if unknown || known.is_empty() => {
            known.extend(ids.iter().map(|&id| DmaSource { iommu: IommuId(0), id }));
            known.sort_unstable();
            known.dedup();
        }
        Dma::Unstated | Dma::None | Dma::Streams(_) => {}
    }
    known
}

struct Sources<'a>(&'a [DmaSource], &'a Words);

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, source) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(
                f,
                "{separator}{} {:#x} of {} {}",
                self.1.source, source.id.0, self.1.iommu, source.iommu
            )?;
        }
        Ok(())
    }
}
