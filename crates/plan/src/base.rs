//! Where a VM sees its RAM if its file doesn't say.
//!
//! Where the board's begins, unless that is above 4 GiB: what a device with 32 address bits could reach would then be nothing, and
//! its driver fails. Since the second stage and the IOMMU translate, the guest's RAM may begin below all the same, wherever the VM's
//! map has room.
//!
//! In a guest machine of its own RAM is where that one's layout has it, unless the board's host bridges keep devices' DMA from there.

use alloc::vec::Vec;
use core::cmp::Reverse;

use axvm_addr::{Gpa, Span};
use axvm_platform::limits::GuestMachine;
use axvm_system::model::{Device, Vm};

use super::board::Board;
use super::findings::{Bytes, Findings, VmRef};
use super::hardware::Given;
use super::layout;
use super::memory::BLOCK;
use super::places::same;

/// The end of what 32 bits address.
const LOW_END: u64 = 1 << 32;

/// Where RAM begins if nothing speaks against it: as on many boards, above what lies at low addresses there.
const USUAL: u64 = 1 << 30;

/// So much below 4 GiB is enough: it isn't worth another place than the usual one.
const ENOUGH: u64 = 1 << 30;

/// Where RAM could begin, and how much of it has room from there on.
#[derive(Clone, Copy)]
struct Place {
    base: Gpa,
    room: u64,
}

/// Where the VM sees the start of its RAM.
pub(super) fn of(config: &Vm, board: &Board<'_>) -> Option<Gpa> {
    config.memory_base.or_else(|| {
        if !board.machine.ram_areas().is_empty() {
            return Some(board.machine.own_layout().ram);
        }
        if board.guest_machine() == GuestMachine::Own {
            return Some(own(config, board));
        }
        let boards = board.platform.memory.first()?.start().0.checked_next_multiple_of(BLOCK).map(Gpa)?;
        if boards.0 < LOW_END {
            return Some(boards);
        }
        let place = low(config, board).filter(|place| place.room >= config.memory);
        Some(place.map_or(boards, |place| place.base))
    })
}

/// Where RAM is in a guest machine of its own: at its place, else at the first above that has room for it.
fn own(config: &Vm, board: &Board<'_>) -> Gpa {
    let usual = board.machine.own_layout().ram;
    let has_room = |place: &Place, from: Gpa| {
        let end = place.base.0.saturating_add(place.room);
        from >= place.base && from.0.checked_add(config.memory).is_some_and(|needed| needed <= end)
    };
    let places = places(config, board);
    if places.iter().any(|place| has_room(place, usual)) {
        return usual;
    }
    let above = places.iter().filter(|place| place.base > usual && has_room(place, place.base));
    above.map(|place| place.base).min().unwrap_or(usual)
}

/// Says where a VM with devices that master the bus has no RAM that 32 bits address, and what would help.
pub(super) fn note_high(
    vm: VmRef<'_>,
    config: &Vm,
    ram: Span<Gpa>,
    devices: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) {
    let masters = |device: &&Given<'_>| device.is_pci() || !device.hardware.sources.is_empty();
    if ram.start().0 < LOW_END || !devices.iter().any(masters) {
        return;
    }
    let what = "its RAM all lies above 4G, which devices with 32-bit DMA masks don't reach";
    match low(config, board).filter(|place| place.room > 0) {
        Some(Place { base, room }) if room >= config.memory => {
            findings.note(format_args!("{vm}: {what}: `memory_base = {base}` would help"));
        }
        Some(Place { base, room }) => findings.note(format_args!(
            "{vm}: {what}, and no place below holds {}: `memory_base = {base}` would help with {} at most",
            Bytes(config.memory),
            Bytes(room)
        )),
        None => findings.note(format_args!("{vm}: {what}, and the board leaves no place for RAM below")),
    }
}

/// The best place below 4 GiB: for all RAM if there is such a one, with enough below, from the usual place on, the lowest.
fn low(config: &Vm, board: &Board<'_>) -> Option<Place> {
    let below = |place: &Place| (LOW_END - place.base.0).min(config.memory).min(ENOUGH);
    places(config, board).into_iter().filter(|place| place.base.0 < LOW_END).max_by_key(|place| {
        (place.room.min(config.memory), below(place), place.base.0 >= USUAL, Reverse(place.base))
    })
}

/// The gaps between what RAM mustn't lie over. None begins at 0, which kernels take for no address.
fn places(config: &Vm, board: &Board<'_>) -> Vec<Place> {
    let mut taken = taken(config, board);
    taken.sort_unstable_by_key(Span::start);
    let end = 1 << board.address_bits();
    let mut places = Vec::new();
    let mut from = BLOCK;
    for (start, past) in taken.iter().map(|span| (span.start().0, span.end().0)).chain([(end, end)]) {
        for base in [from, USUAL] {
            if base >= from && base < start.min(end) {
                places.push(Place { base: Gpa(base), room: (start.min(end) - base) & !(BLOCK - 1) });
            }
        }
        let Some(past) = past.checked_next_multiple_of(BLOCK) else { break };
        from = from.max(past);
    }
    places
}

/// What RAM mustn't lie over, and the registers of all devices, so that giving the VM another doesn't move its RAM.
fn taken(config: &Vm, board: &Board<'_>) -> Vec<Span<Gpa>> {
    let regions = config.devices.iter().filter_map(|device| match device {
        Device::Region { base_gpa, length, .. } => Span::new(*base_gpa, *length).ok(),
        _ => None,
    });
    let fixed = layout::fixed(board).into_iter().map(|claim| claim.span);
    let registers: Vec<Span<Gpa>> = match board.guest_machine() {
        GuestMachine::MirrorsBoard => {
            let devices = board.platform.devices.iter().flat_map(|device| &device.registers);
            devices.map(|&span| same(span)).collect()
        }
        GuestMachine::Own => {
            let area = &board.machine.own_layout().devices;
            Span::new(Gpa(area.start), area.end - area.start).into_iter().collect()
        }
    };
    let taken = fixed.chain(registers).chain(regions);
    taken.filter(|span| !span.is_empty()).collect()
}
