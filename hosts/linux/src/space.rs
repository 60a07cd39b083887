//! What a VM's CPUs reach: KVM's memory slots.

use std::sync::Mutex;

use axvm::space::{Backing, Materialise};
use axvm_addr::{Address, Gpa, Span};
use axvm_plan::config::MappingFlags;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::sync::Arc;

use crate::error::{Error, Kernel};
use crate::memory::Place;

/// Who has slots.
pub trait Slots {
    /// Puts `place` at `gpa` by this slot; nothing is there, and nothing by the slot. `None`: takes away what is there by it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn set(&self, slot: u32, gpa: Span<Gpa>, place: Option<&Place>, writable: bool) -> Result<(), Error>;
}

impl Slots for Arc<VmFd> {
    fn set(&self, slot: u32, gpa: Span<Gpa>, place: Option<&Place>, writable: bool) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if writable || place.is_none() { 0 } else { KVM_MEM_READONLY },
            guest_phys_addr: gpa.start().0,
            memory_size: if place.is_some() { gpa.size() } else { 0 },
            userspace_addr: place.map_or(0, Place::address),
        };
        // SAFETY: `Space` checks that the place has as many bytes as the slot, and keeps it, which keeps the mapping, until the slot is taken
        // away; a mapping of guests' memory has no Rust object in it.
        unsafe { self.set_user_memory_region(region) }.kernel("KVM_SET_USER_MEMORY_REGION")
    }
}

/// A slot in use.
#[derive(Clone, Debug)]
struct Slot {
    number: u32,
    gpa: Span<Gpa>,
    place: Place,
    writable: bool,
}

/// A VM's memory slots.
pub struct Space<S = Arc<VmFd>> {
    kernel: S,
    used: Mutex<Vec<Slot>>,
}

impl<S: Slots> Space<S> {
    /// None yet.
    pub const fn new(kernel: S) -> Self {
        Self { kernel, used: Mutex::new(Vec::new()) }
    }

    /// What gives the slots.
    pub fn kernel(&self) -> &S {
        &self.kernel
    }

    fn put(&self, used: &mut Vec<Slot>, gpa: Span<Gpa>, place: Place, writable: bool) -> Result<(), Error> {
        if place.length() < gpa.size() {
            return Err(Error::Unknown);
        }
        let number = (0..).find(|number| used.iter().all(|slot| slot.number != *number)).unwrap_or(u32::MAX);
        self.kernel.set(number, gpa, Some(&place), writable)?;
        used.push(Slot { number, gpa, place, writable });
        Ok(())
    }
}

impl<S: Slots> Materialise for Space<S> {
    type Backing = Place;
    type Error = Error;

    fn map(&self, gpa: Span<Gpa>, backing: &Place, flags: MappingFlags) -> Result<(), Error> {
        let mut used = crate::lock(&self.used);
        self.put(&mut used, gpa, backing.clone(), flags.contains(MappingFlags::WRITE))
    }

    /// KVM takes a slot away as a whole: of one that reaches further the rest is put back, which its guest may notice by a moment in which it
    /// reaches nothing there.
    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), Error> {
        let mut used = crate::lock(&self.used);
        while let Some(position) = used.iter().position(|slot| slot.gpa.overlaps(&gpa)) {
            let Some(slot) = used.get(position).cloned() else { break };
            self.kernel.set(slot.number, slot.gpa, None, false)?;
            used.remove(position);
            for (from, to) in [(slot.gpa.start(), gpa.start()), (gpa.end(), slot.gpa.end())] {
                let rest = to.0.checked_sub(from.0).filter(|size| *size > 0);
                let Some(rest) = rest.and_then(|size| Span::new(from, size).ok()) else { continue };
                let place = slot.place.advance(from.get().saturating_sub(slot.gpa.start().0));
                self.put(&mut used, rest, place.ok_or(Error::Unknown)?, slot.writable)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
