//! What tests plan with: QEMU's `virt` board as its device tree describes it, functions on it, systems. For this crate's tests
//! and for those of the crates that carry plans out (feature `fake`).
#![expect(missing_docs, reason = "each does what its name says")]
#![allow(clippy::missing_panics_doc)]

#[cfg(feature = "x86_64")]
pub mod x86_64;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{CpuId, Gpa, Hpa, PciAddress, Span};
use axvm_guest::image::{ImageInfo, ImageKind, Images, Segment, VmImages};
use axvm_pci::spec::express::PortType;
use axvm_pci::{Bar, BarKind, Function, Membership, MsiX, ResetMethod};
use axvm_platform::limits::Claims;
use axvm_platform::model::{Platform, Reserved};
use axvm_platform::{fake, fdt};
use axvm_system::model::{
    AfterEnd, Arch, Board, Device, Dma, Hazard, Hypervisor, InUse, InterruptChoice, Item, RegisterAccess,
    System, ViolationPolicy, Vm,
};

use crate::problem::Rule;
use crate::{Plan, plan};

pub fn address(device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, 0, device, function).unwrap()
}

/// An endpoint with FLR, MSI-X and one 64-bit BAR.
pub fn endpoint(device: u8, function: u8) -> Function {
    Function {
        address: address(device, function),
        parent: None,
        vendor: 0x1b36,
        device: 0x0010,
        class: 0x01_0802,
        revision: 2,
        bridge: false,
        port: None,
        multifunction: false,
        bars: vec![Bar {
            index: 0,
            kind: BarKind::Memory64 { prefetchable: false },
            size: 0x4000,
            address: Some(0x1000_0000 + u64::from(device) * 0x10_0000),
        }],
        capabilities: vec![],
        extended_capabilities: vec![],
        msix: Some(MsiX { offset: 0x40, vectors: 65, table: (0, 0x2000), pending: (0, 0x3000) }),
        msi_vectors: None,
        interrupt_pin: 1,
        virtio: None,
        intx_disable: true,
        stuck: None,
        resets: vec![ResetMethod::FunctionLevel, ResetMethod::PowerState],
    }
}

/// A root port in this slot of the root bus.
pub fn port(device: u8) -> Function {
    let mut bridge = endpoint(device, 0);
    (bridge.bridge, bridge.class, bridge.port) = (true, 0x06_0400, Some(PortType::RootPort));
    (bridge.bars, bridge.msix, bridge.resets) = (vec![], None, vec![]);
    bridge
}

/// A bridge to conventional PCI there.
pub fn conventional(device: u8) -> Function {
    Function { port: Some(PortType::ToConventional), ..port(device) }
}

/// An endpoint behind the bridge in slot `bridge`.
pub fn behind(bridge: u8, bus: u8, device: u8) -> Function {
    let mut function = endpoint(device, 0);
    function.address = PciAddress::new(0, bus, device, 0).unwrap();
    function.parent = Some(address(bridge, 0));
    function.bars[0].address = Some(0x2000_0000 + (u64::from(bus) << 24) + (u64::from(device) << 20));
    function
}

pub fn on_bus(bus: u8, device: u8) -> Device {
    Device::Pci {
        address: PciAddress::new(0, bus, device, 0).unwrap(),
        without_reset: false,
        without_intx: false,
        in_use: InUse::Keep,
    }
}

/// The demo's board: host bridge, NVMe at 2, network card at 3; the first 16 MiB of RAM are the hypervisor's.
pub fn board() -> Platform {
    let mut bridge = endpoint(0, 0);
    (bridge.class, bridge.bars, bridge.msix, bridge.interrupt_pin) = (0x06_0000, vec![], None, 0);
    bridge.resets.clear();
    let mut card = endpoint(3, 0);
    (card.vendor, card.device, card.class) = (0x8086, 0x10d3, 0x02_0000);
    card.msi_vectors = Some(1);
    card.msix = Some(MsiX { offset: 0xa0, vectors: 5, table: (3, 0), pending: (3, 0x2000) });
    card.resets = vec![ResetMethod::PowerState];
    with_functions(vec![bridge, endpoint(2, 0), card], &[0, 1, 2])
}

pub fn with_functions(functions: Vec<Function>, groups: &[u32]) -> Platform {
    let mut platform = fdt::read(fake::QEMU_VIRT).unwrap();
    platform.address_bits = 44;
    let own = Span::new(platform.memory[0].start(), 16 << 20).unwrap();
    platform.reserved.push(Reserved { span: own, owner: "the hypervisor".into(), no_map: false });
    let groups: Vec<Membership> = groups.iter().map(|&group| group.into()).collect();
    platform.add_functions(functions, &groups);
    platform
}

