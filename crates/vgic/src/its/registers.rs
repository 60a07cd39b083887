//! The ITS's registers.

use axvm_addr::VcpuId;
use axvm_axdevice::Width;

use super::ItsState;
use crate::access::{Wide, is_word};
use crate::shared::Shared;
use crate::spec::its_registers::{
    BASER_ENTRY_SIZE, BASER_PLACE, BASER_TYPE_COLLECTIONS, BASER_TYPE_DEVICES, BASER_WRITABLE, BASER0,
    BASER1, CBASER, CBASER_WRITABLE, CREADR, CTLR, CTLR_ENABLED, CTLR_QUIESCENT, CWRITER, IIDR, QUEUE_OFFSET,
    TYPER, cbaser_bytes, typer,
};
use crate::spec::{self, PIDR2, PIDR2_GICV3};

impl ItsState {
    /// A read of the control frame; `None` where there is no register.
    pub(crate) fn read_register(
        &mut self,
        shared: &Shared,
        vcpu: VcpuId,
        offset: u64,
        width: Width,
    ) -> Option<u64> {
        if let Some(access) = Wide::new(offset, width) {
            let [devices, collections] = self.basers;
            let value = match access.register {
                TYPER => {
                    let collections = self.tables.collections.len() as u32;
                    let collection_bits = u32::BITS - collections.saturating_sub(1).leading_zeros();
                    Some(typer(self.config.event_bits, self.config.device_bits(), collection_bits))
                }
                CBASER => Some(self.cbaser),
                CWRITER => Some(self.cwriter),
                CREADR => {
                    // A guest that waits for its commands drives them on.
                    if self.has_commands() || self.is_loading() {
                        self.process(shared, Some(vcpu));
                    }
                    Some(self.creadr)
                }
                BASER0 => Some(devices | BASER_TYPE_DEVICES | BASER_ENTRY_SIZE),
                BASER1 => Some(collections | BASER_TYPE_COLLECTIONS | BASER_ENTRY_SIZE),
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
            CTLR if self.enabled => CTLR_ENABLED,
            CTLR => CTLR_QUIESCENT,
            IIDR => spec::IIDR,
            PIDR2 => PIDR2_GICV3,
            _ => return None,
        };
        Some(value.into())
    }

    /// A write to the control frame.
    pub(crate) fn write_register(
        &mut self,
        shared: &Shared,
        vcpu: VcpuId,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        if offset == CTLR && is_word(offset, width) {
            self.enabled = value as u32 & CTLR_ENABLED != 0;
            shared.next_its_generation();
            self.process(shared, Some(vcpu));
            return;
        }
        // What isn't a register is ignored.
        let Some(access) = Wide::new(offset, width) else { return };
        match access.register {
            CWRITER => {
                let offset = access.merge(self.cwriter, value) & QUEUE_OFFSET;
                if offset < cbaser_bytes(self.cbaser) {
                    self.cwriter = offset;
                    self.process(shared, Some(vcpu));
                }
            }
            // While the ITS is enabled, a change of these is unpredictable: here it is none.
            _ if self.enabled => {}
            CBASER => {
                self.cbaser = access.merge(self.cbaser, value) & CBASER_WRITABLE;
                self.creadr = 0;
            }
            BASER0 | BASER1 => self.write_baser(shared, vcpu, access, value),
            _ => {}
        }
    }

    fn write_baser(&mut self, shared: &Shared, current: VcpuId, access: Wide, value: u64) {
        let position = usize::from(access.register == BASER1);
        let Some(baser) = self.basers.get_mut(position) else { return };
        let old = *baser;
        // The address has nothing above bit 47, and a page size that doesn't exist is the largest.
        *baser = access.merge(*baser, value) & BASER_WRITABLE;
        if *baser >> 8 & 3 == 3 {
            *baser &= !(1 << 8);
        }
        // The table is gone, or another one, and with it what was in it.
        if (old ^ *baser) & BASER_PLACE != 0 {
            if position == 0 {
                self.unmap_all(shared, Some(current));
            } else if self.tables.collections.iter().any(Option::is_some) {
                self.unmap_all(shared, Some(current));
                self.tables.collections.fill(None);
            }
        }
    }
}
