//! What this process gives up once it is set up, before any guest runs: a fault in what answers a guest is then a fault of a process that can do
//! little more than run guests.
//!
//! | measure | what is left |
//! |---|---|
//! | [`Measure::Namespaces`] | no network, no memory shared with other processes, no names of this machine |
//! | [`Measure::Root`] | of all files those of VFIO, and to read, `/sys` |
//! | [`Measure::Files`] | of these, by Landlock, VFIO's to be opened |
//! | [`Measure::User`] | a user that nobody else is, and no groups |
//! | [`Measure::Capabilities`] | no capabilities, and none by any program |
//! | [`Measure::Calls`] | of calls to the kernel those that are listed here: none that starts a program, speaks to a network or to another process, or changes the machine. What isn't listed fails |
//!
//! Without the last two no guest runs. The others are done as far as this kernel and this process's rights let them be, and what couldn't be is said.
//!
//! A PID namespace isn't used: it is its first process's children's only. Other processes are nevertheless out of reach: signals go to threads of
//! this process only.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use axvm::report::Confinement;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_move, mount_remount, unmount,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, chroot, pivot_root, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::vfio::way::Way;

/// VFIO's files.
const VFIO: &str = "dev/vfio";

/// A folder that every Linux has, of which this process needs nothing any more: what it sees of files is put together there.
const STAGE: &str = "/proc";

/// The newest of Landlock's versions that is asked for. An older kernel holds what it knows of it.
const NEWEST: ABI = ABI::V9;

/// What is given up, one thing after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Namespaces of its own: network, System V and POSIX messages and memory, names of the host, control groups.
    Namespaces,
    /// A root folder of its own.
    Root,
    /// Landlock.
    Files,
    /// The user, and groups.
    User,
    /// Capabilities.
    Capabilities,
    /// Calls to the kernel.
    Calls,
}

/// What is needed of all that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// VFIO's files: VMs have devices, or may have.
    pub vfio: bool,
    /// The user that it becomes.
    pub user: Option<u32>,
}

/// Calls to the kernel that VMs, their threads, their memory, their devices and the line to the tool need; and two more, with what they may be asked for
/// ([`bounded`]).
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

/// Requests by which a terminal is made to read what nobody has typed.
#[allow(clippy::unnecessary_cast, reason = "C libraries differ in the type of requests")]
const TYPING: [u64; 2] = [libc::TIOCSTI as u64, libc::TIOCLINUX as u64];

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

/// Gives up all that isn't needed to run guests, and says what of it holds. By the only thread that there is: others inherit it.
///
/// # Errors
///
/// [`ConfineError`]: then no guest is to be run.
pub fn confine(keeps: Keeps) -> Result<Confinement, ConfineError> {
    confine_but(keeps, &[])
}

/// All but these: what a test shows that they are good for.
fn confine_but(keeps: Keeps, without: &[Measure]) -> Result<Confinement, ConfineError> {
    let does = |measure| !without.contains(&measure);
    let mut found = Confinement::default();
    // Guests' memory stays locked, also of those that start again. Who isn't root has the limit that he has.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    set_no_new_privs(true).map_err(|error| ConfineError::Kept("what programs may gain", error.into()))?;
    if does(Measure::Namespaces) {
        namespaces(&mut found);
    }
    if does(Measure::Root) {
        note(&mut found, "a root folder of its own", root(keeps));
    }
    if does(Measure::Files) {
        match files(keeps) {
            Ok(version) => found.holds.push(format!("files by Landlock, version {version}")),
            Err(why) => found.lacks.push(format!("files by Landlock: {why}")),
        }
    }
    if does(Measure::User) {
        note(&mut found, "a user of its own", user(keeps));
    }
    if does(Measure::Capabilities) {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).map_err(|error| ConfineError::Kept("capabilities", error.into()))?;
        found.holds.push("no capabilities".to_owned());
    }
    if does(Measure::Calls) {
        apply_filter(&filter()?)?;
        found.holds.push("a list of calls to the kernel".to_owned());
    }
    Ok(found)
}

fn note(found: &mut Confinement, what: &str, done: Result<(), impl std::fmt::Display>) {
    match done {
        Ok(()) => found.holds.push(what.to_owned()),
        Err(why) => found.lacks.push(format!("{what}: {why}")),
    }
}

