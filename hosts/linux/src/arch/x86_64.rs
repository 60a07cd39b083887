//! x86_64: KVM's APICs in the kernel, a 16550, ACPI's registers of power and time.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axvm::devices::AxVmDevicesBuilder;
use axvm::irqchip::{Irqchip, Lines};
use axvm::vcpu::{Exit, Fault, PortAccess, PowerRequest};
use axvm::vm::Start;
use axvm_acpipm::{Asked, Places, Power};
use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, PortDevice, Transmit, Width};
use axvm_ns16550::Ns16550;
use axvm_plan::{ConsolePlan, EntryPlan, VmPlan};
use axvm_platform::model::Platform;
use axvm_x86_cpu::start::{self, Gdt};
use axvm_x86_cpu::vmcb::Segment;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_pit_config, kvm_regs, kvm_segment};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::Access;
use crate::error::{Error, Kernel};
use crate::irqchip::KernelIrqchip;
use crate::memory::Place;

/// Pages that Intel's processors want for guests without paging: between the I/O APIC and the local ones, where a guest has nothing.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The pins of KVM's I/O APIC.
const PINS: u32 = 24;

/// EFER.SVME, which the state that a vCPU begins in has for AMD's way to run guests: KVM's guests have none of it.
const SVME: u64 = 1 << 12;

/// ACPI's timer (ACPI 6.5, 4.8.3.3): 24 bits at a fixed rate.
const TIMER_HZ: u128 = 3_579_545;
const TIMER_MASK: u128 = 0xff_ffff;

/// CPUID's leaves that say which processor it is, and what of them is: the local APIC's id.
const FEATURES: u32 = 1;
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// Monitor and mwait: a guest's processor isn't to be kept busy or asleep by it. Nested guests aren't served.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
/// CPUID's leaf of AMD's features.
const EXTENDED: u32 = 0x8000_0001;

/// All of it is the VM's.
pub struct IrqchipParts;

/// The registers of power.
pub struct Own {
    power: Mutex<Power>,
    sci: Irq,
}

/// Address bits that a guest may have: what its processors have, which is the host's.
pub fn address_bits(kvm: &Kvm) -> u8 {
    let Ok(cpuid) = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES) else { return 36 };
    let sizes = cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    sizes.map_or(36, |entry| entry.eax as u8).clamp(32, 48)
}

/// Whether KVM has what is needed: APICs in the kernel, and CPUID by table.
pub fn offers(kvm: &Kvm) -> bool {
    [Cap::Irqchip, Cap::ExtCpuid, Cap::UserMemory].into_iter().all(|cap| kvm.check_extension(cap))
}

/// A VM of KVM's.
pub fn create_vm(kvm: &Kvm, _: &VmPlan) -> Result<VmFd, Error> {
    kvm.create_vm().kernel("KVM_CREATE_VM")
}

/// Its interrupt controllers, then its vCPUs, each of which has one of its own.
pub fn make(kvm: &Kvm, vm: &Arc<VmFd>, plan: &VmPlan) -> Result<(Vec<VcpuFd>, IrqchipParts), Error> {
    vm.set_tss_address(TSS).kernel("KVM_SET_TSS_ADDR")?;
    vm.set_identity_map_address(IDENTITY_MAP).kernel("KVM_SET_IDENTITY_MAP_ADDR")?;
    vm.create_irq_chip().kernel("KVM_CREATE_IRQCHIP")?;
    // With the APICs come 8259s, and who finds these looks for the 8254 that belongs to them: Linux doesn't go on without.
    vm.create_pit2(kvm_pit_config::default()).kernel("KVM_CREATE_PIT2")?;
    let offered = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).kernel("KVM_GET_SUPPORTED_CPUID")?;
    let mut vcpus = Vec::new();
    for planned in &plan.cpus {
        let vcpu = vm.create_vcpu(planned.hardware_id).kernel("KVM_CREATE_VCPU")?;
        let id = planned.hardware_id as u32;
        let mut cpuid = offered.clone();
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                FEATURES => {
                    entry.ebx = entry.ebx & 0x00ff_ffff | id << 24;
                    entry.ecx &= !(MONITOR | VMX);
                }
                EXTENDED => entry.ecx &= !SVM,
                leaf if TOPOLOGY.contains(&leaf) => entry.edx = id,
                _ => {}
            }
        }
        vcpu.set_cpuid2(&cpuid).kernel("KVM_SET_CPUID2")?;
        vcpus.push(vcpu);
    }
    Ok((vcpus, IrqchipParts))
}

