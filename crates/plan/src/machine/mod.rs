//! What one architecture adds to the rules: what a board must have, where its interrupt controller is and how interrupts reach VMs, what
//! its tables take, and its words.
//!
//! It is data and rules, without `cfg`: a desk plans for any board. What is common asks `Machine`, and names none of it.

pub(crate) mod aarch64;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Address, Gpa, Hpa, Interrupt, Irq, MsiControllerId, Span};
use axvm_guest::Description;
use axvm_platform::model::Platform;
use axvm_system::model::{Arch, System, Vm};
use serde::{Deserialize, Serialize};

use crate::apart::Apart;
use crate::board::Board;
use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::hardware::Given;
use crate::own_tree::Look;

/// The architecture of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    Aarch64,
}

/// What only machines of one architecture have, for one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachinePlan {
    /// aarch64.
    Aarch64(aarch64::Aarch64Plan),
}

impl Default for MachinePlan {
    fn default() -> Self {
        Self::Aarch64(aarch64::Aarch64Plan::default())
    }
}

impl MachinePlan {
    pub(crate) fn machine(&self) -> Machine {
        match self {
            Self::Aarch64(_) => Machine::Aarch64,
        }
    }

    pub(crate) fn words(&self) -> &'static Words {
        self.machine().words()
    }

    /// What is emulated of the interrupt controller, each part with its name.
    pub(crate) fn registers(&self) -> Vec<Emulated> {
        let Self::Aarch64(plan) = self;
        plan.registers()
    }

    /// Whether the VM has a controller for message interrupts.
    pub(crate) fn takes_messages(&self) -> bool {
        let Self::Aarch64(plan) = self;
        plan.gic.is_some_and(|gic| gic.its.is_some())
    }

    /// The page that the guest has its devices send their message interrupts to, of the controller with the host's behind it.
    pub(crate) fn doorbell(&self, controller: MsiControllerId) -> Option<Gpa> {
        let Self::Aarch64(plan) = self;
        let its = plan.gic?.its.filter(|its| its.host == controller)?;
        its.registers.start().checked_add(aarch64::DOORBELL)
    }

    /// Whether the hardware delivers the message interrupts of a VM in this mode, by the numbers that its guest gives them.
    pub(crate) fn delivers_messages(&self, mode: VMInterruptMode) -> bool {
        let Self::Aarch64(plan) = self;
        mode == VMInterruptMode::Passthrough || plan.virtual_lpis
    }
}

/// Registers that the hypervisor emulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Emulated {
    pub(crate) span: Span<Gpa>,
    /// With its article.
    pub(crate) what: &'static str,
}

/// Registers of the board's that the hypervisor drives.
pub(crate) struct Driven {
    pub(crate) span: Span<Hpa>,
    /// With its article, and its place in the device tree.
    pub(crate) what: String,
}

/// A line of the board's that the hypervisor listens to.
pub(crate) struct Held {
    pub(crate) irq: Irq,
    /// With its article.
    pub(crate) whose: String,
}

impl Held {
    pub(crate) fn new(line: Interrupt, whose: String) -> Self {
        Self { irq: line.irq, whose }
    }
}

/// How interrupts reach a VM.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) mode: VMInterruptMode,
    /// The physical line that stands for the emulated console's, in passthrough mode.
    pub(crate) console_line: Option<Irq>,
    /// In emulated mode: the hardware delivers its message interrupts all the same.
    pub(crate) messages_by_hardware: bool,
    /// Another VM, which isn't trusted, could end the active state of this one's lines.
    pub(crate) lines_exposed: bool,
}

/// What people call the parts of a machine.
pub(crate) struct Words {
    /// Its IOMMUs.
    pub(crate) iommu: &'static str,
    /// What an IOMMU knows a DMA master by.
    pub(crate) source: &'static str,
    /// Its controllers of message interrupts.
    pub(crate) msi: &'static str,
    /// What such a one knows a sender by.
    pub(crate) sender: &'static str,
    /// The number of an interrupt.
    pub(crate) irq: &'static str,
    /// The interrupt controller, with its article.
    pub(crate) irqchip: &'static str,
    /// What a line must be so that it can be routed to a VM.
    pub(crate) routable: &'static str,
    /// The emulated console, with its article.
    pub(crate) console: &'static str,
    /// Its `compatible`.
    pub(crate) console_compatible: &'static str,
    /// The emulated watchdog, with its article.
    pub(crate) watchdog: &'static str,
    /// What gives a CPU to guests, beside its own node: the firmware, and the interrupt controller with its article.
    pub(crate) firmware: &'static str,
    pub(crate) controller: &'static str,
    /// What tells the translations of VMs apart.
    pub(crate) tag: &'static str,
    /// How QEMU's board is started with a controller of message interrupts, and with an IOMMU.
    pub(crate) qemu_msi: &'static str,
    pub(crate) qemu_iommu: &'static str,
}

/// Where a guest machine that isn't the board's mirror has what is common to all machines.
pub(crate) struct OwnLayout {
    /// Where its RAM begins, where nothing speaks against it.
    pub(crate) ram: Gpa,
    /// The page of the emulated console.
    pub(crate) console: Gpa,
    /// Where platform devices' registers are.
    pub(crate) devices: Range<u64>,
    /// The config spaces of its host bridges.
    pub(crate) config_spaces: Range<u64>,
    /// Where 32-bit BARs are.
    pub(crate) low_window: Range<u64>,
    /// 64-bit BARs are in the last quarter of what so many bits address, or of what the CPUs reach if that is less.
    pub(crate) high_bits: u8,
}

