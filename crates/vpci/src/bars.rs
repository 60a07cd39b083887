//! BARs as the guest sees them, and which of them are in its second stage.

use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, PciAddress, PciSpace, PciWindow, Span};
use axvm_pci::{Bar, BarKind, Width};

use crate::backend::{Backend, BarPart, BarPorts};

/// A BAR that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownBar {
    /// Its (lower) register.
    pub index: u8,
    kind: BarKind,
    /// Its size to the guest: at least a page, if it is memory.
    pub size: u64,
    /// Its size in the machine: behind that is others' what the guest sees as its.
    pub bytes: u64,
    at: At,
    /// The PCI address that it has in hardware: what the guest finds at first.
    initial: u64,
    /// Pages of it that aren't mapped, from one offset to before another: sorted, apart.
    trapped: Vec<Range<u64>>,
}

/// Where a BAR is in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Memory(Hpa),
    Ports(u16),
}

impl ShownBar {
    /// The memory BAR `bar`, which is at `hpa`. `None`: it isn't for guests, being I/O, unassigned or
    /// misplaced.
    pub fn new(bar: &Bar, hpa: Option<Hpa>) -> Option<Self> {
        let aligned = bar.address? & (bar.size.max(PAGE_SIZE) - 1) == 0 && hpa?.is_aligned(PAGE_SIZE);
        Self::memory(bar, hpa, Vec::new()).filter(|_| aligned)
    }

    /// The same of one that is never mapped: it may share its page with others.
    pub fn unmappable(bar: &Bar, hpa: Option<Hpa>) -> Option<Self> {
        let size = bar.size.max(PAGE_SIZE);
        Self::memory(bar, hpa, alloc::vec![0..size])
    }

    fn memory(bar: &Bar, hpa: Option<Hpa>, trapped: Vec<Range<u64>>) -> Option<Self> {
        let (initial, hpa) = (bar.address?, hpa?);
        let size = bar.size.max(PAGE_SIZE);
        let sound = bar.kind != BarKind::Io
            && bar.index + u8::from(bar.kind.is_wide()) < axvm_pci::spec::header::BARS
            && bar.size.is_power_of_two()
            && (initial | hpa.0) & (bar.size - 1) == 0;
        // The guest sees whole pages.
        let (at, initial) = (At::Memory(hpa), initial & !(size - 1));
        sound.then_some(Self {
            index: bar.index,
            kind: bar.kind,
            size,
            bytes: bar.size,
            at,
            initial,
            trapped,
        })
    }

    /// The I/O BAR `bar`, whose first port is `first`. `None`: it isn't for guests, being memory, unassigned or misplaced.
    pub fn ports(bar: &Bar, first: Option<u16>) -> Option<Self> {
        let (initial, first, size) = (bar.address?, first?, bar.size);
        let sound = bar.kind == BarKind::Io
            && bar.index < axvm_pci::spec::header::BARS
            && size.is_power_of_two()
            && (4..=0x8000).contains(&size)
            && (initial | u64::from(first)) & (size - 1) == 0;
        let (at, trapped) = (At::Ports(first), Vec::new());
        sound.then_some(Self { index: bar.index, kind: bar.kind, size, bytes: size, at, initial, trapped })
    }

    /// The registers that it takes.
    pub fn registers(&self) -> Range<u8> {
        self.index..self.index + 1 + u8::from(self.kind.is_wide())
    }

    /// Whether it is of ports.
    pub fn is_io(&self) -> bool {
        matches!(self.at, At::Ports(_))
    }

    /// Where its memory is.
    pub fn hpa(&self) -> Option<Hpa> {
        match self.at {
            At::Memory(hpa) => Some(hpa),
            At::Ports(_) => None,
        }
    }

    /// Keeps the pages that hold these bytes out of the guest's second stage.
    pub fn trap(&mut self, bytes: &Range<u64>) {
        let page = |at: u64| at & !(PAGE_SIZE - 1);
        let end = page(bytes.end.saturating_add(PAGE_SIZE - 1)).min(self.size);
        let mut pages = page(bytes.start)..end;
        // What touches others becomes one with them.
        self.trapped.retain(|other| {
            let apart = other.end < pages.start || pages.end < other.start;
            if !apart {
                pages = pages.start.min(other.start)..pages.end.max(other.end);
            }
            apart
        });
        self.trapped.push(pages);
        self.trapped.sort_unstable_by_key(|pages| pages.start);
    }

    /// What of it is mapped, if it is at `gpa`.
    fn parts(&self, gpa: Gpa) -> impl Iterator<Item = BarPart> {
        let starts = core::iter::once(0).chain(self.trapped.iter().map(|pages| pages.end));
        let ends = self.trapped.iter().map(|pages| pages.start).chain([self.size]);
        starts.zip(ends).filter(|(start, end)| start < end).filter_map(move |(start, end)| {
            Some(BarPart {
                bar: self.index,
                offset: start,
                gpa: gpa.checked_add(start)?,
                hpa: self.hpa()?.checked_add(start)?,
                size: end - start,
                prefetchable: self.kind.is_prefetchable(),
            })
        })
    }

