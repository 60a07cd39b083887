//! What of this architecture's protections a test image leaves out (`crate::protection`). In any other image each of these gives back
//! what it was given, and is no code.

use alloc::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm_addr::{Gpa, Hpa, Irq, Span};
use axvm_axdevice::MmioDevice;
use axvm_platform::model::Platform;
use axvm_vapic::{Apics, IoPage, LocalPage};
use axvm_x86_access::Segment;
use axvm_x86_cpu::features::Leaf;
use axvm_x86_cpu::fetch::Bytes;
use axvm_x86_cpu::permissions::{IoPermissions, MsrPermissions};
use axvm_x86_cpu::vmcb::{Intercepts, Save};
use axvm_x86_cpu::walk::{self, Access};
#[cfg(feature = "protection-off")]
use {
    super::irqchip::Irqchip, super::local_apic::LocalApic, super::own_map, axvm_addr::Address,
    axvm_addr::MsiSource, axvm_addr::VcpuId, axvm_axdevice::Width, core::sync::atomic::AtomicU16,
    core::sync::atomic::Ordering,
};

use super::emulate::{Ram, physical_bits};
use super::irqchip::ApicBackend;
use super::vcpu;
use crate::memory::GuestRam;
use crate::protection::{Protection, is_off};
use crate::vm::Vm;

/// Where the bundle asks for it: a line that the hypervisor's CPU injects at a vCPU.
pub const INJECTED: [Irq; 1] = [Irq(4)];

/// What a guest is left for.
pub fn leave_out(intercepts: &mut Intercepts) {
    /// RDPMC, RSM, INVLPGA: bits of the general word.
    const GENERAL: u32 = 1 << 15 | 1 << 19 | 1 << 26;
    /// VMLOAD to SKINIT; MONITOR, MWAIT and RDPRU: bits of SVM's word.
    const SVM: u32 = 0x1f << 2 | 7 << 10 | 1 << 14;
    const XSETBV: u32 = 1 << 13;
    const VMMCALL: u32 = 1 << 1;
    if is_off(Protection::Instructions) {
        intercepts.general &= !GENERAL;
        intercepts.svm &= !SVM;
        intercepts.later = 0;
    }
    if is_off(Protection::ControlRegisters) {
        (intercepts.cr, intercepts.dr) = (0, 0);
        intercepts.svm &= !XSETBV;
    }
    if is_off(Protection::Calls) {
        intercepts.svm &= !VMMCALL;
    }
}

/// The bytes of an instruction, which were read page by page; or those that lie there in one piece.
#[inline(always)]
pub fn code(bytes: Bytes, save: &Save, ram: &GuestRam) -> Bytes {
    if is_off(Protection::Crossing) { in_one_piece(save, ram).unwrap_or(bytes) } else { bytes }
}

/// What lies in the guest's memory from an instruction's first byte on.
fn in_one_piece(save: &Save, ram: &GuestRam) -> Option<Bytes> {
    let (access, bits) = (Access::Fetch, physical_bits());
    let linear = walk::linear(save, Segment::Cs, save.rip, 1, access).ok()?;
    let first = Ram::with(ram, |ram| walk::translate(save, linear, access, bits, ram)).ok()?;
    let mut bytes = [0; 15];
    ram.read(Gpa(first), &mut bytes).ok()?;
    Some(Bytes::from(bytes))
}

/// Whether an operand is taken for one in one page, though it isn't.
#[inline(always)]
pub fn takes_for_one_page() -> bool {
    is_off(Protection::Crossing)
}

/// Whether it isn't asked what an instruction reaches for.
#[inline(always)]
pub fn takes_whatever_is_there() -> bool {
    is_off(Protection::Changing)
}

/// Which ports a guest reaches itself: all but those at which it has something of its own.
pub fn open_ports(vm: &Vm, map: &IoPermissions) {
    if is_off(Protection::Ports) {
        let Some(power) = vm.plan().x86_64().map(|own| own.power) else { return };
        let has_power =
            |port| power.event.contains(port) || power.control.contains(port) || port == power.reset;
        let others = (0..=u16::MAX).filter(|&port| !vm.devices().has_ports(port, port) && !has_power(port));
        others.for_each(|port| map.open_port(port));
    }
}

/// The page of a VM's local APICs.
pub fn local_page(apics: &Arc<Apics<ApicBackend>>) -> Arc<dyn MmioDevice> {
    #[cfg(feature = "protection-off")]
    if is_off(Protection::Apics) {
        return Arc::new(MachinesLocal);
    }
    #[cfg(feature = "protection-off")]
    if is_off(Protection::Sgi) {
        return Arc::new(EverybodysLocal(LocalPage(apics.clone())));
    }
    Arc::new(LocalPage(apics.clone()))
}

/// Whether a vCPU's local APIC is what [`local_page`] gives where nothing is left out.
pub fn has_own_local_page() -> bool {
    !is_off(Protection::Apics) && !is_off(Protection::Sgi)
}

