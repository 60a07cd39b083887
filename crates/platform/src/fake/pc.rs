//! PCs: memory with ACPI's tables in it, and the memory map.

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};

use crate::acpi::{self, AcpiError, Memory, MemoryKind, MemoryMap, MemoryRange};
use crate::model::Platform;

/// A PC, as far as its tables say what it is.
#[derive(Clone, Debug)]
pub struct Pc {
    /// Where the RSDP is.
    pub rsdp: Hpa,
    /// The memory map.
    pub map: Vec<MemoryRange>,
    /// What is in memory.
    pub contents: Vec<(Hpa, Vec<u8>)>,
}

impl Memory for Pc {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let found = self.contents.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(at.0.checked_sub(start.0)?).ok()?;
            bytes.get(offset..offset.checked_add(into.len())?)
        });
        match found {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

macro_rules! table {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/acpi/", $name, ".dat"))
    };
}

/// Where QEMU has them: the DSDT where its FADT says, the others behind it.
const DSDT: u64 = 0x7ffe_0040;
const TABLES: u64 = 0x7ffe_4000;
const RSDP: u64 = 0xf_5230;

/// What E820 says there: start, end, and whether it is usable.
const MAP: [(u64, u64, bool); 9] = [
    (0, 0x9_fc00, true),
    (0x9_fc00, 0xa_0000, false),
    (0xf_0000, 0x10_0000, false),
    (0x10_0000, 0x7ffd_f000, true),
    (0x7ffd_f000, 0x8000_0000, false),
    (0xb000_0000, 0xc000_0000, false),
    (0xfed1_c000, 0xfed2_0000, false),
    (0xfffc_0000, 0x1_0000_0000, false),
    (0x1_0000_0000, 0x1_8000_0000, true),
];

impl Pc {
    /// One with these tables beside the DSDT, which is where the FADT among them says.
    pub fn new(dsdt: &[u8], tables: &[&[u8]]) -> Self {
        let mut contents = Vec::from([(Hpa(DSDT), dsdt.to_vec())]);
        let mut rsdt = b"RSDT".to_vec();
        rsdt.extend(((36 + 4 * tables.len()) as u32).to_le_bytes());
        rsdt.extend([1, 0]);
        rsdt.extend(b"BOCHS BXPC    ");
        rsdt.resize(36, 0);
        let mut at = TABLES;
        for table in tables {
            rsdt.extend((at as u32).to_le_bytes());
            contents.push((Hpa(at), table.to_vec()));
            at += table.len().next_multiple_of(16) as u64;
        }
        set_sum(&mut rsdt, 9);
        let mut rsdp = b"RSD PTR \0BOCHS \0".to_vec();
        rsdp.extend((at as u32).to_le_bytes());
        set_sum(&mut rsdp, 8);
        contents.push((Hpa(at), rsdt));
        contents.push((Hpa(RSDP), rsdp));
        let range = |&(start, end, usable): &(u64, u64, bool)| MemoryRange {
            span: Span::new(Hpa(start), end - start).unwrap_or_default(),
            kind: if usable { MemoryKind::Usable } else { MemoryKind::Reserved },
        };
        Self { rsdp: Hpa(RSDP), map: MAP.iter().map(range).collect(), contents }
    }

    /// What the tables make of it.
    ///
    /// # Errors
    ///
    /// As [`acpi::read`].
    pub fn platform(&self) -> Result<Platform, AcpiError> {
        acpi::read(self, self.rsdp, &MemoryMap::Ranges(&self.map), &acpi::no_config)
    }
}

/// Makes the bytes sum up to zero.
fn set_sum(bytes: &mut [u8], at: usize) {
    if let Some(place) = bytes.get_mut(at) {
        *place = 0;
    }
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(place) = bytes.get_mut(at) {
        *place = 0u8.wrapping_sub(sum);
    }
}

/// QEMU 11.1's q35 with AMD's IOMMU, four CPUs and 4 GiB: `-M q35 -smp 4 -m 4G -device amd-iommu,intremap=on,dma-remap=on`, an NVMe at
/// 00:03.0, an e1000e at 00:04.0, a root port at 00:05.0 with an igb behind, and an edu at 00:06.0.
pub fn q35_amd() -> Pc {
    Pc::new(
        table!("q35-amd/DSDT"),
        &[
            table!("q35/FACP"),
            table!("q35/APIC"),
            table!("q35/HPET"),
            table!("q35/MCFG"),
            table!("q35-amd/IVRS"),
        ],
    )
}

/// The same with Intel's: `-M q35,kernel-irqchip=split -device intel-iommu,intremap=on,eim=on`.
pub fn q35_intel() -> Pc {
    Pc::new(
        table!("q35-intel/DSDT"),
        &[
            table!("q35/FACP"),
            table!("q35/APIC"),
            table!("q35/HPET"),
            table!("q35/MCFG"),
            table!("q35-intel/DMAR"),
        ],
    )
}
