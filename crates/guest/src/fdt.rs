//! Writes the guest's device tree (Devicetree Specification 0.4, bindings of the Linux kernel).
//!
//! Everything it says comes from the [`Description`]; nothing is decided here but names and phandles.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Address, Gpa, Interrupt, Irq, Span, Trigger};
use litemap::LiteMap;
use vm_fdt::FdtWriter;

use crate::description::{
    ClockDescription, Description, DeviceDescription, GicDescription, NodeDescription, WatchdogDescription,
};

mod pci;

/// The phandles of what is written here. Devices' nodes keep theirs, so these are counted from the highest of those.
struct Phandles {
    gic: u32,
    its: u32,
    console_clock: u32,
    /// And those after it: the fixed clocks of devices.
    first_device_clock: u32,
}

impl Phandles {
    /// `None` where devices' own leave too few: the highest that there may be is 0xffff_fffe.
    fn beside(devices: &[DeviceDescription]) -> Option<Self> {
        let highest = devices.iter().map(|device| highest(&device.properties, &device.children)).max();
        let highest = highest.unwrap_or(0);
        let clocks = devices.iter().map(|device| device.clocks.len()).sum::<usize>();
        highest.checked_add(4)?.checked_add(u32::try_from(clocks).ok()?).filter(|&end| end < u32::MAX)?;
        let [gic, its, console_clock, first_device_clock] = [1, 2, 3, 4].map(|position| highest + position);
        Some(Self { gic, its, console_clock, first_device_clock })
    }
}

/// The highest phandle of a node and those below it.
fn highest(properties: &[(String, Vec<u8>)], children: &[NodeDescription]) -> u32 {
    let own = properties.iter().find(|(name, _)| name == "phandle");
    let own = own.and_then(|(_, value)| value.as_slice().try_into().ok()).map_or(0, u32::from_be_bytes);
    children.iter().map(|child| highest(&child.properties, &child.children)).fold(own, u32::max)
}

/// What the PL011's clock runs at: a guest computes its baud rate from it, which then means nothing.
const CONSOLE_CLOCK_HZ: u32 = 24_000_000;

/// IRQ_TYPE_EDGE_RISING and IRQ_TYPE_LEVEL_HIGH.
const EDGE: u32 = 1;
const LEVEL: u32 = 4;

/// Entropy for the guest's kernel, fresh for each start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// `/chosen/kaslr-seed`.
    pub kaslr: u64,
    /// `/chosen/rng-seed`.
    pub rng: [u8; 32],
}

/// A description that no device tree can say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdtWriteError {
    /// Two nodes of the same name.
    #[error("the guest's device tree would have two nodes called {0}")]
    DuplicateNode(String),
    /// Two properties of the same name.
    #[error("{node} would have `{property}` twice")]
    DuplicateProperty {
        /// The node.
        node: String,
        /// The property.
        property: String,
    },
    /// A name or a value that the format doesn't allow.
    #[error("{node}: {why}")]
    Format {
        /// The node.
        node: String,
        /// The writer's reason.
        why: String,
    },
    /// An interrupt that the GIC's binding has no number for.
    #[error("{node}: interrupt {irq} is neither a PPI nor an SPI")]
    Interrupt {
        /// The node.
        node: String,
        /// The interrupt.
        irq: u32,
    },
    /// Something that needs a GIC, or MSIs that need an ITS, where there is none.
    #[error("{0} needs an interrupt controller that the guest doesn't have")]
    NoController(String),
    /// Devices' nodes have phandles so high that none are left for what is written beside them.
    #[error("its devices' phandles leave none for the nodes beside them")]
    Phandles,
}

