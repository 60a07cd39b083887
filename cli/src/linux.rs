//! A Linux host: planned here, and run by a process of its own, which says and hears by pipes what a hypervisor does at its UART.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use axvm_linux::{probe, start, vfio};
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{Plan, own_tree, plan};
use axvm_platform::limits::{LinuxHost, Serves};
use axvm_platform::model::Platform;
use axvm_platform::sysfs::{Function, Machine};
use axvm_system::bundle::RunOptions;
use axvm_system::model::{Host, Item, System};

use crate::args::{HostName, LinuxHost as LinuxHostArguments};
use crate::board::{How, nonce, show};
use crate::console::Speaker;
use crate::input::Input;
use crate::session::Outcome;

/// Whether a folder has a copy of what Linux tells of its machine.
pub fn is_copy(folder: &Path) -> bool {
    folder.join("sys/firmware").is_dir()
}

/// Has the file run where the command line says, whatever the file says.
pub fn choose(input: &mut Input, said: Option<HostName>) {
    let host = match said {
        Some(HostName::Linux) => Host::Linux,
        Some(HostName::BareMetal) => Host::BareMetal,
        None => return,
    };
    if let Some(system) = &mut input.system {
        system.board.host = host;
    }
}

/// Whether the system runs on a Linux host.
pub fn is_host(input: &Input) -> bool {
    input.system.as_ref().is_some_and(|system| system.board.host == Host::Linux)
}

/// This machine, as VMs can run on it.
///
/// # Errors
///
/// In words.
pub fn machine() -> Result<Machine, String> {
    probe::found().map_err(|error| error.to_string())
}

/// Adds what keeps the file's VMs from running here, whatever the plan. Whether nothing does.
pub fn lacks(input: &mut Input) -> bool {
    let lacks = input.system.as_ref().map(probe::lacks).unwrap_or_default();
    let none = lacks.is_empty();
    input.add_planned(lacks);
    none
}

/// The plan, if this machine's Linux lets go of its devices, of which these are all.
///
/// # Errors
///
/// What keeps them.
pub fn lets_go(functions: &[Function], system: &System, mut plan: Plan) -> Result<Plan, Vec<Problem>> {
    let found = vfio::check::here(functions, system, &plan);
    plan.notes.extend(found.notes);
    if found.problems.is_empty() { Ok(plan) } else { Err(found.problems) }
}

/// A platform that was saved or is described, as if a Linux ran there that offers all that is served.
pub fn as_if(platform: Platform) -> Platform {
    let linux = LinuxHost { guests: Serves::Yes, functions: vfio::SERVES };
    Platform { limits: platform.limits.of_linux(linux), ..platform }
}

/// Plans it for this machine and runs it; `None` if there are problems.
///
/// # Errors
///
/// In words, if it can't be started.
pub fn run(input: &mut Input, how: &How) -> Result<Option<Outcome>, String> {
    let Some(system) = input.system.clone() else { return Ok(None) };
    if !lacks(input) {
        return Ok(None);
    }
    let Machine { platform, functions } = machine()?;
    let planned = plan(&system, &platform, &input.images).and_then(|mut plan| {
        own_tree::check(&system, &input.images, &mut plan, &input.device_trees())?;
        lets_go(&functions, &system, plan)
    });
    if let Err(problems) = planned {
        input.add_planned(problems);
    }
    if !input.is_good() {
        return Ok(None);
    }
    let nonce = nonce()?;
    let bytes = input.bundle_beside_images(&RunOptions { nonce: Some(nonce), ..RunOptions::default() })?;
    let complain = |error| format!("the bundle can't be written to a temporary file: {error}");
    // It goes when the run is over.
    let mut file = tempfile::Builder::new().prefix("axvm-").suffix(".bundle").tempfile().map_err(complain)?;
    file.write_all(&bytes).map_err(complain)?;
    input.look_away();
    let program = env::current_exe().map_err(|error| format!("this program isn't found: {error}"))?;
    let mut command = Command::new(program);
    command.arg("linux-host").arg(file.path());
    let outcome = show(input, how, command, None, &nonce, Speaker::Hypervisor);
    outcome.map(Some).map_err(|error| format!("the host's process can't be started: {error}"))
}

/// The process that runs the VMs.
pub fn host(arguments: &LinuxHostArguments) -> ExitCode {
    match start::run(&arguments.bundle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axvm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a command line has that means nothing on a Linux host.
pub fn refuse(input: &mut Input, means_nothing: &[(&str, bool)]) {
    for (what, _) in means_nothing.iter().filter(|(_, said)| *said) {
        let message = format!("{what} means nothing on a Linux host: leave it out");
        input.add(Problem::new(Item::File, Rule::File, message));
    }
}
