//! A VM's address space: a ledger of what is mapped where.
//!
//! The ledger decides and remembers; the host materialises: page tables here, memory slots there. What backs a mapping is
//! the host's own type, and nothing here looks into it.

mod blocks;

#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, Span};

pub use blocks::{Block, BlockSize, blocks};

use axvm_plan::config::MappingFlags;

/// What backs a mapping: a place in the host's memory, in whatever terms the host has.
pub trait Backing: Clone + fmt::Debug {
    /// The place `bytes` further, or `None` past its end.
    fn advance(&self, bytes: u64) -> Option<Self>;
}

/// Bare metal: the place is a host-physical address.
impl Backing for Hpa {
    fn advance(&self, bytes: u64) -> Option<Self> {
        self.checked_add(bytes)
    }
}

/// Whoever carries out what an [`AddrSpace`] decides.
pub trait Materialise {
    /// What backs a mapping.
    type Backing: Backing;
    /// Why it couldn't be carried out.
    type Error: fmt::Debug + fmt::Display;

    /// Maps `gpa` to `backing`. On failure nothing of it is mapped.
    ///
    /// # Errors
    ///
    /// The host's own: no memory for a table, no slot.
    fn map(&self, gpa: Span<Gpa>, backing: &Self::Backing, flags: MappingFlags) -> Result<(), Self::Error>;

    /// Takes away what is mapped at `gpa`, and returns when no CPU reaches it any more.
    ///
    /// # Errors
    ///
    /// The host's own: no memory to split a block.
    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), Self::Error>;
}

/// A mapped region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region<B> {
    /// Whose it is, for messages: `RAM`, a device's name.
    pub name: Arc<str>,
    /// Where the guest sees it.
    pub gpa: Span<Gpa>,
    /// What is there.
    pub backing: B,
    /// The access rights and the memory type.
    pub flags: MappingFlags,
}

/// Why a mapping wasn't made or taken away. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError<E> {
    /// Not whole pages.
    #[error("{name}: {gpa} isn't whole pages")]
    Unaligned {
        /// The region.
        name: String,
        /// Its place.
        gpa: Span<Gpa>,
    },
    /// Past the address bits.
    #[error(
        "{name}: {gpa:#x} and {length:#x} bytes pass the {bits} address bits of the VM, or its backing ends before"
    )]
    OutOfReach {
        /// The region.
        name: String,
        /// Its start.
        gpa: Gpa,
        /// Its length.
        length: u64,
        /// The VM's address bits.
        bits: u8,
    },
    /// Something is there already.
    #[error("{name} at {gpa} overlaps {other} at {other_gpa}")]
    Overlap {
        /// The region that was to be mapped.
        name: String,
        /// Its place.
        gpa: Span<Gpa>,
        /// The region that is there.
        other: String,
        /// Its place.
        other_gpa: Span<Gpa>,
    },
    /// Nothing is there.
    #[error("nothing is mapped at {0:#x}")]
    NotMapped(Gpa),
    /// The host couldn't.
    #[error("{name} at {gpa}: {error}")]
    Host {
        /// The region.
        name: String,
        /// Its place.
        gpa: Span<Gpa>,
        /// The host's reason.
        error: E,
    },
}

/// A VM's address space.
#[derive(Clone, Debug)]
pub struct AddrSpace<B> {
    bits: u8,
    /// In their order. Never overlapping, never empty.
    regions: Vec<Region<B>>,
}

impl<B: Backing> AddrSpace<B> {
    /// An empty address space of this many bits.
    pub fn new(address_bits: u8) -> Self {
        Self { bits: address_bits.min(63), regions: Vec::new() }
    }

