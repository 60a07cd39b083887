//! What a guest has written to its console and nobody has shown yet; and its call for more of what was typed.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use axvm_axdevice::Transmit;

use crate::host::Host;

/// So many bytes wait at the most; then the UART's own FIFO fills up and the guest sees that. A power of two.
const CAPACITY: usize = 4096;

/// A VM's console output on its way to the hypervisor's CPU, which alone writes to the terminal. There is no lock that
/// one could hold while the other waits: the guest's side, one at a time under its UART's lock, moves `written`, the
/// hypervisor's CPU alone moves `taken`.
pub struct Ring {
    bytes: Box<[AtomicU8]>,
    /// How many bytes ever went in, and came out.
    written: AtomicUsize,
    taken: AtomicUsize,
    host: &'static Host,
}

impl Ring {
    /// An empty one.
    pub fn new(host: &'static Host) -> Self {
        let bytes = (0..CAPACITY).map(|_| AtomicU8::new(0)).collect();
        Self { bytes, written: AtomicUsize::new(0), taken: AtomicUsize::new(0), host }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.written.load(Ordering::SeqCst) == self.taken.load(Ordering::SeqCst)
    }

    /// Takes out what waits, at most `limit` bytes.
    pub fn take(&self, limit: usize) -> Vec<u8> {
        let taken = self.taken.load(Ordering::Relaxed);
        let count = self.written.load(Ordering::SeqCst).wrapping_sub(taken).min(limit);
        let places = (0..count).filter_map(|index| self.place(taken.wrapping_add(index)));
        let bytes = places.map(|place| place.load(Ordering::Relaxed)).collect();
        self.taken.store(taken.wrapping_add(count), Ordering::SeqCst);
        bytes
    }

    fn place(&self, at: usize) -> Option<&AtomicU8> {
        self.bytes.get(at % CAPACITY)
    }
}

impl Transmit for Ring {
    fn transmit(&self, byte: u8) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.taken.load(Ordering::SeqCst)) >= CAPACITY {
            return false;
        }
        if let Some(place) = self.place(written) {
            place.store(byte, Ordering::Relaxed);
        }
        self.written.store(written.wrapping_add(1), Ordering::SeqCst);
        // Looked at after the byte is there: either it was taken, or whoever takes it is called.
        if self.taken.load(Ordering::SeqCst) == written {
            self.host.call_hypervisor_cpu();
        }
        true
    }

    fn has_room(&self) {
        self.host.call_hypervisor_cpu();
    }
}
