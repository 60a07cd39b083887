//! What memory must do for those who drive hardware by it (`axvm_smmuv3::Memory`, `axvm_paging::TableMemory`), asked of the real thing:
//! the crates' own tests ask their fakes. Only in a test image, where the bundle wants it.
//!
//! That what is written reaches a walker past the caches can't be seen where there are none (QEMU): the crates' fakes have caches, and
//! here the loop over blocks is tried that cleaning and zeroing share.

use axvm_addr::Hpa;
use axvm_paging::TableMemory;
use axvm_smmuv3::Memory;

use super::cpu::{clean_to_memory, zero};
use super::stage2::Tables;
use crate::iommu_access::Shared;
use crate::memory;

const PATTERN: u64 = 0x4158_564d_5041_5454;

/// The first promise that isn't kept.
pub fn check() -> Result<(), &'static str> {
    shared()?;
    tables()?;
    blocks()
}

fn words(start: Hpa, bytes: u64) -> impl Iterator<Item = Hpa> {
    (start.0..start.0 + bytes).step_by(8).map(Hpa)
}

fn must(holds: bool, promise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(promise) }
}

/// What an SMMU shares with the hypervisor.
fn shared() -> Result<(), &'static str> {
    for (bytes, align) in [(0x40, 0x40), (0x1000, 0x1000), (0x1000, 0x1_0000), (0x8000, 0x8000)] {
        let [one, other] = [Shared.allocate(bytes, align), Shared.allocate(bytes, align)];
        let (one, other) = one.zip(other).ok_or("there is memory")?;
        let size = bytes as u64;
        must((one.0 | other.0) % align as u64 == 0, "shared memory is aligned")?;
        must(one.0 + size <= other.0 || other.0 + size <= one.0, "shared memory is given once")?;
        must(words(one, size).all(|at| Memory::read64(&Shared, at) == 0), "shared memory is zero")?;
        words(one, size).for_each(|at| Memory::write64(&Shared, at, at.0 ^ PATTERN));
        // As the driver does it: word by word, within a line, and all at once.
        words(one, size).for_each(|at| Shared.clean(at, 8));
        Shared.clean(one, size);
        Memory::barrier(&Shared);
        let kept = words(one, size).all(|at| Memory::read64(&Shared, at) == at.0 ^ PATTERN);
        must(kept, "what is written to shared memory stays")?;
        must(words(other, size).all(|at| Memory::read64(&Shared, at) == 0), "and nothing else is written")?;
    }
    Ok(())
}

/// Tables of a second stage.
fn tables() -> Result<(), &'static str> {
    for pages in [1, 2, 16] {
        let bytes = pages as u64 * 0x1000;
        // The second time it is memory that was given back, full.
        for _ in 0..2 {
            let [one, other] = [Tables.allocate(pages), Tables.allocate(pages)];
            let (one, other) = one.zip(other).ok_or("there is memory")?;
            must((one.0 | other.0) % bytes == 0, "tables are aligned to their size")?;
            must(one.0 + bytes <= other.0 || other.0 + bytes <= one.0, "tables are given once")?;
            for table in [one, other] {
                must(words(table, bytes).all(|at| Tables.read(at) == 0), "tables are zero")?;
            }
            words(one, bytes).for_each(|at| Tables.write(at, at.0 ^ PATTERN));
            TableMemory::barrier(&Tables);
            must(words(one, bytes).all(|at| Tables.read(at) == at.0 ^ PATTERN), "entries stay")?;
            must(words(other, bytes).all(|at| Tables.read(at) == 0), "and nothing else is written")?;
            words(other, bytes).for_each(|at| Tables.write(at, PATTERN));
            [one, other].into_iter().for_each(|table| Tables.free(table, pages));
        }
    }
    Ok(())
}

/// Zeroing, by which it is seen that the loop over blocks comes to each of a span and to no other.
fn blocks() -> Result<(), &'static str> {
    const AREA: u64 = 0x8000;
    const FROM: u64 = 0x1000;
    let area = memory::allocate(AREA as usize, 0x1000).ok_or("there is memory")?;
    for bytes in (0..64).map(|count| count * 64).chain([0x1800, 0x2000, 0x5000]) {
        words(area, AREA).for_each(|at| memory::write64(at, PATTERN));
        let span = area.0 + FROM..area.0 + FROM + bytes;
        // SAFETY: inside the area, which is nobody else's.
        unsafe { zero(Hpa(span.start), bytes) };
        clean_to_memory(Hpa(span.start), bytes);
        let exact =
            words(area, AREA).all(|at| memory::read64(at) == if span.contains(&at.0) { 0 } else { PATTERN });
        must(exact, "all of a span is zeroed, and nothing beside it")?;
    }
    // SAFETY: allocated so above, and not used any more.
    unsafe { memory::free(area, AREA as usize, 0x1000) };
    Ok(())
}
