//! A node of the tree, with those above it, while the walk is there.

use axvm_addr::{Hpa, Span};

use super::super::address::Cells;
use super::super::kinds::{self, Kinds};
use super::super::memory::{RELEASE, USABLE_OF_NODE};
use super::{Frame, Outline, OutlineError, is_called, texts};

/// The node that the walk has come to, with those above it; the root is the first.
pub(super) struct Lineage<'w, 'a> {
    pub(super) tree: &'w Outline<'a>,
    pub(super) frames: &'w [Frame<'a>],
}

impl<'a> Lineage<'_, 'a> {
    pub(super) fn depth(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn name(&self) -> &'a [u8] {
        self.frames.last().map_or(&[], |frame| frame.name)
    }

    /// The name of the node above.
    pub(super) fn parent_name(&self) -> &'a [u8] {
        self.depth().checked_sub(2).and_then(|at| self.frames.get(at)).map_or(&[], |frame| frame.name)
    }

    /// A property of the node so many levels up; 0 is the node itself.
    pub(super) fn above(&self, levels: usize, name: &str) -> Option<&'a [u8]> {
        let at = self.depth().checked_sub(levels + 1)?;
        self.tree.property(self.frames.get(at)?.properties, name)
    }

    pub(super) fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.above(0, name)
    }

    pub(super) fn u32(&self, levels: usize, name: &str) -> Option<u32> {
        self.above(levels, name)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        texts(self.property(name).unwrap_or_default())
    }

    pub(super) fn has_text(&self, name: &str, wanted: &str) -> bool {
        self.texts(name).any(|text| text == wanted)
    }

    pub(super) fn is(&self, kind: kinds::Kind) -> bool {
        self.property("compatible").is_some_and(|compatible| Kinds::of(compatible).has(kind))
    }

    /// Calls `f` with the banks that it is, if it is memory in use.
    pub(super) fn bank(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
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
    pub(super) fn reserves(&self) -> bool {
        match self.parent_name() {
            b"reserved-memory" | b"chosen" => self.depth() == 3,
            b"cpus" => self.property(RELEASE).is_some(),
            _ => self.name().starts_with(b"tpm") || self.is_memory() && !self.is_enabled(),
        }
    }

    pub(super) fn is_memory(&self) -> bool {
        self.has_text("device_type", "memory")
    }

    /// Whether this is its phandle. The value is looked at first: few properties have just this one.
    pub(super) fn has_phandle(&self, phandle: u32) -> bool {
        let names = ["phandle", "linux,phandle"];
        let is_it = |name, value: &[u8]| {
            *value == phandle.to_be_bytes() && names.iter().any(|it| self.tree.is_name(name, it))
        };
        let at = self.frames.last().map_or(0, |frame| frame.properties);
        self.tree.properties(at).any(|(name, value)| is_it(name, value))
    }

    /// Whether it and all above it are in use (2.3.4).
    pub(super) fn is_enabled(&self) -> bool {
        (0..self.depth()).all(|levels| match self.above(levels, "status") {
            None => true,
            Some(status) => matches!(texts(status).next(), Some("okay" | "ok")),
        })
    }

    /// The cells of an address and of a size on the bus so many levels up.
    pub(super) fn bus_cells(&self, levels: usize) -> (u32, u32) {
        let cells = |name, default| self.u32(levels, name).unwrap_or(default);
        (cells("#address-cells", 2), cells("#size-cells", 1))
    }

    /// Calls `f` with each entry of `reg`, on the node's own bus. An entry that can't be read is an error: what is there isn't
    /// known.
    pub(super) fn registers(&self, f: &mut dyn FnMut(u64, u64)) -> Result<(), OutlineError> {
        self.entries("reg", self.bus_cells(1), f)
    }

    pub(super) fn entries(
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
    pub(super) fn translate(&self, mut address: u64, size: u64) -> Option<u64> {
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

    /// Whether this is the node at a path from the root. A name without unit address is any's of that name.
    pub(super) fn is_at(&self, path: &str) -> bool {
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
