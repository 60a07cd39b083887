//! Small device trees, made up by a test.

use std::vec::Vec;

use vm_fdt::FdtWriter;

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    name: &'static str,
    properties: Vec<(&'static str, Vec<u8>)>,
    children: Vec<Node>,
}

pub fn node(name: &'static str) -> Node {
    Node { name, ..Node::default() }
}

impl Node {
    pub fn cells(mut self, name: &'static str, cells: &[u32]) -> Self {
        self.properties.push((name, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()));
        self
    }

    pub fn text(mut self, name: &'static str, text: &str) -> Self {
        self.properties.push((name, [text.as_bytes(), &[0]].concat()));
        self
    }

    pub fn flag(self, name: &'static str) -> Self {
        self.cells(name, &[])
    }

    pub fn with(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    /// `#address-cells` and `#size-cells` of 1, and `ranges` that change nothing.
    pub fn bus(self) -> Self {
        self.cells("#address-cells", &[1]).cells("#size-cells", &[1]).flag("ranges")
    }

    /// The blob of a tree of which this is the root.
    pub fn blob(&self) -> Vec<u8> {
        let mut writer = FdtWriter::new().unwrap();
        self.write(&mut writer);
        writer.finish().unwrap()
    }

    fn write(&self, writer: &mut FdtWriter) {
        let open = writer.begin_node(self.name).unwrap();
        for (name, value) in &self.properties {
            writer.property(name, value).unwrap();
        }
        for child in &self.children {
            child.write(writer);
        }
        writer.end_node(open).unwrap();
    }
}

/// A root whose addresses and sizes are one cell.
pub fn root() -> Node {
    node("").cells("#address-cells", &[1]).cells("#size-cells", &[1])
}
