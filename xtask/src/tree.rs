//! QEMU's device tree of a board, changed to what real boards have (Devicetree Specification 0.4, chapter 5).

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use toml_edit::DocumentMut;

use crate::host::qemu;
use crate::{paths, process};

/// As many nodes more: real boards have from some hundreds to two thousand.
const NODES: u32 = 1500;

/// Memory that nobody may map, in the first gigabyte of QEMU's `virt`.
const NO_MAP: (u32, u32) = (0x6800_0000, 0x20_0000);

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// In what a tree differs from QEMU's.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Hundreds of nodes more, and memory that nobody may map.
    Large,
    /// No line of an SMMU's.
    SmmuWithoutLines,
    /// A redistributor of the first CPU's only.
    OneRedistributor,
    /// Nothing says which UART is the console.
    UnnamedConsole,
}

/// Writes the changed tree of a system file's board, and says where.
pub fn write(arch: &str, system: &Path, name: &str, kind: Kind) -> Result<PathBuf> {
    let text = std::fs::read_to_string(system)?;
    let document: DocumentMut = text.parse().with_context(|| format!("in {}", paths::shown(system)))?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let folder = paths::target().join("trees");
    std::fs::create_dir_all(&folder)?;
    let (plain, changed) = (folder.join(format!("{name}.plain")), folder.join(format!("{name}.dtb")));
    let mut command = process::command(qemu::program(arch));
    command.args(words.iter().filter_map(|word| word.as_str()));
    command.args(["-display", "none", "-machine"]).arg(format!("dumpdtb={}", plain.display()));
    process::output(&mut command)?;
    let blob = packed(std::fs::read(&plain)?)?;
    let tree = match kind {
        Kind::Large => grow(&blob)?,
        // The second range of `reg`: two frames of 64 KiB.
        Kind::OneRedistributor => with_last_cell(blob, "intc@", "reg", 0x2_0000)?,
        Kind::UnnamedConsole => without(blob, "chosen", &["stdout-path"])?,
        Kind::SmmuWithoutLines => without(blob, "smmuv3@", &["interrupts", "interrupt-names"])?,
    };
    paths::write_atomically(&changed, &tree)?;
    Ok(changed)
}

/// The tree without the room at its end: QEMU makes it a mebibyte, and twice that of one that it is given.
fn packed(mut blob: Vec<u8>) -> Result<Vec<u8>> {
    let field = |index: usize| -> Result<usize> {
        let bytes = blob.get(index * 4..index * 4 + 4).context("it is cut short")?;
        Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
    };
    let end = (field(2)? + field(9)?).max(field(3)? + field(8)?);
    if end > blob.len() {
        bail!("QEMU's device tree is cut short");
    }
    blob.truncate(end);
    blob[4..8].copy_from_slice(&(end as u32).to_be_bytes());
    Ok(blob)
}

/// A property, in the blob.
struct Property {
    name: String,
    /// Token, length and name included.
    whole: Range<usize>,
    value: Range<usize>,
}

/// The properties of the nodes whose names begin so.
fn properties(blob: &[u8], node: &str) -> Result<Vec<Property>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = blob.get(at..at + 4).context("it is cut short")?;
        Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
    };
    let text = |at: usize| -> Result<String> {
        let rest = blob.get(at..).context("it is cut short")?;
        Ok(String::from_utf8_lossy(rest.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned())
    };
    let (mut at, strings) = (word(8)?, word(12)?);
    let (mut within, mut found) = (false, Vec::new());
    loop {
        match word(at)? as u32 {
            BEGIN_NODE => {
                let name = text(at + 4)?;
                within = name.starts_with(node);
                at += 4 + (name.len() + 1).next_multiple_of(4);
            }
            PROP => {
                let (start, length) = (at + 12, word(at + 4)?);
                let end = start + length.next_multiple_of(4);
                if end > blob.len() {
                    bail!("it is cut short");
                }
                let name = text(strings + word(at + 8)?)?;
                if within {
                    found.push(Property { name, whole: at..end, value: start..start + length });
                }
                at = end;
            }
            END_NODE => (within, at) = (false, at + 4),
            NOP => at += 4,
            END => return Ok(found),
            other => bail!("QEMU's device tree has a token {other}"),
        }
    }
}

/// The tree without some properties of the nodes whose names begin so: nothing is in their places.
fn without(mut blob: Vec<u8>, node: &str, names: &[&str]) -> Result<Vec<u8>> {
    let all = properties(&blob, node)?;
    let removed: Vec<_> = all.into_iter().filter(|it| names.contains(&it.name.as_str())).collect();
    if removed.is_empty() {
        bail!("QEMU's device tree has none of them");
    }
    for property in removed {
        for word in blob[property.whole].chunks_exact_mut(4) {
            word.copy_from_slice(&NOP.to_be_bytes());
        }
    }
    Ok(blob)
}

/// The tree with another last cell in a property.
fn with_last_cell(mut blob: Vec<u8>, node: &str, name: &str, cell: u32) -> Result<Vec<u8>> {
    let all = properties(&blob, node)?;
    let property =
        all.into_iter().find(|it| it.name == name).context("QEMU's device tree has no such property")?;
    let last = property.value.end.checked_sub(4).context("it has no cell")?..property.value.end;
    blob[last].copy_from_slice(&cell.to_be_bytes());
    Ok(blob)
}

