//! What must be known of a device tree before there is memory to read it into: where memory is and what of it is taken, the
//! console, how many CPUs there are, how firmware is called. Nothing is allocated; every question walks the tree again.
//!
//! The full reader ([`super::read`]) is asked for all else. What the two say of memory must agree, and whoever uses both should
//! see to it that it does.

use core::str;

use axvm_addr::{Address, Hpa, PAGE_SIZE, Span};
use axvm_uart::{Description, Kind, Properties};

use super::address::Cells;
use super::blob::{self, BlobError, DEPTH, Part};
use super::kinds::{self, Kinds};
use super::memory::{EFI_MAP, LEFT_BEHIND, RELEASE, USABLE, USABLE_OF_NODE};
use crate::model::PsciConduit;

/// A device tree that was walked once.
#[derive(Clone, Copy)]
pub struct Outline<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
    /// The number of CPU nodes.
    pub cpus: usize,
    /// How firmware is called.
    pub psci: Option<PsciConduit>,
    /// Where the properties of the root, `/chosen` and `/aliases` begin.
    root: usize,
    chosen: Option<usize>,
    aliases: Option<usize>,
    /// There are nodes that reserve memory, or memory that isn't in use.
    reserves: bool,
    /// The banks of memory, as far as there is room for them here.
    banks: [Span<Hpa>; BANKS],
    /// How many there are.
    banked: usize,
}

/// So many banks of memory are remembered; of a tree with more each question walks it.
const BANKS: usize = 8;

/// A console that can be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyConsole {
    /// What it is.
    pub uart: Description,
    /// Where its registers are.
    pub registers: Span<Hpa>,
    /// What it is fed with, if that is a fixed clock.
    pub clock_hz: Option<u32>,
}

/// A node while the walk is in it: where its properties begin.
#[derive(Clone, Copy)]
struct Frame<'a> {
    name: &'a [u8],
    properties: usize,
}

/// The node that the walk has come to, with those above it; the root is the first.
struct Lineage<'w, 'a> {
    tree: &'w Outline<'a>,
    frames: &'w [Frame<'a>],
}

