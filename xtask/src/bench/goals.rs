//! The goals that figures are held against, and the verdict on each.
//!
//! In instructions unless said otherwise. A figure may be 5 % over its goal. Where a goal can't be reached, `floor` says
//! which measured figure shows that; the goal on top of it is accepted instead.

use std::collections::BTreeMap;
use std::fmt;

/// What the figures of one kind of run are called: `native`, a mode of interrupts, or `all`.
pub type Figures = BTreeMap<String, BTreeMap<String, u64>>;

/// The run on the bare board, without a hypervisor.
pub const NATIVE: &str = "native";
/// What isn't measured in modes.
pub const ALL: &str = "all";
/// `VMInterruptMode`s that are measured.
pub const MODES: &[&str] = &["emulated", "passthrough"];
/// Emulated mode on a board with a GICv4, which delivers MSIs itself.
pub const GICV4: &str = "gicv4";

/// What follows from a violation (`on_violation`): a storm is measured under each.
pub const POLICIES: &[&str] = &["report", "quarantine-device", "stop-vm"];

/// So many percent more work at most a storm may cost a neighbour, which keeps 95 % of its speed then.
pub const STORM_COSTS: u64 = 5;

/// So many percent over its goal a figure may be, where the goal doesn't say itself how far it may be.
const TOLERANCE: u64 = 5;

/// What a figure may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So much.
    At(u64),
    /// What the same takes on the bare board.
    AsNative,
    /// So many percent more than that at most, and nothing beyond.
    Beyond(u64),
    /// So many percent of what a program beside takes.
    Share(u64),
    /// Anything: it is shown only.
    Shown,
}

/// A goal.
pub struct Goal {
    /// The figure's name.
    pub figure: &'static str,
    /// In words.
    pub what: &'static str,
    /// The modes it holds in.
    pub modes: &'static [&'static str],
    /// The goal.
    pub limit: Limit,
    /// The best of Bao, hvisor, Xen and KVM on the same board.
    pub elsewhere: Option<u64>,
    /// Why the goal can't be reached.
    pub floor: Option<Floor>,
    /// For a goal that isn't reached: what the tests accept meanwhile, so that it gets no worse. `bench --check` accepts the goal
    /// only.
    pub meanwhile: Option<u64>,
}

/// Why a goal can't be reached, by measurement. Accepted is the goal on top of it.
pub struct Floor {
    /// The figure that shows it, on the bare board.
    pub figure: &'static str,
    /// Why.
    pub why: &'static str,
}

const fn goal(
    figure: &'static str,
    what: &'static str,
    modes: &'static [&'static str],
    limit: Limit,
    elsewhere: Option<u64>,
) -> Goal {
    Goal { figure, what, modes, limit, elsewhere, floor: None, meanwhile: None }
}

/// `VMInterruptMode`, in which the hypervisor takes interrupts.
pub const EMULATED_MODE: &str = "emulated";
const EMULATED: &[&str] = &[EMULATED_MODE];
/// `VMInterruptMode`, in which a guest takes interrupts itself.
pub const PASSTHROUGH_MODE: &str = "passthrough";
/// It alone.
pub const PASSTHROUGH: &[&str] = &[PASSTHROUGH_MODE];
const ONCE: &[&str] = &[ALL];

