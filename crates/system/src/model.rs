//! The system file's model: where AxVM runs and what it runs. Plain data; what it means is the plan's business.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{CpuId, Gpa, Hpa, Irq, PciAddress, SourceId};
use serde::{Deserialize, Serialize};

use crate::packed::deserialize_in_order;

/// An instruction set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// Armv8-A or later, 64 bit.
    #[default]
    Aarch64,
    /// x86, 64 bit.
    X86_64,
    /// RISC-V, 64 bit.
    Riscv64,
}

/// `host`: what has the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// AxVM itself, which boots on it.
    #[default]
    BareMetal,
    /// A Linux, on which AxVM is a program.
    Linux,
}

/// A whole system file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// `[board]`.
    pub board: Board,
    /// `[hypervisor]`.
    pub hypervisor: Hypervisor,
    /// `[[vm]]`, in the file's order: the position is the VM's id.
    pub vms: Vec<Vm>,
}

deserialize_in_order!(System { board, hypervisor, vms });

/// `[board]`: where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Board {
    /// `arch`.
    pub arch: Arch,
    /// `qemu`: arguments, if the board is QEMU. The hypervisor has no use for them.
    pub qemu: Option<Vec<String>>,
    /// `host`. Not packed: whoever unpacks it is that host.
    #[serde(skip)]
    pub host: Host,
}

deserialize_in_order!(Board { arch, qemu; host });

/// `[hypervisor]`: what it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hypervisor {
    /// `cpu`; without it the first.
    pub cpu: Option<CpuId>,
    /// `console`: a device-tree path; without it what the platform calls its console.
    pub console: Option<String>,
}

deserialize_in_order!(Hypervisor { cpu, console });

/// `interrupts`: what the file asks for. The plan turns it into a `VMInterruptMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterruptChoice {
    /// Passthrough where that is closed, else emulated.
    #[default]
    Auto,
    /// Device interrupts reach the guest without the hypervisor.
    Passthrough,
    /// The hypervisor takes them and injects.
    Emulated,
    /// No device interrupt is delivered.
    None,
}

/// `on_violation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViolationPolicy {
    /// Bus mastering off and kept off until restart, stream blocked.
    #[default]
    QuarantineDevice,
    /// Recorded only.
    Report,
    /// The VM is stopped.
    StopVm,
}

/// What follows when a VM has ended without anybody having asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterEnd {
    /// It stays stopped.
    #[default]
    Stop,
    /// It starts again, from its images and with its devices reset.
    Restart,
}

/// One `[[vm]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// `name`.
    pub name: String,
    /// `cpus`: one physical CPU for each vCPU.
    pub cpus: Vec<CpuId>,
    /// `memory`, in bytes.
    pub memory: u64,
    /// `memory_base`; without it the board's own.
    pub memory_base: Option<Gpa>,
    /// `kernel`: a path, for people; the bundle has the content.
    pub kernel: String,
    /// `initrd`.
    pub initrd: Option<String>,
    /// `dtb`.
    pub dtb: Option<String>,
    /// `cmdline`.
    pub cmdline: String,
    /// `load`: where a raw binary goes.
    pub load: Option<Gpa>,
    /// `entry`: where a raw binary starts.
    pub entry: Option<Gpa>,
    /// `device_tree`: where the guest looks for its device tree; without it anywhere, since x0 says where.
    pub device_tree: Option<Gpa>,
    /// `interrupts`.
    pub interrupts: InterruptChoice,
    /// `trusted`.
    pub trusted: bool,
    /// `on_violation`.
    pub on_violation: ViolationPolicy,
    /// `on_reset`: its guest has reset itself. In a file that doesn't say it: [`AfterEnd::Restart`].
    pub on_reset: AfterEnd,
    /// `on_crash`: it has ended otherwise than by powering itself off. In a file that doesn't say it: [`AfterEnd::Stop`].
    pub on_crash: AfterEnd,
    /// `watchdog`: it has one, and its guest has let it expire.
    pub watchdog: Option<AfterEnd>,
    /// `autostart`.
    pub autostart: bool,
    /// `[[vm.device]]`, in the file's order.
    pub devices: Vec<Device>,
}

