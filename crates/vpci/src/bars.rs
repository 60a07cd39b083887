//! BARs as the guest sees them, and which of them are in its second stage.

use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, PciAddress, PciWindow, Span};
use axvm_pci::{Bar, BarKind};

use crate::backend::Backend;

/// A BAR that a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShownBar {
    /// Its (lower) register.
    pub index: u8,
    kind: BarKind,
    /// Its size to the guest: at least a page.
    pub size: u64,
    /// Where it is.
    pub hpa: Hpa,
    /// The PCI address that it has in hardware: what the guest finds at first.
    initial: u64,
}

impl ShownBar {
    /// The memory BAR `bar`, which is at `hpa`. `None`: it isn't for guests, being I/O, unassigned or
    /// misplaced.
    pub fn new(bar: &Bar, hpa: Option<Hpa>) -> Option<Self> {
        let (initial, hpa) = (bar.address?, hpa?);
        let size = bar.size.max(PAGE_SIZE);
        let sound = bar.kind != BarKind::Io
            && bar.index + u8::from(bar.kind.is_wide()) < axvm_pci::spec::header::BARS
            && size.is_power_of_two()
            && initial & (size - 1) == 0
            && hpa.is_aligned(PAGE_SIZE);
        sound.then_some(Self { index: bar.index, kind: bar.kind, size, hpa, initial })
    }

    /// The registers that it takes.
    pub fn registers(&self) -> Range<u8> {
        self.index..self.index + 1 + u8::from(self.kind.is_wide())
    }

    /// Whether the host may read ahead.
    pub fn is_prefetchable(&self) -> bool {
        self.kind.is_prefetchable()
    }

    /// The address bits that can be written.
    fn mask(&self) -> u64 {
        !(self.size - 1)
    }
}

/// The values of a function's BAR registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values([u32; 6]);

impl Values {
    /// What the guest finds when it starts: the hardware's addresses.
    pub fn initial(bars: &[ShownBar]) -> Self {
        let mut values = Self::default();
        for bar in bars {
            values.set(bar, bar.index, bar.initial as u32);
            values.set(bar, bar.index + 1, (bar.initial >> 32) as u32);
        }
        values
    }

    /// What register `index` reads.
    pub fn read(&self, bars: &[ShownBar], index: u8) -> u32 {
        let flags = bars.iter().find(|bar| bar.index == index).map_or(0, |bar| bar.kind.flags());
        self.get(index) | flags
    }

    /// Writes the bits `lanes` of register `index`.
    pub fn write(&mut self, bars: &[ShownBar], index: u8, lanes: u32, value: u32) {
        let Some(bar) = bars.iter().find(|bar| bar.registers().contains(&index)) else { return };
        let value = self.get(index) & !lanes | value & lanes;
        self.set(bar, index, value);
    }

    /// The PCI address that the guest gave a BAR.
    pub fn address(&self, bar: &ShownBar) -> u64 {
        let high = if bar.kind.is_wide() { self.get(bar.index + 1) } else { 0 };
        u64::from(high) << 32 | u64::from(self.get(bar.index))
    }

    fn get(&self, index: u8) -> u32 {
        self.0.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn set(&mut self, bar: &ShownBar, index: u8, value: u32) {
        let mask = match index.wrapping_sub(bar.index) {
            0 => bar.mask() as u32,
            1 if bar.kind.is_wide() => (bar.mask() >> 32) as u32,
            _ => return,
        };
        if let Some(entry) = self.0.get_mut(usize::from(index)) {
            *entry = value & mask;
        }
    }
}

/// Where a PCI address is in the guest, if a BAR of this size fits there into one of its windows.
pub(crate) fn place(windows: &[PciWindow<Gpa>], address: u64, size: u64) -> Option<Span<Gpa>> {
    windows.iter().find_map(|window| {
        let offset = address.checked_sub(window.pci)?;
        let span = Span::new(window.cpu.start().checked_add(offset)?, size).ok()?;
        (window.cpu.encloses(&span) && span.is_aligned(PAGE_SIZE)).then_some(span)
    })
}

/// All BARs of a VM: where its functions decode, and what of that is in its second stage.
///
/// A BAR is mapped if its function decodes memory, the guest put it into a window, and no other decoding BAR
/// is there. That is a function of the registers' values alone, whatever way they came about.
#[derive(Debug, Default)]
pub(crate) struct Decode(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    function: PciAddress,
    bar: ShownBar,
    wanted: Option<Span<Gpa>>,
    mapped: Option<Span<Gpa>>,
}

impl Decode {
    /// Adds a function's BARs, not decoding.
    pub fn add(&mut self, function: PciAddress, bars: &[ShownBar]) {
        let entry = |bar: &ShownBar| Entry { function, bar: *bar, wanted: None, mapped: None };
        self.0.extend(bars.iter().map(entry));
    }

    /// Says where a function's BARs decode; `None`: nowhere. Says whether all that was to be mapped is.
    pub fn set<B: Backend>(
        &mut self,
        backend: &B,
        windows: &[PciWindow<Gpa>],
        function: PciAddress,
        values: Option<&Values>,
    ) -> bool {
        for entry in self.0.iter_mut().filter(|entry| entry.function == function) {
            entry.wanted =
                values.and_then(|values| place(windows, values.address(&entry.bar), entry.bar.size));
        }
        let targets: Vec<Option<Span<Gpa>>> = self.0.iter().map(|entry| self.target(entry)).collect();
        // What goes makes room for what comes.
        for (entry, target) in self.0.iter_mut().zip(&targets) {
            if let Some(mapped) = entry.mapped
                && entry.mapped != *target
            {
                backend.unmap_bar(entry.function, entry.bar.index, mapped.start(), mapped.size());
                entry.mapped = None;
            }
        }
        let mut complete = true;
        for (entry, target) in self.0.iter_mut().zip(&targets) {
            let Some(span) = *target else { continue };
            if entry.mapped.is_none() {
                let bar = &entry.bar;
                let (start, size) = (span.start(), span.size());
                let prefetchable = bar.is_prefetchable();
                match backend.map_bar(entry.function, bar.index, start, bar.hpa, size, prefetchable) {
                    Ok(()) => entry.mapped = *target,
                    Err(crate::Refused) => complete = false,
                }
            }
        }
        complete
    }

    fn target(&self, entry: &Entry) -> Option<Span<Gpa>> {
        let span = entry.wanted?;
        let alone = self.0.iter().all(|other| {
            (other.function, other.bar.index) == (entry.function, entry.bar.index)
                || !other.wanted.is_some_and(|there| there.overlaps(&span))
        });
        alone.then_some(span)
    }
}