/// The table.
pub const GOALS: &[Goal] = &[
    goal("mapped-read", "directly mapped register, read", MODES, Limit::At(1), Some(1)),
    goal("hypercall", "hypercall, round trip", MODES, Limit::At(90), Some(127)),
    goal("secure-call", "the same by SMC", MODES, Limit::At(90), Some(127)),
    goal("emulated-read", "emulated distributor register, read", MODES, Limit::At(150), Some(227)),
    goal("emulated-state-read", "GICD_ISENABLER, read", MODES, Limit::At(250), Some(677)),
    goal("emulated-write", "the same, written without a change", MODES, Limit::At(250), Some(720)),
    goal("line-disable", "a device's line, disabled", MODES, Limit::At(250), Some(720)),
    goal("line-enable", "the same, enabled", MODES, Limit::At(250), Some(720)),
    goal("trapped-read", "trapped and forwarded register, read", MODES, Limit::At(180), None),
    goal("trapped-write", "the same, written", MODES, Limit::At(180), None),
    goal("line", "device line to handler", EMULATED, Limit::At(150), Some(208)),
    goal("timer", "timer to handler", EMULATED, Limit::Shown, Some(208)),
    goal("msi", "MSI to handler", EMULATED, Limit::At(160), Some(208)),
    goal("line", "device line to handler", PASSTHROUGH, Limit::AsNative, Some(201)),
    goal("timer", "timer to handler", PASSTHROUGH, Limit::AsNative, Some(201)),
    goal("msi", "MSI to handler", PASSTHROUGH, Limit::AsNative, Some(201)),
    goal("line", "device line to handler", &[GICV4], Limit::At(150), Some(208)),
    goal("msi", "MSI to handler", &[GICV4], Limit::AsNative, Some(201)),
    goal("line-first", "device line to handler, after a slow exit", EMULATED, Limit::At(1000), None),
    goal("timer-first", "timer to handler, after a slow exit", EMULATED, Limit::At(1000), None),
    goal("msi-first", "MSI of a new event to handler", EMULATED, Limit::At(1000), None),
    goal("sgi-first", "software interrupt to itself, after a slow exit", EMULATED, Limit::At(1000), None),
    goal("line-first", "device line to handler, after a slow exit", PASSTHROUGH, Limit::AsNative, None),
    goal("timer-first", "timer to handler, after a slow exit", PASSTHROUGH, Limit::AsNative, None),
    goal("msi-first", "MSI of a new event to handler", PASSTHROUGH, Limit::AsNative, None),
    goal("sgi-first", "software interrupt to itself, after a slow exit", PASSTHROUGH, Limit::At(1000), None),
    goal("line-pended", "GICD_ISPENDR to handler", MODES, Limit::At(1000), None),
    goal("its-int", "INT by an ITS command to handler", MODES, Limit::At(1000), None),
    goal("sgi-self", "software interrupt to itself", MODES, Limit::At(150), Some(343)),
    goal("ipi", "software interrupt to another, waiting CPU", MODES, Limit::At(350), Some(771)),
    goal(
        "start",
        "boot to the first guest instruction, no copying",
        ONCE,
        Limit::At(2_000_000),
        Some(530_000),
    ),
    goal("vm-per-gib", "a VM's creation and start, per GiB of its RAM", ONCE, Limit::Shown, None),
    // "Native" is without a storm: 95 % of the speed is left.
    goal("storm-work", "work beside a storm of stray DMA", POLICIES, Limit::Beyond(STORM_COSTS), None),
    goal("storm-worst", "the slowest round of it", POLICIES, Limit::Shown, None),
    goal("storm-hypervisor", "the hypervisor's CPU, for the storm", POLICIES, Limit::Shown, None),
    Goal {
        // What it was, 528,832, what VMs that take turns, devices that change hands and a console that is lent took with the compiler's own
        // library, 43,456, and one page: its parts end at pages, so that a few bytes may cost one.
        meanwhile: Some(598_016),
        ..goal("image-bytes", "image, in bytes", ONCE, Limit::At(384 << 10), None)
    },
];

/// Modes in which a Linux guest's instructions are counted.
pub const LINUX_MODES: &[&str] = &["emulated", "passthrough"];

/// What is counted in a Linux guest, natively and under AxVM: on the guest's own CPUs, at all exception levels.
pub const LINUX: &[Goal] = &[
    goal("user-space", "Linux to its user space", LINUX_MODES, Limit::Beyond(5), None),
    goal("user-space-el2", "of these at EL2", LINUX_MODES, Limit::Shown, None),
    goal("nvme-read", "NVMe read of 4 KiB", EMULATED, Limit::Shown, None),
    goal("nvme-read", "NVMe read of 4 KiB", PASSTHROUGH, Limit::Beyond(2), None),
    goal("nvme-read-el2", "of these at EL2", LINUX_MODES, Limit::Shown, None),
    goal("nvme-read-exits", "exits in 100 reads, but those for a wait", EMULATED, Limit::Shown, None),
    goal("nvme-read-exits", "exits in 100 reads, but those for a wait", PASSTHROUGH, Limit::At(1), None),
    goal("ping", "echo request and answer over the NIC", LINUX_MODES, Limit::Shown, None),
    goal("ping-exits", "exits in 100 of these, but those for a wait", EMULATED, Limit::Shown, None),
    goal("ping-exits", "exits in 100 of these, but those for a wait", PASSTHROUGH, Limit::At(1), None),
];

