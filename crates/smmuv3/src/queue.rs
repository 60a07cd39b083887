//! The command queue and the event queue (3.5).

use axvm_addr::Hpa;
use axvm_iommu::{MOST_OF_THE_DEAF_US, MOST_US, Memory, Registers, Shared, wait_for};

use crate::error::{CommandError, Error, Wait};
use crate::spec::commands::{self, Command, Reason};
use crate::spec::events::{self, Event};
use crate::spec::registers::{cmdq, eventq, gerror, queue_base};

/// A circular buffer of 2^`log2` entries, and what its indices mean: the bit above the index tells a full queue
/// from an empty one (3.5.1).
#[derive(Debug)]
struct Ring {
    base: Hpa,
    log2: u32,
    entry_bytes: u64,
}

impl Ring {
    fn new(
        memory: &Shared<impl Memory>,
        what: &'static str,
        log2: u32,
        entry_bytes: u64,
    ) -> Result<Self, Error> {
        Ok(Self { base: memory.allocate(what, entry_bytes << log2)?, log2, entry_bytes })
    }

    fn base_register(&self) -> u64 {
        queue_base::ALLOCATE.mask()
            | self.base.0 & queue_base::ADDR.mask()
            | queue_base::LOG2SIZE.put(self.log2.into())
    }

    fn size(&self) -> u32 {
        1 << self.log2
    }

    /// The index, wrap bit included, in a PROD or CONS register.
    fn index(&self, register: u32) -> u32 {
        register & (self.size() * 2 - 1)
    }

    /// The number of entries between two indices; never more than the queue has.
    fn used(&self, producer: u32, consumer: u32) -> u32 {
        self.index(producer.wrapping_sub(consumer)).min(self.size())
    }

    fn after(&self, index: u32) -> u32 {
        self.index(index.wrapping_add(1))
    }

    fn entry(&self, index: u32) -> Hpa {
        let position = u64::from(index & (self.size() - 1));
        Hpa(self.base.0.wrapping_add(position * self.entry_bytes))
    }
}

/// The command queue. The driver waits for completion each time, so it is short and mostly empty.
#[derive(Debug)]
pub(crate) struct CommandQueue {
    ring: Ring,
    producer: u32,
    /// A wait for it has timed out, and none has ended well since.
    deaf: bool,
}

impl CommandQueue {
    pub(crate) fn new(memory: &Shared<impl Memory>, log2: u32) -> Result<Self, Error> {
        Ok(Self {
            ring: Ring::new(memory, "command queue", log2, commands::BYTES)?,
            producer: 0,
            deaf: false,
        })
    }

    /// Tells the SMMU where it is; it is disabled.
    pub(crate) fn install(&self, registers: &impl Registers) {
        registers.write64(cmdq::BASE_OFFSET, self.ring.base_register());
        registers.write32(cmdq::PROD_OFFSET, self.producer);
        registers.write32(cmdq::CONS_OFFSET, self.producer);
    }

    /// Runs commands to completion: a CMD_SYNC follows them. What was written to memory before is seen by the SMMU
    /// before it acts on them.
    ///
    /// If the SMMU refuses one, the others are completed all the same, and the first refusal is returned. Of an SMMU
    /// that has let a wait time out nobody expects much: until it answers again, waits are short, so that trying again
    /// costs little.
    pub(crate) fn run(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), Error> {
        let mut refused = None;
        for command in commands {
            self.submit(registers, memory, command, &mut refused)?;
        }
        self.submit(registers, memory, commands::sync(), &mut refused)?;
        self.wait(registers, memory, Wait::Sync, 0, &mut refused)?;
        // What the commands did is done before whatever the caller does next.
        memory.barrier();
        refused.map_or(Ok(()), |error| Err(Error::Command(error)))
    }

    fn submit(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        command: Command,
        refused: &mut Option<CommandError>,
    ) -> Result<(), Error> {
        self.wait(registers, memory, Wait::CommandRoom, self.ring.size() - 1, refused)?;
        write_command(memory, self.ring.entry(self.producer), command);
        // The command, and the tables that it is about, are in memory before the index says that it is there.
        memory.barrier();
        self.producer = self.ring.after(self.producer);
        registers.write32(cmdq::PROD_OFFSET, self.producer);
        Ok(())
    }

