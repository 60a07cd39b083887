//! Bus mastering, off and seen to be off.

use axvm_addr::PciAddress;

use crate::config::{ConfigSpace, Registers};
use crate::spec::header::{self, Command};

/// A function, or a bridge, of which it can't be said that it puts no requests on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSilent {
    /// Bus mastering is on, whatever was written.
    #[error("{function} masters the bus still: its command register reads {command:#06x}")]
    Masters {
        /// The function.
        function: PciAddress,
        /// What the command register reads.
        command: u16,
    },
    /// It doesn't answer, so that nobody knows what it does.
    #[error("{function} doesn't answer: whether it masters the bus isn't known")]
    Absent {
        /// The function.
        function: PciAddress,
    },
}

/// Turns bus mastering off, leaves all else as it is, and reads it back.
///
/// # Errors
///
/// [`NotSilent`]. Doing it again does no harm.
pub fn stop_mastering<C: ConfigSpace + ?Sized>(config: &C, function: PciAddress) -> Result<(), NotSilent> {
    // All ones are no answer, and nothing to write back.
    if let Err(NotSilent::Masters { .. }) = confirm_silent(config, function) {
        Registers::new(config, function).update16(header::COMMAND, Command::BUS_MASTER.bits(), 0);
    }
    confirm_silent(config, function)
}

/// Whether bus mastering is off, as the function itself says. The read also comes after what the function has
/// put on its way up before (PCIe 2.4: a completion doesn't pass posted requests).
///
/// # Errors
///
/// [`NotSilent`].
pub fn confirm_silent<C: ConfigSpace + ?Sized>(config: &C, function: PciAddress) -> Result<(), NotSilent> {
    let command = Registers::new(config, function).read16(header::COMMAND);
    if command == u16::MAX {
        Err(NotSilent::Absent { function })
    } else if command & Command::BUS_MASTER.bits() != 0 {
        Err(NotSilent::Masters { function, command })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::config::Width;

    /// A function of which only the command register is there.
    struct Fake {
        command: Cell<u32>,
        /// The bits of it that a write changes.
        takes: u32,
    }

    impl ConfigSpace for Fake {
        fn read(&self, _: PciAddress, offset: u16, width: Width) -> u32 {
            assert_eq!(offset, header::COMMAND);
            self.command.get() & width.mask() as u32
        }

        fn write(&self, _: PciAddress, _: u16, _: Width, value: u32) {
            self.command.set(self.command.get() & !self.takes | value & self.takes);
        }
    }

    const ADDRESS: PciAddress = PciAddress::from_requester_id(0, 8);

    #[test]
    fn bus_mastering_is_off_once_it_reads_so_and_all_else_stays() {
        let fake = Fake { command: Cell::new(0x0406), takes: 0xffff };
        assert_eq!(
            confirm_silent(&fake, ADDRESS),
            Err(NotSilent::Masters { function: ADDRESS, command: 0x0406 })
        );
        assert_eq!(stop_mastering(&fake, ADDRESS), Ok(()));
        assert_eq!(fake.command.get(), 0x0402);
    }

    #[test]
    fn a_function_whose_command_register_does_not_take_the_write_is_not_silent() {
        let fake = Fake { command: Cell::new(0x0006), takes: 0 };
        let still = Err(NotSilent::Masters { function: ADDRESS, command: 0x0006 });
        assert_eq!(stop_mastering(&fake, ADDRESS), still);
    }

    #[test]
    fn one_that_does_not_answer_is_not_known_to_be_silent() {
        let fake = Fake { command: Cell::new(0xffff), takes: 0 };
        assert_eq!(stop_mastering(&fake, ADDRESS), Err(NotSilent::Absent { function: ADDRESS }));
    }
}
