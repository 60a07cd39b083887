//! Where BARs go. The biggest first, so the same functions always get the same places and little room is
//! lost.

use core::cmp::Reverse;

use alloc::vec::Vec;

use axvm_addr::{Hpa, PAGE_SIZE, PciAddress, PciSpace, PciWindow};

use crate::bars;
use crate::config::{ConfigSpace, Registers};
use crate::function::{Bar, BarKind, Function};
use crate::host_bridge::HostBridge;
use crate::spec::header::{self, Command};

/// The step of a bridge's memory windows (Bridge 3.2.5.8).
const BRIDGE_MEMORY_STEP: u64 = 1 << 20;
/// The step of a bridge's I/O window (Bridge 3.2.5.6).
const BRIDGE_IO_STEP: u64 = 1 << 12;

/// The window of a bridge that a BAR behind it has to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Io,
    /// Memory below 4 GiB.
    Memory,
    /// Prefetchable memory anywhere.
    Prefetch,
}

const LANES: [Lane; 3] = [Lane::Io, Lane::Memory, Lane::Prefetch];

/// Something that needs a place.
struct Item {
    what: What,
    /// The size, rounded up to what keeps others out.
    size: u64,
    alignment: u64,
    /// What decides where on the root bus it may be.
    kind: BarKind,
}

/// What needs a place; functions are positions in the list.
enum What {
    Bar { function: usize, position: usize },
    Bridge { function: usize, lane: Lane },
}

/// Assigns and writes all BARs and the windows of bridges.
pub(crate) fn assign<C: ConfigSpace + ?Sized>(config: &C, host: &HostBridge, functions: &mut [Function]) {
    let mut assignment = Assignment { config, functions, prefetch_wide: Vec::new() };
    assignment.close_bridges();
    let mut items: Vec<Item> = LANES.iter().flat_map(|&lane| assignment.items(None, lane)).collect();
    // What has the least choice goes first: only then does "the biggest first" hold across all of it.
    sort(&mut items, |item| item.kind.is_wide());
    let mut next: Vec<u64> = host.windows.iter().map(first_usable).collect();
    for item in items {
        for position in candidates(&host.windows, item.kind) {
            let (Some(window), Some(cursor)) = (host.windows.get(position), next.get_mut(position)) else {
                continue;
            };
            let Some(start) = cursor.checked_next_multiple_of(item.alignment) else { continue };
            let Some(end) = start.checked_add(item.size) else { continue };
            let narrow = !item.kind.is_wide() && end > 1 << 32;
            if end > window.pci.saturating_add(window.cpu.size()) || narrow {
                continue;
            }
            *cursor = end;
            assignment.place(&item, start);
            break;
        }
    }
    for function in assignment.functions.iter() {
        bars::write(Registers::new(config, function.address), &function.bars);
    }
    assignment.open_bridges();
}

/// Zero is no address: drivers take it for "not assigned".
fn first_usable(window: &PciWindow<Hpa>) -> u64 {
    if window.pci == 0 { PAGE_SIZE } else { window.pci }
}

/// The windows that may hold a BAR of this kind, the best first.
fn candidates(windows: &[PciWindow<Hpa>], kind: BarKind) -> impl Iterator<Item = usize> {
    let wanted: &[PciSpace] = match kind {
        BarKind::Io => &[PciSpace::Io],
        BarKind::Memory32 { .. } => &[PciSpace::Memory32],
        BarKind::Memory64 { .. } => &[PciSpace::Memory64, PciSpace::Memory32],
    };
    let prefetchable = kind.is_prefetchable();
    // A prefetchable BAR may be anywhere, another one only where nobody prefetches.
    let passes = if prefetchable { [Some(true), Some(false)] } else { [Some(false), None] };
    wanted.iter().flat_map(move |&space| {
        passes.into_iter().flatten().flat_map(move |pass| {
            windows
                .iter()
                .enumerate()
                .filter(move |(_, window)| window.space == space && window.prefetchable == pass)
                .map(|(position, _)| position)
        })
    })
}

/// The biggest first, but for those that have to wait for the others.
fn sort(items: &mut [Item], waits: fn(&Item) -> bool) {
    // Stable: equals stay in the order of addresses and BAR numbers.
    items.sort_by_key(|item| (waits(item), Reverse(item.alignment), Reverse(item.size)));
}

struct Assignment<'a, C: ?Sized> {
    config: &'a C,
    functions: &'a mut [Function],
    /// The bridges whose prefetchable window has 64 bits.
    prefetch_wide: Vec<PciAddress>,
}

