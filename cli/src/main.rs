//! `axvm`: runs, checks, inspects and packs systems that system files describe.

mod args;
mod ask;
mod board;
mod check;
mod console;
mod control;
mod hypervisor;
mod input;
mod inspect;
mod lines;
mod linux;
mod medium;
mod output;
mod pack;
mod pci_names;
mod platform;
mod qemu;
mod release;
mod run;
mod service;
mod session;
mod terminal;
mod typing;
mod typist;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Ask(arguments) => ask::ask(&arguments),
        Command::Release(arguments) => release::release(&arguments),
        Command::LinuxGuard(arguments) => release::guard(&arguments),
        Command::Pack(arguments) => pack::pack(&arguments),
        Command::LinuxHost(arguments) => linux::host(&arguments),
    }
}
