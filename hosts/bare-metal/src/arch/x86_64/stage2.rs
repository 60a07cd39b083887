//! Nested tables: memory for them, and what a VM's CPUs reach by them; and which ports.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;
use axvm_addr::{Gpa, Hpa, Ports, Span};
use axvm_paging::{Invalidate, MapError, Mapper, NestedFormat, NotInvalidated, TableMemory, UnmapError};
use axvm_plan::config::MappingFlags;
use axvm_x86_cpu::permissions::IoPermissions;
use spin::Mutex;

use super::cpu::{has_huge_blocks, memory_barrier, physical_address_bits, wait_us};
use super::local_apic::LocalApic;
use crate::memory::{self, attributes};

/// Tables in the hypervisor's heap. CPUs and AMD's IOMMU look into the caches when they walk.
#[derive(Clone, Copy, Debug)]
pub struct Tables;

impl TableMemory for Tables {
    fn allocate(&self, pages: usize) -> Option<Hpa> {
        let bytes = pages.checked_mul(4096)?;
        memory::allocate(bytes, bytes)
    }

    fn free(&self, table: Hpa, pages: usize) {
        // SAFETY: the mapper gives back what it was given, once, when no walker holds it any more.
        unsafe { memory::free(table, pages * 4096, pages * 4096) }
    }

    fn read(&self, entry: Hpa) -> u64 {
        memory::read64(entry)
    }

    fn write(&self, entry: Hpa, value: u64) {
        memory::write64(entry, value);
    }

    fn barrier(&self) {
        memory_barrier();
    }
}

/// A space that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// No memory for tables.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The IOMMU's tables have no such size.
    #[error("the IOMMU has no tables for so many address bits")]
    Size,
}

/// A CPU that may be in a guest.
struct Walker {
    hardware_id: u64,
    /// Which generation of the tables it walks, and 0 while it isn't in the guest.
    walks: Arc<AtomicU64>,
}

/// Who walks a VM's tables: a change that takes something away is over when none of them walks what was before.
#[derive(Default)]
struct Walkers {
    /// Which generation the tables are: it rises with each such change. From 1 on.
    generation: AtomicU64,
    walkers: Mutex<Vec<Walker>>,
}

/// A CPU leaves a guest for a call at once; it does what it was left for without waiting here.
const LEAVES_WITHIN_US: u64 = 1_000_000;

impl Walkers {
    /// Something was taken away: when this returns no CPU is in the guest that entered before.
    fn bring_out(&self) -> Result<(), NotInvalidated> {
        // Whoever enters from here on flushes first, and whoever is inside walks an older generation.
        let new = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let walkers = self.walkers.lock();
        let walks_older = |walker: &Walker| (1..new).contains(&walker.walks.load(Ordering::SeqCst));
        for walker in walkers.iter().filter(|walker| walks_older(walker)) {
            LocalApic::own().send_nmi(walker.hardware_id);
        }
        match wait_us(LEAVES_WITHIN_US, || !walkers.iter().any(walks_older)) {
            true => Ok(()),
            false => Err(NotInvalidated),
        }
    }
}

impl Invalidate for Walkers {
    fn invalidate(&self, _: Span<Gpa>) -> Result<(), NotInvalidated> {
        self.bring_out()
    }
}

/// What a VM's CPUs reach.
pub struct GuestSpace {
    mapper: Mutex<Mapper<Tables, NestedFormat>>,
    root: SpaceRoot,
}

/// By what a CPU finds a [`GuestSpace`].
#[derive(Clone)]
pub struct SpaceRoot {
    /// N_CR3.
    pub(super) nested_root: Hpa,
    /// The ports that the guest reaches itself.
    pub(super) ports: Arc<IoPermissions>,
    walkers: Arc<Walkers>,
}

/// A CPU's right to walk a VM's tables: it is counted among those that changes wait for.
pub struct Walk {
    walkers: Arc<Walkers>,
    walks: Arc<AtomicU64>,
    /// Which generation its translations are of.
    knows: u64,
}

