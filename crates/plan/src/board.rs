//! What of the platform is the hypervisor's, and whether the platform has what AxVM needs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, Interrupt, Span};
use axvm_platform::limits::GuestMachine;
use axvm_platform::model::{KeptWhat, Platform, PlatformDevice};
use axvm_system::model::{Arch, Item, System};

use super::console::{Console, Lent, shown};
use super::findings::Findings;
use super::linux;
use super::machine::{Driven, DrivenPorts, Held, Machine};
use super::places::{self, Bridge};
use super::suggest::nearest;
use crate::problem::Rule;

/// Who holds a span of the host's address space that no guest may be given as registers.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) span: Span<Hpa>,
    /// With its article.
    pub(super) what: String,
    /// Whether it is a device that the hypervisor drives as its console: a device like others, but in use.
    pub(super) reserved: bool,
}

/// The board as the plan of every VM sees it.
pub(super) struct Board<'a> {
    pub(super) platform: &'a Platform,
    pub(super) machine: Machine,
    pub(super) hypervisor_cpu: Option<CpuId>,
    /// The hypervisor's console: its path, and the device if the platform lists it.
    pub(super) console: Option<String>,
    pub(super) console_device: Option<&'a PlatformDevice>,
    /// Whether a VM is given it, and where the hypervisor speaks then.
    pub(super) lent: Option<Lent<'a>>,
    /// What no guest is given as registers.
    pub(super) taken: Vec<Taken>,
    /// The same of ports.
    pub(super) taken_ports: Vec<DrivenPorts>,
    /// The hypervisor's own lines.
    pub(super) lines: Vec<Held>,
    /// The host bridges that guests see, one for each of the platform's.
    pub(super) bridges: Vec<Bridge>,
}

impl<'a> Board<'a> {
    pub(super) fn new(system: &'a System, platform: &'a Platform, findings: &mut Findings) -> Self {
        let machine = Machine::of(platform);
        check_architecture(system, machine, findings);
        check_platform(platform, machine, findings);
        let linux = linux::host(platform);
        let console_device = if linux.is_some() { None } else { console(system, platform, findings) };
        let lent = console_device.and_then(|device| Lent::of(system, platform, device));
        if let Some(lent) = &lent {
            findings.note(lent);
        }
        let kept = console_device.filter(|_| lent.is_none());
        Self {
            platform,
            machine,
            hypervisor_cpu: linux.is_none().then(|| hypervisor_cpu(system, platform, findings)),
            console: console_device.map(|device| device.path.clone()),
            console_device,
            lent,
            taken: taken(platform, machine, kept, lent.and_then(|lent| lent.aside)),
            lines: lines(platform, machine, kept, lent.and_then(|lent| lent.aside)),
            taken_ports: taken_ports(platform, machine, kept, lent.and_then(|lent| lent.aside)),
            bridges: places::bridges(
                platform,
                machine.guest_machine(platform),
                machine.own_layout(),
                address_bits(platform),
            ),
        }
    }

    /// The address bits that every CPU and IOMMU reaches.
    pub(super) fn address_bits(&self) -> u8 {
        address_bits(self.platform)
    }

    /// The machine that guests see.
    pub(super) fn guest_machine(&self) -> GuestMachine {
        self.machine.guest_machine(self.platform)
    }

    /// Whether this is the hypervisor's console, which no VM is given.
    pub(super) fn is_console(&self, path: &str) -> bool {
        self.lent.is_none() && self.console.as_deref() == Some(path)
    }

    /// Whether this is the hypervisor's console, which a VM is given.
    pub(super) fn is_lent(&self, path: &str) -> bool {
        self.lent.is_some_and(|lent| lent.device.path == path)
    }
}

/// The address bits that every CPU and IOMMU reaches; where the platform doesn't say, the 48 that a page table of 4 KiB
/// pages has without extensions.
fn address_bits(platform: &Platform) -> u8 {
    match platform.address_bits {
        0 => 48,
        // No CPU has fewer than 32 (Arm DDI 0487, ID_AA64MMFR0_EL1.PARange).
        bits => bits.clamp(32, 48),
    }
}

/// The platform device at a device-tree path.
pub(super) fn find<'a>(platform: &'a Platform, path: &str) -> Option<&'a PlatformDevice> {
    platform.devices.iter().find(|device| device.path == path)
}

fn check_architecture(system: &System, machine: Machine, findings: &mut Findings) {
    let name = |arch| match arch {
        Arch::Aarch64 => "aarch64",
        Arch::X86_64 => "x86_64",
        Arch::Riscv64 => "riscv64",
    };
    if system.board.arch == machine.arch() {
        return;
    }
    let (said, served) = (name(system.board.arch), name(machine.arch()));
    findings.general(
        Item::Board("arch".into()),
        Rule::Architecture,
        format_args!(
            "the board is {said} in the file, but this platform and this hypervisor are {served}: the only architecture so far"
        ),
    );
}

fn check_platform(platform: &Platform, machine: Machine, findings: &mut Findings) {
    let mut lacks = |what: &str| {
        findings.general(Item::Board(String::new()), Rule::Platform, format_args!("the board has no {what}"));
    };
    let by = machine.words().board_by;
    if platform.cpus.is_empty() {
        lacks(&format!("CPU in its {by}"));
    }
    if platform.memory.is_empty() {
        lacks(&format!("memory in its {by}"));
    }
    if linux::host(platform).is_none() {
        machine.lacks(platform).into_iter().for_each(lacks);
    }
}

