//! The command buffer and the event log (2.4, 2.5).

use axvm_addr::Hpa;
use axvm_iommu::{MOST_OF_THE_DEAF_US, MOST_US, Memory, Registers, allocate, wait_for};

use crate::error::{Error, Wait};
use crate::spec::commands::{self, Command};
use crate::spec::events::{self, Event};
use crate::spec::registers::{Control, POINTER_MASK, RingBase, Status, offset};

/// The entries that a ring can have, as log2 (3.4.2).
pub(crate) const LOG2_ENTRIES: core::ops::RangeInclusive<u8> = 8..=15;

/// A circular buffer of 2^`log2` entries of 16 bytes. It is full when one place is left, so that head and tail never meet but when it
/// is empty.
#[derive(Debug)]
struct Ring {
    base: Hpa,
    log2: u8,
}

impl Ring {
    fn new(memory: &impl Memory, what: &'static str, log2: u8) -> Result<Self, Error> {
        let log2 = log2.clamp(*LOG2_ENTRIES.start(), *LOG2_ENTRIES.end());
        let bytes = commands::BYTES << log2;
        Ok(Self { base: allocate(memory, what, bytes, bytes)?, log2 })
    }

    fn base_register(&self) -> u64 {
        RingBase::new().with_base(self.base.0 >> 12).with_length(self.log2).into()
    }

    const fn bytes(&self) -> u64 {
        commands::BYTES << self.log2
    }

    /// The offset in a head or tail register; whatever else it says, one within the ring.
    fn offset(&self, register: u64) -> u64 {
        register & POINTER_MASK & (self.bytes() - 1)
    }

    fn after(&self, offset: u64) -> u64 {
        self.offset(offset.wrapping_add(commands::BYTES))
    }

    fn words(&self, offset: u64) -> [Hpa; 2] {
        let at = self.base.0.wrapping_add(offset);
        [Hpa(at), Hpa(at.wrapping_add(8))]
    }
}

/// Changes what is enabled.
pub(crate) fn change_control(registers: &impl Registers, change: impl FnOnce(Control) -> Control) {
    let now = Control::from(registers.read64(offset::CONTROL));
    registers.write64(offset::CONTROL, change(now).into());
}

pub(crate) fn status(registers: &impl Registers) -> Status {
    Status::from(registers.read64(offset::STATUS))
}

/// The command buffer. The driver waits for completion each time, so that it is empty in between.
#[derive(Debug)]
pub(crate) struct CommandBuffer {
    ring: Ring,
    tail: u64,
    /// Where COMPLETION_WAIT stores, and what it stored last.
    completed: Hpa,
    sequence: u64,
    /// A wait for it has timed out, and none has ended well since.
    deaf: bool,
}

impl CommandBuffer {
    pub(crate) fn new(memory: &impl Memory, log2: u8) -> Result<Self, Error> {
        Ok(Self {
            ring: Ring::new(memory, "command buffer", log2)?,
            tail: 0,
            completed: allocate(memory, "completion word", 8, 8)?,
            sequence: 0,
            deaf: false,
        })
    }

    /// Tells the IOMMU where it is; it isn't enabled. That resets head and tail (3.4.2).
    pub(crate) fn install(&mut self, registers: &impl Registers) {
        registers.write64(offset::COMMAND_BASE, self.ring.base_register());
        registers.write64(offset::COMMAND_HEAD, 0);
        registers.write64(offset::COMMAND_TAIL, 0);
        self.tail = 0;
    }

    /// Runs commands to completion. What was written to memory before is seen by the IOMMU before it acts on them.
    ///
    /// Of an IOMMU that has let a wait time out nobody expects much: until it answers again, waits are short, so that trying again
    /// costs little.
    pub(crate) fn run(
        &mut self,
        registers: &impl Registers,
        memory: &impl Memory,
        commands: &[Command],
    ) -> Result<(), Error> {
        // A place stays empty, and one is for the wait.
        let most = (1usize << self.ring.log2) - 2;
        for commands in commands.chunks(most) {
            self.run_some(registers, memory, commands)?;
        }
        Ok(())
    }

