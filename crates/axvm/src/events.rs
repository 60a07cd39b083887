//! Security events: what a guest or its device tried beyond its plan.
//!
//! Each CPU writes to a [`Ring`] of its own; the hypervisor's CPU drains them into its [`Log`]. Both are bounded: what
//! repeats is counted, what doesn't fit is counted too and shows as one record that says so.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::VmId;
use axvm_system::model::ViolationPolicy;
use serde::{Deserialize, Serialize};
use spin::Mutex;

use crate::report::EventReport;

#[cfg(test)]
mod tests;

macro_rules! names {
    ($(#[$top:meta])* $type:ident { $($(#[$doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$top])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$doc])* $name,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name under which reports and the manual know it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// What was tried. The names only grow.
    Kind {
        /// A device read outside its DMA map.
        DmaRead = "dma-read",
        /// A device wrote outside its DMA map.
        DmaWrite = "dma-write",
        /// A device that no VM has, or with an id that none has, mastered the bus.
        DmaUnassigned = "dma-unassigned",
        /// The IOMMU refused a transaction for another reason.
        DmaOther = "dma-other",
        /// A message-signalled interrupt outside the map.
        Msi = "msi",
        /// A CPU read what isn't listed.
        CpuRead = "cpu-read",
        /// A CPU wrote what isn't listed.
        CpuWrite = "cpu-write",
        /// A CPU fetched an instruction from what isn't listed.
        CpuExecute = "cpu-execute",
        /// A command of the virtual ITS on another's id.
        ItsCommand = "its-command",
        /// An interrupt of another's, at the virtual distributor.
        Interrupt = "interrupt",
        /// An interrupt sent to another's CPU.
        Sgi = "sgi",
        /// Passthrough registers answered with a bus error.
        RegisterAbort = "register-abort",
        /// Records that found no room: `count` of them are missing.
        Lost = "lost",
    }
}

names! {
    /// What was done. The names only grow.
    Action {
        /// Refused and recorded.
        Reported = "reported",
        /// The device lost the bus until its VM is restarted: bus mastering off, stream blocked.
        Quarantined = "quarantined",
        /// The same, whatever the policy, because it was too much.
        Blocked = "blocked",
        /// The VM was stopped.
        VmStopped = "vm-stopped",
    }
}

impl Kind {
    /// Whether a device did it, which can be kept from the bus.
    pub const fn is_dma(self) -> bool {
        matches!(self, Self::DmaRead | Self::DmaWrite | Self::DmaUnassigned | Self::DmaOther | Self::Msi)
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// When, from the hypervisor's start. Of several merged ones: the first.
    pub time_ns: u64,
    /// The VM; `None`: none has the device.
    pub vm: Option<VmId>,
    /// The device: its position in the VM's plan, or among the platform's where no VM has it; `None`: a CPU did it.
    pub device: Option<u16>,
    /// What was tried.
    pub kind: Kind,
    /// Where; of several merged ones: the first.
    pub address: Option<u64>,
    /// What was done.
    pub action: Action,
    /// How often.
    pub count: u64,
}

impl Violation {
    /// Counts `other` here if it is of the same VM, device, kind and action.
    fn absorb(&mut self, other: &Self) -> bool {
        let key = |v: &Self| (v.vm, v.device, v.kind, v.action);
        let same = key(self) == key(other);
        if same {
            self.count = self.count.saturating_add(other.count);
        }
        same
    }

    fn lost(time_ns: u64, count: u64) -> Self {
        Self {
            time_ns,
            vm: None,
            device: None,
            kind: Kind::Lost,
            address: None,
            action: Action::Reported,
            count,
        }
    }

    /// The record as the report has it. `names` gives the VM's and the device's name.
    pub fn report(&self, names: impl FnOnce(Option<VmId>, Option<u16>) -> (String, String)) -> EventReport {
        let (vm, device) = names(self.vm, self.device);
        EventReport {
            time_ns: self.time_ns,
            vm,
            device,
            kind: self.kind.name().into(),
            address: self.address.map_or_else(String::new, |address| format!("{address:#x}")),
            action: self.action.name().into(),
            count: self.count,
        }
    }
}

/// Records, at most `N` of them.
#[derive(Debug)]
struct Queue<const N: usize> {
    records: VecDeque<Violation>,
    lost: u64,
    /// When the first was lost.
    lost_at: u64,
}

impl<const N: usize> Queue<N> {
    fn new() -> Self {
        Self { records: VecDeque::with_capacity(N), lost: 0, lost_at: 0 }
    }

    fn push(&mut self, violation: Violation) {
        if self.records.back_mut().is_some_and(|last| last.absorb(&violation)) {
            return;
        }
        if self.records.len() < N {
            self.records.push_back(violation);
            return;
        }
        if self.lost == 0 {
            self.lost_at = violation.time_ns;
        }
        self.lost = self.lost.saturating_add(violation.count);
    }

    fn take_lost(&mut self) -> Option<Violation> {
        let lost = core::mem::take(&mut self.lost);
        (lost > 0).then(|| Violation::lost(self.lost_at, lost))
    }
}

/// One CPU's records, until the hypervisor's CPU takes them. Writing allocates nothing.
#[derive(Debug)]
pub struct Ring<const N: usize = 64>(Mutex<Queue<N>>);

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    pub fn new() -> Self {
        Self(Mutex::new(Queue::new()))
    }

    /// Records a violation, or counts it where there is no room.
    pub fn push(&self, violation: Violation) {
        self.0.lock().push(violation);
    }

    /// Takes the oldest record; after the last one, how many were lost. One at a time, so that whoever writes never waits for
    /// more than one.
    pub fn pop(&self) -> Option<Violation> {
        let mut queue = self.0.lock();
        queue.records.pop_front().or_else(|| queue.take_lost())
    }
}

/// All records, in the order of their times as far as they come in that order. Bounded: the first ones are kept, for they
/// say how it began.
#[derive(Debug)]
pub struct Log<const N: usize = 1024>(Queue<N>);

impl<const N: usize> Default for Log<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Log<N> {
    /// An empty log.
    pub fn new() -> Self {
        Self(Queue { records: VecDeque::new(), lost: 0, lost_at: 0 })
    }

    /// Adds a record.
    pub fn push(&mut self, violation: Violation) {
        if violation.kind == Kind::Lost {
            // One record says how many are missing, whoever lost them.
            if self.0.lost == 0 {
                self.0.lost_at = violation.time_ns;
            }
            self.0.lost = self.0.lost.saturating_add(violation.count);
        } else {
            self.0.push(violation);
        }
    }

    /// Takes everything from a ring, each record through `seen` first.
    pub fn drain<const M: usize>(&mut self, ring: &Ring<M>, mut seen: impl FnMut(&Violation)) {
        // No more than the ring holds and its record of losses: a ring that is filled faster than it is read ends here too.
        for _ in 0..=M {
            let Some(violation) = ring.pop() else { return };
            seen(&violation);
            self.push(violation);
        }
    }

    /// All records, and last how many are missing.
    pub fn records(&self) -> Vec<Violation> {
        let lost = (self.0.lost > 0).then(|| Violation::lost(self.0.lost_at, self.0.lost));
        self.0.records.iter().copied().chain(lost).collect()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.records.is_empty() && self.0.lost == 0
    }
}

/// The most violations of one device in a [`WINDOW_NS`] that a policy of `report` lets pass.
pub const MOST_IN_WINDOW: u64 = 1_000;

/// The window over which they are counted.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Decides what a violation leads to, for one device (or for a VM's CPUs).
#[derive(Clone, Copy, Debug, Default)]
pub struct Governor {
    window: u64,
    count: u64,
    settled: Option<Action>,
}

impl Governor {
    /// What `count` violations of `kind` at `now_ns` lead to under `policy`. Once a device is kept from the bus or its VM is
    /// stopped it stays so: what comes after is reported under the same action.
    pub fn judge(&mut self, policy: ViolationPolicy, kind: Kind, now_ns: u64, count: u64) -> Action {
        let window = now_ns / WINDOW_NS;
        if window != self.window {
            (self.window, self.count) = (window, 0);
        }
        self.count = self.count.saturating_add(count);
        if let Some(action) = self.settled {
            return action;
        }
        let action = match policy {
            ViolationPolicy::StopVm => Action::VmStopped,
            ViolationPolicy::QuarantineDevice if kind.is_dma() => Action::Quarantined,
            _ if kind.is_dma() && self.count > MOST_IN_WINDOW => Action::Blocked,
            ViolationPolicy::QuarantineDevice | ViolationPolicy::Report => Action::Reported,
        };
        if action != Action::Reported {
            self.settled = Some(action);
        }
        action
    }

    /// The VM was restarted, its devices reset.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}
