//! What the hypervisor sets in a function whatever firmware has left there: errors are told to nobody, nothing of a port
//! works by itself. A guest's device can make errors as it likes; on a machine whose firmware has them escalated, each
//! could end it.
//!
//! Values are set, not cleaned of what is known to be bad: a bit that isn't named here is off.

use crate::config::{ConfigSpace, Registers};
use crate::function::Function;
use crate::spec::express::{self, DeviceControl};
use crate::spec::{CONVENTIONAL_SIZE, capability, extended, header};

/// The port types, as [`express::CAPABILITIES`] has them, that have root registers: root ports and event collectors.
const ROOTS: [u16; 2] = [4, 10];

/// Sets the registers; says the first that doesn't keep its value.
pub(crate) fn settle<C: ConfigSpace + ?Sized>(
    registers: Registers<'_, C>,
    function: &Function,
) -> Option<u16> {
    let mut stuck = None;
    // Of what was there before, `kept` stays. Bits that are wired to zero are nobody's problem.
    let mut set = |offset: u16, kept: u16, value: u16| {
        // What it doesn't say can't be kept, nor is it known to be off.
        let Some(before) = registers.control16(offset) else {
            stuck.get_or_insert(offset);
            return;
        };
        let new = before & kept | value;
        // Writes to slot control are commands to the slot, so none without need.
        if new != before {
            registers.write16(offset, new);
            if registers.read16(offset) & !(kept | value) != 0 {
                stuck.get_or_insert(offset);
            }
        }
    };
    if function.bridge {
        // System and parity errors from behind, VGA and ISA ranges, master aborts, the reset of the bus.
        set(header::BRIDGE_CONTROL, 0, 0);
    }
    let mut root = false;
    if let Some(offset) = function.capability(capability::EXPRESS) {
        let bits = registers.read16(offset + express::CAPABILITIES);
        root = ROOTS.contains(&(bits >> 4 & 0xf));
        let kept = DeviceControl::PAYLOAD
            | DeviceControl::READ_REQUEST
            | DeviceControl::EXTENDED_TAG
            | DeviceControl::AUX_POWER;
        let on = DeviceControl::RELAXED_ORDERING | DeviceControl::NO_SNOOP;
        set(offset + express::DEVICE_CONTROL, kept.bits(), on.bits());
        // The first version has only the registers that the function needs (PCIe 1.1, 7.8).
        let version_2 = bits & 0xf >= 2 && offset + express::SIZE_V2 <= CONVENTIONAL_SIZE;
        if version_2 {
            set(offset + express::DEVICE_CONTROL_2, express::CONTROL_2_KEPT, 0);
        }
        if function.bridge && bits & express::SLOT != 0 {
            set(offset + express::SLOT_CONTROL, express::SLOT_KEPT, 0);
        }
        if root {
            let visible = registers.read16(offset + express::ROOT_CAPABILITIES) & 1 != 0;
            set(offset + express::ROOT_CONTROL, 0, if visible { express::RETRY_VISIBLE } else { 0 });
        }
    }
    if let Some(offset) = function.extended_capability(extended::AER) {
        // The masks are a second bar: what isn't implemented of them can't be told from what doesn't hold.
        registers.write32(offset + extended::AER_UNCORRECTABLE_MASK, u32::MAX);
        registers.write32(offset + extended::AER_SEVERITY, 0);
        registers.write32(offset + extended::AER_CORRECTABLE_MASK, u32::MAX);
        registers.write32(offset + extended::AER_CONTROL, 0);
        if root {
            set(offset + extended::AER_ROOT_COMMAND, 0, 0);
        }
    }
    if let Some(offset) = function.extended_capability(extended::CONTAINMENT) {
        set(offset + extended::CONTAINMENT_CONTROL, 0, 0);
        if registers.read16(offset + extended::CONTAINMENT_CAPABILITY) & extended::CONTAINMENT_ROOT != 0 {
            registers.write32(offset + extended::CONTAINMENT_PIO_MASK, u32::MAX);
            for effect in extended::CONTAINMENT_PIO_EFFECTS {
                set(offset + effect, 0, 0);
                set(offset + effect + 2, 0, 0);
            }
        }
    }
    stuck
}