/// What two whole runs of a Linux guest differ by, of which one works twice as much.
pub const MORE: &[Goal] = &[
    goal("more-reads", "by report: other exits that 100 more reads make", PASSTHROUGH, Limit::At(1), None),
    goal("more-pings", "the same of 100 more echo requests", PASSTHROUGH, Limit::At(1), None),
];

const fn accepted(goal: Goal, meanwhile: u64) -> Goal {
    Goal { meanwhile: Some(meanwhile), ..goal }
}

/// What a trap and the return from it take at least, with all registers saved: `hypercall` on the bare board (`guests/probe/src/x86_64/floor.rs`).
const FLOOR: u64 = 41;
/// What filling the processor's stack of returns takes, which each exit of this processor needs (`axvm_x86_cpu::speculation`): 32 calls in a row.
const FORGETTING: u64 = 33;
/// What it takes at least to find out where an instruction ends, or a register lies, that the processor doesn't say: four tables, and what is there.
const LOOKING: u64 = 100;
/// What aarch64's goals leave for the hypervisor itself, above the floor of a trap there (35).
const CALLED: u64 = 90 - 35;
const EMULATED_REGISTER: u64 = 150 - 35;
const WITH_STATE: u64 = 250 - 35;
const TRAPPED: u64 = 180 - 35;
const DELIVERED: u64 = 150 - 35;
const SENT: u64 = 350 - 35;

/// The table of x86_64. The processor of QEMU's has neither what would say an instruction's length (NRIPS) nor what was read of it (decode assists),
/// so that each exit reads and decodes the guest's instruction by its tables, but for ports. Goals are the floor, what has to be done on such a
/// processor, and what aarch64's leave above its floor. "Elsewhere" is KVM's in a Linux on the same emulated machine (`cargo xtask bench --host linux exits`), of
/// which `deadline` alone is less: it has timers end early, and waits for the rest.
pub const X86_64: &[Goal] = &[
    goal(
        "hypercall",
        "hypercall, round trip",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + LOOKING + CALLED),
        Some(3_076),
    ),
    goal(
        "identify",
        "CPUID",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + LOOKING + EMULATED_REGISTER),
        Some(2_789),
    ),
    goal(
        "refused-port",
        "a port that isn't the VM's, read",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + EMULATED_REGISTER),
        Some(4_061),
    ),
    goal("mapped-read", "directly mapped register, read", EMULATED, Limit::AsNative, Some(1)),
    goal("direct-port", "a port that is the VM's, read", EMULATED, Limit::AsNative, None),
    goal(
        "trapped-port",
        "trapped and forwarded port, read",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + TRAPPED),
        None,
    ),
    goal(
        "trapped-read",
        "trapped and forwarded register, read",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + 2 * LOOKING + TRAPPED),
        None,
    ),
    goal(
        "trapped-write",
        "the same, written",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + 2 * LOOKING + TRAPPED),
        None,
    ),
    accepted(
        goal(
            "device-line",
            "device line to handler, by its edge",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + DELIVERED),
            None,
        ),
        2_510,
    ),
    accepted(
        goal(
            "level-line",
            "the same, by its level",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + DELIVERED),
            Some(17_189),
        ),
        2_300,
    ),
    accepted(
        goal("msi", "MSI to handler", EMULATED, Limit::At(FLOOR + FORGETTING + DELIVERED), Some(3_858)),
        436,
    ),
    goal(
        "port-read",
        "emulated port, read",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + WITH_STATE),
        Some(4_239),
    ),
    accepted(
        goal(
            "port-write",
            "the same, written",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + WITH_STATE),
            Some(4_181),
        ),
        398,
    ),
    accepted(
        goal(
            "local-apic-read",
            "register of the local APIC's page, read",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + 2 * LOOKING + EMULATED_REGISTER),
            Some(3_680),
        ),
        430,
    ),
    goal(
        "io-apic-read",
        "register of the I/O APIC, read",
        EMULATED,
        Limit::At(FLOOR + FORGETTING + 2 * LOOKING + EMULATED_REGISTER),
        Some(6_623),
    ),
    accepted(
        goal(
            "line",
            "line of an emulated device to handler",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + TRAPPED + DELIVERED),
            Some(8_116),
        ),
        1_090,
    ),
    goal("timer", "timer to handler, with what it waits", EMULATED, Limit::Shown, Some(106_102)),
    accepted(
        goal(
            "deadline",
            "timer to handler, by a deadline",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + DELIVERED),
            Some(450),
        ),
        440,
    ),
    accepted(
        goal(
            "self",
            "interrupt to itself",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + 2 * LOOKING + EMULATED_REGISTER + DELIVERED),
            Some(5_180),
        ),
        820,
    ),
    accepted(
        goal(
            "ipi",
            "interrupt to another, waiting CPU",
            EMULATED,
            Limit::At(FLOOR + FORGETTING + 2 * LOOKING + EMULATED_REGISTER + SENT),
            Some(6_340),
        ),
        1_490,
    ),
    accepted(
        goal("start", "boot to the first guest instruction, no copying", ONCE, Limit::At(2_000_000), None),
        4_800_000,
    ),
    goal("vm-per-gib", "a VM's creation and start, per GiB of its RAM", ONCE, Limit::Shown, None),
    goal("ram-bytes", "memory of the hypervisor, in bytes", ONCE, Limit::Shown, None),
    accepted(goal("image-bytes", "image, in bytes", ONCE, Limit::At(384 << 10), None), 868_800),
];