    /// Maps `length` bytes from `base_gpa` on to what lies from `base` on, page by page in the same order, wherever the two
    /// are.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; an overlap names both regions.
    pub fn map_linear<H: Materialise<Backing = B>>(
        &mut self,
        host: &H,
        name: &str,
        base_gpa: Gpa,
        base: B,
        length: u64,
        flags: MappingFlags,
    ) -> Result<(), SpaceError<H::Error>> {
        let past =
            || SpaceError::OutOfReach { name: name.to_string(), gpa: base_gpa, length, bits: self.bits };
        let gpa = Span::new(base_gpa, length).map_err(|_| past())?;
        if length == 0 || !gpa.is_aligned(PAGE_SIZE) {
            return Err(SpaceError::Unaligned { name: name.to_string(), gpa });
        }
        if gpa.end().get() > 1 << self.bits || base.advance(length).is_none() {
            return Err(past());
        }
        if let Some(other) = self.overlapping(gpa).next() {
            return Err(SpaceError::Overlap {
                name: name.to_string(),
                gpa,
                other: other.name.to_string(),
                other_gpa: other.gpa,
            });
        }
        host.map(gpa, &base, flags).map_err(|error| SpaceError::Host {
            name: name.to_string(),
            gpa,
            error,
        })?;
        let place = self.beginning_by(base_gpa);
        self.regions.insert(place, Region { name: name.into(), gpa, backing: base, flags });
        Ok(())
    }

    /// Takes away everything in `span`, all of which must be mapped. Regions that reach further are cut.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; a page of the span that isn't mapped is named.
    pub fn unmap<H: Materialise<Backing = B>>(
        &mut self,
        host: &H,
        span: Span<Gpa>,
    ) -> Result<(), SpaceError<H::Error>> {
        if span.is_empty() || !span.is_aligned(PAGE_SIZE) {
            return Err(SpaceError::Unaligned { name: "unmap".to_string(), gpa: span });
        }
        let mut at = span.start();
        let mut name = String::new();
        while at < span.end() {
            let region = self.find(at).ok_or(SpaceError::NotMapped(at))?;
            if name.is_empty() {
                name = region.name.to_string();
            }
            at = region.gpa.end();
        }
        host.unmap(span).map_err(|error| SpaceError::Host { name, gpa: span, error })?;
        self.cut(span);
        Ok(())
    }

    /// Forgets `span` and keeps what the regions there have on either side of it.
    fn cut(&mut self, span: Span<Gpa>) {
        for region in core::mem::take(&mut self.regions) {
            if !region.gpa.overlaps(&span) {
                self.regions.push(region);
                continue;
            }
            for (from, to) in [(region.gpa.start(), span.start()), (span.end(), region.gpa.end())] {
                let rest = to.get().checked_sub(from.get()).and_then(|size| Span::new(from, size).ok());
                let skipped = from.get().saturating_sub(region.gpa.start().get());
                if let (Some(gpa), Some(backing)) = (rest, region.backing.advance(skipped))
                    && !gpa.is_empty()
                {
                    self.regions.push(Region { gpa, backing, name: region.name.clone(), ..region });
                }
            }
        }
    }

    /// How many regions begin at `gpa` or below.
    fn beginning_by(&self, gpa: Gpa) -> usize {
        self.regions.partition_point(|region| region.gpa.start() <= gpa)
    }

    /// The region that holds `gpa`.
    pub fn find(&self, gpa: Gpa) -> Option<&Region<B>> {
        let last = self.beginning_by(gpa).checked_sub(1)?;
        self.regions.get(last).filter(|region| region.gpa.contains(gpa))
    }

    /// What is at `gpa`, and with which rights.
    pub fn translate(&self, gpa: Gpa) -> Option<(B, MappingFlags)> {
        let region = self.find(gpa)?;
        Some((region.backing.advance(region.gpa.offset_of(gpa)?)?, region.flags))
    }

    /// All regions, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Region<B>> {
        self.regions.iter()
    }

    /// The regions that share a byte with `span`, in order.
    pub fn overlapping(&self, span: Span<Gpa>) -> impl Iterator<Item = &Region<B>> {
        let first = self.beginning_by(span.start()).saturating_sub(1);
        self.regions
            .iter()
            .skip(first)
            .take_while(move |region| region.gpa.start() < span.end())
            .filter(move |region| region.gpa.overlaps(&span))
    }
}