/// How KVM calls a line.
pub fn line(irq: Irq) -> Option<u32> {
    (irq.0 < PINS).then_some(irq.0)
}

/// How KVM calls it in the table of what events raise: by its pin.
pub fn pin(irq: Irq) -> Option<u32> {
    line(irq)
}

/// The first begins where the plan says; the others wait in the kernel until the guest starts them.
pub fn begin(_: &Kvm, plan: &VmPlan, vcpu: VcpuId, fd: &VcpuFd, start: Start) -> Result<(), Error> {
    let (VcpuId(0), Some(machine)) = (vcpu, plan.x86_64()) else { return Ok(()) };
    let gdt = Gdt { base: machine.gdt.start().0, limit: machine.gdt.size().saturating_sub(1) as u16 };
    let Start { entry, argument } = start;
    let begins = match machine.entry {
        EntryPlan::Linux64(_) => {
            start::Start::Linux64 { entry, boot_params: argument, cr3: machine.page_tables.0, gdt }
        }
        EntryPlan::Pvh => start::Start::Pvh { entry: entry as u32, start_info: argument as u32 },
        EntryPlan::Long => start::Start::Flat64 { entry, argument, cr3: machine.page_tables.0, gdt },
    };
    let start::State { save, registers } = begins.state(0);
    let mut sregs = fd.get_sregs().kernel("KVM_GET_SREGS")?;
    (sregs.cs, sregs.ds, sregs.es) = (segment(&save.cs), segment(&save.ds), segment(&save.es));
    (sregs.fs, sregs.gs, sregs.ss) = (segment(&save.fs), segment(&save.gs), segment(&save.ss));
    (sregs.tr, sregs.ldt) = (segment(&save.tr), segment(&save.ldtr));
    (sregs.gdt, sregs.idt) = (table(&save.gdtr), table(&save.idtr));
    (sregs.cr0, sregs.cr3, sregs.cr4) = (save.cr0, save.cr3, save.cr4);
    sregs.efer = save.efer & !SVME;
    fd.set_sregs(&sregs).kernel("KVM_SET_SREGS")?;
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers;
    let regs = kvm_regs {
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: save.rip,
        rflags: save.rflags,
    };
    fd.set_regs(&regs).kernel("KVM_SET_REGS")
}

/// A segment as KVM has it, from the VMCB's attributes (AMD64 Architecture Programmer's Manual, volume 2, 15.5.1).
fn segment(segment: &Segment) -> kvm_segment {
    let attributes = segment.attributes.0;
    let field = |shift: u32, mask: u16| (attributes >> shift & mask) as u8;
    let present = field(7, 1);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: field(0, 0xf),
        s: field(4, 1),
        dpl: field(5, 3),
        present,
        avl: field(8, 1),
        l: field(9, 1),
        db: field(10, 1),
        g: field(11, 1),
        unusable: 1 - present,
        padding: 0,
    }
}

fn table(segment: &Segment) -> kvm_dtable {
    kvm_dtable { base: segment.base, limit: segment.limit as u16, ..kvm_dtable::default() }
}

/// What it executes.
pub fn pc(fd: &VcpuFd) -> u64 {
    fd.get_regs().map_or(0, |regs| regs.rip)
}

