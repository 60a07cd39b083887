//! A small guest on the bare board: the board of a system file, without a hypervisor.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item};

use crate::host::qemu;
use crate::{image, paths, process};

/// Runs the first VM's kernel with that VM's command line, and returns what it said. It must come to its end, which the line
/// `done` says, in time.
pub fn run(arch: &str, system: &Path, name: &str, done: &str, timeout: Duration) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(system)?;
    let document: DocumentMut = text.parse().with_context(|| format!("in {}", paths::shown(system)))?;
    let words = document["board"]["qemu"].as_array().context("it has no board.qemu")?;
    let vm = document["vm"].as_array_of_tables().and_then(|list| list.get(0)).context("it has no VM")?;
    let text = |key: &str| vm.get(key).and_then(Item::as_str);
    let folder = system.parent().context("a file lies in a folder")?;
    let kernel = folder.join(text("kernel").context("its VM has no kernel")?);
    let image = paths::target().join("axvm").join(arch).join(format!("{name}.bin"));
    let elf = std::fs::read(&kernel).with_context(|| format!("cannot read {}", paths::shown(&kernel)))?;
    paths::write_atomically(&image, &image::for_qemu(arch, &elf)?)?;
    let log = paths::logs().join("runs").join(format!("{name}.log"));
    std::fs::create_dir_all(paths::logs().join("runs"))?;
    let mut command = process::command(qemu::program(arch));
    command.args(words.iter().filter_map(|word| word.as_str()));
    command.arg("-kernel").arg(&image).args(["-append", text("cmdline").unwrap_or_default()]);
    command.args(["-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
    let mut out = child.stdout.take().context("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.read_to_end(&mut bytes);
        bytes
    });
    let end = Instant::now() + timeout;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    paths::write_atomically(&log, said.as_bytes())?;
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if !lines.iter().any(|line| line.contains(done)) {
        bail!("the guest doesn't come to its end on the bare board; see {}", paths::shown(&log));
    }
    Ok(lines)
}

/// The rest of each line that has the mark, from the mark on.
fn marked<'a>(lines: &'a [String], mark: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.find(mark).map(|at| line[at..].trim_end())).collect()
}

/// In what the marked lines of a run differ from those of the bare board, a few of them.
pub fn differences(mark: &str, native: &[String], run: &[String]) -> Vec<String> {
    const SHOWN: usize = 5;
    let (native, run) = (marked(native, mark), marked(run, mark));
    let mut found = Vec::new();
    if native.is_empty() {
        found.push(format!("the bare board says no line with `{mark}`"));
    }
    if native.len() != run.len() {
        found.push(format!("{} lines with `{mark}`, on the bare board {}", run.len(), native.len()));
    }
    let pairs = native.iter().zip(&run).filter(|(native, run)| native != run);
    found.extend(pairs.take(SHOWN).map(|(native, run)| format!("`{run}`, on the bare board `{native}`")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_lines_must_be_the_same_and_in_the_same_order() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let native = lines("boot\r\nSEEN a 1\r\nSEEN b 2\r\n");
        assert!(differences("SEEN", &native, &lines("[vm] SEEN a 1\nother\n[vm] SEEN b 2")).is_empty());
        assert_eq!(
            differences("SEEN", &native, &lines("[vm] SEEN a 1\n[vm] SEEN b 3")),
            ["`SEEN b 3`, on the bare board `SEEN b 2`"]
        );
        assert_eq!(differences("SEEN", &native, &lines("SEEN a 1")).len(), 1);
        assert_eq!(differences("SEEN", &native, &lines("SEEN b 2\nSEEN a 1")).len(), 2);
        assert_eq!(differences("HEARD", &native, &native).len(), 1);
    }
}
