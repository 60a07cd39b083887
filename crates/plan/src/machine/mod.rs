//! What one architecture adds to the rules: what a board must have, where its interrupt controller is and how interrupts reach VMs, what
//! its tables take, and its words.
//!
//! It is data and rules, without `cfg`: a desk plans for any board. What is common asks `Machine`, and names none of it.

pub(crate) mod aarch64;
pub(crate) mod x86_64;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Address, Gpa, Hpa, Interrupt, IommuId, Irq, MsiControllerId, PciAddress, Ports, Span};
use axvm_guest::Description;
use axvm_guest::image::{ImageKind, VmImages};
use axvm_platform::fdt::{self, FdtError};
use axvm_platform::limits::GuestMachine;
#[cfg(all(feature = "x86_64", feature = "aarch64"))]
use axvm_platform::model::Irqchip;
use axvm_platform::model::Platform;
use axvm_system::model::{Arch, System, Vm};
use serde::{Deserialize, Serialize};

use crate::apart::Apart;
use crate::board::Board;
use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::hardware::Given;
use crate::layout::Room;
use crate::model::{Blob, ConsolePlan, LoadPlan, VmPlan};
use crate::own_tree::Look;

/// The architecture of a board. Of one that this build doesn't serve there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    Aarch64(aarch64::Served),
    X86_64(x86_64::Served),
}

/// What only machines of one architecture have, for one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachinePlan {
    /// aarch64.
    Aarch64(aarch64::Aarch64Plan),
    /// x86_64.
    X86_64(x86_64::X86_64Plan),
}

#[cfg(any(feature = "aarch64", not(feature = "x86_64")))]
impl Default for MachinePlan {
    fn default() -> Self {
        let plan = aarch64::Aarch64Plan { served: aarch64::Served, gic: None, virtual_lpis: false };
        Self::Aarch64(plan)
    }
}

impl MachinePlan {
    pub(crate) fn machine(&self) -> Machine {
        match self {
            Self::Aarch64(plan) => Machine::Aarch64(plan.served),
            Self::X86_64(plan) => Machine::X86_64(plan.served),
        }
    }

    pub(crate) fn words(&self) -> &'static Words {
        self.machine().words()
    }

    /// What is emulated of the interrupt controller, each part with its name.
    pub(crate) fn registers(&self) -> Vec<Emulated> {
        match self {
            Self::Aarch64(plan) => plan.registers(),
            Self::X86_64(plan) => plan.registers(),
        }
    }

    /// What is emulated at ports beside the console, each part with its name.
    pub(crate) fn ports(&self) -> Vec<EmulatedPorts> {
        match self {
            Self::Aarch64(_) => Vec::new(),
            Self::X86_64(plan) => plan.ports(),
        }
    }

    /// Whether the VM has a controller for message interrupts.
    pub(crate) fn takes_messages(&self) -> bool {
        match self {
            Self::Aarch64(plan) => plan.gic.is_some_and(|gic| gic.its.is_some()),
            Self::X86_64(_) => true,
        }
    }

    /// The page that the guest has its devices send their message interrupts to, of the controller with the host's behind it.
    pub(crate) fn doorbell(&self, controller: MsiControllerId) -> Option<Gpa> {
        // x86's processors take what is sent to addresses that nothing else has, and none of it is mapped.
        let Self::Aarch64(plan) = self else { return None };
        let its = plan.gic?.its.filter(|its| its.host == controller)?;
        its.registers.start().checked_add(aarch64::DOORBELL)
    }

    /// Whether the line of the emulated console is one of the machine's in this mode, so that no other VM can have the same at a time.
    pub(crate) fn console_has_a_line(&self, mode: VMInterruptMode) -> bool {
        match self {
            Self::Aarch64(_) => mode == VMInterruptMode::Passthrough,
            // Lines are injected in each mode.
            Self::X86_64(_) => false,
        }
    }

    /// Whether the hardware delivers the message interrupts of a VM in this mode, by the numbers that its guest gives them.
    pub(crate) fn delivers_messages(&self, mode: VMInterruptMode) -> bool {
        let by_hardware = match self {
            Self::Aarch64(plan) => plan.virtual_lpis,
            Self::X86_64(_) => false,
        };
        mode == VMInterruptMode::Passthrough || by_hardware
    }
}

/// What is copied into a VM's RAM beside its images, of a VM that brings no device tree of its own.
pub(crate) fn write(vm: &VmPlan) -> Result<Vec<Blob>, String> {
    match &vm.machine {
        MachinePlan::Aarch64(_) => aarch64::write(vm),
        MachinePlan::X86_64(plan) => x86_64::write(vm, plan),
    }
}