/// The device tree of a guest.
///
/// # Errors
///
/// [`FdtWriteError`] names the node that can't be written.
pub fn write(description: &Description, seed: Option<&Seed>) -> Result<Vec<u8>, FdtWriteError> {
    let writer = FdtWriter::new().map_err(|error| format_error("/", &error))?;
    let phandles = Phandles::beside(&description.devices).ok_or(FdtWriteError::Phandles)?;
    let mut tree = Tree { writer, open: Vec::new(), phandles, failed: None };
    tree.begin("");
    tree.cells("#address-cells", &[2]);
    tree.cells("#size-cells", &[2]);
    tree.text("model", "AxVM virtual machine");
    tree.text("compatible", "axvm,virtual-machine");
    if description.gic.is_some() {
        tree.cells("interrupt-parent", &[tree.phandles.gic]);
    }
    chosen(&mut tree, description, seed);
    cpus(&mut tree, &description.cpus);
    for bank in &description.memory {
        tree.begin(&format!("memory@{:x}", bank.start()));
        tree.text("device_type", "memory");
        tree.registers(&[*bank]);
        tree.end();
    }
    tree.begin("psci");
    tree.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
    tree.text("method", "hvc");
    tree.end();
    if let Some(gic) = &description.gic {
        interrupt_controller(&mut tree, gic);
        timer(&mut tree, description.timer);
    }
    if let Some((registers, irq)) = emulated_console(description) {
        console(&mut tree, description, registers, irq);
    }
    if let Some(described) = &description.watchdog {
        watchdog(&mut tree, description, described);
    }
    for host in &description.pci {
        pci::host(&mut tree, host, description.gic.as_ref());
    }
    devices(&mut tree, description);
    tree.end();
    if let Some(failed) = tree.failed {
        return Err(failed);
    }
    tree.writer.finish().map_err(|error| format_error("/", &error))
}

fn format_error(node: &str, error: &vm_fdt::Error) -> FdtWriteError {
    FdtWriteError::Format { node: node.into(), why: error.to_string() }
}

/// A node that is being written.
struct Open {
    name: String,
    node: vm_fdt::FdtWriterNode,
    properties: LiteMap<String, ()>,
    /// The names of the nodes that have been begun in it.
    children: LiteMap<String, ()>,
}

/// The writer, with what it doesn't check itself: that names are unique. After the first failure nothing more is written.
struct Tree {
    writer: FdtWriter,
    open: Vec<Open>,
    phandles: Phandles,
    failed: Option<FdtWriteError>,
}

impl Tree {
    fn path(&self) -> String {
        let names: Vec<&str> = self.open.iter().skip(1).map(|open| open.name.as_str()).collect();
        format!("/{}", names.join("/"))
    }

    /// The path of a node in the one that is open.
    fn path_below(&self, name: &str) -> String {
        let mut path = self.path();
        path.push('/');
        path.push_str(name);
        path
    }

    #[cold]
    fn fail(&mut self, error: FdtWriteError) {
        self.failed.get_or_insert(error);
    }

    /// Because of the open node, or of one of this path.
    #[cold]
    fn fail_at(&mut self, path: Option<String>, why: &dyn fmt::Display) {
        let node = path.unwrap_or_else(|| self.path());
        self.fail(FdtWriteError::Format { node, why: why.to_string() });
    }

    fn begin(&mut self, name: &str) {
        if self.failed.is_some() {
            return;
        }
        let siblings = self.open.last_mut().map(|open| &mut open.children);
        if siblings.is_some_and(|names| names.insert(name.into(), ()).is_some()) {
            return self.fail(FdtWriteError::DuplicateNode(name.into()));
        }
        match self.writer.begin_node(name) {
            Err(error) => self.fail_at(Some(self.path_below(name)), &error),
            Ok(node) => self.open.push(Open {
                name: name.into(),
                node,
                properties: LiteMap::new(),
                children: LiteMap::new(),
            }),
        }
    }

    fn end(&mut self) {
        if self.failed.is_none()
            && let Some(open) = self.open.pop()
            && let Err(error) = self.writer.end_node(open.node)
        {
            self.fail_at(Some(self.path_below(&open.name)), &error);
        }
    }

    fn bytes(&mut self, property: &str, value: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if let Some(open) = self.open.last_mut()
            && open.properties.insert(property.into(), ()).is_some()
        {
            let node = self.path();
            self.fail(FdtWriteError::DuplicateProperty { node, property: property.into() });
        } else if let Err(error) = self.writer.property(property, value) {
            self.fail_at(None, &format_args!("`{property}`: {error}"));
        }
    }

    fn flag(&mut self, property: &str) {
        self.bytes(property, &[]);
    }

    fn cells(&mut self, property: &str, cells: &[u32]) {
        let mut bytes = Vec::with_capacity(size_of_val(cells));
        for cell in cells {
            bytes.extend_from_slice(&cell.to_be_bytes());
        }
        self.bytes(property, &bytes);
    }

    fn double(&mut self, property: &str, value: u64) {
        self.bytes(property, &value.to_be_bytes());
    }

    fn text(&mut self, property: &str, text: &str) {
        self.texts(property, &[text]);
    }

