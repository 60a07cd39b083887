//! The user's terminal in raw mode, and back.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

/// Raw mode while it lives.
pub struct Raw {
    before: Termios,
}

/// Whether the user sits at both ends.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Raw {
    /// Enters raw mode, in which every key goes to the guest. Output keeps its newlines: lines of the tool stand
    /// between those of guests.
    pub fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If that fails there is no terminal any more.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
