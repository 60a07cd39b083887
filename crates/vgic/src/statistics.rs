//! What is counted.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use crate::command_error::CommandError;

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Interrupts that the guest has taken from list registers.
    pub interrupts_taken: u64,
    /// ITS commands that were ignored because of an error of the guest's.
    pub command_errors: u64,
    /// ITS commands that the hypervisor couldn't carry out ([`CommandError::Backend`]).
    pub failed_commands: u64,
    /// The last of those errors.
    pub last_command_error: Option<CommandError>,
    /// Writes by a processor to GITS_TRANSLATER, ignored.
    pub translater_writes: u64,
}

/// What is counted but for the interrupts, which are with the vCPUs.
#[derive(Default)]
pub(crate) struct Counters {
    command_errors: AtomicU64,
    failed_commands: AtomicU64,
    last_command_error: Mutex<Option<CommandError>>,
    translater_writes: AtomicU64,
}

impl Counters {
    pub(crate) fn count_command_error(&self, error: CommandError) {
        let counter = match error {
            CommandError::Backend(_) => &self.failed_commands,
            _ => &self.command_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last_command_error.lock() = Some(error);
    }

    pub(crate) fn count_translater_write(&self) {
        self.translater_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, with what the vCPUs say.
    pub(crate) fn statistics(&self, interrupts_taken: u64) -> Statistics {
        Statistics {
            interrupts_taken,
            command_errors: self.command_errors.load(Ordering::Relaxed),
            failed_commands: self.failed_commands.load(Ordering::Relaxed),
            last_command_error: *self.last_command_error.lock(),
            translater_writes: self.translater_writes.load(Ordering::Relaxed),
        }
    }
}