    fn run_some(
        &mut self,
        registers: &impl Registers,
        memory: &impl Memory,
        commands: &[Command],
    ) -> Result<(), Error> {
        // What an earlier wait gave up on may still be there: then there is no room to be sure of.
        if self.ring.offset(registers.read64(offset::COMMAND_HEAD)) != self.tail {
            self.start_anew(registers)?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let wait = commands::completion_wait(self.completed, self.sequence);
        for command in commands.iter().chain([&wait]) {
            for (at, word) in self.ring.words(self.tail).into_iter().zip(command) {
                memory.write64(at, *word);
            }
            self.tail = self.ring.after(self.tail);
        }
        // The commands, and the tables that they are about, are in memory before the tail says that they are there.
        memory.barrier();
        registers.write64(offset::COMMAND_TAIL, self.tail);
        let most_us = if self.deaf { MOST_OF_THE_DEAF_US } else { MOST_US };
        let waited = wait_for(registers, most_us, Wait::Completion, || {
            if memory.read64(self.completed) == self.sequence {
                return Some(Ok(()));
            }
            (!status(registers).commands_run()).then_some(Err(Error::CommandRefused))
        });
        self.deaf = waited.is_err();
        // What was refused is still there, and is thrown away before the next commands.
        waited??;
        // What the commands did is done before whatever the caller does next.
        memory.barrier();
        Ok(())
    }

    /// Empties the buffer of an IOMMU that has stopped at a command, or hasn't consumed all of them.
    fn start_anew(&mut self, registers: &impl Registers) -> Result<(), Error> {
        let most_us = if self.deaf { MOST_OF_THE_DEAF_US } else { MOST_US };
        change_control(registers, |control| control.with_commands(false));
        wait_for(registers, most_us, Wait::Stop, || (!status(registers).commands_run()).then_some(()))?;
        self.install(registers);
        change_control(registers, |control| control.with_commands(true));
        let runs = || status(registers).commands_run().then_some(());
        Ok(wait_for(registers, most_us, Wait::Start, runs)?)
    }
}

/// The event log.
#[derive(Debug)]
pub(crate) struct EventLog {
    ring: Ring,
    head: u64,
}

impl EventLog {
    pub(crate) fn new(memory: &impl Memory, log2: u8) -> Result<Self, Error> {
        Ok(Self { ring: Ring::new(memory, "event log", log2)?, head: 0 })
    }

    /// Tells the IOMMU where it is; it isn't enabled. That resets head and tail (3.4.3).
    pub(crate) fn install(&mut self, registers: &impl Registers) {
        registers.write64(offset::EVENT_BASE, self.ring.base_register());
        registers.write64(offset::EVENT_HEAD, 0);
        registers.write64(offset::EVENT_TAIL, 0);
        self.head = 0;
    }

    /// Hands at most `limit` records to `each` and frees their places. Says how many there were, whether more wait, and whether
    /// others were lost because there was no room; then it records again.
    pub(crate) fn drain(
        &mut self,
        registers: &impl Registers,
        memory: &impl Memory,
        limit: usize,
        mut each: impl FnMut(Event),
    ) -> Drained {
        let mut drained = Drained::default();
        // Before the tail is read: an event from now on makes the interrupt anew.
        registers.write64(offset::STATUS, Status::new().with_event_interrupt(true).into());
        let tail = self.ring.offset(registers.read64(offset::EVENT_TAIL));
        // The records are read after the tail that says they are there.
        memory.barrier();
        while self.head != tail && drained.events < limit {
            let words = self.ring.words(self.head);
            let Some(event) = Event::decode(words.map(|at| memory.read64(at))) else {
                // The tail may be seen before the record: it is there when it is looked at again.
                break;
            };
            // So that the place says whether something was written there, when it is used again.
            words.iter().for_each(|at| memory.write64(*at, 0));
            self.head = self.ring.after(self.head);
            drained.events += 1;
            each(event);
        }
        if drained.events != 0 {
            // Their places are free only after they were read and cleared.
            memory.barrier();
            registers.write64(offset::EVENT_HEAD, self.head);
        }
        drained.more = self.head != self.ring.offset(registers.read64(offset::EVENT_TAIL));
        if status(registers).event_overflow() && !drained.more {
            drained.overflowed = true;
            self.start_anew(registers);
        }
        drained
    }

    /// After an overflow nothing is recorded until the log is started again (2.5.1).
    fn start_anew(&mut self, registers: &impl Registers) {
        change_control(registers, |control| control.with_event_log(false));
        // Best effort: a log that doesn't stop goes on overflowing, and that is said each time.
        let _ = wait_for(registers, MOST_OF_THE_DEAF_US, Wait::Stop, || {
            (!status(registers).event_log_runs()).then_some(())
        });
        self.install(registers);
        registers.write64(offset::STATUS, Status::new().with_event_overflow(true).into());
        change_control(registers, |control| control.with_event_log(true));
    }
}

/// What came of taking the event log's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Records handed over.
    pub events: usize,
    /// Some were lost since the last call, for want of room.
    pub overflowed: bool,
    /// More wait.
    pub more: bool,
}

const _: () = assert!(events::BYTES == commands::BYTES, "both rings have the same entries");
