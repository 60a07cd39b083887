//! A VM's life on two kinds of hosts: one with tables and an interrupt controller of its own, one that is a process with
//! memory slots, an IOMMU container and eventfds. The same cases run on both.

extern crate std;

macro_rules! on_both_hosts {
    ($($case:ident,)*) => {
        mod on_bare_metal {
            $(#[test]
            fn $case() {
                super::$case::<crate::vm::tests::BareMetal>();
            })*
        }

        mod on_kvm {
            $(#[test]
            fn $case() {
                super::$case::<crate::vm::tests::Kvm>();
            })*
        }
    };
}

mod bare_metal;
mod chip;
mod contracts;
mod failures;
mod kvm;
mod lab;
mod life;
mod machine;
mod script;

use std::collections::{BTreeMap, VecDeque};
use std::string::{String, ToString};
use std::{format, vec};

use axvm_addr::{CpuId, DmaSource, Gpa, Hpa, IommuId, Iova, PAGE_SIZE, Span, VmId};
use axvm_axdevice::Width;
use axvm_platform::model::Trigger;
use axvm_system::model::{AfterEnd, ViolationPolicy};

use super::*;
use crate::claims::Claims;
use crate::devices::{Aborted, AxVmDevices, AxVmDevicesBuilder, Forward};
use crate::events::{Kind, Violation};
use crate::hal::{DmaMap, Region, Resided, Resource};
use crate::iommu::{Abilities, DmaFault, Drained, Iommu};
use crate::irqchip::Lines;
use crate::msi::{InFunctions, MsiSink};
use crate::ownership::{Registry, Slot};
use crate::space::{Backing, Materialise};
use axvm_plan::config::{MappingFlags, VMInterruptMode};
use axvm_plan::{
    DeviceId, DevicePlan, Doorbell, LineNumbers, LineRoute, LoadPlan, MachinePlan, MsiPlan, Presence,
    RamPiece, RegisterPlan, VcpuPlan,
};

use bare_metal::BareMetal;
use chip::{Chip, Console, Table, Told};
use kvm::Kvm;
use lab::{Cell, Faults, Lab, Shared};
use script::Script;

/// What the cases want to know of a host beside what the core asks of it.
trait Fake:
    AxVMHal<
        Error = &'static str,
        Backing: Send + Sync,
        Space: Send + Sync,
        Dma: Send + Sync,
        Irqchip = Chip,
        Ends: Send + Sync,
    > + Default
    + Send
    + Sync
    + 'static
{
    fn lab(&self) -> &Lab;
    /// Whether the guest's CPU reaches `gpa`.
    fn cpu_reaches(&self, gpa: u64) -> bool;
    /// Whether a device of the guest reaches `iova`.
    fn device_reaches(&self, iova: u64) -> bool;
    /// The names of the devices that a VM has.
    fn attached(&self) -> Vec<String>;
    /// The sources behind the VM's DMA map.
    fn opened(&self) -> Vec<DmaSource>;
    /// A source tries to reach what isn't in any map.
    fn stray(&self, source: DmaSource, address: u64);
    /// It tries so, and what the IOMMU has to tell of it isn't there before the source is blocked.
    fn stray_late(&self, source: DmaSource, address: u64);
    /// The lines that go to the VM.
    fn routed(&self) -> Vec<u32>;
    /// Puts the disk's table of messages where the guest looks for it.
    fn offer_table(&self, vm: &AxVM<Self>);
    /// The disk sends what the guest has armed a vector with.
    fn fire(&self, vm: &AxVM<Self>, vector: u16) -> Result<(), &'static str>;
    /// The vectors that the host had to be told of.
    fn told_messages(&self) -> usize;
    /// Bytes of RAM that were handed out and not taken back.
    fn ram_out(&self) -> u64;
    /// Whether second stage and DMA map are gone.
    fn destroyed(&self) -> bool;
    /// Whether a vCPU always leaves its guest when it is kicked, so that nothing has to be revoked.
    fn comes_when_called(&self) -> bool;
    /// vCPUs that were kicked.
    fn kicked(&self) -> Vec<u16> {
        self.lab().kicked.borrow().clone()
    }
    /// A name for messages.
    const NAME: &'static str;
}

