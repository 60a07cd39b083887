//! What must be known of a device tree before there is memory to read it into: where memory is and what of it is taken, the
//! console, how many CPUs there are, how firmware is called. Nothing is allocated; every question walks the tree again.
//!
//! The full reader ([`super::read`]) is asked for all else. What the two say of memory must agree, and whoever uses both should
//! see to it that it does.

mod console;
mod memory;
mod node;

use core::str;

use axvm_addr::{Hpa, Span};

use super::address::Cells;
use super::blob::{self, BlobError, DEPTH, Part};
use super::kinds;
use super::memory::EFI_MAP;
use crate::model::PsciConduit;
pub use crate::uart::EarlyConsole;
use node::Lineage;

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

/// A node while the walk is in it: where its properties begin.
#[derive(Clone, Copy)]
struct Frame<'a> {
    name: &'a [u8],
    properties: usize,
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

    fn find<T>(&self, mut f: impl FnMut(&Lineage<'_, 'a>) -> Option<T>) -> Option<T> {
        let mut found = None;
        // Nothing is found in what can't be read; the full reader says why not.
        let _ = self.walk(&mut |node| {
            found = f(&node);
            Ok(found.is_some())
        });
        found
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
