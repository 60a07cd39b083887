//! What this process may do, and what of it a run needs that it may not: said at once and whole, with what grants it, before anything is taken.

use std::io;

use rustix::process::{Resource, getrlimit, getuid};
use rustix::thread::{CapabilitySet, capabilities};

/// What a process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whether it is root's, which may read and write root's files without more.
    pub is_root: bool,
    /// What it may do beyond that.
    pub capabilities: CapabilitySet,
    /// So many bytes it may lock. `None`: any number.
    pub may_lock: Option<u64>,
}

impl Rights {
    /// This process's.
    ///
    /// # Errors
    ///
    /// The kernel doesn't say.
    pub fn here() -> io::Result<Self> {
        let capabilities = capabilities(None)?.effective;
        Ok(Self { is_root: getuid().is_root(), capabilities, may_lock: getrlimit(Resource::Memlock).maximum })
    }
}

/// The user to whom functions' nodes are handed where this process isn't root's, stays who it is, and may hand them: when it is confined it opens what is
/// its user's.
pub fn handed_to() -> Option<u32> {
    let user = getuid();
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN));
    (may && !user.is_root()).then(|| user.as_raw())
}

/// What a run needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of its guests' memory.
    pub memory: u64,
    /// Bytes of those that devices reach, which the kernel counts once more.
    pub reached: u64,
}

/// A right that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// To read what the machine is, and the whole of functions' config spaces.
    Admin,
    /// To read root's files in `/sys`, and where functions are given, to write them.
    Files,
    /// To lock so much memory.
    Memory {
        /// So many bytes are needed.
        needed: u64,
        /// So many it may lock.
        may: u64,
    },
}

/// What grants it.
impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admin => f.write_str(
                "CAP_SYS_ADMIN, by which /proc/iomem and PCI's config spaces (/sys/bus/pci/devices/*/config) are read as a whole",
            ),
            Self::Files => f.write_str(
                "the user root or CAP_DAC_OVERRIDE, by which /sys/firmware is read, and functions are unbound and bound in /sys/bus/pci",
            ),
            Self::Memory { needed, may } => write!(
                f,
                "CAP_SYS_RESOURCE, or a limit of locked memory (ulimit -l, LimitMEMLOCK=) of {} MiB, which is {} MiB now",
                needed.div_ceil(1 << 20),
                may >> 20
            ),
        }
    }
}

/// What is missing.
pub fn missing(rights: &Rights, needs: Needs) -> Vec<Missing> {
    let has = |capability| rights.capabilities.contains(capability);
    let mut missing = Vec::new();
    if !has(CapabilitySet::SYS_ADMIN) {
        missing.push(Missing::Admin);
    }
    if !rights.is_root && !has(CapabilitySet::DAC_OVERRIDE) {
        missing.push(Missing::Files);
    }
    let needed = needs.memory.saturating_add(needs.reached);
    if let Some(may) = rights.may_lock.filter(|may| *may < needed)
        && !has(CapabilitySet::SYS_RESOURCE)
    {
        missing.push(Missing::Memory { needed, may });
    }
    missing
}

/// One line that says what isn't granted; `None`: nothing is missing.
pub fn say(missing: &[Missing]) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Some(format!(
        "a Linux host's run needs rights that this process hasn't: run it as root (sudo), or grant it {}",
        list.join("; and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::{CapabilitySet, Missing, Needs, Rights, missing, say};

    const NEEDS: Needs = Needs { memory: 512 << 20, reached: 512 << 20 };

    fn rights(is_root: bool, capabilities: CapabilitySet, may_lock: Option<u64>) -> Rights {
        Rights { is_root, capabilities, may_lock }
    }

    #[test]
    fn root_lacks_nothing() {
        assert!(missing(&rights(true, CapabilitySet::all(), Some(64 << 10)), NEEDS).is_empty());
        assert_eq!(say(&[]), None);
    }

    #[test]
    fn someone_is_told_all_that_grants_it_in_one_line() {
        let found = missing(&rights(false, CapabilitySet::empty(), Some(8 << 20)), NEEDS);
        let memory = Missing::Memory { needed: 1 << 30, may: 8 << 20 };
        assert_eq!(found, [Missing::Admin, Missing::Files, memory]);
        let said = say(&found).unwrap();
        for word in
            ["as root", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "of 1024 MiB, which is 8 MiB now", "ulimit -l"]
        {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains('\n'));
    }

    #[test]
    fn a_container_s_root_needs_what_it_was_not_given() {
        let found = missing(&rights(true, CapabilitySet::CHOWN, None), NEEDS);
        assert_eq!(found, [Missing::Admin]);
    }

    #[test]
    fn memory_may_be_granted_by_the_limit_or_by_capabilities() {
        let granted = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE;
        assert!(missing(&rights(false, granted, Some(1 << 30)), NEEDS).is_empty());
        assert_eq!(missing(&rights(false, granted, Some((1 << 30) - 1)), NEEDS).len(), 1);
        assert!(missing(&rights(false, granted | CapabilitySet::SYS_RESOURCE, Some(0)), NEEDS).is_empty());
    }
}
