//! PCI functions as Linux has them in `/sys/bus/pci/devices` (Linux, Documentation/ABI/testing/sysfs-bus-pci).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_pci::Virtio;
use axvm_pci::recorded::Record;

use super::uses::Use;
use super::{Files, number, sorted};

/// What of config space everybody may read.
const HEADER: usize = 64;
/// Bits of the flags in `resource` (Linux, include/linux/ioport.h): ports, memory.
const KIND: u64 = 0x100 | 0x200;
/// Bits of virtio's features (Virtio 1.2, 6).
const VERSION_1: usize = 32;
const ACCESS_PLATFORM: usize = 33;

/// A PCI function of a machine that runs Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address, as Linux has it.
    pub linux: PciAddress,
    /// Its address in the platform; `None`: it isn't there, as a virtual function isn't, or a bus that AxVM doesn't find.
    pub address: Option<PciAddress>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group, by Linux's number.
    pub group: Option<u32>,
    /// The others in that group.
    pub with: Vec<PciAddress>,
    /// How Linux can reset it, best first, in its words.
    pub resets: Vec<String>,
    /// It is a virtual function of this one.
    pub virtual_of: Option<PciAddress>,
    /// What it is used for.
    pub uses: Vec<Use>,
    /// What was read of it.
    pub(super) record: Record,
    ids: Ids,
    features: Option<String>,
}

/// What a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass, programming interface: 24 bits.
    pub class: u32,
}

impl Function {
    /// What it is: virtual functions say that otherwise than in their config space.
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// Whether its config space wasn't read whole.
    pub(super) fn is_cut_off(&self) -> bool {
        self.record.config.len() <= HEADER
    }

    /// What it says of its DMA, if it is a virtio device that a driver has; what its features are only the driver knows.
    pub(super) fn virtio(&self) -> Option<Virtio> {
        let Some(features) = &self.features else { return Some(Virtio::Unknown) };
        let offered = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
        Some(match (offered(VERSION_1), offered(ACCESS_PLATFORM)) {
            (false, _) => Virtio::Legacy,
            (true, true) => Virtio::Platform,
            (true, false) => Virtio::Past,
        })
    }
}

/// What is asked of functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// All that Linux tells.
    All,
    /// Not what their config space has, of which reading a byte is an access to the function.
    Names,
}

/// All of them, by their addresses.
pub(super) fn all(files: &impl Files, asked: Asked) -> Vec<Function> {
    let names = sorted(files.list("sys/bus/pci/devices"));
    let mut functions: Vec<Function> = names.iter().filter_map(|name| function(files, name, asked)).collect();
    functions.sort_unstable_by_key(|function| function.linux);
    let groups: Vec<(PciAddress, Option<u32>)> = functions.iter().map(|it| (it.linux, it.group)).collect();
    for function in &mut functions {
        let with = groups.iter().filter(|(address, group)| {
            group.is_some() && *group == function.group && *address != function.linux
        });
        function.with = with.map(|(address, _)| *address).collect();
    }
    functions
}

fn function(files: &impl Files, name: &str, asked: Asked) -> Option<Function> {
    let linux: PciAddress = name.parse().ok()?;
    let file = |name_of: &str| format!("sys/bus/pci/devices/{name}/{name_of}");
    let config = match asked {
        Asked::All => files.read(&file("config")).unwrap_or_default(),
        Asked::Names => Vec::new(),
    };
    let resources = files.text(&file("resource")).unwrap_or_default();
    let mut bars = [0; 6];
    for (bar, line) in bars.iter_mut().zip(resources.lines()) {
        *bar = size(line).unwrap_or(0);
    }
    let id = |name: &str| number(&files.text(&file(name))?);
    let virtual_of = files.link_name(&file("physfn")).and_then(|name| name.parse().ok());
    let resets = files.text(&file("reset_method")).unwrap_or_default();
    let virtio = files.list(&file("")).into_iter().find(|name| {
        name.strip_prefix("virtio").is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    });
    Some(Function {
        linux,
        address: None,
        driver: files.link_name(&file("driver")),
        group: files.link_name(&file("iommu_group")).and_then(|name| name.parse().ok()),
        with: vec![],
        resets: resets.split_whitespace().map(ToString::to_string).collect(),
        // Virtual functions aren't there until somebody asks for them.
        record: match virtual_of {
            None => Record { address: linux, config, bars },
            Some(_) => Record { address: linux, config: vec![0xff; 2 * HEADER], bars: [0; 6] },
        },
        virtual_of,
        uses: vec![],
        ids: Ids {
            vendor: id("vendor").unwrap_or(0) as u16,
            device: id("device").unwrap_or(0) as u16,
            class: id("class").unwrap_or(0) as u32,
        },
        features: virtio.and_then(|virtio| files.text(&file(&format!("{virtio}/features")))),
    })
}

/// Bytes of a resource: a line has its first and last address and its flags.
fn size(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace().map(number);
    let (first, last, flags) = (words.next()??, words.next()??, words.next()??);
    (flags & KIND != 0).then(|| last.checked_sub(first)?.checked_add(1)).flatten()
}