fn hypervisor_cpu(system: &System, platform: &Platform, findings: &mut Findings) -> CpuId {
    let cpu = system.hypervisor.cpu.unwrap_or_default();
    let item = || Item::Hypervisor("cpu".into());
    match platform.cpus.get(usize::from(cpu.0)) {
        None if platform.cpus.is_empty() => {}
        None => findings.general(
            item(),
            Rule::Hypervisor,
            format_args!(
                "hypervisor: CPU {cpu} isn't there: the board has CPUs 0 to {}",
                platform.cpus.len() - 1
            ),
        ),
        Some(found) if !found.usable => findings.general(
            item(),
            Rule::Hypervisor,
            format_args!("hypervisor: CPU {cpu} ({}) can't be started: choose another", found.path),
        ),
        Some(_) => {}
    }
    cpu
}

/// The hypervisor's console: the one that the file names, else the board's own, else another that can be driven at once.
fn console<'a>(
    system: &System,
    platform: &'a Platform,
    findings: &mut Findings,
) -> Option<&'a PlatformDevice> {
    if let Some(path) = &system.hypervisor.console {
        let device = find(platform, path);
        match device {
            None => absent_console(path, platform, findings),
            Some(device) if device.uart().is_none() => findings.general(
                Item::Hypervisor("console".into()),
                Rule::Hypervisor,
                format_args!(
                    "hypervisor: the console \"{path}\" is no UART that AxVM can drive ({}): name another, or none",
                    shown(device)
                ),
            ),
            Some(_) => {}
        }
        return device;
    }
    let console = Console::of(system, platform);
    if !console.is_driven() {
        findings.note(console);
    }
    console.used
}

fn absent_console(path: &str, platform: &Platform, findings: &mut Findings) {
    let hint = match nearest(path, platform.devices.iter().map(|device| device.path.as_str())) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "`axvm inspect` lists what there is".into(),
    };
    findings.general(
        Item::Hypervisor("console".into()),
        Rule::Hypervisor,
        format_args!(
            "hypervisor: the console \"{path}\" isn't in the {}: {hint}",
            Machine::of(platform).words().board_by
        ),
    );
}

fn taken(
    platform: &Platform,
    machine: Machine,
    console: Option<&PlatformDevice>,
    aside: Option<&PlatformDevice>,
) -> Vec<Taken> {
    let mut taken = Vec::new();
    for device in console.into_iter().chain(aside) {
        let what = format!("the hypervisor's console ({})", device.path);
        taken.extend(device.registers.iter().map(|&span| Taken { span, what: what.clone(), reserved: true }));
    }
    let mut take = |span: Span<Hpa>, what: String| taken.push(Taken { span, what, reserved: false });
    for Driven { span, what } in machine.irqchip(platform) {
        take(span, what);
    }
    for iommu in &platform.iommus {
        take(iommu.registers, format!("the {} ({})", iommu.name(), iommu.path));
    }
    for host in &platform.pci_hosts {
        take(host.ecam, format!("the PCI config space of {}", host.path));
        for window in &host.windows {
            take(window.cpu, format!("a PCI window of {}", host.path));
        }
    }
    for kept in &platform.kept {
        take(
            kept.span,
            match kept.what {
                KeptWhat::PciWindow => {
                    format!("a PCI window of {}, whose host bridge AxVM doesn't drive,", kept.owner)
                }
                KeptWhat::Machine => kept.owner.clone(),
            },
        );
    }
    for &span in &platform.memory {
        take(span, "RAM".into());
    }
    for reserved in &platform.reserved {
        take(reserved.span, reserved.owner.clone());
    }
    taken
}

fn taken_ports(
    platform: &Platform,
    machine: Machine,
    console: Option<&PlatformDevice>,
    aside: Option<&PlatformDevice>,
) -> Vec<DrivenPorts> {
    let mut taken = machine.ports(platform);
    for device in console.into_iter().chain(aside) {
        let what = || format!("the hypervisor's console ({})", device.path);
        taken.extend(device.ports.iter().map(|&ports| DrivenPorts { ports, what: what() }));
    }
    let kept = platform.kept_ports.iter();
    taken.extend(kept.map(|kept| DrivenPorts { ports: kept.ports, what: kept.owner.clone() }));
    taken
}

fn lines(
    platform: &Platform,
    machine: Machine,
    console: Option<&PlatformDevice>,
    aside: Option<&PlatformDevice>,
) -> Vec<Held> {
    let mut lines = Vec::new();
    let mut hold = |line: Interrupt, whose: String| lines.push(Held::new(line, whose));
    for device in console.into_iter().chain(aside) {
        for &interrupt in &device.interrupts {
            hold(interrupt, format!("the hypervisor's console ({})", device.path));
        }
    }
    for iommu in &platform.iommus {
        for interrupt in iommu.lines() {
            hold(interrupt, format!("the {} ({})", iommu.name(), iommu.path));
        }
    }
    for &interrupt in &platform.timer {
        hold(interrupt, "the timer".into());
    }
    lines.extend(machine.irqchip_lines(platform));
    lines
}