    fn texts(&mut self, property: &str, texts: &[&str]) {
        let mut value = Vec::with_capacity(texts.iter().map(|text| text.len() + 1).sum());
        for text in texts {
            if text.bytes().any(|byte| byte == 0) {
                return self.fail_at(None, &format_args!("`{property}`: text can't contain NUL"));
            }
            value.extend_from_slice(text.as_bytes());
            value.push(0);
        }
        self.bytes(property, &value);
    }

    /// `reg` with two cells for the address and two for the size.
    fn registers(&mut self, spans: &[Span<Gpa>]) {
        let cells: Vec<u32> = spans
            .iter()
            .flat_map(|span| [halves(span.start().get()), halves(span.size())])
            .flatten()
            .collect();
        self.cells("reg", &cells);
    }

    /// `interrupts`.
    fn interrupts(&mut self, lines: &[Interrupt]) {
        let mut cells = Vec::new();
        for &line in lines {
            cells.extend(self.specifier(line));
        }
        self.cells("interrupts", &cells);
    }

    /// An interrupt in the cells of the binding `arm,gic-v3`.
    fn specifier(&mut self, line: Interrupt) -> [u32; 3] {
        // The ranges of Arm IHI 0069, 2.2, and the kinds of the binding.
        let (kind, first) = match line.irq.0 {
            16..=31 => (1, 16),
            32..=1019 => (0, 32),
            1056..=1119 => (3, 1056),
            4096..=5119 => (2, 4096),
            irq => {
                let node = self.path();
                self.fail(FdtWriteError::Interrupt { node, irq });
                return [0; 3];
            }
        };
        let trigger = match line.trigger {
            Trigger::Edge => EDGE,
            Trigger::Level => LEVEL,
        };
        [kind, line.irq.0.saturating_sub(first), trigger]
    }
}

/// A 64-bit number as two cells.
fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn console_name(registers: Span<Gpa>) -> String {
    format!("pl011@{:x}", registers.start())
}

/// The emulated console's registers and line. One at ports isn't a PL011, and no device tree's.
fn emulated_console(description: &Description) -> Option<(Span<Gpa>, Irq)> {
    let console = description.console.as_ref()?;
    Some((console.at.registers()?, console.irq))
}

fn chosen(tree: &mut Tree, description: &Description, seed: Option<&Seed>) {
    tree.begin("chosen");
    tree.text("bootargs", &description.cmdline);
    let emulated = emulated_console(description).map(|(registers, _)| console_name(registers));
    if let Some(name) = emulated.as_ref().or(description.stdout.as_ref()) {
        tree.text("stdout-path", &format!("/{name}"));
    }
    if let Some(initrd) = &description.initrd {
        tree.double("linux,initrd-start", initrd.start().get());
        tree.double("linux,initrd-end", initrd.end().get());
    }
    if let Some(seed) = seed {
        tree.double("kaslr-seed", seed.kaslr);
        tree.bytes("rng-seed", &seed.rng);
    }
    tree.end();
}

fn cpus(tree: &mut Tree, cpus: &[u64]) {
    // Aff3 lies in bits 39:32 and takes a second cell (binding arm/cpus.yaml).
    let wide = cpus.iter().any(|&mpidr| mpidr >> 32 != 0);
    tree.begin("cpus");
    tree.cells("#address-cells", &[if wide { 2 } else { 1 }]);
    tree.cells("#size-cells", &[0]);
    for &mpidr in cpus {
        tree.begin(&format!("cpu@{mpidr:x}"));
        tree.text("device_type", "cpu");
        tree.text("compatible", "arm,armv8");
        let cells = halves(mpidr);
        tree.cells("reg", if wide { &cells } else { &cells[1..] });
        tree.text("enable-method", "psci");
        tree.end();
    }
    tree.end();
}

fn interrupt_controller(tree: &mut Tree, gic: &GicDescription) {
    tree.begin(&format!("intc@{:x}", gic.distributor.start()));
    tree.text("compatible", "arm,gic-v3");
    tree.registers(&[gic.distributor, gic.redistributors]);
    tree.flag("interrupt-controller");
    tree.cells("#interrupt-cells", &[3]);
    tree.cells("#address-cells", &[2]);
    tree.cells("#size-cells", &[2]);
    tree.flag("ranges");
    tree.cells("phandle", &[tree.phandles.gic]);
    if let Some(its) = gic.its {
        tree.begin(&format!("its@{:x}", its.start()));
        tree.text("compatible", "arm,gic-v3-its");
        tree.registers(&[its]);
        tree.flag("msi-controller");
        tree.cells("#msi-cells", &[1]);
        tree.cells("phandle", &[tree.phandles.its]);
        tree.end();
    }
    tree.end();
}