impl SpaceRoot {
    /// Of the calling CPU, by its local APIC's id.
    pub fn walk(&self, hardware_id: u64) -> Walk {
        let walks = Arc::new(AtomicU64::new(0));
        self.walkers.walkers.lock().push(Walker { hardware_id, walks: walks.clone() });
        Walk { walkers: self.walkers.clone(), walks, knows: 0 }
    }
}

impl Walk {
    /// The CPU is about to enter the guest. Whether it must forget its translations first. A change that comes from here on waits for it.
    #[inline(always)]
    pub fn begin(&mut self) -> bool {
        let generation = self.walkers.generation.load(Ordering::SeqCst);
        self.walks.store(generation, Ordering::SeqCst);
        // A change may have come in between: its call is pending then, and the guest is left at once. As it saw this CPU outside it
        // doesn't wait, so that the newer generation is what counts.
        let latest = self.walkers.generation.load(Ordering::SeqCst);
        if latest != generation {
            self.walks.store(latest, Ordering::SeqCst);
        }
        core::mem::replace(&mut self.knows, latest) != latest
    }

    /// It has left the guest.
    #[inline(always)]
    pub fn end(&self) {
        self.walks.store(0, Ordering::SeqCst);
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.end();
        self.walkers.walkers.lock().retain(|walker| !Arc::ptr_eq(&walker.walks, &self.walks));
    }
}

impl GuestSpace {
    /// An empty space. Tables have four levels whatever the plan's guest has of address bits: what the plan doesn't list isn't there.
    pub fn new(_address_bits: u8, _tag: u16) -> Result<Self, SpaceError> {
        let format = NestedFormat::new(physical_address_bits().into(), has_huge_blocks());
        let mapper = Mapper::new(Tables, format)?;
        let walkers = Walkers { generation: AtomicU64::new(1), ..Walkers::default() };
        let ports = Arc::new(IoPermissions::closed());
        let root = SpaceRoot { nested_root: mapper.root(), ports, walkers: Arc::new(walkers) };
        Ok(Self { mapper: Mutex::new(mapper), root })
    }

    /// By what a CPU finds it.
    pub fn root(&self) -> SpaceRoot {
        self.root.clone()
    }

    /// Maps a span.
    pub fn map(&self, span: Span<Gpa>, start: Hpa, flags: MappingFlags) -> Result<(), MapError> {
        self.mapper.lock().map(span, start, attributes(flags))
    }

    /// Unmaps a span; when this returns no CPU uses it any more.
    pub fn unmap(&self, span: Span<Gpa>) -> Result<(), UnmapError> {
        match self.mapper.lock().unmap(span, &*self.root.walkers) {
            // Nothing is mapped any more.
            Ok(_) | Err(UnmapError::Revoked) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets the guest through to ports of the machine's.
    pub fn open_ports(&self, ports: Ports) {
        (ports.first()..=ports.last()).for_each(|port| self.root.ports.open_port(port));
    }

    /// It isn't let through any more, when this returns.
    pub fn close_ports(&self, ports: Ports) -> Result<(), NotInvalidated> {
        (ports.first()..=ports.last()).for_each(|port| self.root.ports.close_port(port));
        self.root.walkers.bring_out()
    }

    /// Takes everything away at once: a CPU that is in the guest faults at its next instruction. For good.
    pub fn revoke(&self) -> Result<(), NotInvalidated> {
        self.root.ports.close_all();
        self.mapper.lock().clear_root(&*self.root.walkers)
    }

    /// The same, until [`GuestSpace::open`].
    pub fn shut(&self) -> Result<(), NotInvalidated> {
        self.mapper.lock().shut(&*self.root.walkers)
    }

    /// Gives back what [`GuestSpace::shut`] took away.
    pub fn open(&self) {
        self.mapper.lock().open();
    }

    /// Frees the tables. No CPU uses them any more.
    pub fn destroy(self) -> Result<(), NotInvalidated> {
        let Self { mapper, root } = self;
        mapper.into_inner().destroy(&*root.walkers).map_err(|(_, error)| error)
    }
}
