//! A board that is QEMU: everything about it checked, then started with a bundle.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axvm_addr::VmId;
use axvm_plan::problem::{Problem, Rule};
use axvm_system::bundle::RunOptions;
use axvm_system::model::{Arch, Item};
use axvm_system::protection::RESTART;
use axvm_system::wire;

use crate::console::Speaker;
use crate::control::Socket;
use crate::input::Input;
use crate::medium::Medium;
use crate::session::{self, Job, Outcome};
use crate::typist::Typist;
use crate::{hypervisor, qemu, terminal};

/// The most that a run takes which only plans.
const PLANNING: Duration = Duration::from_secs(60);

/// What QEMU is run with, once everything about it is known to be good.
pub struct Board {
    arch: Arch,
    program: OsString,
    words: Vec<String>,
    image: PathBuf,
}

/// How it is started.
#[derive(Default)]
pub struct How {
    /// Probe and plan only; nothing is shown.
    pub plan_only: bool,
    /// Standard output is for something else.
    pub messages_only: bool,
    /// The most time it has.
    pub timeout: Option<Duration>,
    /// For a test image: the protection that is off.
    pub protection_off: Option<String>,
    /// The boot loader, if there is to be one.
    pub boot_loader: Option<PathBuf>,
    /// Where programs ask for the shell's commands.
    pub control: Option<Arc<Socket>>,
}

impl Board {
    /// The board of the system file with `more` words; what is wrong is added to the file's problems. `None`: it can't
    /// be started, not even to plan.
    pub fn prepare(input: &mut Input, image: Option<&Path>, more: &[String]) -> Option<Self> {
        let board = input.system.as_ref()?.board.clone();
        let Some(given) = &board.qemu else {
            let message = "there is no `qemu` in [board]: this board isn't QEMU, start it by `axvm pack` and a boot loader";
            input.add(Problem::new(Item::Board(String::new()), Rule::Platform, message));
            return None;
        };
        let qemu::Found { program, problem } = qemu::find(board.arch);
        if let Some(message) = problem {
            input.add(Problem::new(Item::Board("qemu".into()), Rule::Platform, message));
        }
        let image = hypervisor::find(image, board.arch)
            .map_err(|message| input.add(Problem::new(Item::File, Rule::Hypervisor, message)))
            .ok()?;
        let words = given.iter().chain(more).cloned().collect();
        input.can_plan().then_some(Self { arch: board.arch, program, words, image })
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// In words, if it can't be started.
    pub fn start(&self, input: &Input, how: &How) -> Result<Outcome, String> {
        let nonce = nonce()?;
        let options = RunOptions {
            nonce: Some(nonce),
            plan_only: how.plan_only,
            protection_off: how.protection_off.clone(),
            // QEMU takes the file from the page cache: there is nothing on the way to damage it. A boot loader reads a disk.
            verify: how.boot_loader.is_some(),
        };
        let restarts = options.protection_off.as_deref() == Some(RESTART);
        let bytes = input.bundle(&options)?;
        let complain = |error: io::Error| format!("the bundle can't be written to a temporary file: {error}");
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        // Dropped when the run is over.
        let (_file, _medium, command, typist);
        match &how.boot_loader {
            None => {
                let mut file = tempfile::Builder::new()
                    .prefix("axvm-")
                    .suffix(".bundle")
                    .tempfile()
                    .map_err(complain)?;
                file.write_all(&bytes).map_err(complain)?;
                let boot = qemu::Boot::Kernel { hypervisor: &self.image, bundle: file.path() };
                command = qemu::command(&self.program, &words, &boot, &input.folder, restarts);
                typist = None;
                _file = file;
            }
            Some(loader) => {
                let loader = path::absolute(loader).map_err(|error| error.to_string())?;
                let medium = Medium::write(self.arch, &self.image, bytes)?;
                let folder = medium.folder();
                let boot = match self.arch {
                    // It finds what it has to do on the disk by itself.
                    Arch::X86_64 => qemu::Boot::Cd { cd: &loader, medium: folder },
                    Arch::Aarch64 | Arch::Riscv64 => {
                        qemu::Boot::Firmware { firmware: &loader, medium: folder }
                    }
                };
                typist = match boot {
                    qemu::Boot::Firmware { .. } => Some(Typist::new(medium.lines()?)),
                    qemu::Boot::Cd { .. } | qemu::Boot::Kernel { .. } => None,
                };
                command = qemu::command(&self.program, &words, &boot, &input.folder, restarts);
                _medium = medium;
            }
        }
        show(input, how, command, typist, &nonce, Speaker::Qemu)
            .map_err(|error| format!("QEMU can't be started: {error}"))
    }
}

/// A number that no guest knows.
///
/// # Errors
///
/// In words: there is none.
pub fn nonce() -> Result<[u8; 16], String> {
    let mut nonce = [0; 16];
    match rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(nonce),
        _ => Err("the system has no random numbers".to_string()),
    }
}

/// Starts what runs the system, and shows it until it ends. `errors`: who speaks by its standard error.
///
/// # Errors
///
/// If it can't be started.
pub fn show(
    input: &Input,
    how: &How,
    command: Command,
    typist: Option<Typist>,
    nonce: &[u8; 16],
    errors: Speaker,
) -> io::Result<Outcome> {
    let vms = input.system.iter().flat_map(|system| &system.vms);
    let first = vms.clone().position(|vm| vm.autostart).unwrap_or(0);
    let interactive = terminal::is_interactive() && !how.messages_only && !how.plan_only;
    let job = Job {
        command,
        errors,
        typist,
        nonce: wire::frame_nonce(nonce),
        memory: vms.clone().fold(0, |sum: u64, vm| sum.saturating_add(vm.memory)),
        names: vms.map(|vm| vm.name.clone()).collect(),
        first: VmId(first as u16),
        timeout: how.timeout.or(how.plan_only.then_some(PLANNING)),
        interactive,
        // A terminal is read only where it is the console: reading one from the background stops the reader.
        keys: !how.plan_only && (interactive || !io::stdin().is_terminal()),
        control: how.control.clone().filter(|_| !how.plan_only),
    };
    if how.plan_only {
        session::run(job, io::sink())
    } else if how.messages_only {
        session::run(job, io::stderr())
    } else {
        session::run(job, io::stdout())
    }
}
