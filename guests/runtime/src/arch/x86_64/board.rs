//! What the guest was given: its ACPI tables and its command line, by PVH's start info (Xen, xen/include/public/arch-x86/hvm/start_info.h).

use alloc::string::String;
use alloc::vec::Vec;

use axvm_acpi::fadt::Fadt;
use axvm_acpi::madt::{Madt, Usable};
use axvm_acpi::spcr::Spcr;
use axvm_acpi::{Memory, Space, Tables, mcfg};
use axvm_addr::Hpa;

use super::machine::{self, Clock, Power, load8, load32, load64, out8};
use crate::cmdline;
use crate::edu::Pci;

const MAGIC: u32 = 0x336e_c578;
const COMMAND_LINE: u64 = 24;
const RSDP: u64 = 32;
/// Where the memory map is, and how many entries it has; of an entry: address, bytes, type (1: RAM).
const MAP: u64 = 40;
const MAP_ENTRIES: u64 = 48;
const ENTRY: u64 = 24;
const ENTRY_RAM: u32 = 1;
/// The most that a command line has.
const LINE_MOST: u64 = 4096;
/// The first serial port of every PC, where no table names another.
const COM1: u64 = 0x3f8;

/// The VM as the guest sees it.
pub struct Board {
    /// The CPUs and interrupt controllers.
    pub madt: Madt,
    /// The command line.
    pub cmdline: String,
    /// The first port of the 16550.
    pub console: u64,
    /// What tells how fast the time stamp counter is.
    pub clock: Clock,
    /// How to switch it off.
    pub power: Option<Power>,
    /// Where PCI functions have their config spaces.
    pub ecam: Option<u64>,
    /// A megabyte of RAM, page-aligned, that nothing else uses any more.
    pub scratch: u64,
    memory_end: u64,
    reset: Option<(u16, u8)>,
}

/// The first 4 GiB, which are mapped as they are.
struct Mapped;

impl Memory for Mapped {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let is_mapped = at.0.checked_add(into.len() as u64).is_some_and(|end| end <= 1 << 32);
        is_mapped && (at.0..).zip(into).all(|(at, byte)| load8(at).map(|value| *byte = value).is_ok())
    }
}

impl Board {
    /// Reads the tables; `None` if they can't be read.
    pub fn find(start_info: u64, image_start: u64, image_end: u64) -> Option<Self> {
        machine::set_image(image_start, image_end);
        if load32(start_info).ok()? != MAGIC {
            return None;
        }
        let line = load64(start_info + COMMAND_LINE).ok()?;
        let bytes = (line..line + LINE_MOST).map_while(|at| load8(at).ok().filter(|byte| *byte != 0));
        let bytes: Vec<u8> = if line == 0 { Vec::new() } else { bytes.collect() };
        let tables = Tables::read(&Mapped, Hpa(load64(start_info + RSDP).ok()?)).ok()?;
        let madt = Madt::read(tables.find(b"APIC")?).ok()?;
        let fadt = Fadt::read(tables.find(b"FACP")?).ok()?;
        let console = tables.find(b"SPCR").and_then(|table| Spcr::read(table).ok());
        let console = console.and_then(|spcr| spcr.registers).filter(|at| at.space == Space::Port);
        let console = console.map_or(COM1, |at| at.address);
        let dsdt = fadt.dsdt(&Mapped).ok();
        let power = fadt.pm1_control[0]
            .filter(|control| control.space == Space::Port)
            .zip(dsdt.and_then(|table| sleep_type(table.bytes())))
            .and_then(|(control, off)| Some(Power { control: control.address.try_into().ok()?, off }));
        if let Some(power) = power {
            power.remember();
        }
        if madt.pics {
            // All of their lines, which would come as exceptions.
            out8(0x21, 0xff);
            out8(0xa1, 0xff);
        }
        let timer = fadt.blocks.iter().find(|block| block.name == "PM_TMR" && block.at.space == Space::Port);
        let clock = machine::find_frequency(timer.and_then(|block| block.at.address.try_into().ok()));
        let mcfg = tables.find(b"MCFG").and_then(|table| mcfg::read(table).ok());
        let ecam = mcfg.and_then(|found| Some(found.first()?.base.0));
        // All that was said has been read.
        let scratch = image_end.next_multiple_of(0x1000);
        let cmdline = String::from_utf8_lossy(&bytes).into_owned();
        let memory_end = memory_end(start_info, image_end)?;
        let reset = fadt.reset.filter(|reset| reset.register.space == Space::Port);
        let reset = reset.and_then(|reset| Some((reset.register.address.try_into().ok()?, reset.value)));
        Some(Self { madt, cmdline, console, clock, power, ecam, scratch, memory_end, reset })
    }

