//! Where a VM sees its PCI functions: all on the root bus, since bridges aren't shown.
//!
//! A function on the root bus keeps its address. What is behind a bridge takes the device number of the bridge at the top,
//! which is free because that bridge isn't shown; if another of the VM's functions has it already, the lowest that is free.
//! So an address depends on the machine and on what the VM is given, and on nothing else. Functions of one device stay
//! together and keep their function numbers, but for the lowest, which is shown as function 0: software looks for others only
//! behind that one (PCI 3.2.2.3.4).
//!
//! In a guest machine of its own they lie one after the other, in the order of the file, wherever they are on the board.

use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_platform::limits::GuestMachine;

use super::board::Board;
use super::findings::Findings;
use super::hardware::{Given, Kind};
use crate::problem::Rule;

/// Device numbers of a bus.
const DEVICES: u8 = 32;

/// The functions of one VM in one slot of the machine.
struct Unit {
    vm: u16,
    host: usize,
    /// The slot: the address of its function 0.
    slot: PciAddress,
    /// The device number that it has on the root bus, or that the bridge above it has there.
    own: u8,
    on_root: bool,
    /// Positions in `given`, by address.
    members: Vec<(PciAddress, usize)>,
}

/// Gives every function an address for its VM.
pub(super) fn place(given: &mut [Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    let mut units = units(given);
    let mirrors = board.guest_machine() == GuestMachine::MirrorsBoard;
    if mirrors {
        // What is on the root bus keeps its place, so it comes first.
        units.sort_unstable_by_key(|unit| (unit.vm, unit.host, !unit.on_root, unit.slot));
    }
    let mut taken: Vec<(u16, usize, u8)> = Vec::new();
    for mut unit in units {
        let free = |device: &u8| !taken.contains(&(unit.vm, unit.host, *device));
        // Number 0 is left for what is there anyway: some guests take it for the host bridge.
        let wanted = Some(unit.own).filter(|own| mirrors && free(own));
        let Some(device) = wanted.or_else(|| (1..DEVICES).find(free)) else {
            if let Some(device) = unit.members.first().and_then(|&(_, position)| given.get(position)) {
                findings.device(
                    device.reference(),
                    "pci",
                    Rule::NoRoom,
                    "the root bus that this VM sees has no device number left: 32 devices are the most",
                );
            }
            continue;
        };
        taken.push((unit.vm, unit.host, device));
        unit.members.sort_unstable();
        let (segment, root) =
            board.bridges.get(unit.host).map_or((0, 0), |bridge| (bridge.segment, bridge.buses.first));
        for (order, &(address, position)) in unit.members.iter().enumerate() {
            let number = if order == 0 { 0 } else { address.function() };
            if let (Some(place), Some(Given { hardware, .. })) =
                (PciAddress::new(segment, root, device, number), given.get_mut(position))
                && let Kind::Pci { shown, .. } = &mut hardware.kind
            {
                *shown = place;
            }
        }
    }
}

fn units(given: &[Given<'_>]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for (position, device) in given.iter().enumerate().filter(|(_, device)| !device.refused) {
        let Kind::Pci { address, host, function, .. } = device.hardware.kind else { continue };
        let top = function.and_then(|function| function.bridges.last());
        let Some(slot) = PciAddress::new(address.segment, address.bus, address.device(), 0) else { continue };
        let vm = device.vm.index;
        let same = |unit: &&mut Unit| (unit.vm, unit.host, unit.slot) == (vm, host, slot);
        match units.iter_mut().find(same) {
            Some(unit) => unit.members.push((address, position)),
            None => units.push(Unit {
                vm,
                host,
                slot,
                own: top.unwrap_or(&address).device(),
                on_root: top.is_none(),
                members: alloc::vec![(address, position)],
            }),
        }
    }
    units
}
