//! What is taken of a machine, counted: what a VM's life takes is given back at its end.

use serde::{Deserialize, Serialize};

/// What is taken at one time, by VMs and for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Bytes of the hypervisor's memory.
    pub memory_bytes: u64,
    /// Of these, tables and queues that hardware reads.
    pub table_bytes: u64,
    /// Devices that VMs have.
    pub devices: u32,
    /// Sources of DMA that reach a VM's memory.
    pub dma_sources: u32,
    /// Lines that are enabled, the hypervisor's own among them.
    pub lines: u32,
    /// Devices whose messages the interrupt controller knows.
    pub message_sources: u32,
    /// Messages that lead to an interrupt.
    pub messages: u32,
    /// Numbers of interrupts that are kept for messages.
    pub message_numbers: u32,
}

/// What was taken at the times that can be held against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenReport {
    /// When every VM had been built for the first time, and none had run.
    pub built: Taken,
    /// How often a VM was built since: one that had been taken apart, or one that waited for what another had.
    pub rebuilt: u64,
    /// Right before that, the first time.
    pub first: Taken,
    /// Right before that, the last time.
    pub last: Taken,
    /// At the end, when every VM that was started had been taken apart.
    pub end: Taken,
}

impl TakenReport {
    /// A VM is about to be built, again or for the first time; `now` is what is taken at that moment.
    pub fn note_between(&mut self, now: Taken) {
        if self.rebuilt == 0 {
            self.first = now;
        }
        self.last = now;
        self.rebuilt = self.rebuilt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_time_between_two_lives_are_kept() {
        let taken = |lines| Taken { lines, ..Taken::default() };
        let mut report = TakenReport::default();
        (1..=3).for_each(|lines| report.note_between(taken(lines)));
        assert_eq!((report.rebuilt, report.first, report.last), (3, taken(1), taken(3)));
    }
}
