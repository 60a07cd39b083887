//! Installing packages of the distribution: only what is missing, and a new package source only when allowed.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::sources;
use crate::{paths, process, say};

/// A package, and the programs by which one sees that it is there.
pub struct Wanted {
    pub programs: &'static [&'static str],
    pub package: &'static str,
}

static SOURCES_ALLOWED: AtomicBool = AtomicBool::new(false);

/// The user said beforehand that package sources may be added.
pub fn allow_sources() {
    SOURCES_ALLOWED.store(true, Ordering::Relaxed);
}

/// Whether packages can be installed here: there is apt, and the user is root.
pub fn can_install() -> bool {
    let root = process::output(process::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    root && process::find("apt-get").is_some()
}

/// Installs the packages of which a program is missing.
pub fn ensure(wanted: &[Wanted]) -> Result<()> {
    let absent = |wanted: &&Wanted| wanted.programs.iter().any(|program| process::find(program).is_none());
    let packages: Vec<&str> = wanted.iter().filter(absent).map(|wanted| wanted.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages, None)
}

/// Installs packages, from a certain suite if one is given; without root or apt says what to type.
pub fn install(packages: &[&str], suite: Option<&str>) -> Result<()> {
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    if let Some(suite) = suite {
        words.extend(["-t", suite]);
    }
    words.extend(packages);
    let typed = format!("apt-get {}", words.join(" "));
    if process::find("apt-get").is_none() {
        return say::missing(format!(
            "missing: {} (names of Debian's packages); install them by this machine's package manager",
            packages.join(", ")
        ));
    }
    if !can_install() {
        return say::missing(format!(
            "packages are missing; install them as root:\n  apt-get update\n  {typed}"
        ));
    }
    say::step(format_args!("installing {}", packages.join(", ")));
    let failed = |error: anyhow::Error| {
        say::Missing(format!("cannot install packages ({error:#}); once the network is there:\n  {typed}"))
    };
    update().map_err(failed)?;
    let mut apt = process::command("apt-get");
    apt.args(&words).env("DEBIAN_FRONTEND", "noninteractive");
    let log = paths::logs().join("apt-install.log");
    match process::logged(&mut apt, &log) {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => say::missing(format!(
            "cannot install packages (see {}); try by hand:\n  {typed}",
            paths::shown(&log)
        )),
        Err(error) => Err(failed(error).into()),
    }
}

/// Reads the package lists of the machine's sources.
pub fn update() -> Result<()> {
    process::output(process::command("apt-get").args(["update", "-q"])).map(drop)
}

/// The version that apt would install, to the second number.
pub fn candidate(package: &str) -> Option<(u32, u32)> {
    let policy = process::output(process::command("apt-cache").args(["policy", package])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes a suite of a mirror known to apt, after asking.
pub fn add_source(suite: &str, mirror: &str) -> Result<()> {
    let file = format!("/etc/apt/sources.list.d/{suite}.list");
    let keyring = sources::keyring().unwrap_or("/usr/share/keyrings/debian-archive-keyring.gpg");
    let line = format!("deb [signed-by={keyring}] {mirror} {suite} main");
    let by_hand = format!("  echo '{line}' > {file}\n  apt-get update");
    if !can_install() {
        return say::missing(format!("a package source is missing; add it as root:\n{by_hand}"));
    }
    say::step(format_args!("a package source is needed:\n    {line}\n    in {file}"));
    if !allowed() {
        return say::missing(format!(
            "not added; `--yes` or CI=true allows it, or by hand as root:\n{by_hand}"
        ));
    }
    paths::write_atomically(Path::new(&file), format!("{line}\n").as_bytes())?;
    update()
}

fn allowed() -> bool {
    if SOURCES_ALLOWED.load(Ordering::Relaxed) || std::env::var("CI").is_ok_and(|value| value == "true") {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        return false;
    }
    print!("    Add it? [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("y")
}
