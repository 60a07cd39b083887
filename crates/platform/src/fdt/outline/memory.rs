//! Where memory is, and what of it is taken.

use axvm_addr::{Address, Hpa, PAGE_SIZE, Span};

use super::super::address::Cells;
use super::super::memory::{LEFT_BEHIND, RELEASE, USABLE};
use super::{Outline, OutlineError};

impl<'a> Outline<'a> {
    /// Calls `f` with every bank of memory.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: not all of it can be read.
    pub fn memory(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        if let Some(banks) = self.banks.get(..self.banked) {
            banks.iter().copied().for_each(f);
            return Ok(());
        }
        self.walk(&mut |node| {
            if node.is_memory() {
                node.bank(f)?;
            }
            Ok(false)
        })
    }

    /// Calls `f` with every span that somebody has reserved, in use or not.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: not all of it can be read.
    pub fn reserved(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        let mut entries = Cells(self.reservations);
        while let Some((start, size)) = entries.number(2).zip(entries.number(2)) {
            if (start, size) == (0, 0) {
                break;
            }
            Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
        }
        self.reserved_in_chosen(f)?;
        if !self.reserves {
            return Ok(());
        }
        self.walk(&mut |node| {
            if !node.reserves() {
                return Ok(false);
            }
            let number = |name| {
                let mut cells = Cells(node.property(name)?);
                cells.number(u32::try_from(cells.0.len() / 4).ok()?)
            };
            match node.parent_name() {
                b"reserved-memory" | b"chosen" => {
                    // The root's addresses, whether or not the parent has `ranges`, and its cells where they are forgotten.
                    let cells = |name, default| {
                        let own = node.u32(1, name).or_else(|| node.u32(2, name));
                        own.unwrap_or(default)
                    };
                    let cells = (cells("#address-cells", 2), cells("#size-cells", 1));
                    node.entries("reg", cells, &mut |start, size| {
                        Span::new(Hpa(start), size).into_iter().for_each(&mut *f)
                    })?;
                }
                b"cpus" => {
                    let page = Hpa(number(RELEASE).ok_or(OutlineError::Registers)?).page();
                    Span::new(page, PAGE_SIZE).into_iter().for_each(&mut *f);
                }
                _ if node.is_memory() => {
                    // It is there, and somebody else's: the secure world's.
                    node.registers(&mut |start, size| {
                        let start = node.translate(start, size).unwrap_or(start);
                        Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
                    })?;
                }
                _ => {
                    let log = number("linux,sml-base").zip(number("linux,sml-size"));
                    let log = log.and_then(|(start, size)| Span::new(Hpa(start), size).ok());
                    log.into_iter().for_each(&mut *f);
                }
            }
            Ok(false)
        })
    }

    /// What `/chosen` itself says of memory that is not to be had.
    fn reserved_in_chosen(&self, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), OutlineError> {
        let Some(chosen) = self.chosen else { return Ok(()) };
        let cells = |name, default| {
            self.property(self.root, name)
                .and_then(|it| it.try_into().ok())
                .map_or(default, u32::from_be_bytes)
        };
        let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 1));
        let each = |value: &'a [u8], f: &mut dyn FnMut(Span<Hpa>)| -> Result<(), OutlineError> {
            let mut cells = Cells(value);
            loop {
                let (start, size) =
                    cells.number(address).zip(cells.number(size)).ok_or(OutlineError::Registers)?;
                Span::new(Hpa(start), size).into_iter().for_each(&mut *f);
                if cells.is_empty() {
                    return Ok(());
                }
            }
        };
        for name in LEFT_BEHIND {
            if let Some(value) = self.property(chosen, name) {
                each(value, f)?;
            }
        }
        let Some(usable) = self.property(chosen, USABLE) else { return Ok(()) };
        // What lies between: each turn goes past one of them, so that it ends.
        let mut at = 0;
        loop {
            let (mut end, mut next) = (at, u64::MAX);
            each(usable, &mut |span| {
                if span.start().0 <= at {
                    end = end.max(span.end().0);
                } else {
                    next = next.min(span.start().0);
                }
            })?;
            if end == at {
                Span::new(Hpa(at), next - at).into_iter().for_each(&mut *f);
                end = next;
            }
            if end == u64::MAX {
                return Ok(());
            }
            at = end;
        }
    }

    /// `size` bytes of memory, aligned to `align`, of which `taken` and the tree's reservations have nothing: as high as can be,
    /// out of the way of those who are given memory from its start. `None`: there are none.
    ///
    /// # Errors
    ///
    /// [`OutlineError`]: what is memory, or what of it is reserved, can't be read.
    pub fn free(
        &self,
        size: u64,
        align: u64,
        taken: &[Span<Hpa>],
    ) -> Result<Option<Span<Hpa>>, OutlineError> {
        let mut best: Option<Span<Hpa>> = None;
        let mut result = Ok(());
        self.memory(&mut |bank| {
            let mut top = bank.end().0;
            // Each turn goes below something that is in the way, so that it ends.
            while let Some(start) = top.checked_sub(size).map(|start| start & !(align - 1)) {
                let Ok(span) = Span::new(Hpa(start), size) else { break };
                if !bank.encloses(&span) {
                    break;
                }
                let mut below = None;
                let mut look = |other: Span<Hpa>| {
                    if other.overlaps(&span) {
                        let start = other.start().0;
                        below = Some(below.map_or(start, |lowest: u64| lowest.min(start)));
                    }
                };
                taken.iter().copied().for_each(&mut look);
                if let Err(error) = self.reserved(&mut look) {
                    result = Err(error);
                    break;
                }
                match below {
                    Some(lowest) => top = lowest,
                    None => {
                        if best.is_none_or(|best| best.start() < span.start()) {
                            best = Some(span);
                        }
                        break;
                    }
                }
            }
        })?;
        result.map(|()| best)
    }
}
