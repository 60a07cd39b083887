//! What is typed: commands for the host, what its shell reads, and all else for the guest in focus.
//!
//! What a guest has no room for waits here, and its UART calls when there is room. If as much waits as is kept, the keys are left unread, so that
//! whoever types has to wait too. A guest that takes nothing for `PATIENCE` can't hold them for longer: the host's own commands come by them.
//! Then they are read on, and what was for the guest is lost and said to be.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axvm::report::VmReport;
use axvm_addr::VmId;
use axvm_monitor::{Shell, Then};
use axvm_system::wire::{Channel, Key, Keys};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use crate::Vm;
use crate::host::Host;
use crate::shell::Around;

/// Bytes that wait for a guest at the most.
const MOST: usize = 64 << 10;

/// How long a guest may take nothing while so many wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is done with what comes in for the guest in focus.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is kept.
    Keeping,
    /// The keys are left unread until then.
    Waiting(Instant),
    /// It is lost.
    Losing,
}

/// What was typed.
pub struct Typed {
    keys: Keys,
    focus: VmId,
    shell: Shell,
    /// By VM: what it hasn't taken yet.
    waiting: Vec<VecDeque<u8>>,
    state: State,
    lost: u64,
    /// Nothing more comes: whoever typed is gone.
    ended: bool,
}

impl Typed {
    /// Nothing yet. The first VM that starts by itself has the focus.
    pub fn new(host: &Host) -> Self {
        let focus = host.plans.iter().find(|plan| plan.autostart).map_or(VmId(0), |plan| plan.id);
        host.link.send(Channel::Focus(focus), &[]);
        Self {
            keys: Keys::default(),
            focus,
            shell: Shell::default(),
            waiting: host.plans.iter().map(|_| VecDeque::new()).collect(),
            state: State::Keeping,
            lost: 0,
            ended: false,
        }
    }

    /// Where something may be typed now.
    pub fn source(&self) -> Option<BorrowedFd<'static>> {
        let reads = !self.ended && !matches!(self.state, State::Waiting(_));
        reads.then(stdin)
    }

    /// After how long to look again though nothing may call.
    pub fn look_again(&self) -> Option<Duration> {
        match self.state {
            State::Waiting(end) => Some(end.saturating_duration_since(Instant::now())),
            State::Keeping | State::Losing => None,
        }
    }

    /// Reads what was typed, and offers the guest in focus what waits for it. `gone`: by VM, the report of one that is no more.
    pub fn take(&mut self, host: &'static Host, vms: &[Arc<Vm>], gone: &[Option<VmReport>]) {
        self.offer(host, vms);
        let mut bytes = [0; 4096];
        if self.reads(host) && !self.ended && is_readable() {
            match rustix::io::read(stdin(), &mut bytes) {
                Ok(0) => self.end(host),
                Ok(count) => {
                    let typed = bytes.get(..count).unwrap_or_default();
                    typed.iter().for_each(|&byte| self.byte(byte, host, vms, gone));
                }
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.end(host),
            }
        }
        self.shell.attend(&Around { host, vms, gone, focus: self.focus });
        self.offer(host, vms);
    }

    /// Whoever started this process is gone, or wants no more of it.
    fn end(&mut self, host: &Host) {
        self.ended = true;
        host.end_run();
    }

    fn byte(&mut self, byte: u8, host: &'static Host, vms: &[Arc<Vm>], gone: &[Option<VmReport>]) {
        let around = Around { host, vms, gone, focus: self.focus };
        let then = match self.keys.push(byte) {
            Some(Key::Byte(byte)) if self.shell.is_open() => self.shell.byte(byte, &around),
            Some(Key::Byte(byte)) => {
                self.keep(byte);
                Then::Stay
            }
            Some(Key::NextVm) => {
                Then::Focus(VmId(self.focus.0.wrapping_add(1) % (host.plans.len().max(1) as u16)))
            }
            Some(Key::Shell) if self.shell.is_open() => Then::Focus(self.focus),
            Some(Key::Shell) => {
                self.shell.open(&around);
                Then::Stay
            }
            Some(Key::Quit) => Then::End,
            Some(Key::Command(byte)) => {
                self.shell.command_byte(byte);
                Then::Stay
            }
            Some(Key::CommandEnd) => self.shell.command_end(&around),
            None => Then::Stay,
        };
        match then {
            Then::Stay => {}
            Then::Focus(vm) => {
                self.say_lost(host);
                self.focus = vm;
                self.shell.close();
                host.link.send(Channel::Focus(vm), &[]);
            }
            Then::End => {
                self.say_lost(host);
                host.end_run();
            }
        }
    }

    /// Whether the keys are read on.
    fn reads(&mut self, host: &Host) -> bool {
        let full = self.queue().is_some_and(|queue| queue.len() >= MOST);
        match self.state {
            State::Keeping if full => {
                self.state = State::Waiting(Instant::now() + PATIENCE);
                false
            }
            State::Waiting(end) if full && Instant::now() < end => false,
            State::Waiting(_) => {
                if full {
                    host.link.warn(format_args!(
                        "{}: it has taken nothing for {} s: what is typed for it is lost until it does",
                        self.name(host),
                        PATIENCE.as_secs()
                    ));
                }
                self.state = if full { State::Losing } else { State::Keeping };
                true
            }
            State::Keeping | State::Losing => true,
        }
    }

    fn queue(&mut self) -> Option<&mut VecDeque<u8>> {
        self.waiting.get_mut(usize::from(self.focus.0))
    }

    fn keep(&mut self, byte: u8) {
        if self.state == State::Losing {
            self.lost = self.lost.saturating_add(1);
        } else if let Some(queue) = self.queue() {
            queue.push_back(byte);
        }
    }

    /// Offers each guest what waits for it: the one that had the focus before gets what was typed then.
    fn offer(&mut self, host: &Host, vms: &[Arc<Vm>]) {
        for id in (0..).map(VmId).take(self.waiting.len()) {
            self.offer_to(id, host, vms);
        }
    }

    fn offer_to(&mut self, id: VmId, host: &Host, vms: &[Arc<Vm>]) {
        let vm = vms.iter().find(|vm| vm.id() == id);
        let uart = vm.and_then(|vm| vm.ends().console.as_deref());
        let Some(queue) = self.waiting.get_mut(usize::from(id.0)) else { return };
        let Some(uart) = uart else {
            // It has stopped, or has a console of its own.
            queue.clear();
            return;
        };
        let mut taken = false;
        while !queue.is_empty() {
            let part = queue.as_slices().0;
            let (offered, took) = (part.len(), uart.push_input(part));
            queue.drain(..took);
            taken |= took > 0;
            if took < offered {
                // It calls when it has room.
                break;
            }
        }
        if taken && id == self.focus {
            self.say_lost(host);
            if let State::Waiting(end) = &mut self.state {
                *end = Instant::now() + PATIENCE;
            }
        }
    }

    /// Says what was lost, and loses no more.
    fn say_lost(&mut self, host: &Host) {
        if self.state == State::Losing {
            self.state = State::Keeping;
            let name = self.name(host);
            host.link.warn(format_args!("{name}: {} bytes that were typed for it are lost", self.lost));
            self.lost = 0;
        }
    }

    /// The name of the VM in focus.
    fn name<'a>(&self, host: &'a Host) -> &'a str {
        host.plan(self.focus).map_or("", |plan| plan.name.as_str())
    }
}

/// Whether reading the keys wouldn't wait.
fn is_readable() -> bool {
    let mut keys = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    poll(&mut keys, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