/// The board, on a host that holds what a file names for the whole run.
pub fn for_the_whole_run(mut platform: Platform) -> Platform {
    platform.limits.claims = Claims::Once;
    platform
}

pub fn vm(name: &str, cpus: &[u16], devices: Vec<Device>) -> Vm {
    Vm {
        name: name.into(),
        cpus: cpus.iter().map(|&cpu| CpuId(cpu)).collect(),
        memory: 512 << 20,
        memory_base: None,
        kernel: "Image".into(),
        initrd: Some("initrd".into()),
        dtb: None,
        cmdline: "console=ttyAMA0".into(),
        load: None,
        entry: None,
        device_tree: None,
        interrupts: InterruptChoice::Auto,
        trusted: false,
        on_violation: ViolationPolicy::QuarantineDevice,
        on_reset: AfterEnd::Restart,
        on_crash: AfterEnd::Stop,
        watchdog: None,
        autostart: true,
        devices,
    }
}

pub fn system(vms: Vec<Vm>) -> System {
    System {
        board: Board { arch: Arch::Aarch64, ..Board::default() },
        hypervisor: Hypervisor::default(),
        vms,
    }
}

pub fn pci(device: u8, function: u8) -> Device {
    Device::Pci {
        address: address(device, function),
        without_reset: false,
        without_intx: false,
        in_use: InUse::Keep,
    }
}

pub fn node(path: &str) -> Device {
    Device::Node { path: path.into(), access: RegisterAccess::Direct, dma: Dma::Unstated, accept: vec![] }
}

/// A raw region. Those of the tests lie over the board's GPIO controller mostly.
pub fn region(name: &str, gpa: u64, hpa: u64, length: u64) -> Device {
    Device::Region {
        name: name.into(),
        base_gpa: Gpa(gpa),
        base_hpa: Hpa(hpa),
        length,
        irq: None,
        access: RegisterAccess::Direct,
        dma: Dma::None,
        accept: vec![Hazard::Provider],
    }
}

/// What the kernel of [`images`] takes.
pub const KERNEL_SIZE: u64 = 48 << 20;

/// A Linux Image of 44 MB and an initial RAM disk of 10 MB for each VM.
pub fn images(vms: usize) -> Images {
    let kernel = ImageInfo {
        kind: ImageKind::LinuxImage,
        load: None,
        alignment: 2 << 20,
        text_offset: 0,
        memory_size: KERNEL_SIZE,
        entry_offset: 0,
        segments: vec![Segment { file_offset: 0, file_size: 44 << 20, offset: 0, memory_size: KERNEL_SIZE }],
        setup: None,
    };
    let one = VmImages { kernel: Ok(kernel), initrd_len: Some(10_000_001), dtb_len: None };
    Images { vms: vec![one; vms] }
}

/// The demo's file.
pub fn demo() -> System {
    system(vec![vm("linux", &[1, 2], vec![pci(2, 0), pci(3, 0), node("/pl031@9010000")])])
}

pub fn planned(system: &System, platform: &Platform) -> Plan {
    plan(system, platform, &images(system.vms.len())).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The rules that are broken and what breaks them.
pub fn refusals(system: &System, platform: &Platform) -> Vec<(Rule, Item)> {
    let problems = plan(system, platform, &images(system.vms.len())).unwrap_err();
    problems.into_iter().map(|problem| (problem.rule, problem.item)).collect()
}

/// The lines of the problems.
pub fn lines(system: &System, platform: &Platform) -> Vec<String> {
    let problems = plan(system, platform, &images(system.vms.len())).unwrap_err();
    problems.iter().map(alloc::string::ToString::to_string).collect()
}

/// Where [`raise`] puts RAM: past what 32 bits address.
pub const HIGH: u64 = 0x20_0000_0000;

/// The platform with its RAM at 128 GiB, and nothing else changed.
pub fn raise(platform: &mut Platform) {
    let size = platform.memory[0].size();
    platform.memory = vec![Span::new(Hpa(HIGH), size).unwrap()];
    platform.reserved = vec![Reserved {
        span: Span::new(Hpa(HIGH), 16 << 20).unwrap(),
        owner: "the hypervisor".into(),
        no_map: false,
    }];
}
