//! `axvm run --control SOCKET`: the shell's commands for programs. Each line that a program writes is one, and is answered by a line of
//! JSON (`axvm_shell::Json`), in the same order.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use axvm_shell::{Answer, Reason};
use axvm_system::wire::{self, MAX_COMMAND};
use rustix::fs::Mode;
use rustix::process::umask;

/// A socket, which is gone when this is.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// A command, and where its answer goes.
pub struct Request {
    /// As it goes over the line.
    pub bytes: Vec<u8>,
    /// Takes the answer's line.
    pub answer: SyncSender<String>,
}

impl Socket {
    /// Makes it, for the user alone.
    ///
    /// # Errors
    ///
    /// If it can't be made there; or another listens there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let listener = match bind(path) {
            // Left by a run that was killed: nobody answers.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                fs::remove_file(path)?;
                bind(path)?
            }
            bound => bound?,
        };
        Ok(Self { listener, path: path.to_path_buf() })
    }

    /// Has threads read from whoever connects; `pass_on` says whether somebody takes requests still.
    ///
    /// # Errors
    ///
    /// If the system gives no second handle on it.
    pub fn serve(&self, pass_on: impl Fn(Request) -> bool + Clone + Send + 'static) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let pass_on = pass_on.clone();
                thread::spawn(move || {
                    // Whoever has gone away wants no more answers.
                    let _ = converse(&stream, &pass_on);
                });
            }
        });
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have taken it away.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a socket that is the user's alone from its first moment on: what it is made with is the process's to say.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Whether it is a socket that nobody listens at.
fn is_left_over(path: &Path) -> bool {
    // What isn't a socket refuses connections too.
    fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The line that says an answer.
pub fn line(answer: &Answer) -> String {
    // Names are texts and there is no number that JSON can't have.
    serde_json::to_string(&answer.json()).unwrap_or_default() + "\n"
}

/// The line that says that a command isn't one.
fn bad(why: &str) -> String {
    line(&Answer::error(Reason::BadCommand, why))
}

fn converse(stream: &UnixStream, pass_on: &impl Fn(Request) -> bool) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut read = Vec::new();
        // With its end, and one more to see that it is too long.
        let most = MAX_COMMAND as u64 + 2;
        if (&mut reader).take(most).read_until(b'\n', &mut read)? == 0 {
            return Ok(());
        }
        let is_whole = read.last() == Some(&b'\n') || (read.len() as u64) < most;
        let text = str::from_utf8(&read).ok().map(|text| text.trim_end_matches(['\n', '\r']));
        let Some(bytes) = text.filter(|_| is_whole).and_then(wire::command) else {
            (&mut &*stream).write_all(bad("it is no line of text of at most 512 bytes").as_bytes())?;
            if !is_whole {
                return Ok(());
            }
            continue;
        };
        let (answer, answered) = mpsc::sync_channel(1);
        if !pass_on(Request { bytes, answer }) {
            return Ok(());
        }
        // Without an answer the run has ended.
        let Ok(line) = answered.recv() else { return Ok(()) };
        (&mut &*stream).write_all(line.as_bytes())?;
    }
}

/// Requests of programs, between their coming and their answers.
#[derive(Default)]
pub struct Requests {
    /// The hypervisor listens.
    listened: bool,
    /// Those that came before it did.
    early: Vec<Request>,
    /// Where the answers go to what was written, in that order.
    awaited: std::collections::VecDeque<SyncSender<String>>,
}

impl Request {
    /// Answers that it isn't done, and why.
    pub fn refuse(&self, why: &str) {
        // Whoever asked may have gone away.
        let _ = self.answer.try_send(line(&Answer::error(Reason::WrongState, why)));
    }
}

impl Requests {
    /// Answers all that wait that they aren't done, and why.
    pub fn refuse_all(&mut self, why: &str) {
        std::mem::take(&mut self.early).iter().for_each(|request| request.refuse(why));
        for answer in self.awaited.drain(..) {
            let _ = answer.try_send(line(&Answer::error(Reason::WrongState, why)));
        }
    }

    /// Takes one; `write` says whether it could be written.
    pub fn take(&mut self, request: Request, write: impl FnOnce(Vec<u8>) -> bool) {
        if !self.listened {
            self.early.push(request);
        } else if write(request.bytes) {
            self.awaited.push_back(request.answer);
        } else {
            Request { bytes: Vec::new(), ..request }
                .refuse("the hypervisor doesn't read what is written to it");
        }
    }

    /// The hypervisor listens from now on.
    pub fn listen(&mut self, mut write: impl FnMut(Vec<u8>) -> bool) {
        self.listened = true;
        for request in std::mem::take(&mut self.early) {
            self.take(request, &mut write);
        }
    }

    /// An answer has come, to the one that has waited longest.
    pub fn answered(&mut self, packed: &[u8]) {
        let Some(answer) = self.awaited.pop_front() else { return };
        let said = postcard::from_bytes::<Answer>(packed).map_or_else(
            |_| line(&Answer::error(Reason::WrongState, "the hypervisor's answer can't be read")),
            |said| line(&said),
        );
        let _ = answer.try_send(said);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_that_was_left_is_made_anew_and_one_in_use_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Socket::open(&path).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert!(Socket::open(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn commands_are_written_once_the_hypervisor_listens_and_answered_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let socket = Socket::open(&path).unwrap();
        let (sender, received) = mpsc::channel();
        socket.serve(move |request| sender.send(request).is_ok()).unwrap();
        let mut program = UnixStream::connect(&path).unwrap();
        let long = "x".repeat(3 * MAX_COMMAND);
        program.write_all(format!("vms\nbad\u{1}\nplan\r\n{long}\n").as_bytes()).unwrap();
        let mut answers = BufReader::new(program).lines();
        let mut requests = Requests::default();
        let (mut written, packed) = (Vec::new(), postcard::to_allocvec(&Answer::Done("so".into())).unwrap());
        requests.take(received.recv().unwrap(), |_| unreachable!("it doesn't listen"));
        requests.listen(|bytes| {
            written.push(bytes);
            true
        });
        requests.answered(&packed);
        assert_eq!(answers.next().unwrap().unwrap(), r#"{"done":"so"}"#);
        assert!(answers.next().unwrap().unwrap().contains("bad-command"));
        requests.take(received.recv().unwrap(), |bytes| {
            written.push(bytes);
            true
        });
        requests.answered(b"");
        assert!(answers.next().unwrap().unwrap().contains("can't be read"));
        assert!(answers.next().unwrap().unwrap().contains("bad-command"));
        assert!(answers.next().is_none_or(|line| line.is_err()), "what is too long ends it");
        assert_eq!(written, [b"\x1d:vms\n".to_vec(), b"\x1d:plan\n".to_vec()]);
        requests.answered(&packed);
    }
}