    /// Its ports, if the guest has them from there on.
    fn io(&self, guest: Gpa) -> Option<BarPorts> {
        let At::Ports(host) = self.at else { return None };
        let (guest, count) = (u16::try_from(guest.0).ok()?, u16::try_from(self.size).ok()?);
        Some(BarPorts { bar: self.index, guest, host, count })
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

/// Where a PCI address is in the guest, if a BAR of this size fits there into one of its windows. Ports count as addresses of a space of
/// their own.
fn place(windows: &[PciWindow<Gpa>], bar: &ShownBar, address: u64) -> Option<Span<Gpa>> {
    let alignment = if bar.is_io() { bar.size } else { PAGE_SIZE };
    windows.iter().filter(|window| (window.space == PciSpace::Io) == bar.is_io()).find_map(|window| {
        let offset = address.checked_sub(window.pci)?;
        let span = Span::new(window.cpu.start().checked_add(offset)?, bar.size).ok()?;
        (window.cpu.encloses(&span) && span.is_aligned(alignment)).then_some(span)
    })
}

/// Where a function decodes.
#[derive(Clone, Copy)]
pub(crate) struct Decoding<'a> {
    pub values: &'a Values,
    pub memory: bool,
    pub io: bool,
}

/// All BARs of a VM: where its functions decode, and what of that is in its second stage.
///
/// A BAR is mapped if its function decodes memory (ports), the guest put it into a window, and no other decoding BAR
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

/// A place in a BAR that isn't mapped where the guest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trapped {
    pub function: PciAddress,
    pub bar: u8,
    pub offset: u64,
}

impl Decode {
    /// Adds a function's BARs, not decoding.
    pub fn add(&mut self, function: PciAddress, bars: &[ShownBar]) {
        let entry = |bar: &ShownBar| Entry { function, bar: bar.clone(), wanted: None, mapped: None };
        self.0.extend(bars.iter().map(entry));
    }

    /// Says where a function's BARs decode. Says whether all that was to be mapped is.
    pub fn set<B: Backend>(
        &mut self,
        backend: &B,
        windows: &[PciWindow<Gpa>],
        function: PciAddress,
        decoding: Decoding<'_>,
    ) -> bool {
        for entry in self.0.iter_mut().filter(|entry| entry.function == function) {
            let decodes = if entry.bar.is_io() { decoding.io } else { decoding.memory };
            let address = decodes.then(|| decoding.values.address(&entry.bar));
            entry.wanted = address.and_then(|address| place(windows, &entry.bar, address));
        }
        let targets: Vec<Option<Span<Gpa>>> = self.0.iter().map(|entry| self.target(entry)).collect();
        // What goes makes room for what comes.
        for (entry, target) in self.0.iter_mut().zip(&targets) {
            if let Some(mapped) = entry.mapped
                && entry.mapped != *target
            {
                entry.unmap(backend, mapped, usize::MAX);
                entry.mapped = None;
            }
        }
        let mut complete = true;
        for (entry, target) in self.0.iter_mut().zip(&targets) {
            let Some(span) = *target else { continue };
            if entry.mapped.is_none() {
                match entry.map(backend, span) {
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
                || other.bar.is_io() != entry.bar.is_io()
                || !other.wanted.is_some_and(|there| there.overlaps(&span))
        });
        alone.then_some(span)
    }

    /// What of a BAR that is there isn't mapped at an address, on purpose.
    pub fn trapped(&self, gpa: Gpa) -> Option<Trapped> {
        self.0.iter().filter(|entry| !entry.bar.is_io()).find_map(|entry| {
            let offset = entry.mapped?.offset_of(gpa)?;
            let is_trapped = entry.bar.trapped.iter().any(|pages| pages.contains(&offset));
            is_trapped.then_some(Trapped { function: entry.function, bar: entry.bar.index, offset })
        })
    }

    /// The function, and its port in the machine, that the guest has at a port, if all of an access is its.
    pub fn port(&self, port: u16, width: Width) -> Option<(PciAddress, u16)> {
        self.0.iter().find_map(|entry| {
            let BarPorts { guest, host, count, .. } = entry.bar.io(entry.mapped?.start())?;
            let offset = port.checked_sub(guest)?;
            let fits = u64::from(offset) + width.bytes() <= u64::from(count);
            Some((entry.function, host.checked_add(offset).filter(|_| fits)?))
        })
    }
}

impl Entry {
    fn map<B: Backend>(&self, backend: &B, span: Span<Gpa>) -> Result<(), crate::Refused> {
        if let Some(ports) = self.bar.io(span.start()) {
            return backend.map_ports(self.function, &ports);
        }
        for (number, part) in self.bar.parts(span.start()).enumerate() {
            if let Err(refused) = backend.map_bar(self.function, &part) {
                self.unmap(backend, span, number);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Unmaps its first parts.
    fn unmap<B: Backend>(&self, backend: &B, span: Span<Gpa>, parts: usize) {
        match self.bar.io(span.start()) {
            Some(ports) => backend.unmap_ports(self.function, &ports),
            None => self.bar.parts(span.start()).take(parts).for_each(|part| {
                backend.unmap_bar(self.function, &part);
            }),
        }
    }
}
