//! The namespace (ACPI 6.5, 5.3): a tree of named objects.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::code::Code;
use crate::field::Field;
use crate::name::{Name, Path, Root};
use crate::space::Space;
use crate::value::{Shared, Value};

/// An object of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);
}

/// What an object is.
#[derive(Clone)]
pub(crate) enum Object {
    /// Only a place for others.
    Scope,
    Device,
    Processor,
    Other,
    /// Declared only: it takes so many arguments if it is a method.
    External {
        arguments: u8,
    },
    Alias(NodeId),
    Value(Value),
    Method {
        code: Code,
        arguments: u8,
    },
    /// `_OSI`, which the operating system has.
    AskOs,
    Region {
        space: Space,
        offset: u64,
        length: u64,
    },
    Field(Field),
    BufferField {
        of: Rc<Shared<Vec<u8>>>,
        at: usize,
        bits: usize,
    },
}

pub(crate) struct Node {
    pub name: Name,
    pub parent: NodeId,
    pub object: Object,
    /// As of [`Shared`].
    pub doubtful: bool,
    first_child: Option<NodeId>,
    next: Option<NodeId>,
}

pub(crate) struct Namespace {
    nodes: Vec<Node>,
}

/// More objects than any firmware has.
const MOST: usize = 1 << 16;

impl Namespace {
    pub fn new() -> Self {
        let root = Node {
            name: Name(*b"\\___"),
            parent: NodeId::ROOT,
            object: Object::Scope,
            doubtful: false,
            first_child: None,
            next: None,
        };
        Self { nodes: alloc::vec![root] }
    }

    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.0 as usize)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    pub fn child(&self, parent: NodeId, name: Name) -> Option<NodeId> {
        let mut at = self.get(parent)?.first_child;
        while let Some(id) = at {
            let node = self.get(id)?;
            if node.name == name {
                return Some(id);
            }
            at = node.next;
        }
        None
    }

    /// An object by its name, anew or in the place of the one that was there. `None`: there are too many.
    pub fn add(&mut self, parent: NodeId, name: Name, object: Object) -> Option<NodeId> {
        if let Some(id) = self.child(parent, name) {
            // What is below stays: firmware opens scopes more than once.
            let node = self.get_mut(id)?;
            (node.object, node.doubtful) = (object, false);
            return Some(id);
        }
        let id = NodeId(u32::try_from(self.nodes.len()).ok().filter(|_| self.nodes.len() < MOST)?);
        let above = self.get_mut(parent)?;
        let next = above.first_child.replace(id);
        self.nodes.push(Node { name, parent, object, doubtful: false, first_child: None, next });
        Some(id)
    }

    /// Forgets the objects that were added last: those of a method that has ended.
    pub fn truncate(&mut self, length: usize) {
        while self.nodes.len() > length.max(1) {
            let Some(Node { parent, next, .. }) = self.nodes.pop() else { return };
            // Each was put before those that its parent had.
            if let Some(above) = self.get_mut(parent) {
                above.first_child = next;
            }
        }
    }

    fn start(&self, scope: NodeId, root: Root) -> Option<NodeId> {
        match root {
            Root::Top => Some(NodeId::ROOT),
            Root::Here { up } => (0..up).try_fold(scope, |at, _| {
                let above = self.get(at)?.parent;
                (at != NodeId::ROOT).then_some(above)
            }),
        }
    }

    /// What a path stands for where it is written. A name alone is looked for in all scopes above too (5.3).
    pub fn find(&self, scope: NodeId, path: &Path) -> Option<NodeId> {
        let start = self.start(scope, path.root)?;
        if let ([name], Root::Here { up: 0 }) = (path.names.as_slice(), path.root) {
            let mut at = start;
            loop {
                if let Some(found) = self.child(at, *name) {
                    return self.real(found);
                }
                if at == NodeId::ROOT {
                    return None;
                }
                at = self.get(at)?.parent;
            }
        }
        let found = path.names.iter().try_fold(start, |at, name| self.real(self.child(at, *name)?))?;
        self.real(found)
    }

    /// Where a path's last name belongs, for a new object.
    pub fn place(&self, scope: NodeId, path: &Path) -> Option<(NodeId, Name)> {
        let (name, above) = path.names.split_last()?;
        let start = self.start(scope, path.root)?;
        let parent = above.iter().try_fold(start, |at, name| self.real(self.child(at, *name)?))?;
        Some((parent, *name))
    }

    /// What an alias stands for.
    fn real(&self, mut id: NodeId) -> Option<NodeId> {
        // An alias of an alias of itself is no object.
        for _ in 0..8 {
            match self.get(id)?.object {
                Object::Alias(other) => id = other,
                _ => return Some(id),
            }
        }
        None
    }

    /// Its path from the top.
    pub fn path(&self, id: NodeId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT
            && let Some(node) = self.get(at)
        {
            names.push(node.name);
            at = node.parent;
        }
        let mut text = String::from("\\");
        for (position, name) in names.iter().rev().enumerate() {
            let dot = if position == 0 { "" } else { "." };
            // Writing to a text doesn't fail.
            let _ = write!(text, "{dot}{name}");
        }
        text
    }
}