const fn own(figure: &'static str, what: &'static str, limit: Limit, elsewhere: Option<u64>) -> Goal {
    goal(figure, what, PASSTHROUGH, limit, elsewhere)
}

/// What a guest takes that has its CPUs' local APICs, in x2APIC mode: what concerns its CPU alone as on the bare board in that mode, the rest as in
/// emulated mode. A model-specific register says where it is, so that one address less has to be looked up. "Elsewhere" is KVM's of a guest whose
/// local APICs, KVM's own, are in that mode.
pub const X86_64_PASSTHROUGH: &[Goal] = &[
    own("hypercall", "hypercall, round trip", Limit::At(FLOOR + FORGETTING + LOOKING + CALLED), Some(3_076)),
    own("identify", "CPUID", Limit::At(FLOOR + FORGETTING + LOOKING + EMULATED_REGISTER), Some(2_789)),
    own(
        "refused-port",
        "a port that isn't the VM's, read",
        Limit::At(FLOOR + FORGETTING + EMULATED_REGISTER),
        Some(4_061),
    ),
    own("mapped-read", "directly mapped register, read", Limit::AsNative, Some(1)),
    own("direct-port", "a port that is the VM's, read", Limit::AsNative, None),
    own("trapped-port", "trapped and forwarded port, read", Limit::At(FLOOR + FORGETTING + TRAPPED), None),
    own(
        "trapped-read",
        "trapped and forwarded register, read",
        Limit::At(FLOOR + FORGETTING + 2 * LOOKING + TRAPPED),
        None,
    ),
    own("trapped-write", "the same, written", Limit::At(FLOOR + FORGETTING + 2 * LOOKING + TRAPPED), None),
    accepted(own("device-line", "device line to handler, by its edge", Limit::AsNative, None), 3_980),
    accepted(own("level-line", "the same, by its level", Limit::AsNative, Some(17_189)), 5_250),
    own("msi", "MSI to handler", Limit::AsNative, Some(3_858)),
    own("port-read", "emulated port, read", Limit::At(FLOOR + FORGETTING + WITH_STATE), Some(4_239)),
    accepted(
        own("port-write", "the same, written", Limit::At(FLOOR + FORGETTING + WITH_STATE), Some(4_181)),
        398,
    ),
    own(
        "local-apic-own-read",
        "register of the local APIC that concerns its CPU alone, read",
        Limit::AsNative,
        Some(2_989),
    ),
    accepted(
        own(
            "local-apic-read",
            "another register of the local APIC, read",
            Limit::At(FLOOR + FORGETTING + LOOKING + EMULATED_REGISTER),
            Some(2_989),
        ),
        385,
    ),
    own(
        "io-apic-read",
        "register of the I/O APIC, read",
        Limit::At(FLOOR + FORGETTING + 2 * LOOKING + EMULATED_REGISTER),
        Some(6_623),
    ),
    accepted(
        own(
            "line",
            "line of an emulated device to handler",
            Limit::At(FLOOR + FORGETTING + TRAPPED + DELIVERED),
            Some(8_116),
        ),
        740,
    ),
    own("timer", "timer to handler, with what it waits", Limit::AsNative, Some(103_907)),
    own("self", "interrupt to itself", Limit::AsNative, Some(4_439)),
    accepted(
        own(
            "ipi",
            "interrupt to another, waiting CPU",
            Limit::At(FLOOR + FORGETTING + LOOKING + EMULATED_REGISTER + SENT),
            Some(5_675),
        ),
        1_045,
    ),
];