impl<C: ConfigSpace + ?Sized> Assignment<'_, C> {
    /// What on the bus behind `parent` (or on the root bus) needs a place in `lane`.
    fn items(&self, parent: Option<PciAddress>, lane: Lane) -> Vec<Item> {
        let mut items = Vec::new();
        for (function, found) in self.functions.iter().enumerate().filter(|(_, found)| found.parent == parent)
        {
            for (position, bar) in found.bars.iter().enumerate() {
                if self.lane(parent, bar.kind) == lane {
                    let unit = if bar.kind == BarKind::Io { 4 } else { PAGE_SIZE };
                    let size = bar.size.max(unit);
                    items.push(Item {
                        what: What::Bar { function, position },
                        size,
                        alignment: size,
                        kind: bar.kind,
                    });
                }
            }
            if found.bridge
                && let Some((size, alignment)) = self.measure(found.address, lane)
            {
                let kind = match lane {
                    Lane::Io => BarKind::Io,
                    Lane::Memory => BarKind::Memory32 { prefetchable: false },
                    Lane::Prefetch => BarKind::Memory64 { prefetchable: true },
                };
                items.push(Item { what: What::Bridge { function, lane }, size, alignment, kind });
            }
        }
        sort(&mut items, |_| false);
        items
    }

    fn lane(&self, parent: Option<PciAddress>, kind: BarKind) -> Lane {
        let wide = parent.is_none_or(|bridge| self.prefetch_wide.contains(&bridge));
        match kind {
            BarKind::Io => Lane::Io,
            BarKind::Memory64 { prefetchable: true } if wide => Lane::Prefetch,
            _ => Lane::Memory,
        }
    }

    /// The size and alignment that the bridge's window needs; `None`: nothing is in it.
    fn measure(&self, bridge: PciAddress, lane: Lane) -> Option<(u64, u64)> {
        let items = self.items(Some(bridge), lane);
        let step = if lane == Lane::Io { BRIDGE_IO_STEP } else { BRIDGE_MEMORY_STEP };
        let alignment = items.iter().map(|item| item.alignment).max()?.max(step);
        let mut end = 0u64;
        for item in &items {
            end = end.checked_next_multiple_of(item.alignment)?.checked_add(item.size)?;
        }
        Some((end.checked_next_multiple_of(step)?, alignment))
    }

    /// Notes the place of a BAR, or opens a bridge's window there and places what is in it.
    fn place(&mut self, item: &Item, start: u64) {
        match item.what {
            What::Bar { function, position } => {
                if let Some(bar) = self.bar(function, position) {
                    bar.address = Some(start);
                }
            }
            What::Bridge { function, lane } => {
                let Some(bridge) = self.functions.get(function).map(|bridge| bridge.address) else { return };
                let Some(last) = start.checked_add(item.size - 1) else { return };
                self.write_window(bridge, lane, start, last);
                let mut next = start;
                for inner in self.items(Some(bridge), lane) {
                    // `measure` has laid out the same items, so this fits.
                    let at = next.next_multiple_of(inner.alignment);
                    self.place(&inner, at);
                    next = at + inner.size;
                }
            }
        }
    }

    fn bar(&mut self, function: usize, position: usize) -> Option<&mut Bar> {
        self.functions.get_mut(function)?.bars.get_mut(position)
    }

    /// Closes every window of every bridge (a base above its limit), and learns which are wide.
    fn close_bridges(&mut self) {
        for bridge in self.functions.iter().filter(|function| function.bridge) {
            let registers = Registers::new(self.config, bridge.address);
            registers.write16(header::IO_BASE, 0x00f0);
            registers.write32(header::MEMORY_BASE, 0x0000_fff0);
            registers.write32(header::PREFETCH_BASE, 0x0000_fff0);
            registers.write32(header::PREFETCH_BASE_UPPER, u32::MAX);
            registers.write32(header::PREFETCH_LIMIT_UPPER, 0);
            if registers.read16(header::PREFETCH_BASE) & 0xf == 1 {
                self.prefetch_wide.push(bridge.address);
            }
        }
    }

    fn write_window(&self, bridge: PciAddress, lane: Lane, first: u64, last: u64) {
        let registers = Registers::new(self.config, bridge);
        match lane {
            Lane::Io => {
                let byte = |address: u64| (address >> 8) as u16 & 0xf0;
                registers.write16(header::IO_BASE, byte(first) | byte(last) << 8);
                let upper = (first >> 16) as u32 & 0xffff | last as u32 & 0xffff_0000;
                registers.write32(header::IO_BASE_UPPER, upper);
            }
            Lane::Memory => {
                let half = |address: u64| (address >> 16) as u32 & 0xfff0;
                registers.write32(header::MEMORY_BASE, half(first) | half(last) << 16);
            }
            Lane::Prefetch => {
                let half = |address: u64| (address >> 16) as u32 & 0xfff0;
                registers.write32(header::PREFETCH_BASE_UPPER, (first >> 32) as u32);
                registers.write32(header::PREFETCH_LIMIT_UPPER, (last >> 32) as u32);
                registers.write32(header::PREFETCH_BASE, half(first) | half(last) << 16);
            }
        }
    }

    /// Lets bridges with something behind them forward what comes from above. Up they forward nothing yet.
    fn open_bridges(&self) {
        for bridge in self.functions.iter().filter(|function| function.bridge) {
            if self.functions.iter().any(|function| function.parent == Some(bridge.address)) {
                let command = Command::IO | Command::MEMORY | Command::INTX_DISABLE;
                Registers::new(self.config, bridge.address).write16(header::COMMAND, command.bits());
            }
        }
    }
}
