//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use axvm_addr::{Hpa, Span};
use axvm_system::file;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs systems in which guests drive real devices.
#[derive(Parser)]
#[command(name = "axvm", version = axvm_system::VERSION)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Start the system and show its consoles, until every VM has stopped
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Plan the system without running it: print every problem with its line, or the plan
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// List this machine's devices, or a platform's, and which of them can be assigned
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(Inspect),
    /// Write what a boot loader needs: hypervisor image, bundle, and the lines to type
    #[command(after_help = PACK_EXAMPLES)]
    Pack(Pack),
    /// Ask a run that listens at a socket (`run --control`)
    #[command(after_help = ASK_EXAMPLES)]
    Ask(Ask),
    /// Give PCI functions back to their Linux drivers that a run which was killed has left
    #[command(after_help = RELEASE_EXAMPLES)]
    Release(Release),
    /// The process that takes devices from their drivers on a Linux host, and gives them back
    #[command(hide = true)]
    LinuxGuard(LinuxGuard),
    /// The process that `run` starts on a Linux host
    #[command(hide = true)]
    LinuxHost(LinuxHost),
}

const CHECK_EXAMPLES: &str = "\
Without --platform the board is started, if it is QEMU, to look at itself; no VM is.
A device tree doesn't list PCI functions: with one the plan is \"incomplete\".

Exit status:
  0 it can be run, 2 it has problems

Examples:
  axvm check system.toml
  axvm check system.toml --platform board.dtb
  axvm check system.toml --platform board.dtb --memory 0x8000_0000:2G
  axvm check system.toml --platform board.snapshot --json
  sudo axvm check system.toml --host linux";

const INSPECT_EXAMPLES: &str = "\
Without arguments it is this machine, as its Linux tells of it: which driver has each device, what it is used for, and what AxVM could
give away if it ran there. Only root sees all of that; a group is known while Linux has the IOMMU on.

Examples:
  sudo axvm inspect
  sudo axvm inspect --save machine.snapshot
  axvm inspect --system system.toml
  axvm inspect --system system.toml --save board.snapshot
  axvm inspect --platform board.dtb --json";

const PACK_EXAMPLES: &str = "\
Exit status:
  0 written, 2 the file has problems

Examples:
  axvm pack system.toml -o boot/";

const ASK_EXAMPLES: &str = "\
Each LINE is a command of the shell (`help` lists them), and each answer a line of JSON.

Exit status:
  0 all were carried out, 2 one of them wasn't, or nobody listens there

Examples:
  axvm ask control.sock vms
  axvm ask control.sock 'suspend linux' vms";

const RELEASE_EXAMPLES: &str = "\
On a Linux host a run takes devices from their drivers, and gives them back when it ends, also when it is killed. If the process that does
that was killed too, this gives back what stands in /run/axvm. What a run has still is left to it.

Exit status:
  0 all was given back, or nothing was left; 2 something couldn't be

Examples:
  sudo axvm release";

const RUN_EXAMPLES: &str = "\
Console:
  The VM in focus is raw, lines of the others have their names before them.
  Ctrl-] then n: next VM; s: shell; q: end the run; Ctrl-] again: Ctrl-] itself.
  Ctrl-C goes to the guest. If this is not a terminal every line has a prefix.

Exit status:
  0 ok, 2 bad-input, 3 guest-failed, 4 violation, 5 hypervisor-failed, 6 timeout, 130 interrupted

Examples:
  axvm run system.toml
  axvm run system.toml --report report.json --timeout 120
  axvm run system.toml --control control.sock
  sudo axvm run system.toml --host linux
  axvm run system.toml --qemu -icount --qemu shift=0,sleep=off";

/// Arguments of `ask`.
#[derive(Args)]
pub struct Ask {
    /// The socket of the run
    #[arg(value_name = "SOCKET")]
    pub socket: PathBuf,
    /// A command
    #[arg(value_name = "LINE", required = true)]
    pub lines: Vec<String>,
}

/// Arguments of `run`.
#[derive(Args)]
pub struct Run {
    /// The system file
    #[arg(value_name = "SYSTEM.toml")]
    pub system: PathBuf,
    /// Run it there, whatever the file says (`[board] host`)
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostName>,
    /// Write the run's report to this file, as JSON, whatever the verdict
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// End the run after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Take the shell's commands at this Unix socket, one a line, and answer each by a line of JSON
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// One more argument for QEMU; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu: Vec<String>,
    /// Print the report on standard output, and everything else on standard error
    #[arg(long)]
    pub json: bool,
    /// What images are used.
    #[command(flatten)]
    pub image: Image,
    /// For test images of the hypervisor only, others refuse: start with this protection off
    #[arg(long, value_name = "NAME", help_heading = "Testing")]
    pub protection_off: Option<String>,
    /// Start through this boot loader, by the files and the lines that `pack` writes: a U-Boot that is QEMU's `-bios`, or, of x86, a CD with
    /// a GRUB that does as boot-grub.txt on a disk says
    #[arg(long, value_name = "FILE", help_heading = "Testing")]
    pub boot_loader: Option<PathBuf>,
}

