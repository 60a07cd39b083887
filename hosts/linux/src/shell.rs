//! The shell: not served yet on a Linux host. Keys that would open it do nothing, and a program's command is told so.

use std::sync::Arc;

use axvm::report::VmReport;
use axvm_addr::VmId;
use axvm_shell::{Answer, Reason};
use axvm_system::wire::Channel;

use crate::Vm;
use crate::host::Host;

/// What a command acts upon.
pub struct Around<'a> {
    /// The process.
    pub host: &'static Host,
    /// The VMs that there are.
    pub vms: &'a [Arc<Vm>],
    /// By VM: the report of one that is no more.
    pub gone: &'a [Option<VmReport>],
    /// The VM in focus.
    pub focus: VmId,
}

/// What is to be done next, by whoever has the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Stay,
    /// That VM gets the focus.
    Focus(VmId),
    /// The run ends.
    End,
}

/// The shell.
#[derive(Default)]
pub struct Shell;

impl Shell {
    /// Whether it has the keys.
    pub fn is_open(&self) -> bool {
        false
    }

    /// Would give it the keys.
    pub fn open(&mut self, host: &Host) {
        host.link.info(format_args!("the shell isn't served yet on a Linux host"));
    }

    /// Takes them away.
    pub fn close(&mut self) {}

    /// Draws its line again.
    pub fn attend(&mut self, _: &Host) {}

    /// Takes a byte that was typed.
    pub fn byte(&mut self, _: u8, _: &Around<'_>) -> Then {
        Then::Stay
    }

    /// Takes a byte of a program's command.
    pub fn command_byte(&mut self, _: u8) {}

    /// Carries a program's command out.
    pub fn command_end(&mut self, around: &Around<'_>) -> Then {
        let answer = Answer::error(Reason::NotServed, "the shell isn't served yet on a Linux host");
        around.host.link.send_packed(Channel::Answer, Channel::AnswerEnd, &answer);
        Then::Stay
    }
}