/// Registers that the hypervisor emulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Emulated {
    pub(crate) span: Span<Gpa>,
    /// With its article.
    pub(crate) what: &'static str,
}

/// Ports that the hypervisor emulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmulatedPorts {
    pub(crate) ports: Ports,
    /// With its article.
    pub(crate) what: &'static str,
}

/// Ports of the board's that no guest is given.
pub(crate) struct DrivenPorts {
    pub(crate) ports: Ports,
    /// With its article.
    pub(crate) what: String,
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
    /// Why a CPU can't be started.
    pub(crate) cant_start: &'static str,
    /// What tells the translations of VMs apart.
    pub(crate) tag: &'static str,
    /// What the board is described by, and what guests are told of their machine by.
    pub(crate) board_by: &'static str,
    pub(crate) guest_by: &'static str,
    /// How QEMU's board is started with a controller of message interrupts, and with an IOMMU.
    pub(crate) qemu_msi: &'static str,
    pub(crate) qemu_iommu: &'static str,
}

/// Where a guest machine that isn't the board's mirror has what is common to all machines.
pub(crate) struct OwnLayout {
    /// Where its RAM begins, where nothing speaks against it.
    pub(crate) ram: Gpa,
    /// The first page for emulated devices: the console's, where that is in memory.
    pub(crate) emulated: Gpa,
    /// Where platform devices' registers are.
    pub(crate) devices: Range<u64>,
    /// The config spaces of its host bridges.
    pub(crate) config_spaces: Range<u64>,
    /// Where 32-bit BARs are.
    pub(crate) low_window: Range<u64>,
    /// 64-bit BARs are in the last quarter of what so many bits address, or of what the CPUs reach if that is less.
    pub(crate) high_bits: u8,
    /// Where BARs of ports are.
    pub(crate) port_window: Option<Ports>,
    /// Where port 0 is in memory, in machines that reach no ports by instructions.
    pub(crate) port_memory: Option<Gpa>,
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
    #[cfg(all(feature = "x86_64", feature = "aarch64"))]
    pub(crate) fn of(platform: &Platform) -> Self {
        match platform.irqchip {
            Some(Irqchip::Apic(_)) => Self::X86_64(x86_64::Served),
            Some(Irqchip::Gic(_)) | None => Self::Aarch64(aarch64::Served),
        }
    }

    /// That of all platforms, in a build for one architecture.
    #[cfg(all(feature = "x86_64", not(feature = "aarch64")))]
    pub(crate) fn of(_: &Platform) -> Self {
        Self::X86_64(x86_64::Served)
    }

    /// That of all platforms, in a build for one architecture.
    #[cfg(not(feature = "x86_64"))]
    pub(crate) fn of(_: &Platform) -> Self {
        Self::Aarch64(aarch64::Served)
    }

