//! The distributor's register frame, GICD (IHI 0069, 12.9).

use alloc::sync::Arc;

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};

use crate::Vgic;
use crate::access::{Wide, is_bytes, is_word};
use crate::id::Intid;
use crate::interrupts::Interrupts;
use crate::spec::distributor::{
    Bank, CTLR, CTLR_ARE, CTLR_DS, CTLR_ENABLE_GROUP0, CTLR_ENABLE_GROUP1, ICFGR, ICFGR_END, IIDR,
    IPRIORITYR, IPRIORITYR_END, IROUTER, IROUTER_END, TYPER, typer,
};
use crate::spec::{self, PIDR2, PIDR2_GICV3};

/// The distributor of a VM: one frame of 64 KiB.
///
/// The guest sees one security state with affinity routing (GICD_CTLR.DS and ARE are one and stay so), as a
/// guest of any hypervisor does: it has both groups to itself. GICD_CTLR.RWP is always zero, since a write
/// has taken effect when it is done.
pub struct Distributor {
    vgic: Arc<Vgic>,
    /// What never changes.
    constants: [(u64, u32); 3],
}

impl Distributor {
    /// The distributor of this GIC.
    pub fn new(vgic: Arc<Vgic>) -> Self {
        let config = vgic.config();
        let range_select = config.vcpus.iter().any(|affinity| affinity & 0xff >= 16);
        let typer = typer(config.spis, config.id_bits(), config.its.is_some(), range_select);
        Self { vgic, constants: [(TYPER, typer), (IIDR, spec::IIDR), (PIDR2, PIDR2_GICV3)] }
    }

    fn read_register(&self, state: &Interrupts, vcpu: VcpuId, offset: u64, width: Width) -> Option<u64> {
        if (IROUTER..IROUTER_END).contains(&offset) {
            let access = Wide::new(offset, width)?;
            return Some(access.read(state.read_route(vcpu, routed(access))));
        }
        if (IPRIORITYR..IPRIORITYR_END).contains(&offset) {
            let first = shared((offset - IPRIORITYR) as u32)?;
            return is_bytes(offset, width).then(|| state.read_priorities(vcpu, first, width.bytes() as u32));
        }
        if !is_word(offset, width) {
            return None;
        }
        if (ICFGR..ICFGR_END).contains(&offset) {
            let word = shared_word(((offset - ICFGR) / 4) as u32, 2)?;
            return Some(state.read_config(vcpu, word).into());
        }
        if let Some((bank, word)) = Bank::at(offset) {
            return Some(state.read_bank(vcpu, bank, shared_word(word, 1)?).into());
        }
        let value = match offset {
            CTLR => {
                let [group0, group1] = state.groups;
                CTLR_ARE
                    | CTLR_DS
                    | if group0 { CTLR_ENABLE_GROUP0 } else { 0 }
                    | if group1 { CTLR_ENABLE_GROUP1 } else { 0 }
            }
            _ => self.constants.iter().find(|(register, _)| *register == offset)?.1,
        };
        Some(value.into())
    }
}

/// The INTID of an access to GICD_IROUTER.
fn routed(access: Wide) -> Intid {
    Intid(((access.register - IROUTER) / 8) as u32)
}

/// Registers of SGIs and PPIs don't exist in the distributor with affinity routing.
fn shared(intid: u32) -> Option<u32> {
    (intid >= spec::SPI_FIRST).then_some(intid)
}

fn shared_word(word: u32, first: u32) -> Option<u32> {
    (word >= first).then_some(word)
}

impl MmioDevice for Distributor {
    fn name(&self) -> &str {
        "gicd"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        self.vgic
            .shared
            .with(Some(vcpu), |state| {
                if let Some((bank, word)) = Bank::at(offset) {
                    state.ask_holders(vcpu, bank, word);
                }
                self.read_register(state, vcpu, offset, width)
            })
            .unwrap_or(0)
    }

    fn constants(&self) -> &[(u64, u32)] {
        &self.constants
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        let value = value & width.mask();
        let mut groups_changed = false;
        self.vgic.shared.with(Some(vcpu), |state| {
            if (IROUTER..IROUTER_END).contains(&offset) {
                if let Some(access) = Wide::new(offset, width) {
                    state.write_route(vcpu, routed(access), access.mask, access.place(value));
                }
            } else if (IPRIORITYR..IPRIORITYR_END).contains(&offset) {
                if let Some(first) = shared((offset - IPRIORITYR) as u32)
                    && is_bytes(offset, width)
                {
                    state.write_priorities(vcpu, first, width.bytes() as u32, value);
                }
            } else if !is_word(offset, width) {
            } else if (ICFGR..ICFGR_END).contains(&offset) {
                if let Some(word) = shared_word(((offset - ICFGR) / 4) as u32, 2) {
                    state.write_config(vcpu, word, value as u32);
                }
            } else if let Some((bank, word)) = Bank::at(offset) {
                if let Some(word) = shared_word(word, 1) {
                    state.write_bank(vcpu, bank, word, value as u32);
                }
            } else if offset == CTLR {
                let value = value as u32;
                let groups = [value & CTLR_ENABLE_GROUP0 != 0, value & CTLR_ENABLE_GROUP1 != 0];
                if groups != state.groups {
                    state.groups = groups;
                    groups_changed = true;
                    if state.direct.is_some() {
                        state.for_each(|state, handle| state.mirror(handle));
                    }
                    state.update_all(|irq| irq.is_pending() || irq.held.is_some());
                }
            }
        });
        if groups_changed {
            self.vgic.retell_lpis(Some(vcpu));
        }
    }
}
