//! aarch64: vGICv3 and ITS in the kernel, PSCI by KVM, a PL011.

use std::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm::irqchip::Lines;
use axvm::vcpu::{Exit, Fault, PortAccess, PowerAnswer, PowerRequest};
use axvm::vm::Start;
use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, Transmit};
use axvm_pl011::Pl011;
use axvm_plan::{ConsolePlan, VmPlan};
use axvm_platform::model::Platform;
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER,
    KVM_CREATE_DEVICE_TEST, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_smccc_filter,
    kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::{Access, Switches};
use crate::error::{Error, Kernel};
use crate::irqchip::KernelIrqchip;
use crate::kvm::Needed;
use crate::memory::Place;
use crate::psci::{self, Calls, Returned};
use crate::vfio::Bridge;
use crate::vfio::routes::Routes;

/// KVM's requests (Linux, include/uapi/linux/kvm.h).
const KVMIO: u32 = 0xae;
/// The first SPI (Arm IHI 0069, 2.2).
const SPIS: core::ops::Range<u32> = 32..1020;
/// KVM_IRQ_LINE's way to name an SPI (Linux, Documentation/virt/kvm/api.rst, 4.25).
const LINE_IS_SPI: u32 = 1 << 24;
/// So many address bits a VM has where KVM doesn't let one choose.
const FIXED_BITS: i32 = 40;

/// Core registers, by KVM's numbers (api.rst, 4.68): X0 and PC.
const X0: u64 = 0x6030_0000_0010_0000;
const PC: u64 = 0x6030_0000_0010_0040;

/// The distributor with its redistributors, the ITS, and what vCPUs begin with.
pub struct IrqchipParts {
    _gic: DeviceFd,
    _its: Option<DeviceFd>,
    init: kvm_vcpu_init,
    switches: Switches,
}

impl IrqchipParts {
    /// Who switches vCPUs on and off.
    pub const fn switches(&self) -> Switches {
        self.switches
    }
}

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// Has the kernel leave those calls to us by which a guest switches CPUs on and off, where it lets itself be told so (Linux 6.4; api.rst,
/// KVM_ARM_VM_SMCCC_FILTER).
fn leave_calls(vm: &VmFd) -> Switches {
    let is_left = |calls: &Calls| {
        let filter = kvm_smccc_filter {
            base: calls.first,
            nr_functions: calls.count,
            action: kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER as u8,
            pad: [0; 15],
        };
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_ARM_VM_SMCCC_CTRL,
            attr: KVM_ARM_VM_SMCCC_FILTER.into(),
            addr: std::ptr::from_ref(&filter) as u64,
        };
        // SAFETY: the kernel reads the attribute, and the filter where the attribute says that it is; both are there until it comes back.
        let result = unsafe { ioctl_with_ref(vm, KVM_SET_DEVICE_ATTR(), &attribute) };
        result == 0
    };
    // All or, with a kernel that knows of no filter, none: the first call fails there.
    if psci::LEFT.iter().all(is_left) { Switches::Core } else { Switches::Kernel }
}

impl IrqchipParts {
    /// Sets a line.
    ///
    /// # Errors
    ///
    /// There is no such line, or the kernel's.
    pub fn set_level(&self, vm: &VmFd, irq: Irq, high: bool) -> Result<(), Error> {
        let line = SPIS.contains(&irq.0).then_some(LINE_IS_SPI | irq.0).ok_or(Error::Unknown)?;
        vm.set_irq_line(line, high).kernel("KVM_IRQ_LINE")
    }

    /// Ends of interrupts are the kernel's alone.
    pub fn ended(&self, _: u8) {}
}

/// The emulated devices that all VMs have: none beside the console.
pub struct Own;

/// Address bits that a guest may have.
pub fn address_bits(kvm: &Kvm) -> u8 {
    match kvm.get_host_ipa_limit() {
        0 => FIXED_BITS as u8,
        bits => bits.clamp(32, 48) as u8,
    }
}

/// Why there may be no KVM.
pub const WITHOUT_KVM: &str = "its kernel wasn't started at EL2 (firmware, or the hypervisor below, keeps that; QEMU: -M virt,virtualization=on), or was \
     built without KVM";

/// What no GICv3 for guests means.
pub const WITHOUT_IRQCHIP: &str =
    "its KVM makes no GICv3 for guests, as the machine's interrupt controller is older";

/// What KVM needs beyond what every architecture's does.
pub const NEEDED: &[Needed] = &[
    Needed { cap: Cap::OneReg, name: "KVM_CAP_ONE_REG" },
    Needed { cap: Cap::ArmPsci02, name: "KVM_CAP_ARM_PSCI_0_2" },
];

