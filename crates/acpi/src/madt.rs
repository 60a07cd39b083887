//! MADT: CPUs and interrupt controllers of x86 (ACPI 6.5, 5.2.12). What other architectures have there is passed by.

use alloc::vec::Vec;

use axvm_addr::Hpa;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{Header, Table, Word};

/// Whether a CPU can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usable {
    /// It can.
    Now,
    /// It isn't there, but may be plugged in.
    Later,
    /// It can't.
    Never,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// What ACPI knows it by.
    pub uid: u32,
    /// Its local APIC's id.
    pub apic: u32,
    /// Whether it can be used.
    pub usable: Usable,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// What the IVRS and the DMAR know it by.
    pub id: u8,
    /// Its registers.
    pub registers: Hpa,
    /// The global system interrupt of its first pin.
    pub first: u32,
}

/// Which level of a line is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// As its bus has it.
    Bus,
    /// High.
    High,
    /// Low.
    Low,
}

/// What of a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// As its bus has it.
    Bus,
    /// Its edge.
    Edge,
    /// Its level.
    Level,
}

/// An ISA interrupt that isn't the global system interrupt of the same number, or not as ISA has it: high, by its edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub isa: u8,
    /// The global system interrupt.
    pub gsi: u32,
    /// Which level is active.
    pub polarity: Polarity,
    /// What counts.
    pub sense: Sense,
}

/// What the MADT says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Madt {
    /// Where the CPUs see their local APICs.
    pub local_apic: Hpa,
    /// Whether there are two 8259s too, which must be masked (PCAT_COMPAT).
    pub pics: bool,
    /// The CPUs, in the table's order.
    pub cpus: Vec<Cpu>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// The ISA interrupts that are somewhere else, or other.
    pub overrides: Vec<Override>,
    /// Global system interrupts that are NMIs.
    pub nmis: Vec<u32>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    local_apic: U32,
    flags: U32,
}

const PCAT_COMPAT: u32 = 1;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLocalApic {
    _head: [u8; 2],
    uid: u8,
    apic: u8,
    flags: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIoApic {
    _head: [u8; 2],
    id: u8,
    _reserved: u8,
    registers: U32,
    first: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOverride {
    _head: [u8; 2],
    _bus: u8,
    isa: u8,
    gsi: U32,
    flags: Word,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawNmi {
    _head: [u8; 2],
    _flags: Word,
    gsi: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAddressOverride {
    _head: [u8; 2],
    _reserved: Word,
    local_apic: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawX2Apic {
    _head: [u8; 2],
    _reserved: Word,
    apic: U32,
    flags: U32,
    uid: U32,
}

impl Madt {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't a MADT, or one of its records doesn't fit.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (fixed, mut records) = table.fixed::<Fixed>(b"APIC")?;
        let mut madt = Self {
            local_apic: Hpa(fixed.local_apic.get().into()),
            pics: fixed.flags.get() & PCAT_COMPAT != 0,
            ..Self::default()
        };
        while let Some(record) = records.next_by_second_byte() {
            let record = record?;
            match record.bytes.first() {
                // 5.2.12.2.
                Some(0) => {
                    let (raw, _) = record.fixed::<RawLocalApic>()?;
                    madt.add_cpu(raw.uid.into(), raw.apic.into(), raw.flags.get());
                }
                // 5.2.12.3.
                Some(1) => {
                    let (raw, _) = record.fixed::<RawIoApic>()?;
                    madt.io_apics.push(IoApic {
                        id: raw.id,
                        registers: Hpa(raw.registers.get().into()),
                        first: raw.first.get(),
                    });
                }
                // 5.2.12.5.
                Some(2) => {
                    let (raw, _) = record.fixed::<RawOverride>()?;
                    madt.overrides.push(Override {
                        isa: raw.isa,
                        gsi: raw.gsi.get(),
                        polarity: polarity(raw.flags.get()),
                        sense: sense(raw.flags.get()),
                    });
                }
                // 5.2.12.6.
                Some(3) => madt.nmis.push(record.fixed::<RawNmi>()?.0.gsi.get()),
                // 5.2.12.8.
                Some(5) => {
                    madt.local_apic = Hpa(record.fixed::<RawAddressOverride>()?.0.local_apic.get());
                }
                // 5.2.12.12.
                Some(9) => {
                    let (raw, _) = record.fixed::<RawX2Apic>()?;
                    madt.add_cpu(raw.uid.get(), raw.apic.get(), raw.flags.get());
                }
                _ => {}
            }
        }
        Ok(madt)
    }

    fn add_cpu(&mut self, uid: u32, apic: u32, flags: u32) {
        let usable = match flags & 3 {
            0 => Usable::Never,
            2 => Usable::Later,
            _ => Usable::Now,
        };
        // Firmware names a CPU with a small id in both ways at times; it is one.
        if !self.cpus.iter().any(|cpu| cpu.apic == apic && cpu.usable == Usable::Now) {
            self.cpus.push(Cpu { uid, apic, usable });
        }
    }

    /// The I/O APIC that a global system interrupt arrives at: the last that begins at it or before.
    pub fn io_apic_of(&self, gsi: u32) -> Option<&IoApic> {
        self.io_apics.iter().filter(|it| it.first <= gsi).max_by_key(|it| it.first)
    }

    /// What an ISA interrupt is.
    pub fn isa(&self, isa: u8) -> Override {
        let found = self.overrides.iter().find(|it| it.isa == isa);
        let same = Override { isa, gsi: isa.into(), polarity: Polarity::Bus, sense: Sense::Bus };
        let found = found.copied().unwrap_or(same);
        // ISA's lines are high and edge-triggered (5.2.12.5, table 5.31).
        Override {
            polarity: if found.polarity == Polarity::Bus { Polarity::High } else { found.polarity },
            sense: if found.sense == Sense::Bus { Sense::Edge } else { found.sense },
            ..found
        }
    }
}

/// Bits 1:0 of the flags (table 5.31). What is reserved is taken for the bus's.
fn polarity(flags: u16) -> Polarity {
    match flags & 3 {
        1 => Polarity::High,
        3 => Polarity::Low,
        _ => Polarity::Bus,
    }
}

/// Bits 3:2.
fn sense(flags: u16) -> Sense {
    match flags >> 2 & 3 {
        1 => Sense::Edge,
        3 => Sense::Level,
        _ => Sense::Bus,
    }
}