impl<'a> Lineage<'_, 'a> {
    fn depth(&self) -> usize {
        self.frames.len()
    }

    fn name(&self) -> &'a [u8] {
        self.frames.last().map_or(&[], |frame| frame.name)
    }

    /// The name of the node above.
    fn parent_name(&self) -> &'a [u8] {
        self.depth().checked_sub(2).and_then(|at| self.frames.get(at)).map_or(&[], |frame| frame.name)
    }

    /// A property of the node so many levels up; 0 is the node itself.
    fn above(&self, levels: usize, name: &str) -> Option<&'a [u8]> {
        let at = self.depth().checked_sub(levels + 1)?;
        self.tree.property(self.frames.get(at)?.properties, name)
    }

    fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.above(0, name)
    }

    fn u32(&self, levels: usize, name: &str) -> Option<u32> {
        self.above(levels, name)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        texts(self.property(name).unwrap_or_default())
    }

    fn has_text(&self, name: &str, wanted: &str) -> bool {
        self.texts(name).any(|text| text == wanted)
    }

    fn is(&self, kind: kinds::Kind) -> bool {
        self.property("compatible").is_some_and(|compatible| Kinds::of(compatible).has(kind))
    }

    /// Calls `f` with the banks that it is, if it is memory in use.
    fn bank(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let name = if self.property(USABLE_OF_NODE).is_some() { USABLE_OF_NODE } else { "reg" };
        self.entries(name, self.bus_cells(1), &mut |start, size| {
            let span = self.translate(start, size).and_then(|start| Span::new(Hpa(start), size).ok());
            span.into_iter().for_each(&mut *f);
        })
    }

    /// Whether there may be something that memory is kept for, on its own account: a node of [`Outline::reserved`].
    fn reserves(&self) -> bool {
        match self.parent_name() {
            b"reserved-memory" | b"chosen" => self.depth() == 3,
            b"cpus" => self.property(RELEASE).is_some(),
            _ => self.name().starts_with(b"tpm") || self.is_memory() && !self.is_enabled(),
        }
    }

    fn is_memory(&self) -> bool {
        self.has_text("device_type", "memory")
    }

    /// Whether this is its phandle. The value is looked at first: few properties have just this one.
    fn has_phandle(&self, phandle: u32) -> bool {
        let names = ["phandle", "linux,phandle"];
        let is_it = |name, value: &[u8]| {
            *value == phandle.to_be_bytes() && names.iter().any(|it| self.tree.is_name(name, it))
        };
        let at = self.frames.last().map_or(0, |frame| frame.properties);
        self.tree.properties(at).any(|(name, value)| is_it(name, value))
    }

    /// Whether it and all above it are in use (2.3.4).
    fn is_enabled(&self) -> bool {
        (0..self.depth()).all(|levels| match self.above(levels, "status") {
            None => true,
            Some(status) => matches!(texts(status).next(), Some("okay" | "ok")),
        })
    }

    /// The cells of an address and of a size on the bus so many levels up.
    fn bus_cells(&self, levels: usize) -> (u32, u32) {
        let cells = |name, default| self.u32(levels, name).unwrap_or(default);
        (cells("#address-cells", 2), cells("#size-cells", 1))
    }

    /// Calls `f` with each entry of `reg`, on the node's own bus. An entry that can't be read is an error: what is there isn't
    /// known.
    fn registers(&self, f: &mut dyn FnMut(u64, u64)) -> Result<(), OutlineError> {
        self.entries("reg", self.bus_cells(1), f)
    }

    fn entries(
        &self,
        name: &str,
        (address, size): (u32, u32),
        f: &mut dyn FnMut(u64, u64),
    ) -> Result<(), OutlineError> {
        let mut cells = Cells(self.property(name).unwrap_or_default());
        while !cells.is_empty() {
            match cells.number(address).zip(cells.number(size)) {
                // Entries without a size take no room.
                Some((start, length)) if size != 0 => f(start, length),
                Some(_) => {}
                None => return Err(OutlineError::Registers),
            }
        }
        Ok(())
    }

    /// An address on the node's own bus as the CPU sees it.
    fn translate(&self, mut address: u64, size: u64) -> Option<u64> {
        for level in 1..self.depth().saturating_sub(1) {
            let mut ranges = Cells(self.above(level, "ranges")?);
            if ranges.is_empty() {
                continue;
            }
            let (child, length) = self.bus_cells(level);
            let (parent, _) = self.bus_cells(level + 1);
            address = core::iter::from_fn(|| {
                ranges.number(child).zip(ranges.number(parent)).zip(ranges.number(length))
            })
            .find_map(|((from, to), length)| {
                let offset = address.checked_sub(from)?;
                (offset < length && size <= length - offset).then(|| to.checked_add(offset))?
            })?;
        }
        Some(address)
    }
}

/// An outline that can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutlineError {
    /// It isn't a device tree.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// `reg` of memory, or of what is reserved of it.
    #[error("the device tree's memory or reserved memory has a `reg` that isn't what its binding asks for")]
    Registers,
}

impl<'a> Outline<'a> {
    /// Walks a blob.
    ///
    /// # Errors
    ///
    /// [`OutlineError`] says what is wrong with it.
    pub fn open(blob: &'a [u8]) -> Result<Self, OutlineError> {
        let blob::Header { structure, strings, reservations } = blob::Header::read(blob)?;
        let bare = Self {
            structure,
            strings,
            reservations,
            cpus: 0,
            psci: None,
            root: 0,
            chosen: None,
            aliases: None,
            reserves: false,
            banks: [Span::default(); BANKS],
            banked: 0,
        };
        let mut outline = bare;
        bare.walk(&mut |node| {
            let here = node.frames.last().map(|frame| frame.properties);
            if node.depth() == 1 {
                outline.root = here.unwrap_or_default();
            }
            if node.depth() == 2 {
                match node.name() {
                    b"chosen" => outline.chosen = outline.chosen.or(here),
                    b"aliases" => outline.aliases = outline.aliases.or(here),
                    _ => {}
                }
            }
            outline.reserves |= node.reserves();
            if node.is_memory() {
                node.bank(&mut |bank| {
                    if let Some(slot) = outline.banks.get_mut(outline.banked) {
                        *slot = bank;
                    }
                    outline.banked += 1;
                })?;
            }
            let cpu = node.parent_name() == b"cpus" && node.has_text("device_type", "cpu");
            outline.cpus += usize::from(cpu);
            if outline.psci.is_none() && node.is(kinds::Kind::Psci) && node.is_enabled() {
                outline.psci = match node.texts("method").next() {
                    Some("smc") => Some(PsciConduit::Smc),
                    Some("hvc") => Some(PsciConduit::Hvc),
                    _ => None,
                };
            }
            Ok(false)
        })?;
        if outline.chosen.is_some_and(|chosen| outline.property(chosen, EFI_MAP).is_some()) {
            outline.banked = 0;
        }
        Ok(outline)
    }

