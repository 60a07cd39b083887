//! Where each VM's RAM comes from: blocks of 2 MiB of the platform's memory that nothing else has, first fit, in the order
//! of the system file; near the VM's CPUs where there is enough of that.

use alloc::vec::Vec;

use axvm_addr::{CpuId, Gpa, Hpa, Span};
use axvm_platform::model::{Platform, Proximity};

use super::model::RamPiece;

/// The unit of RAM: what a second stage maps by one entry above its last level.
pub(super) const BLOCK: u64 = 2 << 20;

/// The platform's memory, and what of it which VM has.
pub(super) struct Memory {
    whole: Pool,
    given: Vec<(u16, u64, u64)>,
}

impl Memory {
    pub(super) fn new(platform: &Platform) -> Self {
        Self { whole: Pool::new(platform), given: Vec::new() }
    }

    /// What these VMs leave.
    pub(super) fn left(&self, counts: impl Fn(u16) -> bool) -> Pool {
        let mut left = self.whole.clone();
        for &(_, start, end) in self.given.iter().filter(|(vm, ..)| counts(*vm)) {
            left.remove(start, end);
        }
        left
    }

    /// Notes what a VM has.
    pub(super) fn give(&mut self, vm: u16, pieces: &[(Hpa, u64)]) {
        self.given.extend(pieces.iter().map(|&(start, size)| (vm, start.0, start.0.saturating_add(size))));
    }
}

/// Free memory, in whole blocks, sorted.
#[derive(Clone)]
pub(super) struct Pool {
    free: Vec<(u64, u64)>,
}

impl Pool {
    /// The platform's memory without what is reserved.
    pub(super) fn new(platform: &Platform) -> Self {
        let blocks = |span: Span<Hpa>| {
            let start = span.start().0.checked_next_multiple_of(BLOCK)?;
            let end = span.end().0 & !(BLOCK - 1);
            (start < end).then_some((start, end))
        };
        Self { free: platform.free_memory().into_iter().filter_map(blocks).collect() }
    }

    /// What of it is in these.
    fn within(&self, spans: &[Span<Hpa>]) -> Self {
        let part = |span: &Span<Hpa>, &(from, to): &(u64, u64)| {
            let start = span.start().0.max(from).checked_next_multiple_of(BLOCK)?;
            let end = span.end().0.min(to) & !(BLOCK - 1);
            (start < end).then_some((start, end))
        };
        let parts = |span| self.free.iter().filter_map(move |gap| part(span, gap));
        let mut free: Vec<(u64, u64)> = spans.iter().flat_map(parts).collect();
        free.sort_unstable();
        // What two of them have is there once.
        let mut last = 0;
        for gap in &mut free {
            gap.0 = gap.0.max(last);
            last = last.max(gap.1);
        }
        free.retain(|(start, end)| start < end);
        Self { free }
    }

    /// Takes `size` bytes as [`take`](Self::take) does, of these if they have so many.
    pub(super) fn take_near(&mut self, size: u64, near: &[Span<Hpa>]) -> Option<Vec<(Hpa, u64)>> {
        let Some(pieces) = self.within(near).take(size) else { return self.take(size) };
        pieces.iter().for_each(|&(start, size)| self.remove(start.0, start.0.saturating_add(size)));
        Some(pieces)
    }

    /// Takes these out, whole blocks, of which not all need be there.
    fn remove(&mut self, start: u64, end: u64) {
        let cut = |&(from, to): &(u64, u64)| [(from, to.min(start)), (from.max(end), to)];
        self.free = self.free.iter().flat_map(cut).filter(|(from, to)| from < to).collect();
    }

    /// Bytes free.
    pub(super) fn available(&self) -> u64 {
        self.free.iter().fold(0u64, |sum, (start, end)| sum.saturating_add(end - start))
    }

    /// Takes `size` bytes, a multiple of [`BLOCK`]: in one piece from the first gap that has room, else from several, the
    /// first ones. `None` takes nothing.
    pub(super) fn take(&mut self, size: u64) -> Option<Vec<(Hpa, u64)>> {
        if let Some(gap) = self.free.iter_mut().find(|(start, end)| end - start >= size) {
            let start = gap.0;
            gap.0 += size;
            self.free.retain(|(start, end)| start < end);
            return Some(alloc::vec![(Hpa(start), size)]);
        }
        if self.available() < size {
            return None;
        }
        let mut pieces = Vec::new();
        let mut left = size;
        for gap in &mut self.free {
            let piece = left.min(gap.1 - gap.0);
            if piece == 0 {
                break;
            }
            pieces.push((Hpa(gap.0), piece));
            gap.0 += piece;
            left -= piece;
        }
        self.free.retain(|(start, end)| start < end);
        Some(pieces)
    }
}

