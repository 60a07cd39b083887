//! What is otherwise where a Linux has the machine and AxVM is a program on it.
//!
//! No CPU and no console is AxVM's own. RAM comes as the kernel gives it, so that of what the plan says of it only the amount counts. Of devices
//! there are PCI functions, by VFIO; the rest of the machine is the kernel's. Interrupts are the kernel's too: KVM takes and injects them.

use alloc::string::String;

use axvm_addr::{Interrupt, Irq, Trigger};
use axvm_platform::limits::{LinuxHost, Serves};
use axvm_platform::model::Platform;
use axvm_system::model::{Device, InterruptChoice, Item, System};

use crate::config::VMInterruptMode;
use crate::findings::{DeviceRef, Findings, VmRef};
use crate::hardware::Given;
use crate::machine::{Machine, Mode};
use crate::model::LineNumbers;
use crate::problem::Rule;

/// What a Linux offers, if one carries the plan out.
#[cfg(feature = "linux")]
pub(crate) fn host(platform: &Platform) -> Option<LinuxHost> {
    platform.limits.linux()
}

/// None does: this build is a hypervisor's, which has the machine.
#[cfg(not(feature = "linux"))]
pub(crate) fn host(_: &Platform) -> Option<LinuxHost> {
    None
}

/// Whether it has what no VM runs without; and what of the file means nothing here.
pub(crate) fn check(system: &System, linux: LinuxHost, findings: &mut Findings) {
    if linux.guests == Serves::No {
        findings.general(
            Item::Board(String::new()),
            Rule::Platform,
            "this Linux runs no guests: /dev/kvm isn't there or can't be opened (as root, or in the group kvm), or its KVM has no interrupt \
             controller such as guests see",
        );
    }
    let mut ignored = |what: &str, why: &str| {
        findings.note(format_args!("{what} means nothing on a Linux host and is ignored: {why}"));
    };
    if system.hypervisor.cpu.is_some() {
        ignored("`[hypervisor] cpu`", "AxVM has no CPU for itself there");
    }
    if system.hypervisor.console.is_some() {
        ignored("`[hypervisor] console`", "AxVM speaks where it was started");
    }
    if system.board.qemu.is_some() {
        ignored("`[board] qemu`", "the board is the machine that Linux runs on");
    }
}

/// Whether a device of this kind can be had from a Linux.
pub(crate) fn can_be_given(
    reference: DeviceRef<'_>,
    device: &Device,
    linux: LinuxHost,
    findings: &mut Findings,
) -> bool {
    let (key, why) = match device {
        Device::Pci { .. } if linux.functions == Serves::Yes => return true,
        Device::Pci { .. } => ("pci", "PCI functions aren't served yet on a Linux host (VFIO)"),
        Device::Node { .. } => (
            "node",
            "a Linux host gives no platform devices away (distributions' kernels have no vfio-platform): run it on bare metal",
        ),
        Device::Region { .. } => (
            "base_hpa",
            "a Linux host gives no raw registers away: they are its kernel's: run it on bare metal",
        ),
        Device::Ports { .. } => {
            ("ports", "a Linux host gives no ports away: they are its kernel's: run it on bare metal")
        }
    };
    findings.device(reference, key, Rule::DeviceUnsupported, why);
    false
}

/// Whose numbers the lines of VMs have.
pub(crate) fn line_numbers(platform: &Platform) -> LineNumbers {
    if host(platform).is_some() { LineNumbers::Guest } else { LineNumbers::Board }
}

/// Numbers the lines of each VM's functions anew: which they have on the board is the kernel's, and says nothing to a guest.
pub(crate) fn number_lines(given: &mut [Given<'_>], machine: Machine, findings: &mut Findings) {
    let lines = machine.lines_of_functions();
    for position in 0..given.len() {
        let (before, rest) = given.split_at_mut(position);
        let Some(device) = rest.first_mut() else { continue };
        let earlier = before.iter().filter(|other| other.vm.index == device.vm.index);
        let taken: usize = earlier.map(|other| other.hardware.lines.len()).sum();
        let wanted = device.hardware.lines.len();
        let own = lines.clone().skip(taken).take(wanted);
        device.hardware.lines =
            own.map(|number| Interrupt { irq: Irq(number), trigger: Trigger::Level }).collect();
        if device.hardware.lines.len() < wanted {
            let most = lines.len();
            findings.device(
                device.reference(),
                "intx",
                Rule::NoRoom,
                format_args!(
                    "a guest has lines for {most} functions, and this is one more: say `intx = \"none\"`, if it has MSIs"
                ),
            );
        }
    }
}

/// How interrupts reach each VM: by KVM.
pub(crate) fn modes(system: &System, findings: &mut Findings) -> alloc::vec::Vec<Mode> {
    let mode = |(index, choice): (u16, InterruptChoice)| {
        let vm = VmRef::of(system, index);
        let mut refuse = |what: &str, why: &str| {
            let what =
                format_args!("interrupts = \"{what}\" isn't possible: {why}: use \"auto\" or \"emulated\"");
            findings.vm(vm, "interrupts", Rule::InterruptMode, what);
        };
        match choice {
            InterruptChoice::Emulated => {}
            InterruptChoice::Auto => findings.note(format_args!(
                "{vm}: interrupts are emulated: a Linux host takes its CPUs' interrupts itself, and KVM injects the VM's"
            )),
            InterruptChoice::Passthrough => {
                refuse("passthrough", "a Linux host takes its CPUs' interrupts itself");
            }
            InterruptChoice::None => refuse("none", "KVM's guests always have their timers' interrupts"),
        }
        let mode = VMInterruptMode::Emulated;
        Mode { mode, console_line: None, messages_by_hardware: false, lines_exposed: false }
    };
    (0..).zip(system.vms.iter().map(|vm| vm.interrupts)).map(mode).collect()
}