const RAM: u64 = 0x4000_0000;
const CLOCK: u64 = 0x0901_0000;
const DOORBELL: u64 = 0x0809_0000;
const BAR: u64 = 0x1000_0000;
const BAR_2: u64 = 0x1001_0000;
const CONSOLE: u64 = 0x0900_0000;
/// Registers that are trapped.
const TRAPPED: u64 = CLOCK + 0x1000;
/// The console's data by a port, and the clock's ports, which are forwarded.
const CONSOLE_PORT: u16 = 0xe9;
const CLOCK_PORT: u16 = 0x70;
const CONSOLE_IRQ: Irq = Irq(33);
const TIMER: Irq = Irq(27);
/// Messages are interrupts from here on, by their data.
const FIRST_MESSAGE: u32 = 8192;
const MESSAGES: u32 = 4;
/// Where they are sent.
const MSI_ADDRESS: u64 = DOORBELL + 0x40;
/// The disk's.
const SENDER: MsiSource = MsiSource::new(0, 0x10);

/// What forwarded registers read as. One of them isn't there.
fn forwarded_read(offset: u64) -> Result<u64, Aborted> {
    if offset == 0xffc { Err(Aborted) } else { Ok(0xc10c_0000 + offset) }
}

/// What the machine's ports read as.
fn forwarded_port_read(port: u16, width: Width) -> u32 {
    (0xc10c_0000 | u32::from(port)) & width.mask() as u32
}

/// The devices that both fakes emulate or forward.
fn emulated<H: Fake>(
    ground: &Arc<Ground<H>>,
    lab: &Arc<Lab>,
    irqchip: &Arc<Chip>,
) -> Result<AxVmDevicesBuilder<H::Backing>, &'static str> {
    let console = Console { lab: lab.clone(), lines: Lines::new(irqchip.clone()) };
    let span = Span::new(Gpa(CONSOLE), PAGE_SIZE).map_err(|_| "no span")?;
    let console = Arc::new(console);
    let mut devices = AxVmDevices::builder()
        .mmio(span, console.clone())
        .ports(CONSOLE_PORT, 1, console)
        .forwarded_ports(CLOCK_PORT, 4, CLOCK_PORT + 0x1000, 1, "clock");
    let plan = ground.plan();
    for (position, block) in (0..).zip(&plan.registers).filter(|(_, block)| !block.direct) {
        let device = plan.devices.get(usize::from(block.device)).ok_or("no such device")?;
        let region = Region::Registers(position);
        let resource = Resource { device, region, offset: 0, length: block.gpa.size() };
        let at = ground.hal().registers(plan, &resource)?;
        devices = devices.forwarded(block.gpa, at, block.device, &device.name);
    }
    Ok(devices)
}

fn device(name: &str, sources: Vec<DmaSource>) -> DevicePlan {
    DevicePlan {
        id: DeviceId::Node(name.into()),
        name: name.into(),
        pci: None,
        shown: None,
        group: None,
        reset: None,
        sources,
        msi: None,
        intx: false,
        presence: Presence::Here,
    }
}

/// Two pieces of RAM, a disk with DMA, a clock with registers and a line.
fn vm_plan() -> VmPlan {
    let gpa = |start, size| Span::new(Gpa(start), size).unwrap();
    let registers = |device, start: u64, direct| RegisterPlan {
        device,
        gpa: gpa(start, PAGE_SIZE),
        hpa: Hpa(CLOCK),
        direct,
        flags: MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE,
    };
    VmPlan {
        id: VmId(0),
        name: "linux".into(),
        line_numbers: LineNumbers::Board,
        autostart: true,
        on_violation: ViolationPolicy::QuarantineDevice,
        on_reset: AfterEnd::Restart,
        on_crash: AfterEnd::Stop,
        watchdog: None,
        mode: VMInterruptMode::Emulated,
        messages: 0..0,
        table_bytes: 0,
        cpus: [1, 2].map(|cpu| VcpuPlan { cpu: CpuId(cpu), hardware_id: u64::from(cpu) - 1 }).into(),
        address_bits: 40,
        ram: vec![
            RamPiece { gpa: gpa(RAM, 2 << 20), hpa: Hpa(0x8000_0000) },
            RamPiece { gpa: gpa(RAM + (2 << 20), 2 << 20), hpa: Hpa(0x9000_0000) },
        ],
        registers: vec![registers(1, CLOCK, true), registers(1, CLOCK + 0x1000, false)],
        devices: vec![
            DevicePlan {
                msi: Some(MsiPlan { source: SENDER, messages: 4 }),
                ..device("disk", vec![DmaSource::new(0, 0x10)])
            },
            device("clock", vec![]),
        ],
        ports: vec![],
        doorbells: vec![Doorbell { iova: Iova(DOORBELL), hpa: Hpa(DOORBELL) }],
        lines: vec![LineRoute {
            device: 1,
            irq: Irq(34),
            trigger: Trigger::Level,
            vcpu: VcpuId(0),
            masked: false,
        }],
        machine: MachinePlan::default(),
        console: None,
        pci: vec![],
        load: LoadPlan {
            kernel: Gpa(RAM),
            entry: Gpa(RAM),
            argument: Gpa(RAM),
            initrd: None,
            description: gpa(RAM, 8),
        },
        description: axvm_guest::Description::default(),
        blobs: vec![],
    }
}