/// The memory that is near these CPUs; none where nobody says what is near what.
pub(super) fn near(platform: &Platform, cpus: &[CpuId]) -> Vec<Span<Hpa>> {
    let has_one = |domain: &&Proximity| cpus.iter().any(|cpu| domain.cpus.contains(cpu));
    platform.proximity.iter().filter(has_one).flat_map(|domain| domain.memory.iter().copied()).collect()
}

/// Whether all of these pieces are in `near`, or nothing is.
pub(super) fn is_near(pieces: &[(Hpa, u64)], near: &[Span<Hpa>]) -> bool {
    let elsewhere: u64 = pieces.iter().fold(0, |sum, &(start, size)| {
        let inside = Span::new(start, size).map_or(0, |piece| {
            near.iter().fold(0u64, |sum, span| {
                let (from, to) = (span.start().max(piece.start()), span.end().min(piece.end()));
                sum.saturating_add(to.0.saturating_sub(from.0))
            })
        });
        sum.saturating_add(size.saturating_sub(inside))
    });
    near.is_empty() || elsewhere == 0
}

/// The pieces one after the other in guest-physical terms: in these areas, each with its start and its end, one after the other, or from
/// `base` if there are none. `None` where there is no room for all.
pub(super) fn lay_out(base: Gpa, areas: &[(u64, u64)], pieces: &[(Hpa, u64)]) -> Option<Vec<RamPiece>> {
    let whole = [(base.0, u64::MAX)];
    let mut areas = if areas.is_empty() { whole.iter() } else { areas.iter() };
    let (mut at, mut end) = *areas.next()?;
    let mut ram = Vec::with_capacity(pieces.len());
    for &(mut hpa, mut size) in pieces {
        while size > 0 {
            if at == end {
                (at, end) = *areas.next()?;
            }
            // The whole is never cut.
            let part = if areas.len() == 0 { size } else { size.min(end - at) };
            ram.push(RamPiece { gpa: Span::new(Gpa(at), part).ok()?, hpa });
            at = at.checked_add(part).filter(|&past| past <= end)?;
            hpa = Hpa(hpa.0.checked_add(part)?);
            size -= part;
        }
    }
    Some(ram)
}

