//! Reads a device tree (Devicetree Specification 0.4 and the bindings of the Linux kernel) into a
//! [`Platform`].
//!
//! What a broken node costs depends on what it is. One that the hypervisor rests on (memory, the GIC, an
//! SMMU, a host bridge) makes the whole tree unusable. An interrupt or a provider that can't be followed
//! makes its device unassignable. Nothing is skipped in silence where that would make a device look simpler
//! than it is.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Hpa, Irq, Span};

pub mod blob;
pub mod outline;

mod address;
mod devices;
mod gic;
mod interrupts;
mod kinds;
mod memory;
mod pci;
mod references;

use blob::{BlobError, NodeId, Tree};
use kinds::Kind;

use crate::model::{Cpu, Firmware, Interrupt, Iommu, IommuKind, Irqchip, Platform, PsciConduit, Trigger};

/// A device tree that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdtError {
    /// It isn't a device tree at all.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It is an overlay.
    #[error(
        "this is an overlay ({0}), which changes a board's device tree: apply it to that (fdtoverlay) and give the result"
    )]
    Overlay(String),
    /// It is of a machine that isn't aarch64.
    #[error("this is the device tree of a {0} machine: AxVM serves aarch64 so far")]
    Architecture(&'static str),
    /// A property's value isn't what its binding says.
    #[error("{path}: `{property}` isn't what its binding asks for")]
    Property {
        /// The node.
        path: String,
        /// The property.
        property: String,
    },
    /// There is something of which only one is supported.
    #[error("{first} and {second}: only one interrupt controller is supported")]
    TwoGics {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
}

impl FdtError {
    fn property(tree: &Tree<'_>, id: NodeId, property: &str) -> Self {
        Self::Property { path: tree.path(id), property: property.to_string() }
    }
}

/// Reads a flattened device tree.
///
/// # Errors
///
/// [`FdtError`] names the node and the property that can't be read.
pub fn read(blob: &[u8]) -> Result<Platform, FdtError> {
    read_in(&Tree::parse(blob)?)
}

/// The same of a device tree that is parsed already.
///
/// # Errors
///
/// As [`read`].
pub fn read_in(tree: &Tree<'_>) -> Result<Platform, FdtError> {
    let root = tree.root();
    if let Some(id) = tree.ids().find(|&id| tree.name(id) == "__overlay__") {
        return Err(FdtError::Overlay(tree.path(id)));
    }
    // Binding riscv/cpus.yaml: every cpu node has it.
    if tree.find("/cpus").is_some_and(|cpus| tree.children(cpus).any(|id| tree.is_compatible(id, &["riscv"])))
    {
        return Err(FdtError::Architecture("riscv64"));
    }
    let gic = gic::read(tree)?;
    let smmu_nodes: Vec<NodeId> = tree.in_use(Kind::Smmu).collect();
    let its_nodes = gic::its_nodes(tree);
    let iommus = smmu_nodes.iter().map(|&id| smmu(tree, id)).collect::<Result<_, _>>()?;
    let pci_nodes: Vec<NodeId> = tree.in_use(Kind::PciHost).collect();
    let pci_hosts = pci_nodes
        .iter()
        .enumerate()
        .map(|(position, &id)| pci::host(tree, id, position, &smmu_nodes, &its_nodes))
        .collect::<Result<_, _>>()?;
    let devices = devices::all(tree, &smmu_nodes)?;
    let kept = pci::kept(tree, &pci_nodes)?;
    let banks = memory::banks(tree)?;
    Ok(Platform {
        model: tree.text(root, "model").unwrap_or_default().into(),
        compatible: tree.texts(root, "compatible").map(String::from).collect(),
        cpus: cpus(tree)?,
        reserved: memory::reserved(tree, &banks, &devices, &kept)?,
        memory: banks,
        proximity: Vec::new(),
        kept,
        kept_ports: Vec::new(),
        firmware_dma: Vec::new(),
        console: console(tree),
        irqchip: gic.map(Irqchip::Gic),
        timer: timer(tree),
        firmware: psci(tree).map(Firmware::Psci),
        iommus,
        iommu_scopes: Vec::new(),
        pci_hosts,
        functions: None,
        devices,
        address_bits: 0,
        limits: Default::default(),
        unclear: Vec::new(),
    })
}

/// `/chosen/bootargs`: the command line of whoever was started with this device tree.
///
/// # Errors
///
/// [`FdtError::Blob`] if it isn't a device tree.
pub fn bootargs(blob: &[u8]) -> Result<Option<String>, FdtError> {
    let tree = Tree::parse(blob)?;
    Ok(tree.find("/chosen").and_then(|chosen| tree.text(chosen, "bootargs")).map(String::from))
}

/// `/chosen/linux,initrd-start` and `-end`: where the boot loader put the initial RAM disk.
///
/// # Errors
///
/// [`FdtError`] if it isn't a device tree, or if the two contradict each other.
pub fn initrd(blob: &[u8]) -> Result<Option<Span<Hpa>>, FdtError> {
    initrd_in(&Tree::parse(blob)?)
}

/// The same of a device tree that is parsed already.
///
/// # Errors
///
/// As [`initrd`].
pub fn initrd_in(tree: &Tree<'_>) -> Result<Option<Span<Hpa>>, FdtError> {
    let Some(chosen) = tree.find("/chosen") else { return Ok(None) };
    // The two are one cell or two, whatever #address-cells says.
    let number = |name| -> Option<u64> {
        let mut cells = tree.cells(chosen, name)?;
        cells.number(u32::try_from(cells.0.len() / 4).ok()?)
    };
    let (Some(start), Some(end)) = (number("linux,initrd-start"), number("linux,initrd-end")) else {
        return Ok(None);
    };
    let size = end.checked_sub(start).ok_or_else(|| FdtError::property(tree, chosen, "linux,initrd-end"))?;
    Ok(Span::new(Hpa(start), size).ok())
}

/// Where a node is among others, which is what the platform knows it by.
fn position(nodes: &[NodeId], node: NodeId) -> Option<u16> {
    nodes.iter().position(|&other| other == node)?.try_into().ok()
}

fn cpus(tree: &Tree<'_>) -> Result<Vec<Cpu>, FdtError> {
    let Some(parent) = tree.find("/cpus") else {
        return Ok(Vec::new());
    };
    let mut cpus = Vec::new();
    for id in tree.children(parent).filter(|&id| tree.text(id, "device_type") == Some("cpu")) {
        let number = tree.cells(id, "reg").and_then(|mut cells| cells.number(tree.address_cells(parent)));
        let hardware_id = number.ok_or_else(|| FdtError::property(tree, id, "reg"))?;
        let usable = tree.is_enabled(id) && tree.texts(id, "enable-method").any(|method| method == "psci");
        cpus.push(Cpu { path: tree.path(id), hardware_id, usable });
    }
    Ok(cpus)
}

fn console(tree: &Tree<'_>) -> Option<String> {
    let chosen = tree.find("/chosen")?;
    let path = tree.text(chosen, "stdout-path").or_else(|| tree.text(chosen, "linux,stdout-path"))?;
    let path = path.split(':').next()?;
    tree.find(path).map(|id| tree.path(id))
}

fn psci(tree: &Tree<'_>) -> Option<PsciConduit> {
    let id = tree.in_use(Kind::Psci).next()?;
    match tree.text(id, "method")? {
        "smc" => Some(PsciConduit::Smc),
        "hvc" => Some(PsciConduit::Hvc),
        _ => None,
    }
}

/// The timer's interrupts by their names, else by their order; one that the node doesn't give is the PPI
/// that the Base System Architecture (Arm DEN 0094, 3.5) assigns to it, which nobody can have given to
/// something else.
fn timer(tree: &Tree<'_>) -> Vec<Interrupt> {
    let Some(id) = tree.in_use(Kind::Timer).next() else {
        return Vec::new();
    };
    let named = tree.has(id, "interrupt-names");
    [("sec-phys", 29), ("phys", 30), ("virt", 27), ("hyp-phys", 26)]
        .into_iter()
        .enumerate()
        .map(|(position, (name, default))| {
            let given = if named { tree.interrupt_named(id, name) } else { tree.interrupt_at(id, position) };
            given.unwrap_or(Interrupt { irq: Irq(default), trigger: Trigger::Level })
        })
        .collect()
}

fn smmu(tree: &Tree<'_>, id: NodeId) -> Result<Iommu, FdtError> {
    let registers =
        tree.registers(id)?.first().copied().ok_or_else(|| FdtError::property(tree, id, "reg"))?;
    Ok(Iommu {
        path: tree.path(id),
        registers,
        coherent: tree.is_coherent(id),
        // A combined line carries both.
        kind: IommuKind::SmmuV3 {
            event_queue: tree.interrupt_named(id, "eventq").or_else(|| tree.interrupt_named(id, "combined")),
            global_error: tree.interrupt_named(id, "gerror").or_else(|| tree.interrupt_named(id, "combined")),
        },
    })
}
