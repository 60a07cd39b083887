//! An exit by a port, element by element: an instruction that repeats (INS, OUTS) leaves its guest once for many.

use std::ptr::NonNull;

use axvm::vcpu::PortAccess;
use axvm_axdevice::Width;

/// Where the kernel takes the value of a read from when the vCPU goes on.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    at: NonNull<u8>,
    bytes: usize,
}

impl Wanted {
    /// A read of these bytes.
    pub fn by(data: &mut [u8]) -> Option<Self> {
        Some(Self { at: NonNull::new(data.as_mut_ptr())?, bytes: data.len() })
    }

    /// Puts the value there.
    ///
    /// # Safety
    ///
    /// The bytes are those of the exit that the vCPU was left by last, it hasn't gone on since, and it is there.
    pub unsafe fn give(self, value: u64) {
        for (offset, byte) in
            value.to_le_bytes().into_iter().chain(core::iter::repeat(0)).take(self.bytes).enumerate()
        {
            // SAFETY: by the caller's promise it is one of the bytes that the kernel shares with whoever runs the vCPU.
            unsafe { self.at.as_ptr().add(offset).write(byte) };
        }
    }
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest reads.
    In,
    /// It writes.
    Out,
}

/// An element: what it is, and where its value belongs if it is a read.
pub struct Element {
    /// What the guest does.
    pub access: PortAccess,
    /// Where the kernel takes the value from.
    pub wanted: Option<Wanted>,
}

/// The elements of an exit that are still to be answered.
pub struct Elements {
    port: u16,
    width: Width,
    direction: Direction,
    /// Their bytes.
    data: NonNull<[u8]>,
    /// How many of the bytes are answered.
    done: usize,
}

impl Elements {
    /// Those of an exit with these bytes, of which an element has so many. `None`: nothing that is an access to a port.
    pub fn of(port: u16, size: u8, direction: Direction, data: NonNull<[u8]>) -> Option<Self> {
        let width = Width::from_bytes(size.into())?;
        (width != Width::B8).then_some(Self { port, width, direction, data, done: 0 })
    }

    /// The next one.
    ///
    /// # Safety
    ///
    /// The bytes are those of the exit that the vCPU was left by last, it hasn't gone on since, and it is there.
    pub unsafe fn next(&mut self) -> Option<Element> {
        let (begin, bytes) = (self.done, self.width.bytes() as usize);
        let end = begin.checked_add(bytes).filter(|end| *end <= self.data.len())?;
        self.done = end;
        // SAFETY: the end is in the slice, and so is the beginning.
        let at = unsafe { self.data.cast::<u8>().add(begin) };
        let write = (self.direction == Direction::Out).then(|| {
            let mut value = [0; 4];
            for (offset, byte) in value.iter_mut().take(bytes).enumerate() {
                // SAFETY: by the caller's promise it is one of the bytes that the kernel shares with whoever runs the vCPU.
                *byte = unsafe { at.add(offset).read() };
            }
            u32::from_le_bytes(value)
        });
        let wanted = (self.direction == Direction::In).then_some(Wanted { at, bytes });
        let access = PortAccess { port: self.port, width: self.width, write, continues: begin > 0 };
        Some(Element { access, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(elements: &mut Elements, mut each: impl FnMut(Element)) {
        // SAFETY: the bytes are the test's, and there.
        while let Some(element) = unsafe { elements.next() } {
            each(element);
        }
    }

    #[test]
    fn what_an_instruction_writes_comes_in_its_order_and_is_one_exit() {
        let mut data = [1u8, 2, 3, 4, 5, 6];
        let mut elements = Elements::of(0x300, 2, Direction::Out, NonNull::from(&mut data[..])).unwrap();
        let mut seen = Vec::new();
        all(&mut elements, |it| {
            assert!(it.wanted.is_none());
            seen.push((it.access.write, it.access.continues));
        });
        assert_eq!(seen, [(Some(0x201), false), (Some(0x403), true), (Some(0x605), true)]);
    }

    #[test]
    fn what_an_instruction_reads_goes_to_its_own_place() {
        let mut data = [0xffu8; 12];
        let mut elements = Elements::of(0x300, 4, Direction::In, NonNull::from(&mut data[..])).unwrap();
        let mut value = 0;
        all(&mut elements, |it| {
            assert_eq!((it.access.width, it.access.write), (Width::B4, None));
            value += 1;
            // SAFETY: as above.
            unsafe { it.wanted.unwrap().give(value) };
        });
        assert_eq!(data, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn no_element_is_wider_than_four_bytes_nor_goes_past_the_end() {
        let mut data = [0u8; 7];
        let bytes = NonNull::from(&mut data[..]);
        assert!(Elements::of(0, 8, Direction::In, bytes).is_none());
        assert!(Elements::of(0, 3, Direction::In, bytes).is_none());
        let mut count = 0;
        all(&mut Elements::of(0, 4, Direction::In, bytes).unwrap(), |_| count += 1);
        assert_eq!(count, 1);
    }
}