/// Where the fakes' registry is, with a mark that they see.
struct Shelf {
    registry: Shared<Registry>,
    lent: Arc<Cell<bool>>,
}

impl Shelf {
    fn new(plan: &VmPlan, faults: &Faults) -> Self {
        Self { registry: Shared::new(Registry::new(&plan.devices)), lent: faults.lent.clone() }
    }
}

impl RegistryKeeper for Shelf {
    fn lend<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R {
        assert!(!self.lent.replace(true), "who has it waits for it");
        let result = with(&mut self.registry.borrow_mut());
        self.lent.set(false);
        result
    }
}

fn created<H: Fake>() -> (AxVM<H>, Arc<H>, Shelf) {
    let (plan, hal) = (vm_plan(), Arc::new(H::default()));
    let registry = Shelf::new(&plan, &hal.lab().faults);
    let vm = AxVM::new(plan, hal.clone(), &registry).unwrap();
    (vm, hal, registry)
}

fn is_clean<H: Fake>(hal: &H) {
    assert_eq!((hal.ram_out(), hal.attached(), hal.routed()), (0, vec![], vec![]), "{}", H::NAME);
    assert!(!hal.cpu_reaches(RAM) && !hal.cpu_reaches(CLOCK) && !hal.device_reaches(RAM), "{}", H::NAME);
    assert!(!hal.device_reaches(DOORBELL) && hal.destroyed(), "{}", H::NAME);
    assert!(hal.opened().is_empty() && hal.told_messages() == 0, "{}", H::NAME);
    assert!(hal.lab().resident.borrow().is_empty() && hal.lab().chips.get() == 0, "{}", H::NAME);
}

fn a_vm_reaches_what_its_plan_says_and_nothing_else<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    for gpa in [RAM, RAM + (2 << 20), RAM + (4 << 20) - 1, CLOCK] {
        assert!(hal.cpu_reaches(gpa), "{}: {gpa:#x}", H::NAME);
    }
    for gpa in [RAM - 1, RAM + (4 << 20), CLOCK - 1, CLOCK + 0x1000, DOORBELL] {
        assert!(!hal.cpu_reaches(gpa), "{}: {gpa:#x}", H::NAME);
    }
    assert!(hal.device_reaches(RAM) && hal.device_reaches(RAM + (3 << 20)));
    assert!(!hal.device_reaches(CLOCK) && !hal.device_reaches(RAM - 1));
    assert_eq!(hal.attached(), ["clock", "disk"]);
    assert_eq!(hal.routed(), [34]);
    assert!(vm.translate(Gpa(RAM + 5)).is_some() && vm.translate(Gpa(CLOCK + 0x1000)).is_none());
}

fn a_device_changes_hands_between_two_vms_that_stop_and_start<H: Fake>() {
    let plans = [0, 1].map(|id| VmPlan {
        id: VmId(id),
        name: format!("vm{id}"),
        blobs: vec![axvm_plan::Blob { at: Gpa(RAM), bytes: vec![0] }],
        ..vm_plan()
    });
    let mut claims = Claims::new(plans.iter().cloned().map(Arc::new).collect());
    let disk = DeviceId::Node("disk".into());
    let registry = Registry::new(&plans[0].devices);
    let shelf =
        |registry, hal: &H| Shelf { registry: Shared::new(registry), lent: hal.lab().faults.lent.clone() };
    let mut registry = Some(registry);
    // What each has while it runs, one after the other: with the disk, without, with it again.
    let mut life = |claims: &mut Claims, vm: u16, devices: &[&str]| {
        let hal = Arc::new(H::default());
        let shelf = shelf(registry.take().unwrap(), &hal);
        let plan = claims.take(VmId(vm)).unwrap();
        let vm = AxVM::new(plan, hal.clone(), &shelf).unwrap();
        assert_eq!(hal.attached(), devices, "{}", H::NAME);
        assert_eq!(hal.opened().is_empty(), !devices.contains(&"disk"));
        let told = vm.report().devices.into_iter().map(|device| device.device).collect::<Vec<_>>();
        assert_eq!(told.iter().any(|name| name == "disk"), devices.contains(&"disk"));
        let message = MsiMessage { address: MSI_ADDRESS, data: 0 };
        assert_eq!(vm.route_message(0, 0, Some(message)).is_ok(), devices.contains(&"disk"));
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
        let mapped = vm.map_registers(0, Region::Bar(2), 0, Gpa(BAR_2), 0x4000, flags);
        assert_eq!(mapped.is_ok(), devices.contains(&"disk"), "{}", H::NAME);
        let id = vm.id();
        let left = vm.dispose(&shelf).unwrap();
        assert!(left.stuck.is_empty() && !left.ram_withheld);
        is_clean(&*hal);
        claims.give_back(id);
        registry = Some(core::mem::take(&mut *shelf.registry.borrow_mut()));
    };
    life(&mut claims, 0, &["clock", "disk"]);
    claims.assign(VmId(1), disk.clone()).unwrap();
    life(&mut claims, 0, &["clock"]);
    life(&mut claims, 1, &["clock", "disk"]);
    claims.release(disk.clone()).unwrap();
    life(&mut claims, 1, &["clock"]);
    claims.assign(VmId(0), disk).unwrap();
    life(&mut claims, 0, &["clock", "disk"]);
}

