//! Each measure by what it keeps this process from, with all others that would keep it from that, too, left out; and the counterpart, in which it is
//! left out itself and the very act succeeds.
//!
//! Each is confined in a thread of its own: what a thread gives up it never gets again, and others keep theirs.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use axvm::report::Confinement;

use super::Measure::{Calls, Capabilities, Files, Namespaces, Root, User};
use super::{Keeps, Measure, confine, confine_but};

/// What becomes of an act by a thread that is confined by all measures but these.
fn after<R: Send + 'static>(
    without: &[Measure],
    act: impl FnOnce() -> R + Send + 'static,
) -> (Confinement, R) {
    let without = without.to_vec();
    let confined = std::thread::spawn(move || {
        let keeps = Keeps { vfio: false, user: Some(crate::guard::own_user()) };
        let held = confine_but(keeps, &without).unwrap();
        (held, act())
    });
    confined.join().unwrap()
}

/// An act that a measure forbids: it fails with the measure, and succeeds without. `others` would forbid it, too.
fn forbidden_by<R: Send + 'static>(
    measure: Measure,
    others: &[Measure],
    act: impl Fn() -> io::Result<R> + Clone + Send + 'static,
) -> io::Error {
    let (held, with) = after(others, act.clone());
    let without: Vec<Measure> = others.iter().copied().chain([measure]).collect();
    let (_, without) = after(&without, act);
    let error = with.err();
    let error = error.unwrap_or_else(|| panic!("{measure:?} forbids nothing; what holds: {held:?}"));
    assert!(without.is_ok(), "{measure:?}: left out, it isn't what forbids it: {:?}", without.err());
    error
}

/// Whether this test can show anything: only root has what is given up.
fn is_root() -> bool {
    let is_root = rustix::process::getuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root has the rights that this test sees given up");
    }
    is_root
}

fn try_open(path: impl AsRef<Path>) -> io::Result<()> {
    fs::File::open(path).map(drop)
}

#[test]
fn a_confined_thread_has_no_programs_and_no_capabilities_and_those_below_it_neither() {
    let (_, (status, program, below)) = after(&[Root, Files], || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let program = Command::new("/bin/true").status().map(drop).map_err(|error| error.kind());
        let below = std::thread::spawn(|| UnixDatagram::pair().is_ok()).join();
        (status, program, below.is_ok_and(|could| could))
    });
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|it| it == line), "{line}: {status}");
    }
    assert_eq!(program, Err(io::ErrorKind::PermissionDenied));
    assert!(!below);
    // The thread that tests is as before.
    assert!(UnixDatagram::pair().is_ok());
}

#[test]
fn calls_that_are_not_listed_are_refused_and_without_the_list_they_are_not() {
    let error = forbidden_by(Calls, &[], || UnixDatagram::pair().map(drop));
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let error = forbidden_by(Calls, &[Root, Files], || Command::new("/bin/true").status().map(drop));
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn no_other_process_gets_a_signal() {
    let mut other = Command::new("/bin/sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let (own, process) = (std::process::id(), other.id());
    let signal = |process: u32, thread: u32| {
        // SAFETY: the call takes numbers only; signal 0 does nothing but ask whether it could be sent.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let error = forbidden_by(Calls, &[User, Capabilities, Files], move || signal(process, process));
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    // Its own threads do.
    let (_, to_own) = after(&[], move || signal(own, rustix::thread::gettid().as_raw_pid() as u32));
    assert!(to_own.is_ok(), "{to_own:?}");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn nothing_is_typed_at_a_terminal() {
    let types = || {
        // SAFETY: the byte is there while it is asked.
        let result = unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const *b"x") };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // Whatever standard input is here: a terminal, or one that knows no such request.
    let (_, with) = after(&[], types);
    assert_eq!(with.unwrap_err().raw_os_error(), Some(libc::EPERM));
    let (_, without) = after(&[Calls, Capabilities, User], types);
    assert!(without.is_ok() || without.unwrap_err().raw_os_error() != Some(libc::EPERM));
}

#[test]
fn files_of_the_machine_are_not_there() {
    if !is_root() {
        return;
    }
    let error = forbidden_by(Root, &[Files], || try_open("/etc/passwd"));
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let (_, names) = after(&[Files], || fs::read_dir("/").map(|entries| entries.count()));
    assert_eq!(names.unwrap(), 0, "without VFIO there are none at all");
}

#[test]
fn landlock_lets_no_file_be_opened() {
    let error = forbidden_by(Files, &[Root], || try_open("/etc/passwd"));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn there_is_no_network() {
    if !is_root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connects = move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop);
    forbidden_by(Namespaces, &[Calls, Files], connects);
    // Landlock's version 4 knows of networks, too.
    let (held, _) = after(&[], || ());
    let version =
        held.holds.iter().find_map(|it| it.strip_prefix("files by Landlock, version ")?.parse().ok());
    if version.is_some_and(|version: u32| version >= 4) {
        let error = forbidden_by(Files, &[Calls, Namespaces], connects);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}

#[test]
fn root_s_files_are_others() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The folder is everyone's; the file is root's.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "secret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let of_root = path.clone();
    let error = forbidden_by(User, &[Root, Files, Capabilities], move || try_open(&of_root));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // By a capability root reads what is another's.
    std::os::unix::fs::chown(&path, Some(1), Some(1)).unwrap();
    let error = forbidden_by(Capabilities, &[Root, Files, User], move || try_open(&path));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn what_holds_is_said_and_what_does_not() {
    let keeps = Keeps { vfio: false, user: None };
    let held = std::thread::spawn(move || confine(keeps).unwrap()).join().unwrap();
    for what in ["no capabilities", "a list of calls to the kernel"] {
        assert!(held.holds.iter().any(|it| it == what), "{held:?}");
    }
    assert!(held.lacks.iter().any(|it| it.starts_with("a user of its own: ")), "{held:?}");
}