deserialize_in_order!(Vm {
    name,
    cpus,
    memory,
    memory_base,
    kernel,
    initrd,
    dtb,
    cmdline,
    load,
    entry,
    device_tree,
    interrupts,
    trusted,
    on_violation,
    on_reset,
    on_crash,
    watchdog,
    autostart,
    devices,
});

/// How a device's registers are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterAccess {
    /// Mapped into the guest.
    #[default]
    Direct,
    /// Each access exits and is forwarded.
    Trap,
}

/// What the author says of a device's DMA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dma {
    /// Nothing: the platform knows.
    Unstated,
    /// `dma = "none"`: it doesn't master the bus.
    None,
    /// `streams = [..]`: it does so with these ids at the IOMMU.
    Streams(Vec<SourceId>),
}

/// What a device's owner can do beyond the device. The author accepts it by its name in `accept`; unsaid, the device is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hazard {
    /// `"provider"`: others live by it.
    Provider,
    /// `"bus"`: others are on it.
    Bus,
    /// `"iommu"`: it bounds others' DMA.
    Iommu,
    /// `"flash"`: it keeps what the board's next start reads.
    Flash,
    /// `"watchdog"`: it resets the board.
    Watchdog,
    /// `"debug"`: it stops CPUs and reads their registers.
    Debug,
    /// `"dependency"`: it itself lives by others, which stay as they are.
    Dependency,
}

impl Hazard {
    /// All of them, by their names in the file.
    pub const ALL: [(&str, Self); 7] = [
        ("provider", Self::Provider),
        ("bus", Self::Bus),
        ("iommu", Self::Iommu),
        ("flash", Self::Flash),
        ("watchdog", Self::Watchdog),
        ("debug", Self::Debug),
        ("dependency", Self::Dependency),
    ];
}

/// What becomes of a function that the Linux host itself uses (a mounted disk, the default route, the console).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InUse {
    /// It isn't taken.
    #[default]
    Keep,
    /// `in_use = "take"`: it is taken all the same, and its uses end.
    Take,
}

/// One `[[vm.device]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// A PCI function.
    Pci {
        /// `pci`.
        address: PciAddress,
        /// `reset = "none"`: assign it though it can't be reset.
        without_reset: bool,
        /// `intx = "none"`: it has no interrupt line, only MSIs, so that what shares the line may have another owner.
        without_intx: bool,
        /// `in_use`.
        in_use: InUse,
    },
    /// A platform device.
    Node {
        /// `node`: its device-tree path.
        path: String,
        /// `access`.
        access: RegisterAccess,
        /// `dma` or `streams`.
        dma: Dma,
        /// `accept`.
        accept: Vec<Hazard>,
    },
    /// A raw region.
    Region {
        /// `name`.
        name: String,
        /// `base_gpa`.
        base_gpa: Gpa,
        /// `base_hpa`.
        base_hpa: Hpa,
        /// `length`, in bytes.
        length: u64,
        /// `irq`: its line; the guest gets the same number.
        irq: Option<Irq>,
        /// `access`.
        access: RegisterAccess,
        /// `dma` or `streams`.
        dma: Dma,
        /// `accept`.
        accept: Vec<Hazard>,
    },
    /// A range of x86 ports.
    Ports {
        /// `name`.
        name: String,
        /// The first port.
        base: u16,
        /// How many.
        count: u16,
        /// `irq`: its line.
        irq: Option<Irq>,
        /// `access`.
        access: RegisterAccess,
    },
}

/// Where in the file something was said, for problems: the plan names items this way, and the reader of the TOML knows
/// the line of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Item {
    /// The file as a whole.
    File,
    /// `board` or one of its keys (empty: the table itself).
    Board(String),
    /// `hypervisor` or one of its keys.
    Hypervisor(String),
    /// A VM by position, and one of its keys or none.
    Vm(u16, String),
    /// The n-th element of `cpus` of a VM.
    Cpu(u16, u16),
    /// A device by the positions of its VM and its own, and one of its keys or none.
    Device(u16, u16, String),
}
