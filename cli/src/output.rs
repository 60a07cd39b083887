//! What is left of a run: its verdict, the report file, the last line.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axvm::report::{Report, Verdict};
use serde_json::Value;
use tempfile::{Builder, NamedTempFile};

/// Where the report goes. Opened before the run, so that a place that can't be written is known before anything starts, and written
/// beside its final place, so that a reader finds a whole report or none.
pub enum ReportFile {
    /// None is asked for.
    None,
    /// A file, and where it will be moved.
    File(NamedTempFile, PathBuf),
    /// A device or a pipe: written as it is.
    Stream(File),
}

impl ReportFile {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// If it can't be written there.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::None) };
        if let Ok(there) = fs::metadata(path) {
            if there.is_dir() {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            if !there.is_file() {
                return Ok(Self::Stream(File::options().write(true).open(path)?));
            }
        }
        // A link stays one: what it points to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = Builder::new()
            .prefix(".axvm-report")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        Ok(Self::File(file, path))
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn write(self, report: &Report) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(report)?;
        json.push(b'\n');
        match self {
            Self::None => Ok(()),
            Self::Stream(mut stream) => stream.write_all(&json),
            Self::File(mut file, path) => {
                file.write_all(&json)?;
                file.as_file().sync_all()?;
                file.persist(path)?;
                Ok(())
            }
        }
    }
}

/// Writes to standard output. A reader who has gone away (`axvm inspect ... | head`) is no error.
pub fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The same, for JSON.
pub fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

/// The verdict in one line.
pub fn last_line(report: &Report, seconds: f64) -> String {
    let why = match report.verdict {
        Verdict::Ok => "every VM powered itself off and nothing was violated".to_string(),
        Verdict::BadInput => {
            let count = report.problems.len();
            format!("no VM was started: {count} problem{}", if count == 1 { "" } else { "s" })
        }
        Verdict::GuestFailed => {
            let failed: Vec<String> = report
                .vms
                .iter()
                .filter(|vm| vm.failed())
                .map(|vm| format!("VM \"{}\" ended: {}", vm.name, vm.reason))
                .collect();
            failed.join(", ")
        }
        Verdict::Violation => {
            let count: u64 = report.events.iter().fold(0, |sum, event| sum.saturating_add(event.count));
            let first = report.events.first().map(|event| {
                let by = if event.device.is_empty() { &event.vm } else { &event.device };
                format!(", the first: {} by {by} at {} ({})", event.kind, event.address, event.action)
            });
            format!("{count} recorded{}", first.unwrap_or_default())
        }
        Verdict::HypervisorFailed => {
            "the hypervisor ended by a fault of its own, or without its report".to_string()
        }
        Verdict::Timeout => "time ran out".to_string(),
        Verdict::Interrupted => "ended by the user".to_string(),
    };
    format!("axvm: {} (status {}) after {seconds:.1} s: {why}", report.verdict, report.verdict.exit_status())
}