/// What the kernel says of the whole VM. Firmware is nothing that it knows here.
pub fn system_event(_: u32) -> Exit {
    Exit::Fault(Fault::Unanswerable)
}

/// What nobody answers reads as ones, and takes what is written.
pub fn complete_nobody(_: &VcpuFd) {}

/// An access to a port of the registers of power. `None`: it is to none of them.
pub fn own_port(own: &Own, irqchip: &KernelIrqchip, access: &PortAccess) -> Option<Access> {
    with(own, irqchip, |registers| match access.write {
        None => registers.read(access.port, access.width).map(Access::Value),
        Some(value) => registers.write(access.port, access.width, value).map(|asked| match asked {
            Asked::Nothing => Access::Value(0),
            Asked::Off => Access::Asks(PowerRequest::SystemOff),
            Asked::Reset => Access::Asks(PowerRequest::SystemReset),
        }),
    })
}

/// Does something with the registers, and brings their line to what follows from it: with their lock held, so that whoever is last has the
/// last word.
fn with<R>(own: &Own, irqchip: &KernelIrqchip, change: impl FnOnce(&mut Power) -> R) -> R {
    let mut registers = crate::lock(&own.power);
    let before = registers.line();
    let result = change(&mut registers);
    let after = registers.line();
    if before != after {
        let _ = irqchip.set_level(own.sci, after);
    }
    result
}

/// Presses a guest's power button. Whether it listens to that, as a guest does that has a driver for it.
pub fn press_power_button(own: &Own, irqchip: &KernelIrqchip) -> bool {
    with(own, irqchip, |registers| {
        registers.press();
        registers.line()
    })
}

/// ACPI's timer.
struct Timer(Instant);

impl PortDevice for Timer {
    fn name(&self) -> &str {
        "acpi-timer"
    }

    fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
        let ticks = self.0.elapsed().as_nanos().wrapping_mul(TIMER_HZ) / 1_000_000_000;
        ((ticks & TIMER_MASK) as u64 >> (8 * (offset & 3)) & width.mask()) as u32
    }

    fn write(&self, _: VcpuId, _: u16, _: Width, _: u32) {}
}

/// Adds what all VMs have beside the console: ACPI's registers. Those of power are asked before the others ([`own_port`]).
pub fn add_own(
    devices: AxVmDevicesBuilder<Place>,
    plan: &VmPlan,
) -> Result<(AxVmDevicesBuilder<Place>, Own), Error> {
    let power = plan.x86_64().ok_or(Error::Unknown)?.power;
    let places = Places { event: power.event, control: power.control, s5: power.s5, reset: power.reset };
    let timer = Arc::new(Timer(Instant::now()));
    let devices = devices.ports(power.timer.first(), power.timer.count() as u16, timer);
    Ok((devices, Own { power: Mutex::new(Power::new(places)), sci: power.sci }))
}

/// Adds the console.
pub fn add_console(
    devices: AxVmDevicesBuilder<Place>,
    plan: ConsolePlan,
    output: Arc<dyn Transmit>,
    lines: Arc<Lines<KernelIrqchip>>,
) -> (AxVmDevicesBuilder<Place>, Option<Arc<dyn Console>>) {
    let Some(ports) = plan.at.ports() else { return (devices, None) };
    let lines: Arc<dyn InterruptLine> = lines;
    let uart = Arc::new(Ns16550::new(output, lines, plan.irq));
    let devices = devices.ports(ports.first(), ports.count() as u16, uart.clone());
    (devices, Some(uart))
}

/// Which of the platform's CPUs Linux calls so, by its local APIC's id.
pub fn is_cpu(platform: &Platform, position: usize, _: Option<&str>, apic: Option<u64>) -> bool {
    platform.cpus.get(position).is_some_and(|cpu| apic == Some(cpu.hardware_id))
}

/// The rate of the counter by which a guest sets its watchdog.
pub fn watchdog_hz() -> u64 {
    axvm_guest::x86_64::acpi::WATCHDOG_HZ
}
