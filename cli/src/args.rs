//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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
}

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
  axvm run system.toml --qemu -icount --qemu shift=0,sleep=off";

/// Arguments of `run`.
#[derive(Args)]
pub struct Run {
    /// The system file
    #[arg(value_name = "SYSTEM.toml")]
    pub system: PathBuf,
    /// Write the run's report to this file, as JSON, whatever the verdict
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// End the run after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// One more argument for QEMU; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu: Vec<String>,
    /// Print the report on standard output, and everything else on standard error
    #[arg(long)]
    pub json: bool,
    /// What images are used.
    #[command(flatten)]
    pub image: Image,
    /// A test image: start it with this protection off
    #[arg(long, value_name = "NAME", hide = true)]
    pub protection_off: Option<String>,
}

/// Which hypervisor.
#[derive(Args)]
pub struct Image {
    /// The hypervisor's image; default: $AXVM_HYPERVISOR, the repository's build, the installed one
    #[arg(long, value_name = "FILE")]
    pub hypervisor: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a timeout is more than no time".to_string()),
    }
}