/// Bytes that tables take.
pub(crate) struct Tables {
    /// A translation table.
    pub(crate) table: u64,
    /// The root of a translation.
    pub(crate) root: u64,
    /// A block of an IOMMU's table of DMA masters, and the bits of an id that it spans.
    pub(crate) sources: u64,
    pub(crate) source_bits: u32,
    /// A message in the table of its sender, and the least that such a table takes.
    pub(crate) message: u64,
    pub(crate) messages: u64,
    /// What a vCPU takes to which the hardware delivers messages, and as much once for the VM.
    pub(crate) receiver: u64,
}

impl Machine {
    /// That of a platform: readers refuse the descriptions of others.
    pub(crate) fn of(_: &Platform) -> Self {
        Self::Aarch64
    }

    /// Its name in system files.
    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::Aarch64 => Arch::Aarch64,
        }
    }

    pub(crate) fn words(self) -> &'static Words {
        match self {
            Self::Aarch64 => &aarch64::WORDS,
        }
    }

    /// What of the hypervisor's needs a board lacks.
    pub(crate) fn lacks(self, platform: &Platform) -> Vec<&'static str> {
        match self {
            Self::Aarch64 => aarch64::lacks(platform),
        }
    }

    /// What of the board's registers belongs to its interrupt controller.
    pub(crate) fn irqchip(self, platform: &Platform) -> Vec<Driven> {
        match self {
            Self::Aarch64 => aarch64::irqchip(platform),
        }
    }

    /// The interrupt controller's own lines.
    pub(crate) fn irqchip_lines(self, platform: &Platform) -> Vec<Held> {
        match self {
            Self::Aarch64 => aarch64::irqchip_lines(platform),
        }
    }

    /// What of the machine's own is at a path of the device tree.
    pub(crate) fn reserved_node(self, platform: &Platform, path: &str) -> Option<&'static str> {
        match self {
            Self::Aarch64 => aarch64::reserved_node(platform, path),
        }
    }

    /// What devices' lines may have as numbers.
    pub(crate) fn lines(self) -> Range<u32> {
        match self {
            Self::Aarch64 => aarch64::SPIS,
        }
    }

    /// How many controllers of message interrupts a board has.
    pub(crate) fn msi_controllers(self, platform: &Platform) -> usize {
        match self {
            Self::Aarch64 => platform.gic().map_or(0, |gic| gic.its.len()),
        }
    }

    /// Where a guest machine of its own has what all have.
    pub(crate) fn own_layout(self) -> &'static OwnLayout {
        match self {
            Self::Aarch64 => &aarch64::layout::OWN,
        }
    }

    /// The page of the board's that devices' message interrupts reach.
    pub(crate) fn doorbell(self, platform: &Platform, controller: MsiControllerId) -> Option<Hpa> {
        match self {
            Self::Aarch64 => platform.gic()?.its.get(usize::from(controller.0))?.doorbell(),
        }
    }

    /// Says what of the board's interrupt controller stays unused, and why.
    pub(crate) fn note_unused(self, platform: &Platform, findings: &mut Findings) {
        match self {
            Self::Aarch64 => aarch64::note_unused(platform, findings),
        }
    }

    /// What a vCPU's guest knows it by.
    pub(crate) fn vcpu_id(self, vcpu: u16) -> u64 {
        match self {
            Self::Aarch64 => aarch64::affinity(vcpu),
        }
    }

    /// Decides how interrupts reach each VM.
    pub(crate) fn modes(
        self,
        system: &System,
        given: &[&Given<'_>],
        board: &Board<'_>,
        apart: &Apart,
        findings: &mut Findings,
    ) -> Vec<Mode> {
        match self {
            Self::Aarch64 => aarch64::mode::choose(system, given, board, apart, findings),
        }
    }

    /// What only this machine has, for one VM.
    pub(crate) fn plan(
        self,
        vm: VmRef<'_>,
        config: &Vm,
        mode: Mode,
        given: &[&Given<'_>],
        board: &Board<'_>,
        findings: &mut Findings,
    ) -> MachinePlan {
        match self {
            Self::Aarch64 => {
                MachinePlan::Aarch64(aarch64::layout::plan(vm, config, mode, given, board, findings))
            }
        }
    }

    /// Where a guest's interrupt controller may lie, whatever the VM has of it.
    pub(crate) fn fixed(self, platform: &Platform) -> Vec<Emulated> {
        match self {
            Self::Aarch64 => aarch64::layout::fixed(platform),
        }
    }

    /// Gives the interrupt controller as many lines as devices need, those that are emulated among them (`own`).
    pub(crate) fn set_lines(
        self,
        plan: &mut MachinePlan,
        given: &[&Given<'_>],
        own: impl Iterator<Item = Irq>,
    ) {
        let MachinePlan::Aarch64(plan) = plan;
        aarch64::layout::set_spis(plan, given, own);
    }

    /// What the guest's description says of the machine.
    pub(crate) fn describe(self, plan: &MachinePlan, platform: &Platform, description: &mut Description) {
        let MachinePlan::Aarch64(plan) = plan;
        aarch64::describe(plan, platform, description);
    }

    /// What tables take.
    pub(crate) fn tables(self) -> &'static Tables {
        match self {
            Self::Aarch64 => &aarch64::TABLES,
        }
    }

    /// Looks at what a VM's own device tree says of the interrupt controller, the timer and the firmware.
    pub(crate) fn look(self, look: &mut Look<'_>, tree: &Platform) {
        match self {
            Self::Aarch64 => aarch64::own_tree::look(look, tree),
        }
    }
}
