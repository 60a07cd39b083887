//! `axvm`: runs, checks, inspects and packs systems that system files describe.

mod args;
mod console;
mod hypervisor;
mod input;
mod output;
mod qemu;
mod run;
mod session;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
    }
}
