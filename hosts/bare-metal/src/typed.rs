//! What is typed at the hypervisor's console: commands for itself, what its shell reads, and all else for the guest in focus.
//!
//! Nothing is dropped in silence. What a guest has no room for waits here, and its UART calls when there is room. If as much waits
//! as is kept, the real UART is left unread, so that whoever types has to wait too (a line without flow control overruns then,
//! which the UART tells). A guest that takes nothing for [`PATIENCE_S`] can't hold the line for longer: the hypervisor's own
//! commands come by it. Then it is read on, and what was for the guest is lost and said to be.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use axvm::report::VmReport;
use axvm_addr::VmId;
use axvm_monitor::{Shell, Then};
use axvm_system::wire::{Channel, Key, Keys};
use axvm_uart::Received;

use crate::host::Host;
use crate::log;
use crate::shell::Around;
use crate::vm::VmRef;
use crate::{arch, console};

/// Bytes that wait for a guest at the most.
const MOST: usize = 64 << 10;

/// How long a guest may take nothing while so many wait.
const PATIENCE_S: u64 = 2;

/// How often a UART without an interrupt is asked.
const ASK_US: u64 = 10_000;

/// What is done with what comes in for the guest in focus.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is kept.
    Keeping,
    /// The UART is left unread until that tick.
    Waiting(u64),
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
    /// The UART interrupts when something is typed.
    called: bool,
    /// How often the console had moved when it was last asked for that.
    moves: u64,
}

impl Typed {
    /// Nothing yet. The first VM that starts by itself has the focus.
    pub fn new(host: &Host) -> Self {
        let focus = host.plans.iter().find(|plan| plan.autostart).map_or(VmId(0), |plan| plan.id);
        console::send(Channel::Focus(focus), &[]);
        Self {
            keys: Keys::default(),
            focus,
            shell: Shell::default(),
            waiting: host.plans.iter().map(|_| VecDeque::new()).collect(),
            state: State::Keeping,
            lost: 0,
            called: console::listen(true) && host.console_has_line(),
            moves: console::moves(),
        }
    }

    /// The console is another, or the hypervisor's own again: what was begun at the one before is over.
    fn follow(&mut self, host: &Host) {
        let moves = console::moves();
        if moves != self.moves {
            self.moves = moves;
            self.keys = Keys::default();
            self.shell.close();
            self.called = console::listen(true) && host.console_has_line();
            console::send(Channel::Focus(self.focus), &[]);
        }
    }

    /// Reads what was typed, and offers the guest in focus what waits for it. `gone`: by VM, the report of one that is no more.
    pub fn take(&mut self, host: &'static Host, vms: &[VmRef], gone: &[Option<VmReport>]) {
        self.follow(host);
        self.offer(host, vms);
        while self.reads(host) {
            let byte = match console::receive() {
                Received::Nothing => break,
                Received::Lost => {
                    log::warn!("the console's line overran: something that was typed is lost");
                    continue;
                }
                Received::Byte(byte) => byte,
            };
            let around = Around { host, vms, gone, focus: self.focus };
            let then = match self.keys.push(byte) {
                Some(Key::Byte(byte)) if self.shell.is_open() => self.shell.byte(byte, &around),
                Some(Key::Byte(byte)) => {
                    self.keep(byte);
                    Then::Stay
                }
                Some(Key::NextVm) => Then::Focus(VmId((self.focus.0 + 1) % (host.plans.len().max(1) as u16))),
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
                    console::send(Channel::Focus(vm), &[]);
                }
                Then::End => {
                    self.say_lost(host);
                    host.end_run();
                }
            }
        }
        self.shell.attend(&Around { host, vms, gone, focus: self.focus });
        self.offer(host, vms);
    }

    /// After how many microseconds to look again though nothing may call: for a UART that doesn't interrupt, or one that is left
    /// unread.
    pub fn ask_again_us(&self) -> Option<u64> {
        match self.state {
            State::Waiting(_) => Some(PATIENCE_S * 1_000_000),
            _ if self.called || !console::is_there() => None,
            _ => Some(ASK_US),
        }
    }

    /// Whether the UART is read on.
    fn reads(&mut self, host: &Host) -> bool {
        let full = self.queue().is_some_and(|queue| queue.len() >= MOST);
        match self.state {
            State::Keeping if full => {
                // Its interrupt would come again and again.
                console::listen(false);
                self.state = State::Waiting(arch::ticks() + arch::tick_hz() * PATIENCE_S);
                false
            }
            State::Waiting(end) if full && arch::ticks() < end => false,
            State::Waiting(_) => {
                console::listen(true);
                if full {
                    let name = self.name(host);
                    log::warn!(
                        "{name}: it has taken nothing for {PATIENCE_S} s: what is typed for it is lost until it does"
                    );
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
            self.lost += 1;
        } else if let Some(queue) = self.queue() {
            queue.push_back(byte);
        }
    }

    /// Offers each guest what waits for it: the one that had the focus before gets what was typed then.
    fn offer(&mut self, host: &Host, vms: &[VmRef]) {
        for id in (0..).map(VmId).take(self.waiting.len()) {
            self.offer_to(id, host, vms);
        }
    }

    fn offer_to(&mut self, id: VmId, host: &Host, vms: &[VmRef]) {
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
                *end = arch::ticks() + arch::tick_hz() * PATIENCE_S;
            }
        }
    }

    /// Says what was lost, and loses no more.
    fn say_lost(&mut self, host: &Host) {
        if self.state == State::Losing {
            self.state = State::Keeping;
            log::warn!("{}: {} bytes that were typed for it are lost", self.name(host), self.lost);
            self.lost = 0;
        }
    }

    /// The name of the VM in focus.
    fn name<'a>(&self, host: &'a Host) -> &'a str {
        host.plan(self.focus).map_or("", |plan| plan.name.as_str())
    }
}