/// The same of what is counted in a Linux guest, and of what the hypervisor does meanwhile on that guest's CPU.
pub const X86_64_LINUX: &[Goal] = &[
    goal("nvme-read", "NVMe read of 4 KiB", LINUX_MODES, Limit::Shown, None),
    goal("nvme-read-el2", "of these the hypervisor's", LINUX_MODES, Limit::Shown, None),
    goal("nvme-read-exits", "exits in 100 reads, but those for a wait", EMULATED, Limit::Shown, None),
    goal("nvme-read-exits", "exits in 100 reads, but those for a wait", PASSTHROUGH, Limit::At(1), None),
    goal("ping", "echo request and answer over the NIC", LINUX_MODES, Limit::Shown, None),
    goal("ping-el2", "of these the hypervisor's", LINUX_MODES, Limit::Shown, None),
    goal("ping-exits", "exits in 100 of these, but those for a wait", EMULATED, Limit::Shown, None),
    goal("ping-exits", "exits in 100 of these, but those for a wait", PASSTHROUGH, Limit::At(1), None),
];

/// Boards of a Linux host: of aarch64 without a GICv4, of x86_64 with SVM.
pub const GICV3: &str = "gicv3";
/// See there.
pub const SVM: &str = "svm";

const PLAIN: &[&str] = &[GICV3];
const DELIVERING: &[&str] = &[GICV4];
const BOARDS: &[&str] = &[GICV3, GICV4, SVM];

/// A tenth of what QEMU's own program executes before its guest does, on the same host with the same devices.
const LAUNCH: Limit = Limit::Share(10);

/// A tenth of QEMU's on top of what any program takes that has a guest's memory taken and its images in it (`hosts/linux/examples/least.rs`).
const fn least(goal: Goal, figure: &'static str) -> Goal {
    let why = "the kernel clears, pins and fills the guest's memory for any program";
    Goal { floor: Some(Floor { figure, why }), ..goal }
}

/// What the tool takes on a Linux host. The goals of a read on aarch64 are what KVM took with QEMU's user space, tuned by hand; the same was seen again beside. x86_64's, which had
/// never been measured, is what QEMU takes beside.
pub const LINUX_HOST: &[Goal] = &[
    goal("nvme-read-all", "NVMe read of 4 KiB, all processors", BOARDS, Limit::Shown, None),
    goal("nvme-read-host", "of these the host's", PLAIN, Limit::At(3_830), None),
    goal("nvme-read-host", "of these the host's", DELIVERING, Limit::At(30), None),
    goal("nvme-read-host", "of these the host's", &[SVM], Limit::AsNative, None),
    goal("nvme-read-returns", "returns to a guest, or within EL2, in 100", BOARDS, Limit::Shown, None),
    goal("ping-all", "echo request and answer, all processors", BOARDS, Limit::Shown, None),
    goal("ping-host", "of these the host's", BOARDS, Limit::Shown, None),
    goal("ping-returns", "returns to a guest, or within EL2, in 100", BOARDS, Limit::Shown, None),
    least(
        goal("launch-without", "command to the guest's first instruction", ONCE, LAUNCH, None),
        "least-launch-without",
    ),
    least(
        goal("launch-with", "the same with a disk and a card by VFIO", ONCE, LAUNCH, None),
        "least-launch-with",
    ),
    goal("launch-user-without", "without devices, the programs' own", ONCE, LAUNCH, None),
    goal("launch-user-with", "with devices, the programs' own", ONCE, LAUNCH, None),
    goal("memory-with", "KiB beside the VM's RAM, with devices", ONCE, Limit::At(6 << 10), None),
    goal("memory-own-with", "of these no other process's", ONCE, Limit::Shown, None),
    goal("memory-shared-with", "of these of programs' files", ONCE, Limit::Shown, None),
    goal("memory-files-with", "of these in files that it has made", ONCE, Limit::Shown, None),
    goal("memory-tables-with", "KiB of page tables, with the RAM's", ONCE, Limit::Shown, None),
];

/// What came of one goal in one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Reached.
    Reached,
    /// Not reached, and a measured floor says why.
    Floor,
    /// Over the goal.
    Missed,
    /// There is no figure.
    NotMeasured,
    /// No goal.
    Shown,
}