/// The tree with more nodes at the end of its root.
fn grow(blob: &[u8]) -> Result<Vec<u8>> {
    let field = |index: usize| -> Result<usize> {
        let bytes = blob.get(index * 4..index * 4 + 4).context("it is cut short")?;
        Ok(u32::from_be_bytes(bytes.try_into()?) as usize)
    };
    let part = |at: usize, size: usize| blob.get(at..at + size).context("it is cut short");
    let mut structure = part(field(2)?, field(9)?)?.to_vec();
    let mut strings = part(field(3)?, field(8)?)?.to_vec();
    let reservations = part(field(4)?, field(2)? - field(4)?)?.to_vec();
    let end = [END_NODE.to_be_bytes(), END.to_be_bytes()].concat();
    if field(0)? != 0xd00d_feed || !structure.ends_with(&end) {
        bail!("QEMU's device tree isn't as expected");
    }
    structure.truncate(structure.len() - end.len());
    let mut write = Writer { structure, strings: &mut strings };
    write.begin("reserved-memory");
    write.property("#address-cells", &2u32.to_be_bytes());
    write.property("#size-cells", &2u32.to_be_bytes());
    write.property("ranges", &[]);
    write.begin("firmware@68000000");
    let reg: Vec<u8> = [0, NO_MAP.0, 0, NO_MAP.1].iter().flat_map(|cell: &u32| cell.to_be_bytes()).collect();
    write.property("reg", &reg);
    write.property("no-map", &[]);
    write.end();
    write.end();
    for node in 0..NODES {
        write.begin(&format!("thing-{node}"));
        write.property("compatible", b"acme,thing-with-a-name\0acme,thing\0");
        write.property("acme,number", &node.to_be_bytes());
        for setting in ["acme,first", "acme,second", "acme,third", "acme,fourth"] {
            write.property(setting, &[]);
        }
        write.end();
    }
    let mut structure = write.structure;
    structure.extend(end);
    let at = 40 + reservations.len();
    let names = at + structure.len();
    let header = [
        0xd00d_feed,
        names + strings.len(),
        at,
        names,
        40,
        17,
        16,
        field(7)?,
        strings.len(),
        structure.len(),
    ];
    let mut grown: Vec<u8> = header.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
    grown.extend(reservations);
    grown.extend(structure);
    grown.extend(strings);
    Ok(grown)
}

struct Writer<'a> {
    structure: Vec<u8>,
    strings: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.bytes(&[name.as_bytes(), &[0]].concat());
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let wanted = [name.as_bytes(), &[0]].concat();
        let known = self.strings.windows(wanted.len()).position(|part| part == wanted);
        let at = known.unwrap_or_else(|| {
            self.strings.extend(&wanted);
            self.strings.len() - wanted.len()
        });
        self.word(PROP);
        self.word(value.len() as u32);
        self.word(at as u32);
        self.bytes(value);
    }

    fn end(&mut self) {
        self.word(END_NODE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of `structure` and `strings` behind each other.
    fn blob(structure: &[u32], strings: &[u8]) -> Vec<u8> {
        let size = structure.len() * 4;
        let header =
            [0xd00d_feed, 40 + size + strings.len(), 40, 40 + size, 40, 17, 16, 0, strings.len(), size];
        let words = header.iter().map(|&word| word as u32).chain(structure.iter().copied());
        words.flat_map(u32::to_be_bytes).chain(strings.iter().copied()).collect()
    }

    #[test]
    fn only_the_named_properties_of_the_named_nodes_go() {
        let name = u32::from_be_bytes;
        let tree = |lines: [u32; 4]| {
            let node = |at| [BEGIN_NODE, name(*b"smmu"), name(at), PROP, 4, 11, 7];
            let other = [BEGIN_NODE, name(*b"uart"), name(*b"@1\0\0"), PROP, 4, 0, 8, END_NODE];
            let mut all = vec![BEGIN_NODE, 0];
            all.extend(node(*b"@9\0\0"));
            all.extend(lines);
            all.push(END_NODE);
            all.extend(other);
            all.extend([END_NODE, END]);
            blob(&all, b"interrupts\0reg\0")
        };
        let mut roomy = tree([NOP; 4]);
        roomy[4..8].copy_from_slice(&4096u32.to_be_bytes());
        roomy.resize(4096, 0);
        assert_eq!(packed(roomy).unwrap(), tree([NOP; 4]));
        let changed = without(tree([PROP, 4, 0, 9]), "smmu@", &["interrupts"]).unwrap();
        assert_eq!(changed, tree([NOP; 4]));
        assert!(without(tree([NOP; 4]), "smmu@", &["interrupts"]).is_err());
        let changed = with_last_cell(tree([PROP, 4, 0, 9]), "smmu@", "interrupts", 3).unwrap();
        assert_eq!(changed, tree([PROP, 4, 0, 3]));
        assert!(with_last_cell(tree([NOP; 4]), "smmu@", "interrupts", 3).is_err());
    }
}