/// A VM's I/O APIC, at its registers; or that of the machine.
pub fn add_io_page(
    devices: AxVmDevicesBuilder<Hpa>,
    registers: Span<Gpa>,
    apics: &Arc<Apics<ApicBackend>>,
    platform: &Platform,
) -> AxVmDevicesBuilder<Hpa> {
    let machines =
        platform.apic().and_then(|apic| apic.io_apics.first()).filter(|_| is_off(Protection::Apics));
    match machines {
        Some(machines) => {
            devices.forwarded(registers, machines.registers.start(), 0, "the machine's I/O APIC")
        }
        None => devices.mmio(registers, Arc::new(IoPage(apics.clone()))),
    }
}

/// The local APIC of the CPU that a vCPU has.
#[cfg(feature = "protection-off")]
struct MachinesLocal;

#[cfg(feature = "protection-off")]
impl MmioDevice for MachinesLocal {
    fn name(&self) -> &str {
        "the machine's local APIC"
    }

    fn read(&self, _: VcpuId, offset: u64, _: Width) -> u64 {
        let own = LocalApic::own();
        // As it looks in the page, whatever its mode.
        let shift = if offset == 0x20 && own.is_x2apic() { 24 } else { 0 };
        u64::from(own.read(offset as u32 & !0xf)) << shift
    }

    fn write(&self, _: VcpuId, offset: u64, _: Width, value: u64) {
        LocalApic::own().write(offset as u32 & !0xf, value as u32);
    }
}

/// A local APIC whose interrupts come to every VM's CPUs.
#[cfg(feature = "protection-off")]
struct EverybodysLocal(LocalPage<ApicBackend>);

#[cfg(feature = "protection-off")]
impl MmioDevice for EverybodysLocal {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        self.0.read(vcpu, offset, width)
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        /// The command's lower word; a vector in it, and all CPUs as its destination.
        const COMMAND: u64 = 0x300;
        const VECTOR: u64 = 0xff;
        const ALL: u64 = 2 << 18 | 1 << 14;
        self.0.write(vcpu, offset, width, value);
        if offset == COMMAND {
            let host = crate::host::get();
            for other in host.plans.iter().filter_map(|plan| host.vm(plan.id)) {
                if !core::ptr::eq(other.irqchip().apics(), &*self.0.0) {
                    let _ = other.irqchip().apics().send_icr(VcpuId(0), value & VECTOR | ALL);
                }
            }
        }
    }
}

/// How many entries of an IOMMU's interrupt table a sender of so many interrupts has, of all.
pub fn entries(count: u32, all: u32) -> u32 {
    if is_off(Protection::Messages) { all } else { count }
}

/// Which model-specific registers a guest reaches itself.
pub fn open_registers(map: &mut MsrPermissions) {
    /// VMRUN refuses a guest whose EFER has no SVME.
    const EFER: u32 = 0xc000_0080;
    if is_off(Protection::Msrs) {
        for register in [0, 0xc000_0000, 0xc001_0000].into_iter().flat_map(|first| first..first + 0x2000) {
            if register != EFER {
                let _ = map.open_read(register).and_then(|()| map.open_write(register));
            }
        }
    }
}

/// What a guest is told by CPUID: `shown`, but for the leaves by which it finds its clock where that isn't kept from it.
pub fn identify(leaf: u32, subleaf: u32, shown: Leaf) -> Leaf {
    if is_off(Protection::Cpuid) && leaf >> 28 != 4 { vcpu::cpuid(leaf, subleaf) } else { shown }
}

/// Takes a vector that nobody gives back.
#[cfg(feature = "protection-off")]
pub fn leak_message_number(irqchip: &Irqchip) {
    irqchip.leak_vector();
}

/// Routes a message of a device that isn't there, one device after another.
#[cfg(feature = "protection-off")]
pub fn leak_message(irqchip: &Irqchip) {
    static NEXT: AtomicU16 = AtomicU16::new(0xf000);
    irqchip.leak_message(MsiSource::new(0, NEXT.fetch_add(1, Ordering::Relaxed).into()));
}

/// Whether memory that tables lie in, and code, are mapped as what drives hardware by them expects.
///
/// # Errors
///
/// What doesn't hold.
#[cfg(feature = "protection-off")]
pub fn check_memory() -> Result<(), &'static str> {
    use axvm_paging::MemoryType;
    let table = crate::memory::allocate(4096, 4096).ok_or("there is a table")?;
    let mapped = own_map::query(table).ok_or("tables are mapped")?;
    // SAFETY: nobody has used it.
    unsafe { crate::memory::free(table, 4096, 4096) };
    if mapped.memory != MemoryType::Normal || mapped.execute || !mapped.write {
        return Err("tables are write-back memory, and nothing to execute");
    }
    let code = own_map::query(Hpa(super::image_start()).page()).ok_or("code is mapped")?;
    if code.write || !code.execute {
        return Err("code is executed, and not written");
    }
    Ok(())
}
