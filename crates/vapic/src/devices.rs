//! The APICs' registers, as devices of a VM. Whoever serves accesses by these asks [`Apics::next_startup`] after a write.

use alloc::sync::Arc;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, SysReg, SysRegDevice, Width};

use crate::apics::{Apics, Backend};

/// The page of each vCPU's own local APIC: 4 KiB.
pub struct LocalPage<B>(pub Arc<Apics<B>>);

/// The I/O APIC's page: 4 KiB.
pub struct IoPage<B>(pub Arc<Apics<B>>);

/// The MSRs of each vCPU's own local APIC: 0x1b, 0x6e0, 0x800 to 0x8ff.
pub struct ApicMsrs<B>(pub Arc<Apics<B>>);

/// Registers are of 32 bits: the bytes of one that an access reaches, if it reaches into one.
fn part(value: u32, offset: u64, width: Width) -> u64 {
    u64::from(value) >> (8 * (offset & 3)) & width.mask()
}

/// A write of a whole register.
fn whole(offset: u64, width: Width) -> bool {
    offset.is_multiple_of(4) && width == Width::B4
}

impl<B: Backend> MmioDevice for LocalPage<B> {
    fn name(&self) -> &str {
        "local-apic"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        part(self.0.read_page(vcpu, offset & !3), offset, width)
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        if whole(offset, width) {
            let _ = self.0.write_page(vcpu, offset, value as u32);
        }
    }
}

impl<B: Backend> MmioDevice for IoPage<B> {
    fn name(&self) -> &str {
        "io-apic"
    }

    fn read(&self, _: VcpuId, offset: u64, width: Width) -> u64 {
        part(self.0.read_io(offset & !3), offset, width)
    }

    fn write(&self, _: VcpuId, offset: u64, width: Width, value: u64) {
        if whole(offset, width) {
            self.0.write_io(offset, value as u32);
        }
    }

    fn has_fast_path(&self) -> bool {
        true
    }

    fn fast_read(&self, offset: u64) -> Option<u32> {
        if whole(offset, Width::B4) { self.0.try_read_io(offset) } else { None }
    }
}

impl<B: Backend> SysRegDevice for ApicMsrs<B> {
    fn name(&self) -> &str {
        "local-apic"
    }

    fn read(&self, vcpu: VcpuId, register: SysReg) -> Option<u64> {
        self.0.read_msr(vcpu, register.0).ok()
    }

    fn write(&self, vcpu: VcpuId, register: SysReg, value: u64) -> Option<()> {
        self.0.write_msr(vcpu, register.0, value).ok().map(drop)
    }
}
