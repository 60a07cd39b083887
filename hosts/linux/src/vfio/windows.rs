//! What a VM's devices reach: its RAM, by the IOMMU's tables that a container of VFIO's has.
//!
//! A container has tables from its first device on. What is to be there before is noted, and put there then.

use std::sync::Mutex;

use axvm::hal::DmaMap;
use axvm_addr::{Address, IommuId, Iova, Span};
use axvm_plan::config::MappingFlags;

use super::VfioError;
use crate::error::Error;
use crate::memory::Place;

/// The IOMMU's tables.
pub trait Tables: Send + Sync {
    /// Lets devices reach memory of this process, which stays there until it is taken away.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn map(&self, iova: Span<Iova>, place: &Place) -> Result<(), VfioError>;

    /// Lets them reach it no more.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn unmap(&self, iova: Span<Iova>) -> Result<(), VfioError>;
}

struct State<T> {
    windows: Vec<(Span<Iova>, Place)>,
    tables: Option<T>,
}

/// A VM's windows.
pub struct Windows<T>(Mutex<State<T>>);

impl<T: Tables> Default for Windows<T> {
    fn default() -> Self {
        Self(Mutex::new(State { windows: Vec::new(), tables: None }))
    }
}

impl<T: Tables> Windows<T> {
    /// Has the tables from now on: all that was noted is put there, or nothing is.
    ///
    /// # Errors
    ///
    /// [`VfioError`].
    pub fn open(&self, tables: T) -> Result<(), VfioError> {
        let mut state = crate::lock(&self.0);
        if state.tables.is_some() {
            return Ok(());
        }
        for (position, (iova, place)) in state.windows.iter().enumerate() {
            if let Err(error) = tables.map(*iova, place) {
                for (iova, _) in state.windows.iter().take(position) {
                    // The device is not attached in any case.
                    let _ = tables.unmap(*iova);
                }
                return Err(error);
            }
        }
        state.tables = Some(tables);
        Ok(())
    }

    /// Has none any more: the last device has left, and with it what was there.
    pub fn close(&self) {
        crate::lock(&self.0).tables = None;
    }
}

impl<T: Tables> DmaMap for Windows<T> {
    type Backing = Place;
    type Domain = ();
    type Error = Error;

    fn map_dma(&self, iova: Span<Iova>, place: &Place, flags: MappingFlags) -> Result<(), Error> {
        let mut state = crate::lock(&self.0);
        // Neither is one that a plan has.
        if place.length() < iova.size() || !flags.contains(MappingFlags::WRITE) {
            return Err(Error::Unknown);
        }
        if let Some(tables) = &state.tables {
            tables.map(iova, place)?;
        }
        state.windows.push((iova, place.clone()));
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), Error> {
        let mut state = crate::lock(&self.0);
        if let Some(tables) = &state.tables {
            tables.unmap(iova)?;
        }
        state.windows.retain(|(known, _)| *known != iova);
        Ok(())
    }

    fn domain(&self, _: IommuId) -> Result<(), Error> {
        Ok(())
    }
}

/// Bytes of a span, as a process counts them.
pub fn bytes<A: Address>(span: Span<A>) -> Result<usize, VfioError> {
    usize::try_from(span.size()).map_err(|_| VfioError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::{DmaMap, Iova, MappingFlags, Mutex, Place, Span, Tables, VfioError, Windows};
    use std::sync::Arc;

    const PAGE: u64 = 4096;

    /// Tables that keep VFIO's contract: a window is mapped once, and taken away as it was mapped.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        mapped: Vec<Span<Iova>>,
        /// This one can't be.
        refuses: Option<Span<Iova>>,
    }

    impl Fake {
        fn mapped(&self) -> Vec<Span<Iova>> {
            self.0.lock().unwrap().mapped.clone()
        }
    }

    impl Tables for Fake {
        fn map(&self, iova: Span<Iova>, _: &Place) -> Result<(), VfioError> {
            let mut state = self.0.lock().unwrap();
            if state.refuses == Some(iova) || state.mapped.iter().any(|it| it.overlaps(&iova)) {
                return Err(VfioError::TooLarge);
            }
            state.mapped.push(iova);
            Ok(())
        }

        fn unmap(&self, iova: Span<Iova>) -> Result<(), VfioError> {
            let mut state = self.0.lock().unwrap();
            let before = state.mapped.len();
            state.mapped.retain(|it| *it != iova);
            if state.mapped.len() == before { Err(VfioError::TooLarge) } else { Ok(()) }
        }
    }

    fn span(page: u64) -> Span<Iova> {
        Span::new(Iova(page * PAGE), PAGE).unwrap()
    }

    fn windows(pages: &[u64]) -> Windows<Fake> {
        let windows = Windows::default();
        for page in pages {
            let place = Place::allocate(PAGE).unwrap().0;
            windows.map_dma(span(*page), &place, MappingFlags::READ | MappingFlags::WRITE).unwrap();
        }
        windows
    }

    #[test]
    fn what_was_noted_is_there_from_the_first_device_on() {
        let (windows, fake) = (windows(&[1, 5]), Fake::default());
        windows.open(fake.clone()).unwrap();
        assert_eq!(fake.mapped(), [span(1), span(5)]);
        let place = Place::allocate(PAGE).unwrap().0;
        windows.map_dma(span(7), &place, MappingFlags::READ | MappingFlags::WRITE).unwrap();
        windows.unmap_dma(span(1)).unwrap();
        assert_eq!(fake.mapped(), [span(5), span(7)]);
        // A second device finds them.
        windows.open(Fake::default()).unwrap();
        assert_eq!(fake.mapped(), [span(5), span(7)]);
    }

    #[test]
    fn if_one_cannot_be_none_is_there() {
        let (windows, fake) = (windows(&[1, 5]), Fake::default());
        fake.0.lock().unwrap().refuses = Some(span(5));
        assert!(windows.open(fake.clone()).is_err());
        assert!(fake.mapped().is_empty());
        fake.0.lock().unwrap().refuses = None;
        windows.open(fake.clone()).unwrap();
        assert_eq!(fake.mapped().len(), 2);
    }

    #[test]
    fn nothing_is_mapped_beyond_what_backs_it() {
        let (windows, place) = (Windows::<Fake>::default(), Place::allocate(PAGE).unwrap().0);
        let two = Span::new(Iova(0), 2 * PAGE).unwrap();
        assert!(windows.map_dma(two, &place, MappingFlags::READ | MappingFlags::WRITE).is_err());
        assert!(windows.map_dma(span(0), &place, MappingFlags::READ).is_err());
    }
}