fn level(irq: Irq) -> Interrupt {
    Interrupt { irq, trigger: Trigger::Level }
}

fn timer(tree: &mut Tree, intids: [u32; 4]) {
    tree.begin("timer");
    tree.text("compatible", "arm,armv8-timer");
    tree.interrupts(&intids.map(|intid| level(Irq(intid))));
    tree.flag("always-on");
    tree.end();
}

/// A clock. It has no `clock-output-names`: Linux then calls it by its node's name, which is unique, while two clocks of the
/// same output name (the console's and a device's, both repeated from one on the host) would keep the second from coming up.
fn fixed_clock(tree: &mut Tree, name: &str, hz: u32, phandle: u32) {
    tree.begin(name);
    tree.text("compatible", "fixed-clock");
    tree.cells("#clock-cells", &[0]);
    tree.cells("clock-frequency", &[hz]);
    tree.cells("phandle", &[phandle]);
    tree.end();
}

fn console(tree: &mut Tree, description: &Description, registers: Span<Gpa>, irq: Irq) {
    let name = console_name(registers);
    if description.gic.is_none() {
        return tree.fail(FdtWriteError::NoController(name));
    }
    let clock = tree.phandles.console_clock;
    fixed_clock(tree, "apb-pclk", CONSOLE_CLOCK_HZ, clock);
    tree.begin(&name);
    tree.texts("compatible", &["arm,pl011", "arm,primecell"]);
    tree.registers(&[registers]);
    tree.interrupts(&[level(irq)]);
    tree.cells("clocks", &[clock, clock]);
    tree.texts("clock-names", &["uartclk", "apb_pclk"]);
    tree.end();
}

/// Linux's binding (watchdog/arm,sbsa-gwdt.yaml): the control frame first.
fn watchdog(tree: &mut Tree, description: &Description, watchdog: &WatchdogDescription) {
    let name = format!("watchdog@{:x}", watchdog.control.start());
    tree.begin(&name);
    tree.texts("compatible", &["arm,sbsa-gwdt"]);
    tree.registers(&[watchdog.control, watchdog.refresh]);
    if let Some(irq) = watchdog.irq {
        if description.gic.is_none() {
            return tree.fail(FdtWriteError::NoController(name));
        }
        tree.interrupts(&[level(irq)]);
    }
    tree.end();
}

fn devices(tree: &mut Tree, description: &Description) {
    // Devices that had one clock on the host have one here.
    let mut clocks: Vec<&ClockDescription> =
        description.devices.iter().flat_map(|device| &device.clocks).collect();
    clocks.sort_unstable();
    clocks.dedup();
    for (clock, phandle) in clocks.iter().zip(tree.phandles.first_device_clock..) {
        fixed_clock(tree, &format!("clock-{phandle}"), clock.frequency, phandle);
    }
    for device in &description.devices {
        if !device.interrupts.is_empty() && description.gic.is_none() {
            return tree.fail(FdtWriteError::NoController(device.name.clone()));
        }
        device_node(tree, device, &clocks);
    }
}

fn device_node(tree: &mut Tree, device: &DeviceDescription, clocks: &[&ClockDescription]) {
    tree.begin(&device.name);
    for (name, value) in &device.properties {
        tree.bytes(name, value);
    }
    if !device.registers.is_empty() {
        tree.registers(&device.registers);
    }
    if !device.interrupts.is_empty() {
        tree.interrupts(&device.interrupts);
    }
    if !device.clocks.is_empty() {
        let first = tree.phandles.first_device_clock;
        let phandle = |clock| clocks.iter().zip(first..).find(|(other, _)| **other == clock);
        let phandles: Vec<u32> =
            device.clocks.iter().filter_map(|clock| phandle(clock).map(|(_, phandle)| phandle)).collect();
        tree.cells("clocks", &phandles);
    }
    if device.coherent {
        tree.flag("dma-coherent");
    }
    children(tree, &device.children);
    tree.end();
}

fn children(tree: &mut Tree, nodes: &[NodeDescription]) {
    for node in nodes {
        tree.begin(&node.name);
        for (name, value) in &node.properties {
            tree.bytes(name, value);
        }
        children(tree, &node.children);
        tree.end();
    }
}
