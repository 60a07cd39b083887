//! The invalidation queue (6.5.2).

use axvm_addr::Hpa;
use axvm_iommu::{MOST_OF_THE_DEAF_US, MOST_US, Memory, Registers, Shared, wait_for};

use crate::error::{Error, Wait};
use crate::spec::commands::{self, Command};
use crate::spec::registers::{FaultStatus, Global, POINTER_MASK, QueueAddress, offset};

/// Bytes of it: a page, 256 descriptors.
const BYTES: u64 = 0x1000;

/// Does a global command and waits until it is done: `change` sets or clears what it is about, and `done` looks at the status
/// (11.4.4.1).
pub(crate) fn command(
    registers: &impl Registers,
    change: impl FnOnce(Global) -> Global,
    done: impl Fn(Global) -> bool,
) -> Result<(), Error> {
    let status = || Global::from(registers.read32(offset::STATUS));
    // What is enabled stays so. The bits of pointers say in the status that they were done, and would be commands here.
    let now = status().with_root_table(false).with_interrupt_table(false).with_write_buffer(false);
    registers.write32(offset::COMMAND, change(now).into());
    Ok(wait_for(registers, MOST_US, Wait::Command, || done(status()).then_some(()))?)
}

/// The queue. The driver waits for completion each time, so that it is empty in between.
#[derive(Debug)]
pub(crate) struct Queue {
    base: Hpa,
    tail: u64,
    /// Where a wait stores, and what it stored last.
    completed: Hpa,
    sequence: u32,
    /// A wait for it has timed out, and none has ended well since.
    deaf: bool,
    flushes: bool,
}

impl Queue {
    /// `flushes`: the unit's write buffer has to be flushed before each invalidation (6.8).
    pub fn new(memory: &Shared<impl Memory>, flushes: bool) -> Result<Self, Error> {
        Ok(Self {
            base: memory.allocate("invalidation queue", BYTES)?,
            tail: 0,
            completed: memory.allocate("wait's word", 64)?,
            sequence: 0,
            deaf: false,
            flushes,
        })
    }

    /// Turns it on, and empties it: whatever was on before, the firmware's or this one, is turned off first.
    pub fn start(&mut self, registers: &impl Registers) -> Result<(), Error> {
        command(registers, |global| global.with_queue(false), |status| !status.queue())?;
        self.tail = 0;
        registers.write64(offset::QUEUE_TAIL, 0);
        let address = QueueAddress::new().with_address(self.base.0 >> 12);
        registers.write64(offset::QUEUE_ADDRESS, address.into());
        // Errors of whoever was here before, and of what has stopped it.
        let errors =
            FaultStatus::new().with_queue_error(true).with_completion_error(true).with_timeout_error(true);
        registers.write32(offset::FAULT_STATUS, errors.into());
        command(registers, |global| global.with_queue(true), |status| status.queue())
    }

    /// Carries out invalidations. What was written to memory before is seen by the unit before it acts on them, and requests that
    /// used what they forget are done.
    pub fn run(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        commands: &[Command],
    ) -> Result<(), Error> {
        if self.flushes {
            memory.barrier();
            command(registers, |global| global.with_write_buffer(true), |status| !status.write_buffer())?;
        }
        // A place stays empty, and one is for the wait.
        commands
            .chunks((BYTES / commands::BYTES) as usize - 2)
            .try_for_each(|commands| self.run_some(registers, memory, commands))
    }

    fn run_some(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        commands: &[Command],
    ) -> Result<(), Error> {
        // What an earlier wait gave up on, or was stopped at, may still be there.
        if registers.read64(offset::QUEUE_HEAD) & POINTER_MASK != self.tail {
            self.start(registers)?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let wait = commands::wait(self.completed, self.sequence);
        for [first, second] in commands.iter().chain([&wait]) {
            let at = self.base.0.wrapping_add(self.tail);
            memory.write64(Hpa(at), *first);
            memory.write64(Hpa(at.wrapping_add(8)), *second);
            self.tail = (self.tail + commands::BYTES) & (BYTES - 1);
        }
        // They, and the tables that they are about, are in memory before the tail says that they are there.
        memory.barrier();
        registers.write64(offset::QUEUE_TAIL, self.tail);
        let most_us = if self.deaf { MOST_OF_THE_DEAF_US } else { MOST_US };
        let waited = wait_for(registers, most_us, Wait::Invalidation, || {
            if memory.read64(self.completed) as u32 == self.sequence {
                return Some(Ok(()));
            }
            let status = FaultStatus::from(registers.read32(offset::FAULT_STATUS));
            let stopped = status.queue_error() || status.completion_error() || status.timeout_error();
            stopped.then_some(Err(Error::InvalidationRefused))
        });
        self.deaf = waited.is_err();
        waited??;
        // What they did is done before whatever the caller does next.
        memory.barrier();
        Ok(())
    }
}