/// RAM as its guest sees it, whatever it is made of.
pub(super) fn banks(ram: &[RamPiece]) -> Vec<Span<Gpa>> {
    let mut banks: Vec<Span<Gpa>> = Vec::new();
    for span in ram.iter().map(|piece| piece.gpa) {
        match banks.last_mut() {
            Some(last) if last.end() == span.start() => {
                *last = Span::new(last.start(), last.size().saturating_add(span.size())).unwrap_or(*last);
            }
            _ => banks.push(span),
        }
    }
    banks
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use axvm_platform::model::Reserved;
    use proptest::prelude::*;

    use super::*;

    fn platform(memory: &[(u64, u64)], reserved: &[(u64, u64)]) -> Platform {
        let span = |&(start, size): &(u64, u64)| Span::new(Hpa(start), size).unwrap();
        Platform {
            memory: memory.iter().map(span).collect(),
            reserved: reserved
                .iter()
                .map(|r| Reserved { span: span(r), owner: String::new(), no_map: false })
                .collect(),
            ..Platform::default()
        }
    }

    #[test]
    fn ram_is_the_first_gap_that_has_room_in_one_piece() {
        let mut pool =
            Pool::new(&platform(&[(0x4000_0000, 64 << 20)], &[(0x4020_0000, 1), (0x4100_0000, 1 << 20)]));
        assert_eq!(pool.take(4 << 20), Some(vec![(Hpa(0x4040_0000), 4 << 20)]));
        assert_eq!(pool.take(2 << 20), Some(vec![(Hpa(0x4000_0000), 2 << 20)]));
        assert_eq!(pool.take(32 << 20), Some(vec![(Hpa(0x4120_0000), 32 << 20)]));
    }

    #[test]
    fn ram_is_near_where_there_is_enough_of_that() {
        let span = |start: u64, size: u64| Span::new(Hpa(start), size).unwrap();
        let mut platform = platform(&[(0, 64 << 20)], &[]);
        platform.proximity = vec![
            Proximity { domain: 3, cpus: vec![CpuId(0), CpuId(1)], memory: vec![span(0, 32 << 20)] },
            // Not all of it is memory, and what two ranges have is there once.
            Proximity {
                domain: 7,
                cpus: vec![CpuId(2)],
                memory: vec![span(33 << 20, 64 << 20), span(48 << 20, 8 << 20)],
            },
        ];
        let near =
            |cpus: &[u16]| super::near(&platform, &cpus.iter().map(|cpu| CpuId(*cpu)).collect::<Vec<_>>());
        let (low, high) = (near(&[1, 0]), near(&[2]));
        assert_eq!(
            (low.as_slice(), high.len(), near(&[0, 2]).len(), near(&[9])),
            (&[span(0, 32 << 20)][..], 2, 3, vec![])
        );
        let mut pool = Pool::new(&platform);
        assert_eq!(pool.within(&high).available(), 30 << 20);
        assert_eq!(pool.take_near(8 << 20, &high), Some(vec![(Hpa(34 << 20), 8 << 20)]));
        assert_eq!(pool.take_near(8 << 20, &low), Some(vec![(Hpa(0), 8 << 20)]));
        // 24 MiB are left low, 22 high: where that isn't enough it is wherever there is some.
        let pieces = pool.take_near(26 << 20, &low).unwrap();
        assert_eq!(pieces, [(Hpa(8 << 20), 26 << 20)]);
        assert!(!is_near(&pieces, &low) && is_near(&pieces, &[]) && !is_near(&pieces, &near(&[0, 2])));
        assert!(is_near(&[(Hpa(0), 32 << 20)], &low));
        assert_eq!(pool.available(), 22 << 20);
        assert_eq!(pool.take_near(24 << 20, &low), None);
        assert_eq!(pool.take_near(22 << 20, &[]), Some(vec![(Hpa(42 << 20), 22 << 20)]));
    }

    #[test]
    fn ram_that_no_single_gap_holds_comes_in_pieces() {
        let mut pool = Pool::new(&platform(&[(0, 8 << 20)], &[(2 << 20, 2 << 20)]));
        assert_eq!(pool.take(6 << 20), Some(vec![(Hpa(0), 2 << 20), (Hpa(4 << 20), 4 << 20)]));
        assert_eq!(pool.take(2 << 20), None);
    }

    proptest! {
        #[test]
        fn pieces_are_memory_that_is_neither_reserved_nor_given_before(
            banks in proptest::collection::vec((0u64..64, 1u64..32), 1..4),
            reserved in proptest::collection::vec((0u64..(96 << 20), 0u64..(8 << 20)), 0..6),
            sizes in proptest::collection::vec(1u64..20, 1..8),
        ) {
            let banks: Vec<_> = banks.iter().map(|&(start, size)| (start << 20, size << 20)).collect();
            let platform = platform(&banks, &reserved);
            let mut pool = Pool::new(&platform);
            let mut given: Vec<Span<Hpa>> = Vec::new();
            for size in sizes {
                let before = pool.available();
                let Some(pieces) = pool.take(size * BLOCK) else {
                    prop_assert!(before < size * BLOCK);
                    continue;
                };
                prop_assert_eq!(pieces.iter().map(|(_, size)| size).sum::<u64>(), size * BLOCK);
                prop_assert_eq!(pool.available(), before - size * BLOCK);
                for (hpa, size) in pieces {
                    let piece = Span::new(hpa, size).unwrap();
                    prop_assert!(piece.is_aligned(BLOCK));
                    // By the MiB, the unit of banks here: neighbouring banks may hold a piece together.
                    let in_a_bank = |mib: u64| {
                        let part = Span::new(Hpa(hpa.0 + (mib << 20)), 1 << 20).unwrap();
                        platform.memory.iter().any(|bank| bank.encloses(&part))
                    };
                    prop_assert!((0..size >> 20).all(in_a_bank));
                    prop_assert!(platform.reserved.iter().all(|r| !r.span.overlaps(&piece)));
                    prop_assert!(given.iter().all(|other| !other.overlaps(&piece)));
                    given.push(piece);
                }
            }
        }
    }
}