fn a_life_ends_with_everything_given_back<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    assert_eq!((vm.state(), vm.is_running()), (State::Built, false));
    vm.start().unwrap();
    assert_eq!(vm.start(), Err(WrongState(State::Running)));
    let NotDisposed::Running(vm) = vm.dispose(&registry).unwrap_err() else { panic!("it runs") };
    assert!(vm.stop(StopReason::SystemOff));
    assert_eq!(hal.kicked(), [0, 1]);
    assert_eq!(hal.cpu_reaches(RAM), hal.comes_when_called(), "{}", H::NAME);
    assert!(!vm.stop(StopReason::Violation), "the first reason stays");
    let reason = StopReason::SystemOff;
    assert_eq!(vm.state(), State::Stopping { reason, since_ns: 0 });
    assert!(vm.start().is_err());
    let NotDisposed::Running(vm) = vm.dispose(&registry).unwrap_err() else { panic!("it runs") };
    assert!(!vm.vcpu_gone(VcpuId(1)) && vm.vcpu_gone(VcpuId(0)));
    assert_eq!(vm.state(), State::Stopped { reason });
    let report = vm.report();
    assert_eq!((report.state.as_str(), report.reason.as_str()), ("stopped", "system-off"));
    assert!(!report.failed());
    let left = vm.dispose(&registry).unwrap();
    assert!(left.stuck.is_empty() && !left.ram_withheld);
    is_clean(&*hal);
    let again = AxVM::new(left.plan, hal.clone(), &registry).unwrap();
    assert!(hal.cpu_reaches(RAM), "and can be created again");
    assert!(again.start().is_ok());
}

fn ram_that_a_stuck_device_may_reach_is_given_to_nobody<H: Fake>() {
    let (vm, hal, registry) = created::<H>();
    hal.lab().faults.fail_named.set(Some("close"));
    vm.stop(StopReason::Violation);
    let left = vm.dispose(&registry).unwrap();
    assert!(left.ram_withheld && left.stuck.len() == 2);
    assert_eq!(hal.ram_out(), 4 << 20, "{}", H::NAME);
    assert!(!hal.destroyed());
    assert!(matches!(
        registry.registry.borrow().slot(&DeviceId::Node("disk".into())),
        Some(Slot::Failed { reaches: Some(VmId(0)), .. })
    ));
}

fn a_bar_is_mapped_where_the_guest_puts_it_and_taken_away<H: Fake>() {
    let (vm, hal, _registry) = created::<H>();
    let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
    vm.map_registers(0, Region::Bar(2), 0, Gpa(BAR_2), 0x4000, flags).unwrap();
    assert!(
        hal.cpu_reaches(BAR_2 + 0x3fff) && !hal.cpu_reaches(BAR_2 + 0x4000) && !hal.device_reaches(BAR_2)
    );
    let over = vm.map_registers(0, Region::Bar(2), 0, Gpa(BAR_2 + 0x3000), 0x4000, flags).unwrap_err();
    assert!(over.to_string().contains("disk"));
    assert!(vm.map_registers(9, Region::Bar(2), 0, Gpa(BAR_2 + 0x8000), 0x1000, flags).is_err());
    vm.unmap_registers(Span::new(Gpa(BAR_2), 0x4000).unwrap()).unwrap();
    assert!(!hal.cpu_reaches(BAR_2));
}