    /// Waits until at most `most` commands are left, and gets the queue going again when it stops.
    fn wait(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        what: Wait,
        most: u32,
        refused: &mut Option<CommandError>,
    ) -> Result<(), Error> {
        // Each entry can be refused once; a queue that stops more often doesn't work.
        let mut patience = self.ring.size() + 1;
        let most_us = if self.deaf { MOST_OF_THE_DEAF_US } else { MOST_US };
        let waited = wait_for(registers, most_us, what, || {
            let consumer = registers.read32(cmdq::CONS_OFFSET);
            if self.ring.used(self.producer, consumer) <= most {
                return Some(Ok(()));
            }
            if let Some(error) = self.recover(registers, memory) {
                let first = *refused.get_or_insert(error);
                patience = patience.saturating_sub(1);
                if patience == 0 {
                    return Some(Err(first.into()));
                }
            }
            None
        });
        match waited {
            Err(_) => self.deaf = true,
            // Room there may be also in the queue of an SMMU that reads nothing.
            Ok(_) => self.deaf &= what != Wait::Sync,
        }
        waited?
    }

    /// If the queue has stopped at a command, puts a CMD_SYNC in its place and lets the SMMU go on (7.1).
    pub(crate) fn recover(
        &self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
    ) -> Option<CommandError> {
        let acknowledged = registers.read32(gerror::ACK_OFFSET);
        let active = registers.read32(gerror::OFFSET) ^ acknowledged;
        if !gerror::CMDQ_ERR.is_set(active.into()) {
            return None;
        }
        let consumer = registers.read32(cmdq::CONS_OFFSET);
        let entry = self.ring.entry(consumer);
        let error = CommandError {
            opcode: commands::OPCODE.get(memory.read64(entry)) as u8,
            reason: Reason::from_code(cmdq::CONS_ERR.get(consumer.into()) as u8),
        };
        write_command(memory, entry, commands::sync());
        memory.barrier();
        registers.write32(gerror::ACK_OFFSET, acknowledged ^ gerror::CMDQ_ERR.mask() as u32);
        Some(error)
    }
}

fn write_command(memory: &Shared<impl Memory>, entry: Hpa, [low, high]: Command) {
    memory.write64(entry, low);
    memory.write64(Hpa(entry.0.wrapping_add(8)), high);
}

/// The event queue.
#[derive(Debug)]
pub(crate) struct EventQueue {
    ring: Ring,
    consumer: u32,
}

impl EventQueue {
    pub(crate) fn new(memory: &Shared<impl Memory>, log2: u32) -> Result<Self, Error> {
        Ok(Self { ring: Ring::new(memory, "event queue", log2, events::BYTES)?, consumer: 0 })
    }

    /// Tells the SMMU where it is; it is disabled.
    pub(crate) fn install(&self, registers: &impl Registers) {
        registers.write64(eventq::BASE_OFFSET, self.ring.base_register());
        registers.write32(eventq::PROD_OFFSET, self.consumer);
        registers.write32(eventq::CONS_OFFSET, self.consumer);
    }

    /// Hands at most `limit` events to `f` and frees their places. Returns how many there were, whether the SMMU
    /// had to drop others, and whether more wait.
    pub(crate) fn drain(
        &mut self,
        registers: &impl Registers,
        memory: &Shared<impl Memory>,
        limit: usize,
        mut f: impl FnMut(Event),
    ) -> (usize, bool, bool) {
        let producer = registers.read32(eventq::PROD_OFFSET);
        // The records are read after the index that says they are there.
        memory.barrier();
        let there = self.ring.used(producer, self.consumer) as usize;
        let count = there.min(limit);
        for _ in 0..count {
            let entry = self.ring.entry(self.consumer);
            let word = |n: u64| memory.read64(Hpa(entry.0.wrapping_add(n * 8)));
            f(Event::decode([word(0), word(1), word(2), word(3)]));
            self.consumer = self.ring.after(self.consumer);
        }
        let overflow = |register: u32| eventq::OVERFLOW.get(register.into());
        let overflowed = overflow(producer) != overflow(registers.read32(eventq::CONS_OFFSET));
        if count != 0 || overflowed {
            // And their places are free only after they were read.
            memory.barrier();
            let acknowledged = eventq::OVERFLOW.put(overflow(producer)) as u32;
            registers.write32(eventq::CONS_OFFSET, self.consumer | acknowledged);
        }
        let more = self.ring.used(registers.read32(eventq::PROD_OFFSET), self.consumer) != 0;
        (count, overflowed, more)
    }
}
