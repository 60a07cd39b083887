//! The redistributors' register frames, GICR (IHI 0069, 12.11): for each vCPU an RD frame and an SGI frame.

use alloc::sync::Arc;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};

use crate::Vgic;
use crate::access::{Wide, is_bytes, is_word};
use crate::spec::distributor::{Bank, ICFGR, IPRIORITYR};
use crate::spec::redistributor::{
    CTLR, CTLR_CES, CTLR_ENABLE_LPIS, IIDR, PENDBASER, PENDBASER_PTZ, PENDBASER_WRITABLE, PROPBASER,
    PROPBASER_WRITABLE, SGI_FRAME, STRIDE, TYPER, WAKER, WAKER_CHILDREN_ASLEEP, WAKER_PROCESSOR_SLEEP, typer,
};
use crate::spec::{self, PIDR2, PIDR2_GICV3};

/// The redistributors of a VM, one after the other, 128 KiB each.
///
/// What is pending is the hypervisor's own state while LPIs are enabled. It is taken out of the guest's pending table when they
/// are, and put back when they aren't any more.
pub struct Redistributors(Arc<Vgic>);

/// Which vCPU's redistributor is accessed.
fn owner(vgic: &Vgic, offset: u64) -> Option<(VcpuId, u64)> {
    let number = u16::try_from(offset / STRIDE).ok().map(VcpuId)?;
    (usize::from(number.0) < vgic.config().vcpus.len()).then_some((number, offset % STRIDE))
}

impl Redistributors {
    /// The redistributors of this GIC.
    pub fn new(vgic: Arc<Vgic>) -> Self {
        Self(vgic)
    }

    /// The size of the region in bytes.
    pub fn size(&self) -> u64 {
        self.0.config().vcpus.len() as u64 * STRIDE
    }

    fn has_lpis(&self) -> bool {
        self.0.config().its.is_some()
    }

    fn read_rd(&self, vcpu: VcpuId, cpu: VcpuId, offset: u64, width: Width) -> Option<u64> {
        if let Some(access) = Wide::new(offset, width) {
            let tables = self.0.shared.lpi_tables.lock();
            let value = match access.register {
                TYPER => {
                    let vcpus = &self.0.config().vcpus;
                    let affinity = *vcpus.get(usize::from(cpu.0))?;
                    Some(typer(affinity, cpu.0, usize::from(cpu.0) + 1 == vcpus.len(), self.has_lpis()))
                }
                PROPBASER if self.has_lpis() => Some(tables.propbaser),
                PENDBASER if self.has_lpis() => tables.cpus.get(usize::from(cpu.0)).map(|c| c.pendbaser),
                _ => None,
            };
            if let Some(value) = value {
                return Some(access.read(value));
            }
        }
        if !is_word(offset, width) {
            return None;
        }
        let value = match offset {
            CTLR if self.has_lpis() => {
                let enabled =
                    self.0.shared.with(Some(vcpu), |state| state.cpu(cpu).is_some_and(|c| c.lpis_enabled));
                let clears = if self.0.config().lpis_can_be_disabled() { CTLR_CES } else { 0 };
                clears | if enabled { CTLR_ENABLE_LPIS } else { 0 }
            }
            IIDR => spec::IIDR,
            WAKER => {
                let tables = self.0.shared.lpi_tables.lock();
                if tables.cpus.get(usize::from(cpu.0))?.asleep {
                    WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP
                } else {
                    0
                }
            }
            PIDR2 => PIDR2_GICV3,
            _ => return None,
        };
        Some(value.into())
    }

