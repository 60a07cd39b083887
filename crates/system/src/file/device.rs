//! `[[vm.device]]`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Gpa, Hpa, Irq, SourceId};
use toml::de::DeTable;

use super::Reader;
use super::section::Section;
use crate::model::{Arch, Device, Dma, Hazard, InUse, Item, RegisterAccess};

/// What tells the kind of a device, and the keys that devices of this kind have.
const KINDS: [(&str, &str, &[&str]); 4] = [
    ("pci", "a PCI function", &["pci", "reset", "intx", "in_use"]),
    ("node", "a platform device", &["node", "access", "dma", "streams", "accept"]),
    ("ports", "a range of ports", &["name", "ports", "irq", "access"]),
    (
        "base_hpa",
        "a raw region",
        &["name", "base_gpa", "base_hpa", "length", "irq", "access", "dma", "streams", "accept"],
    ),
];

/// All keys of all kinds.
const KEYS: [&str; 15] = [
    "pci", "reset", "intx", "in_use", "node", "access", "dma", "streams", "accept", "name", "ports", "irq",
    "base_gpa", "base_hpa", "length",
];

impl Reader {
    /// Reads one device; `None` if it can't be read, with the problem noted.
    pub(super) fn device(
        &mut self,
        vm: u16,
        position: u16,
        table: &DeTable<'_>,
        place: usize,
        arch: Option<Arch>,
    ) -> Option<Device> {
        let problems = self.problems.len();
        let mut section =
            Section::new(self, table, place, |key| Item::Device(vm, position, key), "[[vm.device]]");
        section.known(&KEYS);
        let kinds: Vec<_> = KINDS.iter().filter(|(key, _, _)| section.has(key)).collect();
        let (key, title, keys) = match kinds.as_slice() {
            [one] => **one,
            // A region without the key that tells it still says what it is by another.
            [] if section.has("base_gpa") || section.has("length") => KINDS[3],
            [] => {
                let message = "a device needs `pci`, `node`, `ports` or `base_hpa`".to_string();
                section.wrong("", message);
                self.spans.forget_device(vm, position);
                return None;
            }
            [(first, ..), (second, ..), ..] => {
                section.wrong(second, format!("a device can't have both `{first}` and `{second}`"));
                self.spans.forget_device(vm, position);
                return None;
            }
        };
        for other in KEYS.iter().filter(|other| !keys.contains(other)) {
            if section.has(other) {
                section.wrong(other, format!("{title} has no key `{other}`: it has {}", keys.join(", ")));
            }
        }
        let device = match key {
            "pci" => pci(&mut section),
            "node" => node(&mut section),
            "ports" => ports(&mut section, arch),
            _ => region(&mut section),
        };
        let device = device.filter(|_| self.problems.len() == problems);
        if device.is_none() {
            self.spans.forget_device(vm, position);
        }
        device
    }
}

fn pci<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> Option<Device> {
    let without_reset = section.choice("reset", &[("none", true)]).unwrap_or(false);
    let without_intx = section.choice("intx", &[("none", true)]).unwrap_or(false);
    let in_use = section.choice("in_use", &[("take", InUse::Take)]).unwrap_or_default();
    let text = section.string("pci")?;
    match text.parse() {
        Ok(address) => Some(Device::Pci { address, without_reset, without_intx, in_use }),
        Err(error) => {
            section.wrong("pci", format!("\"{text}\" is {error}"));
            None
        }
    }
}

fn node<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> Option<Device> {
    let (access, dma, accept) = (access(section), dma(section), accept(section));
    let path = section.string("node")?;
    if path.is_empty() {
        section.wrong("node", "`node` is empty: it is a path, as \"/pl031@9010000\"".to_string());
    }
    Some(Device::Node { path, access, dma, accept })
}

fn region<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> Option<Device> {
    let (access, dma, accept) = (access(section), dma(section), accept(section));
    for (key, expected) in [
        ("name", "what the region is called"),
        ("base_gpa", "where the guest sees it"),
        ("base_hpa", "where it is"),
        ("length", "how many bytes it has"),
    ] {
        if !section.has(key) {
            section.missing(key, expected);
        }
    }
    let name = section.string("name");
    let (gpa, hpa) = (section.address("base_gpa"), section.address("base_hpa"));
    let length = section.size("length");
    let irq = section.number("irq").map(Irq);
    let (name, gpa, hpa, length) = (name?, gpa?, hpa?, length?);
    if length == 0 {
        section.wrong("length", "`length` can't be 0".to_string());
    }
    for (key, base) in [("base_gpa", gpa), ("base_hpa", hpa)] {
        if base.checked_add(length).is_none() {
            section.wrong(key, format!("`{key}` and `length` reach past the end of the address space"));
        }
    }
    Some(Device::Region { name, base_gpa: Gpa(gpa), base_hpa: Hpa(hpa), length, irq, access, dma, accept })
}

fn ports<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>, arch: Option<Arch>) -> Option<Device> {
    if arch.is_some_and(|arch| arch != Arch::X86_64) {
        section.wrong("ports", "only x86_64 has ports".to_string());
    }
    if !section.has("name") {
        section.missing("name", "what the ports are called");
    }
    let access = access(section);
    let name = section.string("name");
    let irq = section.number("irq").map(Irq);
    let numbers = section.numbers::<u16>("ports")?;
    let [(base, _), (count, _)] = numbers.as_slice() else {
        section.wrong("ports", "`ports` must be the first port and how many, as [0x2f8, 8]".to_string());
        return None;
    };
    if *count == 0 || u32::from(*base) + u32::from(*count) > 0x1_0000 {
        section.wrong("ports", "`ports` must be one port at least and end at 0xffff at most".to_string());
    }
    Some(Device::Ports { name: name?, base: *base, count: *count, irq, access })
}

fn access<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> RegisterAccess {
    let words = [("direct", RegisterAccess::Direct), ("trap", RegisterAccess::Trap)];
    section.choice("access", &words).unwrap_or_default()
}

fn dma<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> Dma {
    let none = section.choice("dma", &[("none", true)]).is_some();
    let streams = section.numbers::<u32>("streams");
    if section.has("dma") && section.has("streams") {
        section.wrong("streams", "`streams` contradicts `dma = \"none\"`".to_string());
    }
    match streams {
        Some(streams) => Dma::Streams(streams.into_iter().map(|(stream, _)| SourceId(stream)).collect()),
        None if none => Dma::None,
        None => Dma::Unstated,
    }
}

/// The hazards that the author accepts.
fn accept<N: Fn(String) -> Item>(section: &mut Section<'_, '_, '_, N>) -> Vec<Hazard> {
    let mut accepted = Vec::new();
    for (word, place) in section.strings("accept").unwrap_or_default() {
        match Hazard::ALL.iter().find(|(known, _)| *known == word) {
            Some((_, hazard)) if accepted.contains(hazard) => {}
            Some((_, hazard)) => accepted.push(*hazard),
            None => {
                let known: Vec<String> =
                    Hazard::ALL.iter().map(|(known, _)| format!("\"{known}\"")).collect();
                section.complain(
                    "accept",
                    place,
                    format!("`accept` can't have \"{word}\": it has some of {}", known.join(", ")),
                );
            }
        }
    }
    accepted
}
