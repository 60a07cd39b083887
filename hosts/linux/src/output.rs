//! What a guest has written to its console and nobody has shown yet; and the bell by which whoever shows it is called.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use axvm_axdevice::Transmit;
use rustix::event::{EventfdFlags, eventfd};

/// So many bytes wait at the most; then the UART's own FIFO fills up and the guest sees that.
const CAPACITY: usize = 4096;

/// Calls the one who looks after the VMs.
pub struct Bell(OwnedFd);

impl Bell {
    /// A new one.
    ///
    /// # Errors
    ///
    /// The kernel has none.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Calls.
    pub fn ring(&self) {
        // Full: it has been called.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// It has been heard.
    pub fn heard(&self) {
        let mut count = [0; 8];
        // Empty: nobody has called.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A VM's console output.
pub struct Output {
    bytes: Mutex<VecDeque<u8>>,
    bell: Arc<Bell>,
}

impl Output {
    /// Nothing yet.
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { bytes: Mutex::default(), bell }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        crate::lock(&self.bytes).is_empty()
    }

    /// Takes out what waits, at most `limit` bytes.
    pub fn take(&self, limit: usize) -> Vec<u8> {
        let mut bytes = crate::lock(&self.bytes);
        let count = bytes.len().min(limit);
        bytes.drain(..count).collect()
    }
}

impl Transmit for Output {
    fn transmit(&self, byte: u8) -> bool {
        let mut bytes = crate::lock(&self.bytes);
        if bytes.len() >= CAPACITY {
            return false;
        }
        bytes.push_back(byte);
        let first = bytes.len() == 1;
        drop(bytes);
        if first {
            self.bell.ring();
        }
        true
    }

    fn has_room(&self) {
        self.bell.ring();
    }
}