/// Whether KVM has a GICv3 in the kernel.
pub fn has_irqchip(kvm: &Kvm) -> bool {
    let Ok(vm) = kvm.create_vm() else { return false };
    let mut gic = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: KVM_CREATE_DEVICE_TEST,
    };
    // A try makes nothing, so that what comes back as its file is none of its own (0, which must not be closed).
    vm.create_device(&mut gic).map(std::mem::forget).is_ok()
}

/// A VM of KVM's.
pub fn create_vm(kvm: &Kvm, plan: &VmPlan) -> Result<VmFd, Error> {
    if kvm.get_host_ipa_limit() == 0 {
        return kvm.create_vm().kernel("KVM_CREATE_VM");
    }
    kvm.create_vm_with_ipa_size(plan.address_bits.into()).kernel("KVM_CREATE_VM")
}

/// Its vCPUs, then its interrupt controller, which wants to know how many there are.
pub fn make(
    _: &Kvm,
    vm: &Arc<VmFd>,
    plan: &VmPlan,
    _: &Arc<Routes>,
) -> Result<(Vec<VcpuFd>, IrqchipParts), Error> {
    let switches = leave_calls(vm);
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).kernel("KVM_ARM_PREFERRED_TARGET")?;
    let mut vcpus = Vec::new();
    let [features, ..] = &mut target.features;
    *features |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    for (id, _) in (0u64..).zip(&plan.cpus) {
        let vcpu = vm.create_vcpu(id).kernel("KVM_CREATE_VCPU")?;
        let mut init = target;
        if id > 0 && switches == Switches::Kernel {
            let [features, ..] = &mut init.features;
            *features |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        vcpu.vcpu_init(&init).kernel("KVM_ARM_VCPU_INIT")?;
        vcpus.push(vcpu);
    }
    let gic = plan.aarch64().and_then(|plan| plan.gic).ok_or(Error::Unknown)?;
    let device = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)?;
    let address =
        |device: &DeviceFd, kind: u32, address: u64| set(device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &address);
    address(&device, KVM_VGIC_V3_ADDR_TYPE_DIST, gic.distributor.start().0)?;
    address(&device, KVM_VGIC_V3_ADDR_TYPE_REDIST, gic.redistributors.start().0)?;
    // SGIs and PPIs count; 64 is the least.
    let lines = (SPIS.start + u32::from(gic.spis)).max(64);
    set(&device, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &lines)?;
    set(&device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &0u64)?;
    let its = match gic.its {
        Some(its) => {
            let device = create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
            address(&device, KVM_VGIC_ITS_ADDR_TYPE, its.registers.start().0)?;
            set(&device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &0u64)?;
            Some(device)
        }
        None => None,
    };
    Ok((vcpus, IrqchipParts { _gic: device, _its: its, init: target, switches }))
}

fn create(vm: &VmFd, kind: u32) -> Result<DeviceFd, Error> {
    let mut device = kvm_create_device { type_: kind, fd: 0, flags: 0 };
    vm.create_device(&mut device).kernel("KVM_CREATE_DEVICE")
}

/// Sets an attribute of a device, which the kernel reads from where it is.
fn set<T>(device: &DeviceFd, group: u32, attribute: u32, value: &T) -> Result<(), Error> {
    let attribute =
        kvm_device_attr { flags: 0, group, attr: attribute.into(), addr: std::ptr::from_ref(value) as u64 };
    device.set_device_attr(&attribute).kernel("KVM_SET_DEVICE_ATTR")
}

/// How KVM calls a line in the table of what events raise: by its pin, which is its place among the SPIs.
pub fn pin(irq: Irq) -> Option<u32> {
    SPIS.contains(&irq.0).then(|| irq.0 - SPIS.start)
}

/// It begins where the plan says, or where the guest says that switches it on. Where the kernel does that the others wait there.
pub fn begin(
    _: &Kvm,
    _: &VmPlan,
    parts: &IrqchipParts,
    vcpu: VcpuId,
    fd: &VcpuFd,
    start: Start,
) -> Result<(), Error> {
    match parts.switches {
        Switches::Kernel if vcpu != VcpuId(0) => return Ok(()),
        Switches::Kernel => {}
        // As after its reset, whatever it was when it was switched off.
        Switches::Core => fd.vcpu_init(&parts.init).kernel("KVM_ARM_VCPU_INIT")?,
    }
    fd.set_one_reg(X0, &start.argument.to_le_bytes()).kernel("KVM_SET_ONE_REG")?;
    fd.set_one_reg(PC, &start.entry.to_le_bytes()).kernel("KVM_SET_ONE_REG").map(drop)
}