fn a_vcpu_that_was_started_and_cannot_run_ends_its_vm<H: Fake>() {
    for what in ["enter", "reside"] {
        let (vm, hal, registry) = created::<H>();
        let (first, second) = (VcpuId(0), VcpuId(1));
        assert_eq!(vm.run_vcpu(first), Ok(Turn::NotStarted));
        vm.start().unwrap();
        vm.start_vcpu(second, Start { entry: RAM + 4, argument: 0 }).unwrap();
        assert_eq!(hal.kicked(), [1]);
        // Its CPU's interrupts, say, can't be had.
        hal.lab().faults.fail_named.set(Some(what));
        assert_eq!(vm.run_vcpu(second), Err("the host failed"));
        assert_eq!(vm.power(second), Power::Off);
        // The first one may wait for it: it is called, and finds that it must leave.
        assert!(vm.is_stopping() && hal.kicked() == [1, 0, 1], "{}: {:?}", H::NAME, hal.kicked());
        assert_eq!(vm.state().reason(), Some(StopReason::HostError), "and not that all CPUs are off");
        for vcpu in [second, first] {
            assert_eq!(vm.run_vcpu(vcpu), Ok(Turn::NotStarted));
        }
        assert!(!vm.vcpu_gone(second) && vm.vcpu_gone(first));
        assert!(vm.report().failed(), "{}", H::NAME);
        hal.lab().faults.fail_named.set(None);
        vm.dispose(&registry).unwrap();
        is_clean(&*hal);
    }
}

fn a_vm_whose_last_vcpu_goes_off_ends<H: Fake>() {
    let (vm, _hal, _registry) = created::<H>();
    vm.start().unwrap();
    // Its program is empty.
    assert_eq!(vm.run_vcpu(VcpuId(0)), Ok(Turn::Over));
    assert_eq!(vm.state().reason(), Some(StopReason::CpusOff));
}

on_both_hosts! {
    a_vm_reaches_what_its_plan_says_and_nothing_else,
    a_device_changes_hands_between_two_vms_that_stop_and_start,
    a_life_ends_with_everything_given_back,
    ram_that_a_stuck_device_may_reach_is_given_to_nobody,
    a_bar_is_mapped_where_the_guest_puts_it_and_taken_away,
    a_vcpu_that_was_started_and_cannot_run_ends_its_vm,
    a_vm_whose_last_vcpu_goes_off_ends,
}

#[test]
fn on_bare_metal_ram_is_where_the_plan_put_it_and_the_doorbell_is_for_writing_only() {
    let (vm, hal, _registry) = created::<BareMetal>();
    assert_eq!(vm.translate(Gpa(RAM + 0x1234)).map(|(hpa, _)| hpa), Some(Hpa(0x8000_1234)));
    assert_eq!(vm.ram_at(Gpa(RAM + (3 << 20))), Some((Hpa(0x9010_0000), 1 << 20)));
    assert_eq!(vm.ram_at(Gpa(CLOCK)), None, "registers are not RAM");
    assert_eq!(hal.dma_flags(DOORBELL), Some(MappingFlags::WRITE | MappingFlags::DEVICE));
}

#[test]
fn a_report_has_the_sum_of_the_vcpus_and_each_devices_own_counts() {
    let (vm, _hal, _registry) = created::<BareMetal>();
    vm.exits(VcpuId(0)).unwrap().count(crate::stats::ExitReason::Wfi);
    vm.exits(VcpuId(1)).unwrap().count(crate::stats::ExitReason::Wfi);
    vm.exits(VcpuId(1)).unwrap().count_injected();
    assert!(vm.exits(VcpuId(2)).is_none());
    vm.device(1).unwrap().registers.count();
    vm.refusals.config.count();
    let report = vm.report();
    assert_eq!((report.exits.by_reason.wfi, report.exits.total, report.interrupts_injected), (2, 2, 1));
    assert_eq!((report.devices[1].exits.registers, report.devices[0].exits.registers), (1, 0));
    assert_eq!(report.refused.config, 1);
    assert_eq!((report.state.as_str(), report.reason.as_str()), ("created", ""));
}

#[test]
fn a_vms_configuration_lists_its_regions_with_both_addresses() {
    let config = vm_plan().config();
    assert_eq!(config.cpus, [CpuId(1), CpuId(2)]);
    let clock = &config.pass_through_devices[0];
    assert_eq!((clock.name.as_str(), clock.base_gpa, clock.base_hpa), ("clock", Gpa(CLOCK), Hpa(CLOCK)));
    assert_eq!((clock.length, clock.irq), (PAGE_SIZE, Some(Irq(34))));
}
