//! What is typed, and comes by standard input: `axvm_monitor` takes it byte by byte.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use axvm_monitor::{Ends, Typed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use crate::Vm;
use crate::host::Host;
use crate::shell::Around;

/// Standard input as the keys.
pub struct Keyboard {
    typed: Typed,
    /// Nothing more comes: whoever typed is gone.
    ended: bool,
    /// It is left unread for so long.
    unread_for: Option<Duration>,
}

impl Keyboard {
    /// Nothing was typed yet.
    pub fn new(host: &'static Host) -> Self {
        let typed = Typed::new(&Around { host, vms: &[], ends: &Ends::default() });
        Self { typed, ended: false, unread_for: None }
    }

    /// Where something may be typed now.
    pub fn source(&self) -> Option<BorrowedFd<'static>> {
        (!self.ended && self.unread_for.is_none()).then(stdin)
    }

    /// After how long to look again though nothing may call.
    pub fn look_again(&self) -> Option<Duration> {
        self.unread_for
    }

    /// Reads what was typed, and offers the guests what waits for them.
    pub fn attend(&mut self, host: &'static Host, vms: &[Arc<Vm>], ends: &Ends) {
        let around = Around { host, vms, ends };
        self.typed.attend(&around);
        let mut bytes = [0; 4096];
        if self.typed.reads(&around) && !self.ended && is_readable() {
            match rustix::io::read(stdin(), &mut bytes) {
                Ok(0) => self.end(host),
                Ok(count) => {
                    let typed = bytes.get(..count).unwrap_or_default();
                    typed.iter().for_each(|&byte| self.typed.byte(byte, &around));
                }
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.end(host),
            }
        }
        self.typed.attend(&around);
        self.unread_for = self.typed.unread_for(&around).map(Duration::from_nanos);
    }

    /// Whoever started this process is gone, or wants no more of it.
    fn end(&mut self, host: &Host) {
        self.ended = true;
        host.end_run();
    }
}

/// Whether reading the keys wouldn't wait.
fn is_readable() -> bool {
    let mut keys = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    poll(&mut keys, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
