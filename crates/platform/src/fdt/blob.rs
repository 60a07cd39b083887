//! A flattened device tree as a list of nodes (Devicetree Specification 0.4, chapter 5).
//!
//! The published parsers either panic on a broken blob or refuse names longer than 31 characters, which real
//! boards have (and every blob with `__symbols__`). The format is five tokens, so it is read here: nothing is
//! indexed unchecked, and each step consumes at least four bytes, so every blob ends.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::str;

use litemap::LiteMap;

use super::kinds::{Kind, Kinds};
use super::references::Meaning;

/// The header's magic number.
const MAGIC: u32 = 0xd00d_feed;
/// The version whose layout is read here; `last_comp_version` must not be newer.
const VERSION: u32 = 17;
/// The header, in bytes.
pub(crate) const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
pub(super) const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
pub(super) const END: u32 = 9;
/// How deep nodes nest at most: far more than any board has, and it bounds the length of paths.
pub(super) const DEPTH: usize = 32;

/// A blob that isn't a device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// It doesn't begin with the magic number.
    #[error("no device tree: the magic number is missing")]
    Magic,
    /// Its `version` is older than what this reader knows.
    #[error("the device tree has format version {0}: {VERSION} is the oldest that is read")]
    TooOld(u32),
    /// Its `last_comp_version` is newer: only later readers can read it.
    #[error("the device tree is for readers of format version {0} and later: this one is of {VERSION}")]
    TooNew(u32),
    /// A field, a name or a property lies outside the blob.
    #[error("the device tree is cut short or damaged near byte {0:#x}")]
    Truncated(usize),
    /// A token that doesn't exist, or not here.
    #[error("the device tree is damaged: token {token:#x} near byte {offset:#x}")]
    Token {
        /// The token.
        token: u32,
        /// Where.
        offset: usize,
    },
    /// A name isn't text.
    #[error("the device tree has a name that isn't text near byte {0:#x}")]
    Name(usize),
    /// Nodes nest too deep.
    #[error("the device tree nests more than {DEPTH} levels deep")]
    Depth,
}

/// A node: its position in the [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub(super) usize);

#[derive(Clone, Debug)]
struct Node<'a> {
    name: &'a str,
    parent: Option<NodeId>,
    /// The position after those of the nodes below it.
    end: usize,
    /// Where its properties are among the tree's.
    properties: Range<usize>,
    /// By `compatible`, which is asked for most.
    kinds: Kinds,
}

/// A property of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Property<'a> {
    pub name: &'a str,
    pub value: &'a [u8],
    /// What its name says of its value.
    pub meaning: Meaning,
}

/// A device tree: its nodes in the blob's order, the root first.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    /// Those of each node together, the nodes in their order.
    properties: Vec<Property<'a>>,
    phandles: LiteMap<u32, NodeId>,
    /// The memory reservation block: address and size.
    pub reservations: Vec<(u64, u64)>,
}

#[inline(always)]
fn be32(bytes: &[u8], offset: usize) -> Result<u32, BlobError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.map(|field| u32::from_be_bytes(*field)).ok_or(BlobError::Truncated(offset))
}

fn be64(bytes: &[u8], offset: usize) -> Result<u64, BlobError> {
    Ok(u64::from(be32(bytes, offset)?) << 32 | u64::from(be32(bytes, offset.saturating_add(4))?))
}

/// What lies between `offset` and the next NUL.
#[inline(always)]
fn up_to_nul(bytes: &[u8], offset: usize) -> Result<&[u8], BlobError> {
    let rest = bytes.get(offset..).ok_or(BlobError::Truncated(offset))?;
    let length = rest.iter().position(|&byte| byte == 0).ok_or(BlobError::Truncated(offset))?;
    rest.get(..length).ok_or(BlobError::Truncated(offset))
}

fn as_text(bytes: &[u8], offset: usize) -> Result<&str, BlobError> {
    str::from_utf8(bytes).map_err(|_| BlobError::Name(offset))
}

/// So many names of properties are remembered: more than most trees have.
const NAMES: usize = 128;

/// The strings block (5.5): every property's name lies in it, most of them for many properties. So what is found out of a name is
/// remembered by its place, until another one takes its slot.
struct Names<'a> {
    bytes: &'a [u8],
    seen: Vec<Option<(usize, &'a str, Meaning)>>,
}