/// Where a system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostName {
    /// On this machine's Linux, by KVM
    Linux,
    /// On the board, below everything else
    BareMetal,
}

/// Arguments of `release`.
#[derive(Args)]
pub struct Release {
    /// Print what was given back as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `linux-guard`.
#[derive(Args)]
pub struct LinuxGuard {
    /// The user who opens what is taken
    #[arg(long)]
    pub user: Option<u32>,
    /// They are opened by nodes of their own, not by their groups'
    #[arg(long)]
    pub devices: bool,
    /// Those that are taken though Linux uses them
    #[arg(long)]
    pub in_use: Vec<String>,
    /// The processors that their messages may be led to
    #[arg(long, value_delimiter = ',')]
    pub processors: Vec<usize>,
    /// The functions that may be asked for
    pub functions: Vec<String>,
}

/// Arguments of `linux-host`.
#[derive(Args)]
pub struct LinuxHost {
    /// The bundle
    pub bundle: PathBuf,
}

/// Which hypervisor.
#[derive(Args)]
pub struct Image {
    /// The hypervisor's image; default: $AXVM_HYPERVISOR, the repository's build, the installed one
    #[arg(long, value_name = "FILE")]
    pub hypervisor: Option<PathBuf>,
}

/// What a device tree may leave to the boot loader, said in its stead.
#[derive(Args, Default)]
pub struct StandIn {
    /// RAM in place of what the device tree says, as 0x8000_0000:2G; may be given several times
    #[arg(long, value_name = "ADDRESS:SIZE", value_parser = bank, requires = "platform")]
    pub memory: Vec<Span<Hpa>>,
    /// Plan as if the first N CPUs could be started by PSCI, whatever the device tree says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), requires = "platform")]
    pub cpu: Option<u16>,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct Check {
    /// The system file
    #[arg(value_name = "SYSTEM.toml")]
    pub system: PathBuf,
    /// Plan it for that host, whatever the file says (`[board] host`): for a Linux host on this machine, unless a platform is given
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostName>,
    /// Plan for this platform: a device tree, ACPI's tables (as for `inspect`), or what `inspect --save` wrote
    #[arg(long, value_name = "DTB|SNAPSHOT")]
    pub platform: Option<PathBuf>,
    /// What the platform leaves out.
    #[command(flatten)]
    pub stand_in: StandIn,
    /// Print the plan, or the problems, as JSON
    #[arg(long)]
    pub json: bool,
    /// What images are used.
    #[command(flatten)]
    pub image: Image,
}

/// Arguments of `inspect`.
#[derive(Args)]
#[group(skip)]
pub struct Inspect {
    /// Look at the board of this system file, which must be QEMU
    #[arg(long, value_name = "SYSTEM.toml", conflicts_with = "platform")]
    pub system: Option<PathBuf>,
    /// Look at this platform: a device tree, what `inspect --save` wrote, or ACPI's tables of an x86 machine: a folder with a copy of
    /// /sys/firmware/acpi/tables, or acpidump's text; beside them, for the memory map, /proc/iomem or Linux's boot log, and for PCI what
    /// `lspci -Dvvxxxx` prints for root
    #[arg(long, value_name = "FILE")]
    pub platform: Option<PathBuf>,
    /// What the platform leaves out.
    #[command(flatten)]
    pub stand_in: StandIn,
    /// Write the platform to this file, for `check --platform`
    #[arg(long, value_name = "SNAPSHOT")]
    pub save: Option<PathBuf>,
    /// Print the devices as JSON
    #[arg(long)]
    pub json: bool,
    /// What images are used.
    #[command(flatten)]
    pub image: Image,
}

/// Arguments of `pack`.
#[derive(Args)]
pub struct Pack {
    /// The system file
    #[arg(value_name = "SYSTEM.toml")]
    pub system: PathBuf,
    /// The folder to write to; it is made if need be
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Print the names and sizes of what was written, or the problems, as JSON
    #[arg(long)]
    pub json: bool,
    /// What images are used.
    #[command(flatten)]
    pub image: Image,
}

/// A bank of RAM: an address and, after a colon, a size as in the system file.
fn bank(text: &str) -> Result<Span<Hpa>, String> {
    let wrong = || "it is an address and a size, as 0x8000_0000:2G".to_string();
    let (start, size) = text.split_once(':').ok_or_else(wrong)?;
    let (start, size) = (file::number(start).ok_or_else(wrong)?, file::size(size).ok_or_else(wrong)?);
    let span =
        Span::new(Hpa(start), size).map_err(|_| "it passes the end of the address space".to_string())?;
    if span.is_empty() { Err("it has no bytes".to_string()) } else { Ok(span) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a timeout is more than no time".to_string()),
    }
}
