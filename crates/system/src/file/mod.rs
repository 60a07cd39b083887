//! The TOML reader: from text to [`System`], with every problem and the place of everything.
//!
//! The spanned table of the `toml` crate is walked by hand: serde stops at the first unknown key or wrong type, and a user who
//! has made three mistakes wants to read of three. What is wrong in the file doesn't keep the rest from being understood: where
//! it can, [`read`] gives a system with stand-ins for what it couldn't read, so that the platform's problems can be
//! found in the same run. Such a system is for planning only.

mod device;
mod qemu;
mod section;
mod spans;
mod text;
mod vm;

pub use text::{number, size};

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use axvm_addr::CpuId;
use toml::de::{DeTable, DeValue};

use crate::model::{Arch, Board, Host, Hypervisor, Item, System, Vm};
pub use qemu::refused_arguments;
use section::Section;
pub use spans::{Position, Spans};

/// The most VMs that a file may have: the console's frames say a VM in one byte.
pub const MAX_VMS: usize = 256;

/// A problem of the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// Where.
    pub position: Position,
    /// What it is about.
    pub item: Item,
    /// What is wrong, in one line.
    pub message: String,
}

impl core::fmt::Display for FileProblem {
    /// `LINE: message`, to follow the file's name and a colon.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.position.line, self.message)
    }
}

/// Reads a system file. The problems are sorted by their place; there is always a system if there are none.
///
/// With problems, the system (if the text is TOML and says `arch`) has stand-ins for what is missing or wrong, and lacks
/// the devices that couldn't be read; the spans are those of the system as it is given.
pub fn read(text: &str) -> (Option<System>, Spans, Vec<FileProblem>) {
    let mut reader = Reader { spans: Spans::new(text), problems: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().map_or(0, |span| span.start);
        let message = format!("not TOML: {}", error.message());
        reader.problem(Item::File, place, message);
    }
    // What a parser made of text that isn't TOML would only give problems that follow from the first.
    let system = if errors.is_empty() { reader.system(root.get_ref()) } else { None };
    reader.problems.sort_by_key(|problem| problem.position);
    (system, reader.spans, reader.problems)
}

/// What is gathered while walking.
struct Reader {
    spans: Spans,
    problems: Vec<FileProblem>,
}

impl Reader {
    fn problem(&mut self, item: Item, place: usize, message: String) {
        self.problems.push(FileProblem { position: self.spans.position(place), item, message });
    }

    fn system(&mut self, root: &DeTable<'_>) -> Option<System> {
        let mut section = Section::new(self, root, 0, |_| Item::File, "the file");
        section.known(&["board", "hypervisor", "vm"]);
        let board = section.table("board", true);
        let hypervisor = section.table("hypervisor", false);
        let vms = section.tables("vm");
        let board = board.and_then(|(table, place)| self.board(table, place));
        let hypervisor = hypervisor.map(|(table, place)| self.hypervisor(table, place)).unwrap_or_default();
        let arch = board.as_ref().map(|board| board.arch);
        let vms = self.vms(&vms, arch);
        Some(System { board: board?, hypervisor, vms })
    }

    fn board(&mut self, table: &DeTable<'_>, place: usize) -> Option<Board> {
        let mut section = Section::new(self, table, place, Item::Board, "[board]");
        section.known(&["arch", "host", "qemu"]);
        let arch = section.choice(
            "arch",
            &[("aarch64", Arch::Aarch64), ("x86_64", Arch::X86_64), ("riscv64", Arch::Riscv64)],
        );
        if arch.is_none() && !section.has("arch") {
            section.missing("arch", "\"aarch64\", \"x86_64\" or \"riscv64\"");
        }
        let host = section.choice("host", &[("bare-metal", Host::BareMetal), ("linux", Host::Linux)]);
        let arguments = section.strings("qemu");
        if let Some(arguments) = &arguments {
            let texts: Vec<&str> = arguments.iter().map(|(text, _)| text.as_str()).collect();
            for (position, message) in refused_arguments(&texts) {
                let place = arguments.get(position).map_or(place, |(_, place)| *place);
                section.complain("qemu", place, message);
            }
        }
        let qemu = arguments.map(|arguments| arguments.into_iter().map(|(text, _)| text).collect());
        Some(Board { arch: arch?, qemu, host: host.unwrap_or_default() })
    }

    fn hypervisor(&mut self, table: &DeTable<'_>, place: usize) -> Hypervisor {
        let mut section = Section::new(self, table, place, Item::Hypervisor, "[hypervisor]");
        section.known(&["cpu", "console"]);
        Hypervisor { cpu: section.number("cpu").map(CpuId), console: section.string("console") }
    }

    fn vms(&mut self, tables: &[(&DeTable<'_>, usize)], arch: Option<Arch>) -> Vec<Vm> {
        if tables.is_empty() && !self.problems.iter().any(|problem| problem.item == Item::File) {
            self.problem(Item::File, 0, "there is no [[vm]]: nothing to run".to_string());
        }
        if let Some((_, place)) = tables.get(MAX_VMS) {
            self.problem(Item::File, *place, format!("more than {MAX_VMS} VMs"));
        }
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let mut vms = vec![];
        for (id, (table, place)) in (0u16..).zip(tables).take(MAX_VMS) {
            let vm = self.vm(id, table, *place, arch);
            let item = Item::Vm(id, "name".to_string());
            let position = self.spans.find(&item);
            if let Some(line) = names.get(&vm.name) {
                let message = format!("the name \"{}\" is taken by the VM at line {line}", vm.name);
                self.problems.push(FileProblem { position, item, message });
            } else {
                names.insert(vm.name.clone(), position.line);
            }
            vms.push(vm);
        }
        vms
    }
}

/// What a value is called in a message.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
