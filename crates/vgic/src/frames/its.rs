//! The ITS's register frames, GITS (IHI 0069, 12.19).

use alloc::sync::Arc;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use spin::Mutex;

use crate::Vgic;
use crate::its::ItsState;
use crate::spec::FRAME;
use crate::spec::its_registers::TRANSLATER;

/// The virtual ITS of a VM: the control frame and the translation frame, 64 KiB each.
///
/// Devices reach the physical translation frame, by way of their DMA map; a write by the guest's processor to
/// this one is ignored and counted.
pub struct Its(Arc<Vgic>);

impl Its {
    /// The size of the region in bytes.
    pub const SIZE: u64 = 2 * FRAME;

    /// The ITS of this GIC, if it has one.
    pub fn new(vgic: Arc<Vgic>) -> Option<Self> {
        vgic.its.is_some().then_some(Self(vgic))
    }
}

impl MmioDevice for Its {
    fn name(&self) -> &str {
        "gits"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        let read = |its: &Mutex<ItsState>| its.lock().read_register(&self.0.shared, vcpu, offset, width);
        self.0.its.as_ref().and_then(read).unwrap_or(0)
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        if offset == TRANSLATER {
            self.0.shared.counters.count_translater_write();
        } else if let Some(its) = &self.0.its {
            its.lock().write_register(&self.0.shared, vcpu, offset, width, value & width.mask());
        }
    }
}