    /// Its name in system files.
    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::Aarch64(_) => Arch::Aarch64,
            Self::X86_64(_) => Arch::X86_64,
        }
    }

    pub(crate) fn words(self) -> &'static Words {
        match self {
            Self::Aarch64(_) => &aarch64::WORDS,
            Self::X86_64(_) => &x86_64::WORDS,
        }
    }

    /// What of the hypervisor's needs a board lacks.
    pub(crate) fn lacks(self, platform: &Platform) -> Vec<&'static str> {
        match self {
            Self::Aarch64(_) => aarch64::lacks(platform),
            Self::X86_64(_) => x86_64::lacks(platform),
        }
    }

    /// What of the board's registers belongs to its interrupt controller.
    pub(crate) fn irqchip(self, platform: &Platform) -> Vec<Driven> {
        match self {
            Self::Aarch64(_) => aarch64::irqchip(platform),
            Self::X86_64(_) => x86_64::irqchip(platform),
        }
    }

    /// The interrupt controller's own lines.
    pub(crate) fn irqchip_lines(self, platform: &Platform) -> Vec<Held> {
        match self {
            Self::Aarch64(_) => aarch64::irqchip_lines(platform),
            Self::X86_64(_) => x86_64::irqchip_lines(platform),
        }
    }

    /// What of the machine's own is at a path of the device tree.
    pub(crate) fn reserved_node(self, platform: &Platform, path: &str) -> Option<&'static str> {
        match self {
            Self::Aarch64(_) => aarch64::reserved_node(platform, path),
            Self::X86_64(_) => x86_64::reserved_node(path),
        }
    }

    /// What devices' lines may have as numbers.
    pub(crate) fn lines(self) -> Range<u32> {
        match self {
            Self::Aarch64(_) => aarch64::SPIS,
            Self::X86_64(_) => x86_64::LINES,
        }
    }

    /// Lines of a guest's that its functions have where they aren't the board's: none that its own devices have.
    pub(crate) fn lines_of_functions(self) -> Range<u32> {
        match self {
            Self::Aarch64(_) => aarch64::LINES_OF_FUNCTIONS,
            Self::X86_64(_) => x86_64::LINES_OF_FUNCTIONS,
        }
    }

    /// How many controllers of message interrupts a board has.
    pub(crate) fn msi_controllers(self, platform: &Platform) -> usize {
        match self {
            Self::Aarch64(_) => platform.gic().map_or(0, |gic| gic.its.len()),
            Self::X86_64(_) => platform.iommus.len(),
        }
    }

    /// Where a guest machine of its own has what all have.
    pub(crate) fn own_layout(self) -> &'static OwnLayout {
        match self {
            Self::Aarch64(_) => &aarch64::layout::OWN,
            Self::X86_64(_) => &x86_64::layout::OWN,
        }
    }

    /// The machine that guests see: on x86 its own, as what a PC has lies where the hypervisor's own is.
    pub(crate) fn guest_machine(self, platform: &Platform) -> GuestMachine {
        match self {
            Self::Aarch64(_) => platform.limits.guest_machine,
            Self::X86_64(_) => GuestMachine::Own,
        }
    }

    /// Where RAM is, piece by piece, in a machine that has it at fixed places; else it is in one piece where there is room.
    pub(crate) fn ram_areas(self) -> &'static [(u64, u64)] {
        match self {
            Self::Aarch64(_) => &[],
            Self::X86_64(_) => &x86_64::layout::RAM,
        }
    }

    /// Whether the board's host bridges take what a device sends for theirs where it is an address of one of their windows, before an IOMMU has
    /// seen it.
    pub(crate) fn windows_take_dma(self) -> bool {
        match self {
            Self::Aarch64(_) => true,
            Self::X86_64(_) => false,
        }
    }

    /// Whether there are no I/O ports.
    pub(crate) fn has_no_ports(self) -> bool {
        match self {
            Self::Aarch64(_) => true,
            Self::X86_64(_) => false,
        }
    }

    /// The IOMMU that a PCI function is, with its article.
    pub(crate) fn iommu_at(self, platform: &Platform, function: PciAddress) -> Option<&'static str> {
        match self {
            Self::Aarch64(_) => None,
            Self::X86_64(_) => x86_64::iommu_at(platform, function),
        }
    }

    /// Whether firmware may say that devices reach memory of its own.
    pub(crate) fn firmware_masters(self) -> bool {
        match self {
            Self::Aarch64(_) => false,
            Self::X86_64(_) => true,
        }
    }

    /// The ports of the board's with which the hypervisor works.
    pub(crate) fn ports(self, platform: &Platform) -> Vec<DrivenPorts> {
        match self {
            Self::Aarch64(_) => Vec::new(),
            Self::X86_64(_) => x86_64::ports(platform),
        }
    }

    /// Whether an IOMMU bounds the messages of the devices that it serves, or something behind it does.
    pub(crate) fn bounds_messages(self, platform: &Platform, iommu: IommuId) -> bool {
        match self {
            Self::Aarch64(_) => true,
            Self::X86_64(_) => x86_64::bounds_messages(platform, iommu),
        }
    }

    /// Whether it is for guests to say how many messages a device can send, so that each may have as many as any.
    pub(crate) fn guests_size_tables(self) -> bool {
        match self {
            Self::Aarch64(_) => true,
            Self::X86_64(_) => false,
        }
    }

    /// Whether it runs kernels of this kind.
    pub(crate) fn runs(self, kind: ImageKind) -> bool {
        match self {
            Self::Aarch64(_) => matches!(kind, ImageKind::LinuxImage | ImageKind::Elf | ImageKind::Raw),
            Self::X86_64(_) => {
                matches!(kind, ImageKind::BzImage | ImageKind::PvhElf | ImageKind::ElfX86 | ImageKind::Raw)
            }
        }
    }

    /// Whether its guests can be told of their machine by a device tree, so that a file may bring one.
    pub(crate) fn has_device_tree(self) -> bool {
        match self {
            Self::Aarch64(_) => true,
            Self::X86_64(_) => false,
        }
    }

    /// Whether an emulated watchdog has a line by which it says that half its time is over.
    pub(crate) fn watchdog_has_line(self) -> bool {
        self.has_device_tree()
    }

    /// The emulated console, where it is at ports.
    pub(crate) fn console_ports(self, given: &[&Given<'_>]) -> Option<ConsolePlan> {
        match self {
            Self::Aarch64(_) => None,
            Self::X86_64(_) => x86_64::layout::console(given),
        }
    }

    /// Where the images go, in RAM of which this is the first piece.
    pub(crate) fn place(
        self,
        vm: VmRef<'_>,
        config: &Vm,
        images: &VmImages,
        ram: Span<Gpa>,
        findings: &mut Findings,
    ) -> Option<LoadPlan> {
        match self {
            Self::Aarch64(_) => aarch64::load::place(vm, config, images, ram, findings),
            Self::X86_64(_) => x86_64::load::place(vm, config, images, ram, findings),
        }
    }

    /// The page of the board's that devices' message interrupts reach.
    pub(crate) fn doorbell(self, platform: &Platform, controller: MsiControllerId) -> Option<Hpa> {
        match self {
            Self::Aarch64(_) => platform.gic()?.its.get(usize::from(controller.0))?.doorbell(),
            Self::X86_64(_) => None,
        }
    }

    /// Says what of the board's interrupt controller stays unused, and why.
    pub(crate) fn note_unused(self, platform: &Platform, findings: &mut Findings) {
        match self {
            Self::Aarch64(_) => aarch64::note_unused(platform, findings),
            Self::X86_64(_) => {}
        }
    }

    /// What a vCPU's guest knows it by.
    pub(crate) fn vcpu_id(self, vcpu: u16) -> u64 {
        match self {
            Self::Aarch64(_) => aarch64::affinity(vcpu),
            // Local APICs' ids, which are counted.
            Self::X86_64(_) => vcpu.into(),
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
            Self::Aarch64(_) => aarch64::mode::choose(system, given, board, apart, findings),
            Self::X86_64(_) => {
                x86_64::note_iommus(given, board.platform, findings);
                x86_64::mode::choose(system, board.platform, findings)
            }
        }
    }

    /// What only this machine has, for one VM.
    pub(crate) fn plan(
        self,
        vm: VmRef<'_>,
        config: &Vm,
        room: Room<'_>,
        given: &[&Given<'_>],
        board: &Board<'_>,
        findings: &mut Findings,
    ) -> MachinePlan {
        match self {
            Self::Aarch64(served) => {
                aarch64::layout::plan(vm, served, config, room.mode, given, board, findings)
            }
            Self::X86_64(served) => x86_64::layout::plan(vm, served, room.images, given, findings),
        }
    }

    /// Where a guest's interrupt controller may lie, whatever the VM has of it.
    pub(crate) fn fixed(self, platform: &Platform) -> Vec<Emulated> {
        match self {
            Self::Aarch64(_) => aarch64::layout::fixed(platform),
            Self::X86_64(_) => x86_64::layout::fixed(),
        }
    }

    /// Gives the interrupt controller as many lines as devices need, those that are emulated among them (`own`).
    pub(crate) fn set_lines(
        self,
        plan: &mut MachinePlan,
        given: &[&Given<'_>],
        own: impl Iterator<Item = Irq>,
    ) {
        // The pins of an I/O APIC are always the same.
        if let MachinePlan::Aarch64(plan) = plan {
            aarch64::layout::set_spis(plan, given, own);
        }
    }

    /// What the guest's description says of the machine.
    pub(crate) fn describe(self, plan: &MachinePlan, platform: &Platform, description: &mut Description) {
        match plan {
            MachinePlan::Aarch64(plan) => aarch64::describe(plan, platform, description),
            MachinePlan::X86_64(plan) => x86_64::describe(plan, description),
        }
    }

    /// What tables take.
    pub(crate) fn tables(self) -> &'static Tables {
        match self {
            Self::Aarch64(_) => &aarch64::TABLES,
            Self::X86_64(_) => &x86_64::TABLES,
        }
    }

    /// What a VM's own device tree says, of a machine whose guests can have one.
    pub(crate) fn read_own(self, blob: &[u8]) -> Option<Result<Platform, FdtError>> {
        match self {
            Self::Aarch64(_) => Some(fdt::read(blob)),
            Self::X86_64(_) => None,
        }
    }

    /// Looks at what a VM's own device tree says of the interrupt controller, the timer and the firmware.
    pub(crate) fn look(self, look: &mut Look<'_>, tree: &Platform) {
        match self {
            Self::Aarch64(_) => aarch64::own_tree::look(look, tree),
            // A VM of it has no device tree.
            Self::X86_64(_) => {}
        }
    }
}
