//! Security events: what a guest or its device tried beyond its plan.
//!
//! Each CPU writes to a [`Ring`] of its own; the hypervisor's CPU drains them into its [`Log`], where each VM has a share that no
//! other's records can take. Both are bounded: what repeats is counted, what doesn't fit is counted too and shows as one record of
//! the VM's that says so.

use alloc::boxed::Box;
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
        #[non_exhaustive]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
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
        /// A command to the virtual controller of message interrupts on another's id.
        MsiCommand = "its-command",
        /// An interrupt of another's, at the virtual interrupt controller.
        Interrupt = "interrupt",
        /// An interrupt sent to another's CPU.
        Ipi = "sgi",
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
    /// One that a VM's CPU, or a device of it, has tried once, and that is refused.
    pub const fn of(vm: VmId, device: Option<u16>, kind: Kind, address: Option<u64>, time_ns: u64) -> Self {
        Self { time_ns, vm: Some(vm), device, kind, address, action: Action::Reported, count: 1 }
    }

    /// Whether both are of the same VM, device, kind and action.
    fn is_like(&self, other: &Self) -> bool {
        let key = |v: &Self| (v.vm, v.device, v.kind, v.action);
        key(self) == key(other)
    }

    /// Counts `other` here if it is like this one.
    fn absorb(&mut self, other: &Self) -> bool {
        let like = self.is_like(other);
        if like {
            self.count = self.count.saturating_add(other.count);
        }
        like
    }

    /// What says that `first` found no room, and how many others later.
    fn lost(first: &Self) -> Self {
        Self { device: None, kind: Kind::Lost, address: None, action: Action::Reported, ..*first }
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

/// One CPU's records, until the hypervisor's CPU takes them. They are of one VM, the one that the CPU runs a vCPU of. Writing
/// allocates nothing.
#[derive(Debug)]
pub struct Ring<const N: usize = 64>(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    records: VecDeque<Violation>,
    /// Those that found no room.
    lost: Option<Violation>,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    pub fn new() -> Self {
        Self(Mutex::new(Queue { records: VecDeque::with_capacity(N), lost: None }))
    }

    /// Records a violation, or counts it where there is no room.
    pub fn push(&self, violation: Violation) {
        let Queue { records, lost } = &mut *self.0.lock();
        if records.back_mut().is_some_and(|last| last.absorb(&violation)) {
            return;
        }
        if records.len() < N {
            records.push_back(violation);
            return;
        }
        match lost {
            None => *lost = Some(Violation::lost(&violation)),
            Some(lost) => {
                lost.count = lost.count.saturating_add(violation.count);
                if lost.vm != violation.vm {
                    // No VM is blamed for another's.
                    lost.vm = None;
                }
            }
        }
    }

    /// Takes the oldest record; after the last one, how many were lost. One at a time, so that whoever writes never waits for
    /// more than one.
    pub fn pop(&self) -> Option<Violation> {
        let mut queue = self.0.lock();
        queue.records.pop_front().or_else(|| queue.lost.take())
    }
}

/// The records of one VM, or those that are no VM's.
#[derive(Clone, Debug, Default)]
struct Share {
    records: Vec<Violation>,
    /// Those that found no room.
    lost: Option<Violation>,
}

impl Share {
    /// Whether it is the first of its device, kind and action.
    fn push(&mut self, violation: Violation, most: usize) -> bool {
        if violation.kind == Kind::Lost {
            return self.lose(&violation);
        }
        let count = self.records.len();
        let like = self.records.iter().rposition(|record| record.is_like(&violation));
        // The first ones are kept one by one, for they say how it began. The other half of the room is for what is new, so that a
        // VM can't hide what it does by doing something else often.
        let merged = like.filter(|&position| position + 1 == count || count >= most / 2);
        if let Some(record) = merged.and_then(|position| self.records.get_mut(position)) {
            return !record.absorb(&violation);
        }
        if count < most {
            self.records.push(violation);
            return like.is_none();
        }
        self.lose(&violation)
    }

    /// Whether it is the first that is lost.
    fn lose(&mut self, violation: &Violation) -> bool {
        match &mut self.lost {
            Some(lost) => {
                lost.count = lost.count.saturating_add(violation.count);
                false
            }
            none => {
                *none = Some(Violation::lost(violation));
                true
            }
        }
    }
}

/// All records. Bounded, each VM by a share of its own.
#[derive(Debug)]
pub struct Log {
    /// By VM; the last is for what is no VM's.
    shares: Box<[Share]>,
    /// The records that a share has room for.
    most: usize,
}

impl Log {
    /// So many records have room in all.
    pub const RECORDS: usize = 1024;

    /// But so many of each VM, however many VMs there are.
    pub const LEAST: usize = 16;

    /// An empty log, with equal shares for so many VMs and for what is no VM's.
    pub fn new(vms: usize) -> Self {
        let shares = vms.saturating_add(1);
        Self::with_shares(shares, Self::RECORDS.checked_div(shares).unwrap_or(0).max(Self::LEAST))
    }

    /// An empty log with so many shares, of so many records each. The last is for all that have none.
    pub fn with_shares(shares: usize, most: usize) -> Self {
        Self { shares: alloc::vec![Share::default(); shares].into(), most }
    }

    /// Adds a record. Whether it is the first of its VM, device, kind and action.
    pub fn push(&mut self, violation: Violation) -> bool {
        let last = self.shares.len().saturating_sub(1);
        let position = violation.vm.map_or(last, |vm| usize::from(vm.0).min(last));
        self.shares.get_mut(position).is_some_and(|share| share.push(violation, self.most))
    }

    /// All records in the order of their times, as far as each VM's came in that order, and last how many of each VM's are missing.
    pub fn records(&self) -> Vec<Violation> {
        let mut records = Vec::new();
        let mut left: Vec<&[Violation]> = self.shares.iter().map(|share| &*share.records).collect();
        // Each share is in order already.
        let time = |rest: &&mut &[Violation]| rest.first().map_or(u64::MAX, |record| record.time_ns);
        while let Some(rest) = left.iter_mut().filter(|rest| !rest.is_empty()).min_by_key(time)
            && let Some((first, others)) = rest.split_first()
        {
            records.push(*first);
            *rest = others;
        }
        records.extend(self.shares.iter().filter_map(|share| share.lost));
        records
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
