//! RAM: what there is and what of it is free.

use alloc::vec::Vec;

use axvm_addr::{Address, Hpa, PAGE_SIZE, PciSpace, Span};

use crate::model::Platform;

/// Sorts spans and joins those that touch or overlap.
pub fn merge(mut spans: Vec<Span<Hpa>>) -> Vec<Span<Hpa>> {
    spans.retain(|span| !span.is_empty());
    spans.sort_unstable();
    let mut merged: Vec<Span<Hpa>> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start() <= last.end() => {
                *last = between(last.start(), last.end().max(span.end()))
            }
            _ => merged.push(span),
        }
    }
    merged
}

/// What of spans lies in none of the holes, which are in order and don't overlap.
pub(crate) fn without(spans: Vec<Span<Hpa>>, holes: &[Span<Hpa>]) -> Vec<Span<Hpa>> {
    let mut rest = Vec::new();
    for span in spans {
        let (mut start, end) = (span.start(), span.end());
        for hole in holes {
            if hole.start() >= end {
                break;
            }
            if hole.start() > start {
                rest.push(between(start, hole.start()));
            }
            start = start.max(hole.end());
        }
        if start < end {
            rest.push(between(start, end));
        }
    }
    rest
}

fn between(start: Hpa, end: Hpa) -> Span<Hpa> {
    Span::new(start, end.get().saturating_sub(start.get())).unwrap_or_default()
}

impl Platform {
    /// RAM that nothing has reserved, in whole pages, in order. A page of which any byte is reserved isn't
    /// free.
    pub fn free_memory(&self) -> Vec<Span<Hpa>> {
        let taken = merge(self.reserved.iter().map(|reserved| reserved.span.to_pages()).collect());
        // Whole pages within the banks.
        let pages = |bank: Span<Hpa>| {
            let first = bank.start().get().checked_next_multiple_of(PAGE_SIZE)?;
            Some(between(Hpa(first), bank.end().page()))
        };
        without(merge(self.memory.clone()).into_iter().filter_map(pages).collect(), &taken)
    }

    /// Where the CPU sees `size` bytes at this memory address of a host bridge's bus; `None` unless they lie
    /// in one of its windows. `host` is the position in [`Platform::pci_hosts`].
    pub fn pci_to_cpu(&self, host: usize, pci: u64, size: u64) -> Option<Hpa> {
        self.pci_hosts.get(host)?.windows.iter().filter(|window| window.space != PciSpace::Io).find_map(
            |window| {
                let offset = pci.checked_sub(window.pci)?;
                let room = window.cpu.size().checked_sub(offset)?;
                (size != 0 && size <= room).then(|| window.cpu.start().checked_add(offset))?
            },
        )
    }
}