    fn write_rd(&self, vcpu: VcpuId, cpu: VcpuId, offset: u64, width: Width, value: u64) {
        let lpis_enabled =
            || self.0.shared.with(Some(vcpu), |state| state.cpu(cpu).is_some_and(|c| c.lpis_enabled));
        if let Some(access) = Wide::new(offset, width)
            && matches!(access.register, PROPBASER | PENDBASER)
        {
            // While LPIs are enabled, a change is unpredictable: here it is none.
            if !self.has_lpis() || lpis_enabled() {
                return;
            }
            let mut tables = self.0.shared.lpi_tables.lock();
            if access.register == PROPBASER {
                tables.propbaser = access.merge(tables.propbaser, value) & PROPBASER_WRITABLE;
            } else if let Some(own) = tables.cpus.get_mut(usize::from(cpu.0)) {
                if access.mask & PENDBASER_PTZ != 0 {
                    own.zero = access.place(value) & PENDBASER_PTZ != 0;
                }
                own.pendbaser = access.merge(own.pendbaser, value) & PENDBASER_WRITABLE;
            }
            return;
        }
        if !is_word(offset, width) {
            return;
        }
        match offset {
            CTLR => self.switch_lpis(vcpu, cpu, value as u32 & CTLR_ENABLE_LPIS != 0),
            WAKER => {
                if let Some(own) = self.0.shared.lpi_tables.lock().cpus.get_mut(usize::from(cpu.0)) {
                    own.asleep = value as u32 & WAKER_PROCESSOR_SLEEP != 0;
                }
            }
            _ => {}
        }
    }

    fn switch_lpis(&self, vcpu: VcpuId, cpu: VcpuId, enable: bool) {
        // Held by whoever switches, so that two who do, one on and one off, do all of it one after the other.
        let Some(mut its) = self.0.its.as_ref().map(|its| its.lock()) else { return };
        let may_disable = self.0.config().lpis_can_be_disabled();
        let changed = self.0.shared.with(Some(vcpu), |state| {
            let own = state.cpu_mut(cpu)?;
            if own.lpis_enabled == enable || !(enable || may_disable) {
                return None;
            }
            own.lpis_enabled = enable;
            state.update_all(|irq| irq.is_lpi() && irq.target == Some(cpu));
            Some(())
        });
        if changed.is_some() {
            its.switch_lpis(&self.0.shared, vcpu, cpu, enable);
        }
    }

    fn read_sgi(&self, vcpu: VcpuId, cpu: VcpuId, offset: u64, width: Width) -> Option<u64> {
        self.0.shared.with(Some(vcpu), |state| {
            if (IPRIORITYR..IPRIORITYR + 32).contains(&offset) {
                let first = (offset - IPRIORITYR) as u32;
                return is_bytes(offset, width)
                    .then(|| state.read_priorities(cpu, first, width.bytes() as u32));
            }
            if !is_word(offset, width) {
                return None;
            }
            if (ICFGR..ICFGR + 8).contains(&offset) {
                return Some(state.read_config(cpu, ((offset - ICFGR) / 4) as u32).into());
            }
            match Bank::at(offset) {
                Some((bank, 0)) => {
                    if cpu != vcpu {
                        state.ask_holders(cpu, bank, 0);
                    }
                    Some(state.read_bank(cpu, bank, 0).into())
                }
                _ => None,
            }
        })
    }

    fn write_sgi(&self, vcpu: VcpuId, cpu: VcpuId, offset: u64, width: Width, value: u64) {
        self.0.shared.with(Some(vcpu), |state| {
            if (IPRIORITYR..IPRIORITYR + 32).contains(&offset) {
                if is_bytes(offset, width) {
                    let first = (offset - IPRIORITYR) as u32;
                    state.write_priorities(cpu, first, width.bytes() as u32, value);
                }
            } else if let Some((bank, 0)) = Bank::at(offset)
                && is_word(offset, width)
            {
                state.write_bank(cpu, bank, 0, value as u32);
            }
            // ICFGR0 and ICFGR1 are read only: SGIs are edges, PPIs are levels.
        });
    }
}

impl MmioDevice for Redistributors {
    fn name(&self) -> &str {
        "gicr"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        let Some((cpu, offset)) = owner(&self.0, offset) else { return 0 };
        if offset < SGI_FRAME {
            self.read_rd(vcpu, cpu, offset, width)
        } else {
            self.read_sgi(vcpu, cpu, offset - SGI_FRAME, width)
        }
        .unwrap_or(0)
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        let Some((cpu, offset)) = owner(&self.0, offset) else { return };
        let value = value & width.mask();
        if offset < SGI_FRAME {
            self.write_rd(vcpu, cpu, offset, width, value);
        } else {
            self.write_sgi(vcpu, cpu, offset - SGI_FRAME, width, value);
        }
    }
}
