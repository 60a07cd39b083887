//! What is typed: commands for the host, what its shell reads, and all else for the guest in focus.
//!
//! Nothing is dropped in silence. What a guest has no room for waits here, and its UART calls when there is room. If as much waits
//! as is kept, the keys are left unread, so that whoever types has to wait too. A guest that takes nothing for two seconds can't
//! hold them for longer: the host's own commands come by them. Then they are read on, and what was for the guest is lost and said to
//! be.

use axvm_addr::VmId;
use axvm_system::wire::{Channel, Key, Keys};

use crate::Machine;
use crate::shell::{Shell, Then};
use crate::waiting::Waiting;

/// What was typed.
pub struct Typed {
    keys: Keys,
    shell: Shell,
    waiting: Waiting,
}

impl Typed {
    /// Nothing yet. The first VM that starts by itself has the focus.
    pub fn new(machine: &impl Machine) -> Self {
        let focus = machine.plans().iter().find(|plan| plan.autostart).map_or(VmId(0), |plan| plan.id);
        machine.say(Channel::Focus(focus), &[]);
        Self {
            keys: Keys::default(),
            shell: Shell::default(),
            waiting: Waiting::new(machine.plans().len(), focus),
        }
    }

    /// Who types is another from here on: what was begun before is over.
    pub fn begin_again(&mut self, machine: &impl Machine) {
        self.keys = Keys::default();
        self.shell.close();
        machine.say(Channel::Focus(self.waiting.focus()), &[]);
    }

    /// Whether the keys are to be read.
    pub fn reads(&mut self, machine: &impl Machine) -> bool {
        self.waiting.reads(machine)
    }

    /// In how many nanoseconds whether the keys are read has to be asked again, though nothing may call. None: they are read.
    pub fn unread_for(&self, machine: &impl Machine) -> Option<u64> {
        self.waiting.unread_for(machine)
    }

    /// Offers the guests what waits for them, and has the shell's line drawn again where others have spoken in the middle of it.
    pub fn attend(&mut self, machine: &impl Machine) {
        self.shell.attend(machine);
        self.waiting.offer(machine);
    }

    /// Takes a byte that was typed.
    pub fn byte(&mut self, byte: u8, machine: &impl Machine) {
        let focus = self.waiting.focus();
        let then = match self.keys.push(byte) {
            Some(Key::Byte(byte)) if self.shell.is_open() => self.shell.byte(byte, machine, focus),
            Some(Key::Byte(byte)) => {
                self.waiting.keep(byte);
                Then::Stay
            }
            Some(Key::NextVm) => {
                Then::Focus(VmId(focus.0.wrapping_add(1) % (machine.plans().len().max(1) as u16)))
            }
            Some(Key::Shell) if self.shell.is_open() => Then::Focus(focus),
            Some(Key::Shell) => {
                self.shell.open(machine);
                Then::Stay
            }
            Some(Key::Quit) => Then::End,
            Some(Key::Command(byte)) => {
                self.shell.command_byte(byte);
                Then::Stay
            }
            Some(Key::CommandEnd) => self.shell.command_end(machine, focus),
            None => Then::Stay,
        };
        match then {
            Then::Stay => {}
            Then::Focus(vm) => {
                self.waiting.set_focus(vm, machine);
                self.shell.close();
                machine.say(Channel::Focus(vm), &[]);
            }
            Then::End => {
                self.waiting.say_lost(machine);
                machine.end_run();
            }
        }
    }
}
