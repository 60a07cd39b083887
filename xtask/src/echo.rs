//! Somebody at the other end of a guest's second serial line: sends a mebibyte once the guest is ready for it, and looks whether it comes back.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// What the guest says once it listens.
const READY: &[u8] = b"ready\n";

/// What is on its way at most: nothing on this line holds a sender back, and a Linux that is slow to answer keeps so much of what nobody has
/// read yet.
const WINDOW: usize = 8192;
const AT_ONCE: usize = 2048;

/// How QEMU's words for the line begin in a system file: a socket at which QEMU listens.
const LINE: &str = "socket,id=line,path=";

/// That somebody, while the board runs.
pub struct Peer {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Peer {
    /// Sends these bytes over the line that a system file has.
    pub fn start(system: &Path, bytes: Vec<u8>) -> Result<Self> {
        let text =
            std::fs::read_to_string(system).with_context(|| format!("cannot read {}", system.display()))?;
        let path = socket(system, &text).context("the system file has no serial line that is a socket")?;
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || match connect(&path, &told) {
            Some(mut line) => converse(&mut line, &bytes, &told),
            None => vec!["nobody has opened the second serial line".into()],
        });
        Ok(Self { over, thread })
    }

    /// The board is off: what was wrong.
    pub fn finish(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| vec!["the other end of the serial line panicked".into()])
    }
}

/// The line's socket, as QEMU finds it in the system file's folder.
fn socket(system: &Path, text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once(LINE)?;
    let path: String = rest.chars().take_while(|&letter| letter != ',' && letter != '"').collect();
    Some(system.parent()?.join(path))
}

/// QEMU listens soon after it has started. A socket that an earlier one has left listens to nobody.
fn connect(path: &Path, over: &AtomicBool) -> Option<UnixStream> {
    while !over.load(Ordering::Relaxed) {
        match UnixStream::connect(path) {
            Ok(line) => return Some(line),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    None
}

/// Sends once the guest is ready, and compares. All that is wrong.
fn converse(line: &mut UnixStream, bytes: &[u8], over: &AtomicBool) -> Vec<String> {
    match exchange(line, bytes, over) {
        Ok(()) => Vec::new(),
        Err(problem) => vec![format!("the second serial line: {problem}")],
    }
}

fn exchange(line: &mut UnixStream, bytes: &[u8], over: &AtomicBool) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    line.set_read_timeout(Some(Duration::from_millis(200))).map_err(failed)?;
    let mut buffer = [0; 4096];
    // What a kernel that looks for serial lines sends comes before.
    let mut said = Vec::new();
    let mut came = loop {
        said.extend(hear(line, &mut buffer, over)?.ok_or("the guest never was ready")?);
        if let Some(at) = said.windows(READY.len()).position(|window| window == READY) {
            break said.split_off(at + READY.len());
        }
    };
    let (mut sent, mut back) = (0, 0);
    loop {
        for &byte in &came {
            if bytes.get(back) != Some(&byte) {
                return Err(format!("byte {back} came back as {byte:#04x}"));
            }
            back += 1;
        }
        if back == bytes.len() {
            return Ok(());
        }
        while sent < bytes.len() && sent - back < WINDOW {
            let next = (sent + AT_ONCE).min(bytes.len());
            line.write_all(&bytes[sent..next]).map_err(failed)?;
            sent = next;
        }
        came = hear(line, &mut buffer, over)?
            .ok_or_else(|| format!("{back} of {} bytes came back", bytes.len()))?
            .to_vec();
    }
}

/// What comes next. `None`: nothing does any more.
fn hear<'a>(
    line: &mut UnixStream,
    buffer: &'a mut [u8],
    over: &AtomicBool,
) -> Result<Option<&'a [u8]>, String> {
    loop {
        match line.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => return Ok(Some(&buffer[..count])),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Ordering::Relaxed) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a guest that answers each block with what this makes of it, until it makes nothing of one.
    fn problems_with(mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Vec<String> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let guest = std::thread::spawn(move || {
            theirs.write_all(b"\xff\0rea").unwrap();
            theirs.write_all(b"dy\n").unwrap();
            let mut buffer = [0; 512];
            while let Ok(count @ 1..) = theirs.read(&mut buffer) {
                match answer(&buffer[..count]) {
                    Some(bytes) => theirs.write_all(&bytes).unwrap(),
                    None => return,
                }
            }
        });
        let bytes: Vec<u8> = (0..100_000u32).map(|it| (it % 251) as u8).collect();
        let problems = converse(&mut ours, &bytes, &AtomicBool::new(false));
        drop(ours);
        let _ = guest.join();
        problems
    }

    #[test]
    fn what_comes_back_is_all_that_was_sent() {
        assert_eq!(problems_with(|bytes| Some(bytes.to_vec())), Vec::<String>::new());
    }

    #[test]
    fn a_byte_that_is_another_and_one_that_is_missing_are_seen() {
        let mut blocks = 0;
        let changed = problems_with(move |bytes| {
            blocks += 1;
            let mut bytes = bytes.to_vec();
            if blocks == 20 {
                bytes[0] ^= 1;
            }
            Some(bytes)
        });
        assert!(changed[0].contains("came back as"), "{changed:?}");
        let mut blocks = 0;
        let short = problems_with(move |bytes| {
            blocks += 1;
            (blocks < 20).then(|| bytes.to_vec())
        });
        assert_eq!(short.len(), 1, "{short:?}");
    }

    #[test]
    fn a_guest_that_never_is_ready_is_said_once_the_board_is_off() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let problems = converse(&mut ours, &[1, 2, 3], &AtomicBool::new(true));
        assert_eq!(problems, ["the second serial line: the guest never was ready"]);
    }

    #[test]
    fn the_socket_is_where_qemu_looks_for_it() {
        let text = "\"-chardev\", \"socket,id=line,path=../../target/line,server=on,wait=off\",";
        let found = socket(Path::new("/r/systems/demo/system.toml"), text);
        assert_eq!(found, Some(PathBuf::from("/r/systems/demo/../../target/line")));
        assert_eq!(socket(Path::new("/r/s.toml"), "qemu = []"), None);
    }
}