    /// The number of a word `name=number` of the command line: decimal, or hexadecimal after `0x`. The last one counts.
    pub fn number(&self, name: &str) -> Option<u64> {
        cmdline::number(&self.cmdline, name)
    }

    /// The local APIC ids of the CPUs that can be started or run.
    pub fn cpus(&self) -> impl Iterator<Item = u8> {
        let usable = self.madt.cpus.iter().filter(|cpu| cpu.usable == Usable::Now);
        usable.filter_map(|cpu| cpu.apic.try_into().ok())
    }

    /// Where to read and write: what the command line says.
    pub fn target(&self) -> Option<u64> {
        self.number("axvm.target")
    }

    /// Where PCI functions are, and where the command line says that BARs may be (`axvm.window=ADDRESS`): the tables say that in code.
    pub fn pci(&self) -> Option<Pci> {
        let window = self.number("axvm.window")?;
        Some(Pci { ecam: self.ecam?, window, bars: window, size: 16 << 20 })
    }

    /// Where PCI functions have their config spaces.
    pub fn ecam(&self) -> Option<u64> {
        self.ecam
    }

    /// How many CPUs it has.
    pub fn cpu_count(&self) -> usize {
        self.cpus().count()
    }

    /// The end of its RAM below 4 GiB.
    pub fn memory_end(&self) -> u64 {
        self.memory_end
    }

    /// How it is reset: a port, and the value that is written there.
    pub fn reset(&self) -> Option<(u16, u8)> {
        self.reset
    }

    /// How it is switched off.
    pub(crate) fn power(&self) -> Option<Power> {
        self.power
    }
}

/// Where the piece of RAM ends in which the image is, by the memory map.
fn memory_end(start_info: u64, image_end: u64) -> Option<u64> {
    let map = load64(start_info + MAP).ok()?;
    let entries = load32(start_info + MAP_ENTRIES).ok()?;
    (0..u64::from(entries)).map(|nth| map + nth * ENTRY).find_map(|entry| {
        let start = load64(entry).ok()?;
        let end = start.checked_add(load64(entry + 8).ok()?)?;
        let is_ram = load32(entry + 16) == Ok(ENTRY_RAM);
        (is_ram && start < image_end && image_end <= end).then_some(end)
    })
}

/// The type of sleep that is S5 (ACPI 6.5, 7.4.2.2): the first element of the package `_S5_`, as compilers of AML write it (20.2.5).
fn sleep_type(aml: &[u8]) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const BYTE: u8 = 0x0a;
    let at = aml.windows(5).position(|it| it == [b'_', b'S', b'5', b'_', PACKAGE])?;
    let package = aml.get(at + 5..)?;
    // The package's length takes a byte and as many more as that one's upper bits say; the number of elements follows.
    let elements = package.get(2 + usize::from(package.first()? >> 6)..)?;
    match *elements {
        [BYTE, value, ..] => Some(value),
        // Zero and one are operators of their own.
        [value @ (0 | 1), ..] => Some(value),
        _ => None,
    }
}