impl<'a> Names<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, seen: alloc::vec![None; NAMES] }
    }

    /// The name at an offset, and what it says of the value.
    fn at(&mut self, offset: usize) -> Result<(&'a str, Meaning), BlobError> {
        let slot = self.seen.get_mut(offset % NAMES);
        if let Some(&mut Some((at, name, meaning))) = slot
            && at == offset
        {
            return Ok((name, meaning));
        }
        let name = as_text(up_to_nul(self.bytes, offset)?, offset)?;
        let meaning = Meaning::of(name);
        if let Some(slot) = slot {
            *slot = Some((offset, name, meaning));
        }
        Ok((name, meaning))
    }
}

/// Where the parts of a blob are (5.2).
pub(super) struct Header<'a> {
    pub structure: &'a [u8],
    pub strings: &'a [u8],
    /// The memory reservation block and all that follows it: it has an end of its own.
    pub reservations: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads the header; bytes after the blob's end are ignored.
    pub fn read(blob: &'a [u8]) -> Result<Self, BlobError> {
        if be32(blob, 0).map_err(|_| BlobError::Magic)? != MAGIC {
            return Err(BlobError::Magic);
        }
        let total = be32(blob, 4)? as usize;
        let blob = blob.get(..total).filter(|blob| blob.len() >= HEADER).ok_or(BlobError::Truncated(4))?;
        let field = |index: usize| be32(blob, index * 4).map(|value| value as usize);
        let (version, compatible) = (be32(blob, 20)?, be32(blob, 24)?);
        if version < VERSION {
            return Err(BlobError::TooOld(version));
        }
        if compatible > VERSION {
            return Err(BlobError::TooNew(compatible));
        }
        let part = |offset: usize, size: usize| {
            let end = offset.checked_add(size).ok_or(BlobError::Truncated(offset))?;
            blob.get(offset..end).ok_or(BlobError::Truncated(offset))
        };
        let reservations = field(4)?;
        Ok(Self {
            structure: part(field(2)?, field(9)?)?,
            strings: part(field(3)?, field(8)?)?,
            reservations: blob.get(reservations..).ok_or(BlobError::Truncated(reservations))?,
        })
    }
}

/// By its header, how many bytes of a blob have something, if behind them there is more. `None`: that isn't so, or can't be told.
pub(crate) fn front(header: &[u8]) -> Option<usize> {
    let field = |index: usize| be32(header, index * 4).ok().map(|value| value as usize);
    let (total, reservations) = (field(1)?, field(4)?);
    let parts = [(field(2)?, field(9)?), (field(3)?, field(8)?)];
    // The reservation block doesn't say how long it is: it ends where another part begins.
    let is_between = reservations >= HEADER && parts.iter().any(|(start, _)| reservations < *start);
    let mut end = HEADER;
    for (start, size) in parts {
        end = end.max(start.checked_add(size)?);
    }
    (be32(header, 0) == Ok(MAGIC) && is_between && end < total).then_some(end)
}

/// The front of a blob as one that ends there: what [`front`] says must be there.
pub(crate) fn cut(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let total = u32::try_from(bytes.len()).ok().filter(|_| front(&bytes) == Some(bytes.len()))?;
    bytes.get_mut(4..8)?.copy_from_slice(&total.to_be_bytes());
    Some(bytes)
}

