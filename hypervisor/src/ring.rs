//! What a guest has written to its console and nobody has shown yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use axvm_pl011::Transmit;
use spin::Mutex;

use crate::host;

/// So many bytes wait at the most; then the UART's own FIFO fills up and the guest sees that.
const CAPACITY: usize = 4096;

/// A VM's console output on its way to the hypervisor's CPU, which alone writes to the terminal.
pub struct Ring(Mutex<VecDeque<u8>>);

impl Ring {
    /// An empty one.
    pub fn new() -> Self {
        Self(Mutex::new(VecDeque::with_capacity(CAPACITY)))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Takes out what waits, at most `limit` bytes.
    pub fn take(&self, limit: usize) -> Vec<u8> {
        let mut bytes = self.0.lock();
        let count = bytes.len().min(limit);
        bytes.drain(..count).collect()
    }
}

impl Transmit for Ring {
    fn transmit(&self, byte: u8) -> bool {
        let mut bytes = self.0.lock();
        if bytes.len() >= CAPACITY {
            return false;
        }
        bytes.push_back(byte);
        let first = bytes.len() == 1;
        drop(bytes);
        if first {
            host::get().call_hypervisor_cpu();
        }
        true
    }
}
