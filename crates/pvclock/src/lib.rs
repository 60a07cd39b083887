#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod scale;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{Gpa, VcpuId};

pub use scale::Scale;

const NS_PER_S: u64 = 1_000_000_000;

/// Features, CPUID 0x4000_0001 EAX: the clock by its old MSRs, by its new ones, and that it is the same on all vCPUs.
const FEATURES: u32 = 1 << 0 | 1 << 3 | 1 << 24;
/// Hints, EDX: vCPUs are never without a CPU for long.
const HINTS: u32 = 1 << 0;
/// In a record of the system time: the counter is the same on all vCPUs.
const STABLE: u8 = 1 << 0;
/// In the MSR of the system time: the record is wanted.
const ENABLED: u64 = 1;

/// What CPUID gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// The leaves by which a guest finds the clock; `None`: that is none of them. The guest also has to find a hypervisor in leaf 1 (ECX, bit 31).
pub const fn cpuid(leaf: u32) -> Option<Leaf> {
    Some(match leaf {
        0x4000_0000 => Leaf {
            eax: 0x4000_0001,
            ebx: u32::from_le_bytes(*b"KVMK"),
            ecx: u32::from_le_bytes(*b"VMKV"),
            edx: u32::from_le_bytes(*b"M\0\0\0"),
        },
        0x4000_0001 => Leaf { eax: FEATURES, ebx: 0, ecx: 0, edx: HINTS },
        _ => return None,
    })
}

/// One of the clock's MSRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Msr {
    /// Where the wall clock's record is to be written, now.
    WallClock,
    /// Where a vCPU has its record of the system time.
    SystemTime,
}

impl Msr {
    /// The one with this number: the new ones, and the old ones that they replace.
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            0x4b56_4d00 | 0x11 => Some(Self::WallClock),
            0x4b56_4d01 | 0x12 => Some(Self::SystemTime),
            _ => None,
        }
    }
}

/// A record, and where the guest wants it. That may be anywhere: whoever copies it refuses what isn't the guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub at: Gpa,
    length: usize,
    bytes: [u8; 32],
}

impl Record {
    /// What.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// A VM's clock.
#[derive(Clone, Copy, Debug)]
pub struct PvClock {
    scale: Scale,
    /// Nanoseconds since 1970 at the counter's zero.
    wall_ns: u64,
}

impl PvClock {
    /// The clock of a guest whose time-stamp counter makes `hz`, at the zero of which it was `wall_ns` nanoseconds after 1970; `None`: there is
    /// no such counter ([`Scale::new`]).
    pub fn new(hz: u64, wall_ns: u64) -> Option<Self> {
        Some(Self { scale: Scale::new(hz)?, wall_ns })
    }

    /// `struct pvclock_vcpu_time_info`. Its version is even: it isn't being written.
    pub fn system_time(&self, at: Gpa) -> Record {
        let mut bytes = [0; 32];
        put(&mut bytes, 0, &2u32.to_le_bytes());
        // The counter and the system time of that moment, at 8 and 16, are zero.
        put(&mut bytes, 24, &self.scale.multiplier.to_le_bytes());
        put(&mut bytes, 28, &self.scale.shift.to_le_bytes());
        put(&mut bytes, 29, &[STABLE]);
        Record { at, length: 32, bytes }
    }

    /// `struct pvclock_wall_clock`: what time it was when the system time was zero.
    pub fn wall_clock(&self, at: Gpa) -> Record {
        let mut bytes = [0; 32];
        put(&mut bytes, 0, &2u32.to_le_bytes());
        put(&mut bytes, 4, &((self.wall_ns / NS_PER_S) as u32).to_le_bytes());
        put(&mut bytes, 8, &((self.wall_ns % NS_PER_S) as u32).to_le_bytes());
        Record { at, length: 12, bytes }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// What comes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is taken.
    Nothing,
    /// This is to be copied to the guest's RAM.
    Store(Record),
}

/// The clock's MSRs of a VM's vCPUs.
#[derive(Debug)]
pub struct ClockMsrs {
    clock: PvClock,
    wall: AtomicU64,
    system: Box<[AtomicU64]>,
}

impl ClockMsrs {
    /// Those of so many vCPUs, as after reset.
    pub fn new(vcpus: u16, clock: PvClock) -> Self {
        let system = (0..vcpus).map(|_| AtomicU64::new(0)).collect();
        Self { clock, wall: AtomicU64::new(0), system }
    }

    fn value(&self, vcpu: VcpuId, msr: Msr) -> Option<&AtomicU64> {
        match msr {
            Msr::WallClock => Some(&self.wall),
            Msr::SystemTime => self.system.get(usize::from(vcpu.0)),
        }
    }

    /// What an MSR reads as; `None`: it is none of the clock's.
    pub fn read(&self, vcpu: VcpuId, number: u32) -> Option<u64> {
        Some(self.value(vcpu, Msr::new(number)?)?.load(Ordering::Relaxed))
    }

    /// Writes an MSR; `None`: it is none of the clock's. The record that the guest wants is to be copied before it goes on; the address counts in
    /// units of four bytes.
    pub fn write(&self, vcpu: VcpuId, number: u32, value: u64) -> Option<Done> {
        let msr = Msr::new(number)?;
        self.value(vcpu, msr)?.store(value, Ordering::Relaxed);
        let at = Gpa(value & !3);
        Some(match msr {
            Msr::WallClock => Done::Store(self.clock.wall_clock(at)),
            Msr::SystemTime if value & ENABLED != 0 => Done::Store(self.clock.system_time(at)),
            Msr::SystemTime => Done::Nothing,
        })
    }

    /// As after reset: no vCPU has a record.
    pub fn reset(&self) {
        self.system.iter().chain([&self.wall]).for_each(|msr| msr.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests;
