//! Where in the text everything stands.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::model::Item;

/// A place in the text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in it.
    pub column: u32,
}

/// The place of every item that the file says.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// The byte at which each line starts, and the text: columns are counted in characters.
    lines: Vec<usize>,
    text: String,
    places: BTreeMap<Item, usize>,
}

impl Spans {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = core::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Self { lines, text: text.into(), places: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, item: Item, place: usize) {
        self.places.insert(item, place);
    }

    /// Forgets a device that couldn't be read: its position is the next one's.
    pub(super) fn forget_device(&mut self, vm: u16, position: u16) {
        self.places.retain(|item, _| !matches!(item, Item::Device(v, p, _) if (*v, *p) == (vm, position)));
    }

    /// The line and column of a byte.
    pub(super) fn position(&self, place: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= place).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..place).map_or(0, |before| before.chars().count());
        Position { line: line as u32, column: before as u32 + 1 }
    }

    /// Where `item` is said; if it isn't, where what encloses it is; else the start of the file.
    pub fn find(&self, item: &Item) -> Position {
        let mut item = Some(item.clone());
        while let Some(sought) = item {
            if let Some(place) = self.places.get(&sought) {
                return self.position(*place);
            }
            item = enclosing(&sought);
        }
        Position { line: 1, column: 1 }
    }
}

/// The item around this one.
fn enclosing(item: &Item) -> Option<Item> {
    Some(match item {
        Item::File => return None,
        Item::Board(key) if !key.is_empty() => Item::Board(String::new()),
        Item::Hypervisor(key) if !key.is_empty() => Item::Hypervisor(String::new()),
        Item::Board(_) | Item::Hypervisor(_) => Item::File,
        Item::Vm(_, key) if key.is_empty() => Item::File,
        Item::Vm(vm, _) => Item::Vm(*vm, String::new()),
        Item::Cpu(vm, _) => Item::Vm(*vm, "cpus".into()),
        Item::Device(vm, _, key) if key.is_empty() => Item::Vm(*vm, String::new()),
        Item::Device(vm, device, _) => Item::Device(*vm, *device, String::new()),
    })
}