/// Namespaces of its own, each for itself: a kernel may lack one, and a container may forbid it.
fn namespaces(found: &mut Confinement) {
    let all = [
        (UnshareFlags::NEWNET, "a network of its own"),
        (UnshareFlags::NEWIPC, "messages and shared memory of its own"),
        (UnshareFlags::NEWUTS, "names of the machine of its own"),
        (UnshareFlags::NEWCGROUP, "control groups of its own"),
    ];
    for (flag, what) in all {
        // SAFETY: the table of files stays shared.
        note(found, what, unsafe { unshare_unsafe(flag) });
    }
}

/// Has this process see no files but VFIO's and, to read, `/sys`, where functions are looked up.
fn root(keeps: Keeps) -> io::Result<()> {
    // SAFETY: the table of files stays shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Nothing of what follows is seen by others.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let stage = Path::new(STAGE);
    mount(
        "none",
        stage,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV,
        c"size=64k,mode=0755",
    )?;
    let still = MountFlags::NOSUID | MountFlags::NOEXEC;
    let folders = [(VFIO, still), ("sys", still | MountFlags::RDONLY)];
    for (folder, flags) in folders.into_iter().filter(|_| keeps.vfio) {
        let (from, to) = (Path::new("/").join(folder), stage.join(folder));
        fs::create_dir_all(&to)?;
        // Nodes may be mounts themselves; below `/sys` other mounts are of no use.
        if folder == VFIO {
            mount_bind_recursive(&from, &to)?
        } else {
            mount_bind(&from, &to)?
        }
        mount_remount(&to, MountFlags::BIND | flags, c"")?;
    }
    mount_remount(
        stage,
        MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV | MountFlags::RDONLY,
        c"",
    )?;
    chdir(stage)?;
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The kernel's first file system can't be turned away from, but covered.
        Err(_) => {
            mount_move(".", "/")?;
            chroot(".")?;
        }
    }
    Ok(chdir("/")?)
}

/// Has Landlock forbid all files but VFIO's, all networks, and whatever else its version knows, which it says.
fn files(keeps: Keeps) -> Result<u32, String> {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?;
        let mut ruleset = ruleset.create()?;
        if keeps.vfio {
            let allowed = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::ReadDir | AccessFs::IoctlDev;
            let folder = PathFd::new(Path::new("/").join(VFIO))?;
            ruleset = ruleset.add_rule(PathBeneath::new(folder, allowed))?;
        }
        Ok(ruleset.restrict_self()?)
    };
    let status = made().map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("this kernel has none".to_owned()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u32),
        _ => Err("this kernel has none".to_owned()),
    }
}

/// Becomes a user that nobody else is.
fn user(keeps: Keeps) -> Result<(), String> {
    let user = keeps.user.ok_or("VFIO's files are root's only, or this process isn't root's")?;
    let become_it = || -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    };
    become_it().map_err(|error| error.to_string())
}

/// The user that this process can become: one that nobody else is, where it is root's and, if each VM's container is opened later, everyone may open
/// that.
pub fn own_user(root: &Path, way: Way) -> Option<u32> {
    /// Everyone may read and write.
    const EVERYONE: u32 = 0o006;
    let container = fs::metadata(root.join(VFIO).join("vfio")).ok();
    let open = way == Way::Devices || container.is_none_or(|node| node.mode() & EVERYONE == EVERYONE);
    (rustix::process::getuid().is_root() && open).then(crate::guard::own_user)
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(bounded()?);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    Ok(SeccompFilter::new(rules, refused, SeccompAction::Allow, MACHINE)?.try_into()?)
}

/// Calls that are bounded by what they are asked for: signals go to this process's threads, and requests are none that type at a terminal.
fn bounded() -> Result<[(i64, Vec<SeccompRule>); 2], seccompiler::Error> {
    let is = |argument, what, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, what, value);
    let own = is(0, SeccompCmpOp::Eq, std::process::id().into())?;
    let types =
        TYPING.map(|request| is(1, SeccompCmpOp::Ne, request)).into_iter().collect::<Result<_, _>>()?;
    Ok([
        (libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]),
        (libc::SYS_ioctl, vec![SeccompRule::new(types)?]),
    ])
}

#[cfg(test)]
mod tests;