impl Verdict {
    /// Whether `--check` fails on it.
    pub fn fails(&self) -> bool {
        matches!(self, Verdict::Missed | Verdict::NotMeasured)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Reached => "ok",
            Verdict::Floor => "floor",
            Verdict::Missed => "MISSED",
            Verdict::NotMeasured => "NOT MEASURED",
            Verdict::Shown => "-",
        })
    }
}

/// One line of the result.
pub struct Line<'a> {
    /// The goal.
    pub goal: &'a Goal,
    /// The mode.
    pub mode: &'a str,
    /// The figure in this mode.
    pub value: Option<u64>,
    /// On the bare board.
    pub native: Option<u64>,
    /// The goal as a number.
    pub limit: Option<u64>,
    /// What is accepted in its place, where a floor was measured.
    pub accepted: Option<u64>,
    /// The verdict.
    pub verdict: Verdict,
}

impl Line<'_> {
    /// Whether the tests fail on it: on a missed goal for which something is accepted meanwhile only beyond just that, without
    /// the tolerance that a goal has.
    pub fn fails_tests(&self) -> bool {
        let accepted = self.goal.meanwhile.zip(self.value).is_some_and(|(most, value)| value <= most);
        self.verdict.fails() && !accepted
    }
}

/// Whether a figure is at most so much over a limit as is tolerated.
fn within(value: u64, limit: u64) -> bool {
    value * 100 <= limit * (100 + TOLERANCE)
}

/// Holds all figures against the table. Of modes that aren't measured there is no line.
pub fn judge<'a>(goals: &'a [Goal], figures: &Figures) -> Vec<Line<'a>> {
    judge_in(&[MODES, &[GICV4], POLICIES].concat(), goals, figures)
}

