//! What this process gives up once it is set up, before any guest runs: a fault in what answers a guest is then a fault of a process that can do
//! little more than run guests.
//!
//! All its threads have no capability, gain none by any program, and can make only the calls to the kernel that are listed here: none that starts a program,
//! speaks to a network, looks into another process or changes the machine. What isn't listed fails.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// Calls to the kernel that VMs, their threads, their memory, their devices and the line to the tool need.
const CALLS: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and their signals.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_wait4,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    // Files: KVM's and VFIO's, what sysfs says of devices, the line to the tool.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_getrandom,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// Which machine the filter's numbers are of.
const MACHINE: TargetArch =
    if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };

/// What can't be given up.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel keeps it.
    #[error("{0} can't be given up: {1}")]
    Kept(&'static str, io::Error),
    /// The filter can't be made or isn't taken.
    #[error("calls to the kernel can't be bounded: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// Gives up all that isn't needed to run guests. By the only thread that there is: others inherit it.
///
/// # Errors
///
/// [`ConfineError`]: then no guest is to be run.
pub fn confine() -> Result<(), ConfineError> {
    // Guests' memory stays locked, also of those that start again. Who isn't root has the limit that he has.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    set_no_new_privs(true).map_err(|error| ConfineError::Kept("what programs may gain", error.into()))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(|error| ConfineError::Kept("capabilities", error.into()))?;
    Ok(apply_filter(&filter()?)?)
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let rules: BTreeMap<i64, Vec<_>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    Ok(SeccompFilter::new(rules, refused, SeccompAction::Allow, MACHINE)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_works_but_has_no_network_no_programs_and_no_capabilities() {
        // In a thread of its own: what it gives up it never gets again, and others keep theirs.
        let confined = std::thread::spawn(|| {
            confine().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").map(|_| ()).map_err(|error| error.kind());
            let program = std::process::Command::new("/bin/true").status().map(|_| ());
            let below = std::thread::spawn(|| std::net::UdpSocket::bind("127.0.0.1:0").is_ok()).join();
            (status, socket, program.is_err(), below.is_ok_and(|could| could))
        });
        let (status, socket, no_program, below) = confined.join().unwrap();
        for line in
            ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(status.lines().any(|it| it == line), "{line}: {status}");
        }
        assert!(no_program && !below);
        assert_eq!(socket, Err(io::ErrorKind::PermissionDenied));
        // The thread that tests is as before.
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
    }
}