/// A piece of the structure block (5.4).
pub(super) enum Part<'a> {
    /// A node's name.
    Begin(&'a [u8]),
    End,
    /// A property: where its name is in the strings block, and its value.
    Property(usize, &'a [u8]),
    Nothing,
    Last,
}

/// The piece at an offset, and where the next one is. Inlined, since most of what reading a tree takes is spent here.
#[inline(always)]
pub(super) fn part(structure: &[u8], offset: usize) -> Result<(Part<'_>, usize), BlobError> {
    let token = be32(structure, offset)?;
    let inside = offset.saturating_add(4);
    match token {
        BEGIN_NODE => {
            let name = up_to_nul(structure, inside)?;
            Ok((Part::Begin(name), align(inside.saturating_add(name.len()).saturating_add(1))))
        }
        END_NODE => Ok((Part::End, inside)),
        PROP => {
            let (fields, rest) = structure
                .get(inside..)
                .and_then(|rest| rest.split_first_chunk::<8>())
                .ok_or(BlobError::Truncated(inside))?;
            // Length, and the name's place: two words, read as one.
            let fields = u64::from_be_bytes(*fields);
            let (length, name) = ((fields >> 32) as usize, fields as u32 as usize);
            let start = inside.saturating_add(8);
            let value = rest.get(..length).ok_or(BlobError::Truncated(start))?;
            Ok((Part::Property(name, value), align(start.saturating_add(length))))
        }
        NOP => Ok((Part::Nothing, inside)),
        END => Ok((Part::Last, inside)),
        _ => Err(BlobError::Token { token, offset }),
    }
}

/// Whether a name is the one that is looked for. Most differ in their length or first byte, which is asked first: trees are read
/// at boot, by many such questions.
#[inline(always)]
fn is_name(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len() && name.as_bytes().first() == wanted.as_bytes().first() && name == wanted
}

impl<'a> Tree<'a> {
    /// Reads a blob; bytes after its end are ignored.
    ///
    /// # Errors
    ///
    /// [`BlobError`] says what is wrong with it.
    pub fn parse(blob: &'a [u8]) -> Result<Self, BlobError> {
        let header = Header::read(blob)?;
        let mut strings = Names::new(header.strings);
        let mut tree = Self {
            nodes: Vec::new(),
            // In most trees there are not more: each takes 12 bytes and those of its value.
            properties: Vec::with_capacity(header.structure.len() / 24),
            phandles: LiteMap::new(),
            reservations: Self::reservations(header.reservations)?,
        };
        tree.read_structure(header.structure, &mut strings)?;
        tree.index();
        Ok(tree)
    }

    fn reservations(block: &[u8]) -> Result<Vec<(u64, u64)>, BlobError> {
        let mut reservations = Vec::new();
        let mut offset = 0usize;
        loop {
            let entry = (be64(block, offset)?, be64(block, offset.saturating_add(8))?);
            if entry == (0, 0) {
                return Ok(reservations);
            }
            reservations.push(entry);
            offset = offset.saturating_add(16);
        }
    }

    fn read_structure(&mut self, structure: &'a [u8], strings: &mut Names<'a>) -> Result<(), BlobError> {
        let mut open: Vec<NodeId> = Vec::new();
        let mut offset = 0usize;
        loop {
            let (part, next) = part(structure, offset)?;
            let misplaced = |token| BlobError::Token { token, offset };
            match part {
                Part::Begin(name) => {
                    let parent = open.last().copied();
                    if open.len() == DEPTH {
                        return Err(BlobError::Depth);
                    }
                    if parent.is_none() && !self.nodes.is_empty() {
                        return Err(misplaced(BEGIN_NODE));
                    }
                    let (name, end) = (as_text(name, offset.saturating_add(4))?, self.nodes.len() + 1);
                    let properties = self.properties.len()..self.properties.len();
                    open.push(NodeId(self.nodes.len()));
                    self.nodes.push(Node { name, parent, end, properties, kinds: Kinds::default() });
                }
                Part::End => {
                    let id = open.pop().ok_or(misplaced(END_NODE))?;
                    let end = self.nodes.len();
                    if let Some(node) = self.nodes.get_mut(id.0) {
                        node.end = end;
                    }
                }
                Part::Property(name, value) => {
                    // A node's properties come before the nodes below it (5.4.2).
                    let last = NodeId(self.nodes.len().wrapping_sub(1));
                    let node = self.nodes.last_mut().filter(|_| open.last() == Some(&last));
                    let node = node.ok_or(misplaced(PROP))?;
                    let (name, meaning) = strings.at(name)?;
                    self.properties.push(Property { name, value, meaning });
                    node.properties.end = self.properties.len();
                }
                Part::Nothing => {}
                Part::Last if open.is_empty() && !self.nodes.is_empty() => return Ok(()),
                Part::Last => return Err(misplaced(END)),
            }
            offset = next;
        }
    }

    fn index(&mut self) {
        for id in (0..self.nodes.len()).map(NodeId) {
            let kinds = Kinds::of(self.property(id, "compatible").unwrap_or_default());
            if let Some(node) = self.nodes.get_mut(id.0) {
                node.kinds = kinds;
            }
            let handle = self.u32(id, "phandle").or_else(|| self.u32(id, "linux,phandle"));
            if let Some(handle) = handle.filter(|&handle| handle != 0 && handle != u32::MAX) {
                self.phandles.entry(handle).or_insert(id);
            }
        }
    }

    /// The root.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// All nodes, parents before their children.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// A node's name with its unit address.
    pub fn name(&self, id: NodeId) -> &'a str {
        self.nodes.get(id.0).map_or("", |node| node.name)
    }

    /// The node above; `None` for the root.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.nodes.get(id.0)?.parent
    }

    /// The node itself, then those above it up to the root.
    pub fn lineage(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        core::iter::successors(Some(id), |&id| self.parent(id))
    }

    /// The nodes directly below.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let Range { start, end } = self.subtree(id);
        let below = move |at: usize| (at < end).then_some(NodeId(at));
        core::iter::successors(below(start + 1), move |&child| below(self.subtree(child).end))
    }

    /// The positions of the node and of all below it, which follow it in the blob.
    pub(super) fn subtree(&self, id: NodeId) -> Range<usize> {
        id.0..self.nodes.get(id.0).map_or(id.0, |node| node.end)
    }

    /// All properties of a node.
    pub(super) fn properties(&self, id: NodeId) -> &[Property<'a>] {
        let range = self.nodes.get(id.0).map_or(0..0, |node| node.properties.clone());
        self.properties.get(range).unwrap_or_default()
    }

    /// A property's value.
    pub fn property(&self, id: NodeId, name: &str) -> Option<&'a [u8]> {
        self.properties(id).iter().find(|it| is_name(it.name, name)).map(|it| it.value)
    }

    /// Whether a property is there.
    pub fn has(&self, id: NodeId, name: &str) -> bool {
        self.property(id, name).is_some()
    }

    /// A property that is one cell.
    pub fn u32(&self, id: NodeId, name: &str) -> Option<u32> {
        self.property(id, name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A property that is text: the first one of a list.
    pub fn text(&self, id: NodeId, name: &str) -> Option<&'a str> {
        self.texts(id, name).next()
    }

    /// The texts of a list; what isn't text is left out.
    pub fn texts(&self, id: NodeId, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self.property(id, name).unwrap_or_default();
        value
            .split(|&byte| byte == 0)
            .filter(|text| !text.is_empty())
            .filter_map(|text| str::from_utf8(text).ok())
    }

    /// Whether `compatible` has one of these.
    pub fn is_compatible(&self, id: NodeId, kinds: &[&str]) -> bool {
        self.texts(id, "compatible").any(|text| kinds.contains(&text))
    }

    /// Whether a node is of a kind that the hypervisor drives, in use or not.
    pub(super) fn is(&self, id: NodeId, kind: Kind) -> bool {
        self.nodes.get(id.0).is_some_and(|node| node.kinds.has(kind))
    }

    /// The nodes of a kind that are in use.
    pub(super) fn in_use(&self, kind: Kind) -> impl Iterator<Item = NodeId> {
        self.ids().filter(move |&id| self.is(id, kind) && self.is_enabled(id))
    }

    /// Whether the node and all above it are in use: `status` absent or okay (2.3.4).
    pub fn is_enabled(&self, id: NodeId) -> bool {
        self.lineage(id).all(|id| match self.property(id, "status") {
            None => true,
            Some(_) => matches!(self.text(id, "status"), Some("okay" | "ok")),
        })
    }

    /// The node with this phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<NodeId> {
        self.phandles.get(&phandle).copied()
    }

    /// The path from the root.
    pub fn path(&self, id: NodeId) -> String {
        let length = self.lineage(id).map(|id| self.name(id).len() + 1).sum();
        let mut path = String::with_capacity(length);
        self.push_path(id, &mut path);
        if path.is_empty() {
            path.push('/');
        }
        path
    }

    /// As deep as the node lies, [`DEPTH`] at most.
    fn push_path(&self, id: NodeId, path: &mut String) {
        if let Some(above) = self.parent(id) {
            self.push_path(above, path);
            path.push('/');
            path.push_str(self.name(id));
        }
    }

    /// The node at a path, or with an alias in front of one (3.3). A name without unit address finds the
    /// node if it is the only one of that name.
    pub fn find(&self, path: &str) -> Option<NodeId> {
        if let Some(rest) = path.strip_prefix('/') {
            return self.descend(self.root(), rest);
        }
        let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
        let aliases = self.descend(self.root(), "aliases")?;
        let target = self.text(aliases, alias)?.strip_prefix('/')?;
        self.descend(self.descend(self.root(), target)?, rest)
    }

    fn descend(&self, from: NodeId, path: &str) -> Option<NodeId> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(from, |node, name| {
            if let Some(exact) = self.children(node).find(|&child| self.name(child) == name) {
                return Some(exact);
            }
            let mut similar =
                self.children(node).filter(|&child| self.name(child).split('@').next() == Some(name));
            similar.next().filter(|_| similar.next().is_none())
        })
    }
}

fn align(offset: usize) -> usize {
    offset.checked_next_multiple_of(4).unwrap_or(usize::MAX)
}
