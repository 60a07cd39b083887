//! The least that any program executes on a Linux from its start until a guest does, with the guest's memory taken and its images in it:
//!
//! ```text
//! least IMAGE INITRD [FUNCTION...]
//! ```
//!
//! It takes 512 MiB as the Linux host does, reads both files to where a guest would have them, has KVM make a VM of one vCPU, and has vfio-pci's functions reach the memory. No
//! interrupt controller, no devices, no plan, nothing that is looked at before. Its guest has one instruction or two, by which it ends. What figures of a Linux host are held against.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use axvm::space::Backing;
use axvm_linux::memory::Place;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vfio_ioctls::{VfioContainer, VfioDevice};

const RAM: u64 = 512 << 20;
/// Where the images are in it.
const IMAGE: u64 = 2 << 20;
const INITRD: u64 = 128 << 20;

#[cfg(target_arch = "aarch64")]
mod guest {
    use super::{Error, VcpuFd, VmFd};
    use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, kvm_vcpu_init};

    /// Where RAM is.
    pub const BASE: u64 = 0x4000_0000;
    /// PSCI's SYSTEM_OFF: `movz w0, #0x8400, lsl 16`, `movk w0, #8`, `hvc #0`.
    pub const CODE: &[u8] = &[0x00, 0x80, 0xb0, 0x52, 0x00, 0x01, 0x80, 0x72, 0x02, 0x00, 0x00, 0xd4];
    const PC: u64 = 0x6030_0000_0010_0040;

    pub fn begin(vm: &VmFd, vcpu: &VcpuFd) -> Result<(), Box<dyn Error>> {
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        vcpu.vcpu_init(&init)?;
        vcpu.set_one_reg(PC, &BASE.to_le_bytes())?;
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod guest {
    use super::{Error, VcpuFd, VmFd};

    /// Where RAM is.
    pub const BASE: u64 = 0;
    /// `hlt`.
    pub const CODE: &[u8] = &[0xf4];

    pub fn begin(_: &VmFd, vcpu: &VcpuFd) -> Result<(), Box<dyn Error>> {
        let mut segments = vcpu.get_sregs()?;
        (segments.cs.base, segments.cs.selector) = (0, 0);
        vcpu.set_sregs(&segments)?;
        let mut registers = vcpu.get_regs()?;
        registers.rip = 0;
        vcpu.set_regs(&registers)?;
        Ok(())
    }
}

fn load(ram: &Place, at: u64, path: &str) -> Result<(), Box<dyn Error>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(ram.advance(at).ok_or("there is no room for the images")?.fill(&file, bytes)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [image, initrd, functions @ ..] = words.as_slice() else {
        return Err("usage: least IMAGE INITRD [FUNCTION...]".into());
    };
    let (ram, _) = Place::allocate(RAM)?;
    load(&ram, IMAGE, image)?;
    load(&ram, INITRD, initrd)?;
    ram.write(0, guest::CODE)?;
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: guest::BASE,
        memory_size: RAM,
        userspace_addr: ram.address(),
    };
    // SAFETY: the memory is there until the process ends, and there is no Rust reference to it.
    unsafe { vm.set_user_memory_region(region)? };
    let mut open = Vec::new();
    if !functions.is_empty() {
        let container = Arc::new(VfioContainer::new(None)?);
        for function in functions {
            let folder = format!("/sys/bus/pci/devices/{function}");
            open.push(VfioDevice::new(Path::new(&folder), container.clone(), true)?);
        }
        let bytes = usize::try_from(RAM)?;
        // SAFETY: for the same reason.
        unsafe { container.vfio_dma_map(guest::BASE, bytes, ram.address() as *mut u8)? };
    }
    let mut vcpu = vm.create_vcpu(0)?;
    guest::begin(&vm, &vcpu)?;
    match vcpu.run()? {
        VcpuExit::SystemEvent(..) | VcpuExit::Hlt => println!("MEASURE waits"),
        exit => return Err(format!("the guest was left by {exit:?}").into()),
    }
    Ok(())
}
