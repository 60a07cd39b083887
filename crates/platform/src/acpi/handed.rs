//! What a boot loader of x86 hands over: where the tables, memory and the bundle are. Each protocol has its reader, and all of them give one
//! [`Handed`]. Nothing is allocated and nothing copied: it is read before there is memory.

use axvm_addr::{Hpa, Span};

use super::MemoryMap;

pub mod multiboot2;
pub mod pvh;

/// Bytes that a boot loader has left: those at an address, if it can be one of memory's.
pub type Left<'l, 'a> = &'l dyn Fn(Hpa, u64) -> Option<&'a [u8]>;

/// What a boot loader has handed over.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    /// ACPI's root, or a copy of it.
    pub rsdp: Hpa,
    /// What memory there is.
    pub map: MemoryMap<'a>,
    /// The only file that it has loaded beside the hypervisor.
    pub bundle: Option<Span<Hpa>>,
    /// Where all of that is said: in the way of nothing, once it was read.
    pub places: [Span<Hpa>; PLACES],
}

/// How many places of a boot loader's own there are, at most. One that isn't used is empty.
pub const PLACES: usize = 3;

/// What can't be used of what a boot loader has handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandedError {
    /// There is nothing of PVH's.
    #[error("the boot loader hasn't entered the hypervisor by PVH: it has left no start info")]
    NoStartInfo,
    /// A start info without what newer ones have.
    #[error("the boot loader's start info is of version 0, which has no memory map")]
    OldStartInfo,
    /// Multiboot2's information can't be read.
    #[error("the boot loader's multiboot2 information is damaged: {0}")]
    Damaged(&'static str),
    /// UEFI goes on, and may use memory, devices and CPUs.
    #[error(
        "UEFI's boot services are still there: the boot loader must end them before it starts the hypervisor, as GRUB's `multiboot2` does"
    )]
    BootServices,
    /// Without a map no memory is known.
    #[error("the boot loader has handed over no memory map")]
    NoMap,
    /// Without a root there are no tables.
    #[error("the boot loader has handed over no ACPI root pointer (RSDP): start it on a machine with ACPI")]
    NoRsdp,
    /// Which of them is the bundle isn't known.
    #[error(
        "the boot loader has loaded {0} modules: the bundle that `axvm pack` writes must be the only one"
    )]
    Modules(u64),
}

/// A number of so many bytes, the lowest first. What isn't there is 0.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let field = at.checked_add(width).and_then(|end| bytes.get(at..end)).unwrap_or_default();
    field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
