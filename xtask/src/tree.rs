//! QEMU's device tree of a board, grown to what real boards have (Devicetree Specification 0.4, chapter 5).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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
const END: u32 = 9;

/// Writes the tree of a system file's board with all that more, and says where.
pub fn large(arch: &str, system: &Path, name: &str) -> Result<PathBuf> {
    let text = std::fs::read_to_string(system)?;
    let document: DocumentMut = text.parse().with_context(|| format!("in {}", paths::shown(system)))?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let folder = paths::target().join("trees");
    std::fs::create_dir_all(&folder)?;
    let (plain, large) = (folder.join(format!("{name}.plain")), folder.join(format!("{name}.dtb")));
    let mut command = process::command(qemu::program(arch));
    command.args(words.iter().filter_map(|word| word.as_str()));
    command.args(["-display", "none", "-machine"]).arg(format!("dumpdtb={}", plain.display()));
    process::output(&mut command)?;
    paths::write_atomically(&large, &grow(&std::fs::read(&plain)?)?)?;
    Ok(large)
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