/// Xn of the call that the vCPU was left by.
fn argument(fd: &VcpuFd, number: u64) -> u64 {
    let mut bytes = [0; 8];
    // Registers of 64 bits, two of KVM's units each.
    fd.get_one_reg(X0 + 2 * number, &mut bytes).map_or(0, |_| u64::from_le_bytes(bytes))
}

/// A call that the kernel leaves to us. The vCPU is behind it. `None`: it is answered.
pub fn call(fd: &VcpuFd, function: u64) -> Option<Exit> {
    let arguments = [1, 2, 3].map(|number| argument(fd, number));
    match psci::request(function as u32, arguments) {
        Ok(request) => Some(Exit::Power(request)),
        Err(returned) => {
            give_back(fd, returned);
            None
        }
    }
}

fn give_back(fd: &VcpuFd, Returned(code): Returned) {
    // The guest reads what it left there if the kernel takes none.
    let _ = fd.set_one_reg(X0, &i64::from(code).to_le_bytes());
}

/// What came of what was asked for by a call.
pub fn complete_power(fd: &VcpuFd, answer: PowerAnswer) {
    give_back(fd, psci::returned(answer));
}

/// There are no model-specific registers.
pub fn write_msr(_: &Kvm, _: &VcpuFd, _: u32, _: u64) -> bool {
    false
}

/// What it executes.
pub fn pc(fd: &VcpuFd) -> u64 {
    let mut pc = [0; 8];
    fd.get_one_reg(PC, &mut pc).map_or(0, |_| u64::from_le_bytes(pc))
}

/// Whether a vCPU is off, where the kernel switches them.
pub fn rests(fd: &VcpuFd) -> bool {
    fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_STOPPED)
}

/// What a guest asked its firmware for, which the kernel leaves to others.
pub fn system_event(kind: u32) -> Exit {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Exit::Power(PowerRequest::SystemOff),
        KVM_SYSTEM_EVENT_RESET => Exit::Power(PowerRequest::SystemReset),
        KVM_SYSTEM_EVENT_CRASH => Exit::Fault(Fault::Unanswerable),
        _ => Exit::Failed,
    }
}

/// What nobody answers is a synchronous external abort, as on a bus. Where KVM can't say so it reads as ones.
pub fn complete_nobody(fd: &VcpuFd) {
    if let Ok(mut events) = fd.get_vcpu_events() {
        events.exception.ext_dabt_pending = 1;
        let _ = fd.set_vcpu_events(&events);
    }
}

/// There are no ports.
pub fn own_port(_: &Own, _: &KernelIrqchip, _: &PortAccess) -> Option<Access> {
    None
}

/// Nothing hears of a power button.
pub fn press_power_button(_: &Own, _: &KernelIrqchip) -> bool {
    false
}

/// Adds what all VMs have beside the console: nothing.
pub fn add_own(
    devices: AxVmDevicesBuilder<Place>,
    _: &VmPlan,
    _: &IrqchipParts,
) -> Result<(AxVmDevicesBuilder<Place>, Own), Error> {
    Ok((devices, Own))
}

/// There are no ports: config space is reached by memory alone.
pub fn add_config_ports(devices: AxVmDevicesBuilder<Place>, _: &[Arc<Bridge>]) -> AxVmDevicesBuilder<Place> {
    devices
}

/// Adds the console.
pub fn add_console(
    devices: AxVmDevicesBuilder<Place>,
    plan: ConsolePlan,
    output: Arc<dyn Transmit>,
    lines: Arc<Lines<KernelIrqchip>>,
) -> (AxVmDevicesBuilder<Place>, Option<Arc<dyn Console>>) {
    let Some(registers) = plan.at.registers() else { return (devices, None) };
    let lines: Arc<dyn InterruptLine> = lines;
    let uart = Arc::new(Pl011::new(output, lines, plan.irq));
    (devices.mmio(registers, uart.clone()), Some(uart))
}

/// Which of the platform's CPUs Linux calls so, by the node of the device tree that it has it from.
pub fn is_cpu(platform: &Platform, position: usize, node: Option<&str>, _: Option<u64>) -> bool {
    let path = node.and_then(|link| link.split_once("/base").map(|(_, path)| path));
    platform.cpus.get(position).is_some_and(|cpu| path == Some(cpu.path.as_str()))
}

/// The rate of the counter by which a guest sets its watchdog.
pub fn watchdog_hz() -> u64 {
    let mut hz: u64;
    // SAFETY: a read of a register that user space may read.
    unsafe { core::arch::asm!("mrs {hz}, cntfrq_el0", hz = out(reg) hz, options(nomem, nostack)) };
    hz
}