    /// Bytes of structure: what reading it takes grows with them, and not with what a boot loader left room for.
    pub fn size(&self) -> usize {
        self.structure.len()
    }

    /// Whether this is the name at an offset of the strings block.
    fn is_name(&self, offset: usize, name: &str) -> bool {
        let rest = self.strings.get(offset..).unwrap_or_default();
        rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
    }

    /// The properties that begin at an offset: where the name is in the strings block, and the value.
    fn properties(&self, mut offset: usize) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let structure = self.structure;
        core::iter::from_fn(move || {
            loop {
                let (part, next) = blob::part(structure, offset).ok()?;
                offset = next;
                match part {
                    Part::Property(name, value) => return Some((name, value)),
                    Part::Nothing => {}
                    _ => return None,
                }
            }
        })
    }

    fn property(&self, offset: usize, name: &str) -> Option<&'a [u8]> {
        self.properties(offset).find(|&(found, _)| self.is_name(found, name)).map(|(_, value)| value)
    }

    /// Calls `f` with every node, parents first, until it answers `true`.
    fn walk(
        &self,
        f: &mut dyn FnMut(Lineage<'_, 'a>) -> Result<bool, OutlineError>,
    ) -> Result<(), OutlineError> {
        let mut frames = [Frame { name: &[], properties: 0 }; DEPTH];
        let (mut depth, mut offset) = (0usize, 0);
        loop {
            let (part, next) = blob::part(self.structure, offset)?;
            let token = |token| OutlineError::Blob(BlobError::Token { token, offset });
            match part {
                Part::Begin(name) => {
                    let frame = frames.get_mut(depth).ok_or(BlobError::Depth)?;
                    *frame = Frame { name, properties: next };
                    depth += 1;
                    let frames = frames.get(..depth).unwrap_or_default();
                    if f(Lineage { tree: self, frames })? {
                        return Ok(());
                    }
                }
                Part::End => depth = depth.checked_sub(1).ok_or(token(blob::END_NODE))?,
                Part::Property(..) | Part::Nothing => {}
                Part::Last if depth == 0 => return Ok(()),
                Part::Last => return Err(token(blob::END)),
            }
            offset = next;
        }
    }

    /// Calls `f` with every bank of memory.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: not all of it can be read.
    pub fn memory(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        if let Some(banks) = self.banks.get(..self.banked) {
            banks.iter().copied().for_each(f);
            return Ok(());
        }
        self.walk(&mut |node| {
            if node.is_memory() {
                node.bank(f)?;
            }
            Ok(false)
        })
    }

    /// Calls `f` with every span that somebody has reserved, in use or not.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: not all of it can be read.
    pub fn reserved(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        let mut entries = Cells(self.reservations);
        while let Some((start, size)) = entries.number(2).zip(entries.number(2)) {
            if (start, size) == (0, 0) {
                break;
            }
            Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
        }
        self.reserved_in_chosen(f)?;
        if !self.reserves {
            return Ok(());
        }
        self.walk(&mut |node| {
            if !node.reserves() {
                return Ok(false);
            }
            let number = |name| {
                let mut cells = Cells(node.property(name)?);
                cells.number(u32::try_from(cells.0.len() / 4).ok()?)
            };
            match node.parent_name() {
                b"reserved-memory" | b"chosen" => {
                    // The root's addresses, whether or not the parent has `ranges`, and its cells where they are forgotten.
                    let cells = |name, default| {
                        let own = node.u32(1, name).or_else(|| node.u32(2, name));
                        own.unwrap_or(default)
                    };
                    let cells = (cells("#address-cells", 2), cells("#size-cells", 1));
                    node.entries("reg", cells, &mut |start, size| {
                        Span::new(Hpa(start), size).into_iter().for_each(&mut *f)
                    })?;
                }
                b"cpus" => {
                    let page = Hpa(number(RELEASE).ok_or(OutlineError::Registers)?).page();
                    Span::new(page, PAGE_SIZE).into_iter().for_each(&mut *f);
                }
                _ if node.is_memory() => {
                    // It is there, and somebody else's: the secure world's.
                    node.registers(&mut |start, size| {
                        let start = node.translate(start, size).unwrap_or(start);
                        Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
                    })?;
                }
                _ => {
                    let log = number("linux,sml-base").zip(number("linux,sml-size"));
                    let log = log.and_then(|(start, size)| Span::new(Hpa(start), size).ok());
                    log.into_iter().for_each(&mut *f);
                }
            }
            Ok(false)
        })
    }

    /// What `/chosen` itself says of memory that is not to be had.
    fn reserved_in_chosen(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        let Some(chosen) = self.chosen else { return Ok(()) };
        let cells = |name, default| {
            self.property(self.root, name)
                .and_then(|it| it.try_into().ok())
                .map_or(default, u32::from_be_bytes)
        };
        let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 1));
        let each = |value: &'a [u8], f: &mut dyn FnMut(Span<Hpa>)| -> Result<(), OutlineError> {
            let mut cells = Cells(value);
            loop {
                let (start, size) =
                    cells.number(address).zip(cells.number(size)).ok_or(OutlineError::Registers)?;
                Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
                if cells.is_empty() {
                    return Ok(());
                }
            }
        };
        for name in LEFT_BEHIND {
            if let Some(value) = self.property(chosen, name) {
                each(value, f)?;
            }
        }
        let Some(usable) = self.property(chosen, USABLE) else { return Ok(()) };
        // What lies between: each turn goes past one of them, so that it ends.
        let mut at = 0;
        loop {
            let (mut end, mut next) = (at, u64::MAX);
            each(usable, &mut |span| {
                if span.start().0 <= at {
                    end = end.max(span.end().0);
                } else {
                    next = next.min(span.start().0);
                }
            })?;
            if end == at {
                Span::new(Hpa(at), next - at).into_iter().for_each(&mut *f);
                end = next;
            }
            if end == u64::MAX {
                return Ok(());
            }
            at = end;
        }
    }

    /// The root's `compatible`: which board and which chip it is.
    pub fn compatible(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self.find(|node| (node.depth() == 1).then(|| node.property("compatible")));
        texts(value.flatten().unwrap_or_default())
    }

    /// Where the boot loader put the initial RAM disk.
    pub fn initrd(&self) -> Option<Span<Hpa>> {
        let chosen = self.chosen?;
        let number = |name| {
            let mut cells = Cells(self.property(chosen, name)?);
            cells.number(u32::try_from(cells.0.len() / 4).ok()?)
        };
        let (start, end) = (number("linux,initrd-start")?, number("linux,initrd-end")?);
        Span::new(Hpa(start), end.checked_sub(start)?).ok()
    }

    /// What `/chosen/stdout-path` names, if that is a UART that can be driven.
    pub fn console(&self) -> Option<EarlyConsole> {
        let chosen = self.chosen?;
        let stdout = self.property(chosen, "stdout-path");
        let named = stdout.or_else(|| self.property(chosen, "linux,stdout-path"))?;
        let named = texts(named).next()?.split(':').next()?;
        let path = match named.starts_with('/') {
            true => named,
            // An alias (3.3); one with more behind it has not been seen for a console.
            false => texts(self.property(self.aliases?, named)?).next()?,
        };
        // Of most nodes their own name says that they aren't it.
        let last = path.rsplit('/').find(|name| !name.is_empty())?;
        let mut clock = None;
        let (uart, registers) = self.find(|node| {
            if !is_called(node.name(), last) || !node.is_at(path) || !node.is_enabled() {
                return None;
            }
            let properties = Properties {
                shift: node.u32(0, "reg-shift"),
                width: node.u32(0, "reg-io-width"),
                offset: node.u32(0, "reg-offset"),
                big_endian: node.property("big-endian").is_some(),
            };
            let uart = Description::find(node.texts("compatible"), &properties)?;
            let mut place = None;
            node.registers(&mut |start, size| {
                place = place.or_else(|| Span::new(Hpa(node.translate(start, size)?), size).ok());
            })
            .ok()?;
            if uart.kind == Kind::Pl011 {
                // The only one that may need it.
                clock = Cells(node.property("clocks").unwrap_or_default()).next();
            }
            Some((uart, place.filter(|it| it.size() >= u64::from(uart.size()))?))
        })?;
        let clock_hz = clock.and_then(|clock| {
            self.find(|node| {
                let fixed = node.has_phandle(clock) && node.has_text("compatible", "fixed-clock");
                if fixed { node.u32(0, "clock-frequency") } else { None }
            })
        });
        Some(EarlyConsole { uart, registers, clock_hz })
    }

    fn find<T>(&self, mut f: impl FnMut(&Lineage<'_, 'a>) -> Option<T>) -> Option<T> {
        let mut found = None;
        // Nothing is found in what can't be read; the full reader says why not.
        let _ = self.walk(&mut |node| {
            found = f(&node);
            Ok(found.is_some())
        });
        found
    }

    /// `size` bytes of memory, aligned to `align`, of which `taken` and the tree's reservations have nothing: as high as can be,
    /// out of the way of those who are given memory from its start. `None`: there are none.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: what is memory, or what of it is reserved, can't be read.
    pub fn free(
        &self,
        size: u64,
        align: u64,
        taken: &[Span<Hpa>],
    ) -> Result<Option<Span<Hpa>>, OutlineError> {
        let mut best: Option<Span<Hpa>> = None;
        let mut result = Ok(());
        self.memory(&mut |bank| {
            let mut top = bank.end().0;
            // Each turn goes below something that is in the way, so that it ends.
            while let Some(start) = top.checked_sub(size).map(|start| start & !(align - 1)) {
                let Ok(span) = Span::new(Hpa(start), size) else { break };
                if !bank.encloses(&span) {
                    break;
                }
                let mut below = None;
                let mut look = |other: Span<Hpa>| {
                    if other.overlaps(&span) {
                        let start = other.start().0;
                        below = Some(below.map_or(start, |lowest: u64| lowest.min(start)));
                    }
                };
                taken.iter().copied().for_each(&mut look);
                if let Err(error) = self.reserved(&mut look) {
                    result = Err(error);
                    break;
                }
                match below {
                    Some(lowest) => top = lowest,
                    None => {
                        if best.is_none_or(|best| best.start() < span.start()) {
                            best = Some(span);
                        }
                        break;
                    }
                }
            }
        })?;
        result.map(|()| best)
    }
}

impl Lineage<'_, '_> {
    /// Whether this is the node at a path from the root. A name without unit address is any's of that name.
    fn is_at(&self, path: &str) -> bool {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        let mut frames = self.frames.iter().skip(1);
        loop {
            match (names.next(), frames.next()) {
                (None, None) => return true,
                (Some(name), Some(frame)) if is_called(frame.name, name) => {}
                _ => return false,
            }
        }
    }
}

/// Whether a node's name is this one, or this one and a unit address.
fn is_called(name: &[u8], wanted: &str) -> bool {
    name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'@'))
}

fn texts(value: &[u8]) -> impl Iterator<Item = &str> {
    value
        .split(|&byte| byte == 0)
        .filter(|text| !text.is_empty())
        .filter_map(|text| str::from_utf8(text).ok())
}