/// The same where other modes are measured.
pub fn judge_in<'a>(modes: &[&str], goals: &'a [Goal], figures: &Figures) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let of = |kind: &str, figure: &str| figures.get(kind).and_then(|all| all.get(figure)).copied();
    for goal in goals {
        for mode in goal.modes.iter().filter(|mode| **mode == ALL || modes.contains(mode)) {
            let (value, native) = (of(mode, goal.figure), of(NATIVE, goal.figure));
            let limit = match goal.limit {
                Limit::At(limit) => Some(limit),
                Limit::AsNative => native,
                Limit::Beyond(percent) => native.map(|native| native * (100 + percent) / 100),
                Limit::Share(percent) => native.map(|native| native * percent / 100),
                Limit::Shown => None,
            };
            // The floor is a measurement too: without it, it excuses nothing.
            let floor = goal.floor.as_ref().and_then(|floor| of(NATIVE, floor.figure));
            let accepted = floor.zip(limit).map(|(floor, goal)| floor.saturating_add(goal));
            let verdict = match (value, limit) {
                (None, _) => Verdict::NotMeasured,
                (Some(_), None) if goal.limit == Limit::Shown => Verdict::Shown,
                (Some(_), None) => Verdict::NotMeasured,
                (Some(value), Some(limit)) if value <= limit => Verdict::Reached,
                (Some(value), Some(limit))
                    if within(value, limit) && !matches!(goal.limit, Limit::Beyond(_)) =>
                {
                    Verdict::Reached
                }
                (Some(value), Some(_)) => match accepted {
                    Some(accepted) if within(value, accepted) => Verdict::Floor,
                    _ => Verdict::Missed,
                },
            };
            lines.push(Line { goal, mode, value, native, limit, accepted, verdict });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(list: &[(&str, &str, u64)]) -> Figures {
        let mut figures = Figures::new();
        for (kind, name, value) in list {
            figures.entry(kind.to_string()).or_default().insert(name.to_string(), *value);
        }
        figures
    }

    fn verdict(goal: Goal, list: &[(&str, &str, u64)]) -> Verdict {
        judge(&[goal], &figures(list))[0].verdict.clone()
    }

    #[test]
    fn a_figure_may_be_five_percent_over_its_goal() {
        let call = || goal("hypercall", "", EMULATED, Limit::At(100), None);
        assert_eq!(verdict(call(), &[("emulated", "hypercall", 105)]), Verdict::Reached);
        assert_eq!(verdict(call(), &[("emulated", "hypercall", 106)]), Verdict::Missed);
        assert_eq!(verdict(call(), &[("native", "hypercall", 1)]), Verdict::NotMeasured);
        assert!(Verdict::Missed.fails() && Verdict::NotMeasured.fails() && !Verdict::Floor.fails());
    }

    #[test]
    fn what_must_be_as_native_needs_both() {
        let line = || goal("line", "", EMULATED, Limit::AsNative, None);
        assert_eq!(verdict(line(), &[("emulated", "line", 1), ("native", "line", 1)]), Verdict::Reached);
        assert_eq!(verdict(line(), &[("emulated", "line", 2), ("native", "line", 1)]), Verdict::Missed);
        assert_eq!(verdict(line(), &[("emulated", "line", 1)]), Verdict::NotMeasured);
    }

    #[test]
    fn a_share_beyond_native_is_taken_at_its_word() {
        let read = || goal("read", "", EMULATED, Limit::Beyond(2), None);
        assert_eq!(
            verdict(read(), &[("emulated", "read", 1020), ("native", "read", 1000)]),
            Verdict::Reached
        );
        assert_eq!(verdict(read(), &[("emulated", "read", 1021), ("native", "read", 1000)]), Verdict::Missed);
    }

    #[test]
    fn a_share_of_what_is_beside_needs_that() {
        let launch = || goal("launch", "", EMULATED, Limit::Share(10), None);
        let of = |list| verdict(launch(), list);
        assert_eq!(of(&[("emulated", "launch", 10), ("native", "launch", 100)]), Verdict::Reached);
        assert_eq!(of(&[("emulated", "launch", 11), ("native", "launch", 100)]), Verdict::Missed);
        assert_eq!(of(&[("emulated", "launch", 1)]), Verdict::NotMeasured);
    }

    #[test]
    fn a_floor_excuses_only_what_is_measured_and_accepted() {
        let call = || Goal {
            floor: Some(Floor { figure: "trap", why: "" }),
            ..goal("hypercall", "", EMULATED, Limit::At(100), None)
        };
        assert_eq!(
            verdict(call(), &[("emulated", "hypercall", 190), ("native", "trap", 180)]),
            Verdict::Floor
        );
        assert_eq!(verdict(call(), &[("emulated", "hypercall", 190)]), Verdict::Missed);
        assert_eq!(
            verdict(call(), &[("emulated", "hypercall", 295), ("native", "trap", 180)]),
            Verdict::Missed
        );
    }

    #[test]
    fn a_goal_on_top_of_a_floor_moves_with_it() {
        let launch = || Goal {
            floor: Some(Floor { figure: "least", why: "" }),
            ..goal("launch", "", EMULATED, Limit::Share(10), None)
        };
        let of = |value, least: &[(&str, &str, u64)]| {
            let mut list = vec![("emulated", "launch", value), ("native", "launch", 1000)];
            list.extend_from_slice(least);
            verdict(launch(), &list)
        };
        assert_eq!(of(600, &[("native", "least", 500)]), Verdict::Floor);
        assert_eq!(of(600, &[("native", "least", 400)]), Verdict::Missed);
        assert_eq!(of(600, &[]), Verdict::Missed);
        assert_eq!(of(100, &[]), Verdict::Reached);
    }

    #[test]
    fn what_is_not_reached_yet_may_get_no_worse() {
        let image = || Goal { meanwhile: Some(200), ..goal("image", "", EMULATED, Limit::At(100), None) };
        let goals = [image()];
        let fails = |value| judge(&goals, &figures(&[("emulated", "image", value)]))[0].fails_tests();
        assert!(!fails(100) && !fails(200) && fails(201));
        assert!(judge(&goals, &figures(&[]))[0].fails_tests(), "what isn't measured is accepted");
        assert_eq!(verdict(image(), &[("emulated", "image", 150)]), Verdict::Missed);
    }

    #[test]
    fn the_table_has_each_figure_once_a_mode() {
        let mut seen = std::collections::BTreeSet::new();
        for goal in GOALS.iter().chain(LINUX).chain(MORE) {
            for mode in goal.modes {
                assert!(seen.insert((goal.figure, mode)), "{} in {mode}", goal.figure);
            }
        }
        seen.clear();
        for goal in LINUX_HOST {
            for mode in goal.modes {
                assert!(seen.insert((goal.figure, mode)), "{} in {mode}", goal.figure);
            }
        }
        seen.clear();
        for goal in X86_64.iter().chain(X86_64_PASSTHROUGH).chain(X86_64_LINUX).chain(MORE) {
            for mode in goal.modes {
                assert!(seen.insert((goal.figure, mode)), "{} in {mode}", goal.figure);
            }
        }
    }
}
