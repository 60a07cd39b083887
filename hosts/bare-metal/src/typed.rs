//! What is typed at the hypervisor's console: `axvm_monitor` takes it byte by byte.
//!
//! If a guest takes nothing for a while, the real UART is left unread (a line without flow control overruns then, which the UART tells).

use axvm_monitor::{Ends, Typed};
use axvm_uart::Received;

use crate::console;
use crate::host::Host;
use crate::log;
use crate::shell::Around;
use crate::vm::VmRef;

/// How often a UART without an interrupt is asked.
const ASK_US: u64 = 10_000;

/// The UART's keys.
pub struct Keyboard {
    typed: Typed,
    /// The UART is read.
    reads: bool,
    /// The UART interrupts when something is typed.
    called: bool,
    /// How often the console had moved when it was last asked for that.
    moves: u64,
}

impl Keyboard {
    /// Nothing was typed yet.
    pub fn new(host: &'static Host) -> Self {
        Self {
            typed: Typed::new(&Around { host, vms: &[], ends: &Ends::default() }),
            reads: true,
            called: console::listen(true) && host.console_has_line(),
            moves: console::moves(),
        }
    }

    /// The console is another, or the hypervisor's own again: what was begun at the one before is over.
    fn follow(&mut self, around: &Around<'_>) {
        let moves = console::moves();
        if moves != self.moves {
            self.moves = moves;
            self.reads = true;
            self.called = console::listen(true) && around.host.console_has_line();
            self.typed.begin_again(around);
        }
    }

    /// Reads what was typed, and offers the guests what waits for them.
    pub fn attend(&mut self, host: &'static Host, vms: &[VmRef], ends: &Ends) {
        let around = Around { host, vms, ends };
        self.follow(&around);
        self.typed.attend(&around);
        while self.reads(&around) {
            match console::receive() {
                Received::Nothing => break,
                Received::Lost => log::warn!("the console's line overran: something that was typed is lost"),
                Received::Byte(byte) => self.typed.byte(byte, &around),
            }
        }
        self.typed.attend(&around);
    }

    /// Whether the UART is read on.
    fn reads(&mut self, around: &Around<'_>) -> bool {
        let reads = self.typed.reads(around);
        if reads != self.reads {
            self.reads = reads;
            // The interrupt of one that is left unread would come again and again.
            console::listen(reads);
        }
        reads
    }

    /// After how many microseconds to look again though nothing may call: for a UART that doesn't interrupt, or one that is left
    /// unread.
    pub fn ask_again_us(&self, host: &'static Host) -> Option<u64> {
        let around = Around { host, vms: &[], ends: &Ends::default() };
        let unread = self.typed.unread_for(&around).map(|ns| ns.div_ceil(1000));
        unread.or_else(|| (!self.called && console::is_there()).then_some(ASK_US))
    }
}
