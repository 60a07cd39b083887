//! What a developer runs: `cargo xtask setup`, `build`, `demo`, `test`, `bench`, `fuzz`, `boards`. Each sets up what is missing first.

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

mod bench;
mod boards;
mod build;
mod demo;
mod echo;
mod edges;
mod fuzz;
mod guest;
mod host;
mod image;
mod links;
mod linux;
mod native;
mod neutral;
mod package;
mod paths;
mod process;
mod refusal;
mod runner;
mod runs;
mod say;
mod soak;
mod suspends;
mod taken;
mod test;
mod tree;
mod variant;

const HELP: &str = "\
What a developer of AxVM runs. Everything that is missing is set up first, under target/.

  cargo xtask setup                  fetch and build what the demo and the tests need
  cargo xtask build                  the hypervisor, the small guests and the tool only
  cargo xtask demo                   boot AxVM under QEMU with a Linux that drives its own devices; check it
      --nic e1000e|igb               its network card (default: e1000e)
      --cpu max|cortex-a76|...       QEMU's CPU model (default: max)
      --host linux                   not on the bare board, but on Debian's Linux there, by KVM and VFIO
  cargo xtask test [STAGE]...        all tests, or the stages named:
                                     fmt edges clippy clippy-target doc package unit qemu figures
      --all                          the long QEMU runs too; packages are built
      --run NAME                     of the QEMU runs of systems/runs.toml only this one (may be repeated)
      --seconds N, --seed N          of a soak: for so long, and with this seed
  cargo xtask bench [--json]         figures: what exits and interrupts cost, start, image size, memory, NVMe reads
      --check                        fail on a figure more than 5 % over its goal
      --short                        without the runs of Linux (NVMe reads)
      --reads N                      reads of the first run; the second does twice as many (default: 2000)
      --host linux [work] [launch]   of a VM on a Linux host under QEMU: what disk and card take of the host; the way to the guest's
                                     first instruction, and the tool's memory. QEMU's beside, without --short
      --host linux exits             the guest that measures exits, by KVM on bare metal's machine (x86_64)
  cargo xtask fuzz [TARGET]          feed what guests and files can feed, at random; without TARGET each its share
      --seconds N                    for so long (default: 60)
  cargo xtask boards                 read and plan the device trees of Debian's kernels: writes docs/boards.md

For all: --arch aarch64|x86_64 (setup, build, test: all of them, where nothing is said; demo, bench: aarch64; boards is aarch64's alone),
--yes (a package source may be added without asking; CI=true says so too).
Status: 0 all is well, 1 a check failed, 2 something is missing (and what to install is said).
";

/// What was asked for on the command line.
struct Options {
    command: String,
    /// The only architecture that is meant; `None`: what each command says.
    arch: Option<String>,
    nic: String,
    cpu: String,
    /// Of `demo`: on which host; `None`: bare metal.
    host: Option<String>,
    json: bool,
    check: bool,
    short: bool,
    reads: u64,
    /// Of `test`: which; of `fuzz`: the target; of `bench` of a Linux host: which figures.
    stages: Vec<String>,
    which: test::Which,
    seconds: u64,
}

fn main() -> ExitCode {
    match parse().and_then(run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<say::Missing>() || error.is::<lexopt::Error>() { 2 } else { 1 })
        }
    }
}

