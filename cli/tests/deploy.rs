//! What `deploy/` has is what others take.

use std::path::PathBuf;
use std::process::Command;

fn deploy() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap();
    here.join("../deploy")
}

/// By systemd itself, where it is: with a program that is there in place of the one that will be.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let text = std::fs::read_to_string(deploy().join("systemd/axvm@.service")).unwrap();
    assert!(
        text.contains("ExecStart=/usr/bin/axvm run ") && text.contains("ExecStopPost=/usr/bin/axvm release")
    );
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("axvm@guests.service");
    let there = std::env::var_os("CARGO_BIN_EXE_axvm").map(PathBuf::from).unwrap();
    std::fs::write(&unit, text.replace("/usr/bin/axvm ", &format!("{} ", there.display()))).unwrap();
    let verified = match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: there is no systemd-analyze here: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    // Of other units it says what it likes.
    let of_this: Vec<&str> = said.lines().filter(|line| line.contains("axvm")).collect();
    assert!(of_this.is_empty(), "{of_this:?}");
    assert!(verified.status.success() || !said.is_empty(), "{verified:?}");
}

/// What the manifest's file says is a file that AxVM takes.
#[test]
fn the_pod_s_system_file_is_one() {
    let text = std::fs::read_to_string(deploy().join("kubernetes/axvm.yaml")).unwrap();
    let (_, rest) = text.split_once("system.toml: |\n").unwrap();
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let file: String = lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("system.toml");
    std::fs::write(&path, file).unwrap();
    let axvm = std::env::var_os("CARGO_BIN_EXE_axvm").map(PathBuf::from).unwrap();
    let output = Command::new(axvm).arg("check").arg(&path).args(["--host", "linux"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Only the images aren't there, and perhaps this machine isn't one that runs it.
    assert!(!said.contains("unknown key") && !said.contains("[toml]") && said.contains("bzImage"), "{said}");
}