fn parse() -> Result<Options> {
    let mut options = Options {
        command: String::new(),
        arch: None,
        nic: "e1000e".into(),
        cpu: "max".into(),
        host: None,
        json: false,
        check: false,
        short: false,
        reads: 2000,
        stages: Vec::new(),
        which: test::Which { names: Vec::new(), all: false, seconds: None, seed: None },
        seconds: 60,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => options.command = "help".into(),
            Long("yes") => host::packages::allow_sources(),
            Long("arch") => options.arch = Some(parser.value()?.string()?),
            Long("nic") => options.nic = parser.value()?.string()?,
            Long("cpu") => options.cpu = parser.value()?.string()?,
            Long("host") => options.host = Some(parser.value()?.string()?),
            Long("json") => options.json = true,
            Long("check") => options.check = true,
            Long("short") => options.short = true,
            Long("reads") => options.reads = parser.value()?.parse()?,
            Long("seconds") => {
                options.seconds = parser.value()?.parse()?;
                options.which.seconds = Some(options.seconds);
            }
            Long("seed") => options.which.seed = Some(parser.value()?.parse()?),
            Long("run") => options.which.names.push(parser.value()?.string()?),
            Long("all") => options.which.all = true,
            Value(word) if options.command.is_empty() => options.command = word.string()?,
            Value(word) if ["bench", "test"].contains(&options.command.as_str()) => {
                options.stages.push(word.string()?);
            }
            Value(word) if options.command == "fuzz" && options.stages.is_empty() => {
                options.stages.push(word.string()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(arch) = options.arch.as_deref().filter(|arch| !host::ARCHITECTURES.contains(arch)) {
        bail!("there is no support for {arch} yet; there is for {}", host::ARCHITECTURES.join(" and "));
    }
    if !["e1000e", "igb"].contains(&options.nic.as_str()) {
        bail!("the demo knows the network cards e1000e and igb, not {}", options.nic);
    }
    if let Some(host) = options.host.as_deref().filter(|host| *host != "linux") {
        bail!("there is one host beside bare metal, linux, not {host}");
    }
    Ok(options)
}

fn run(options: Options) -> Result<u8> {
    let all = match &options.arch {
        Some(arch) => vec![arch.as_str()],
        None => host::ARCHITECTURES.to_vec(),
    };
    let one = options.arch.as_deref().unwrap_or("aarch64");
    match options.command.as_str() {
        "setup" => {
            host::prepare(&all, host::For::Tests)?;
            for arch in &all {
                guest::prepare(arch)?;
                for run in runs::list()?.iter().filter(|run| run.arch == *arch) {
                    if let Some(series) = run.kernel()? {
                        guest::prepare_kernel(arch, series)?;
                    }
                }
                build::everything(arch)?;
            }
            say::step("everything is there: `cargo xtask demo`, `cargo xtask test`");
            Ok(0)
        }
        "build" => {
            host::prepare(&all, host::For::Demo)?;
            all.iter().try_for_each(|arch| build::everything(arch))?;
            Ok(0)
        }
        "demo" => {
            host::prepare(&[one], host::For::Demo)?;
            let (nic, cpu) = (options.nic.as_str(), options.cpu.as_str());
            if options.host.is_some() { demo::run_on_linux(one, nic, cpu) } else { demo::run(one, nic, cpu) }
        }
        "test" => test::run(&all, &options.stages, &options.which),
        "bench" => {
            host::prepare(&[one], host::For::Demo)?;
            let Options { reads, json, check, short, .. } = options;
            if options.host.is_some() {
                let figures = bench::linux::chosen(&options.stages)?;
                return bench::linux::run(one, &figures, &bench::linux::Options { json, check, short });
            }
            if let Some(word) = options.stages.first() {
                bail!(
                    "`bench` of bare metal has all figures, or those of `--short`: {word} means nothing there"
                );
            }
            bench::run(one, &bench::Options { reads, json, check, short })
        }
        "fuzz" => fuzz::run(options.stages.first().map(String::as_str), options.seconds),
        "boards" => {
            if one != "aarch64" {
                bail!("there are no boards for {one} yet, for aarch64 only");
            }
            host::prepare(&[one], host::For::Demo)?;
            boards::run(one)
        }
        "help" => {
            print!("{HELP}\nTargets of fuzz:\n{}", fuzz::help());
            Ok(0)
        }
        "" => {
            eprint!("{HELP}");
            Ok(2)
        }
        other => {
            bail!("there is no command `{other}`; there are setup, build, demo, test, bench, fuzz, boards")
        }
    }
}
