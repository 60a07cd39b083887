//! The run report: what the hypervisor sends when it ends, and what `axvm run --report` writes.
//!
//! The JSON form is a contract with scripts: fields are added, none changes its meaning. Names of kinds, actions, states
//! and reasons are strings here; the types that have them are in `events` and `vm`.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::ExitCounts;
use crate::taken::TakenReport;
use crate::vm::StopReason;
use axvm_plan::VmPlan;
use axvm_plan::problem::Problem;

/// So many starts of a VM are told at the most.
const MOST_STARTS: usize = 64;

/// The version of this form.
pub const SCHEMA: u32 = 1;

/// A run, as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How it ended.
    pub verdict: Verdict,
    /// The hypervisor itself.
    pub hypervisor: HypervisorReport,
    /// Every VM of the system file.
    pub vms: Vec<VmReport>,
    /// Security events, oldest first.
    pub events: Vec<EventReport>,
    /// What kept the VMs from being started.
    pub problems: Vec<Problem>,
}

impl Report {
    /// An empty report with this verdict: what is left when the hypervisor didn't send one.
    pub fn new(verdict: Verdict) -> Self {
        Self {
            schema: SCHEMA,
            verdict,
            hypervisor: HypervisorReport::default(),
            vms: Vec::new(),
            events: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The report of a start that these problems prevented.
    pub fn bad_input(problems: Vec<Problem>) -> Self {
        Self { problems, ..Self::new(Verdict::BadInput) }
    }

    /// That of a run whose VMs could be started, at its end.
    pub fn at_end(hypervisor: HypervisorReport, vms: Vec<VmReport>, events: Vec<EventReport>) -> Self {
        let mut report = Self { hypervisor, vms, events, ..Self::new(Verdict::Ok) };
        report.verdict = report.judge();
        report
    }

    /// What VMs, events, problems and lost CPUs say of the run. Where VMs were ended from outside that is [`Verdict::Interrupted`];
    /// that it was by a timeout, or that the hypervisor ended by a fault, can't be seen in them: join that with [`Verdict::worst`].
    pub fn judge(&self) -> Verdict {
        let mut verdict = Verdict::Ok;
        if !self.hypervisor.lost_cpus.is_empty() {
            verdict = verdict.worst(Verdict::HypervisorFailed);
        }
        if !self.problems.is_empty() {
            verdict = verdict.worst(Verdict::BadInput);
        }
        if !self.events.is_empty() {
            verdict = verdict.worst(Verdict::Violation);
        }
        if self.vms.iter().any(VmReport::failed) {
            verdict = verdict.worst(Verdict::GuestFailed);
        }
        if self.vms.iter().any(VmReport::cut_short) {
            verdict = verdict.worst(Verdict::Interrupted);
        }
        verdict
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every VM powered itself off and nothing was violated.
    Ok,
    /// No VM was started.
    BadInput,
    /// A VM ended otherwise than by powering itself off.
    GuestFailed,
    /// A violation was recorded.
    Violation,
    /// The hypervisor ended by a fault of its own, or without its last report.
    HypervisorFailed,
    /// Time ran out.
    Timeout,
    /// The user ended it.
    Interrupted,
}

impl Verdict {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::BadInput,
        Self::GuestFailed,
        Self::Violation,
        Self::HypervisorFailed,
        Self::Timeout,
        Self::Interrupted,
    ];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadInput => "bad-input",
            Self::GuestFailed => "guest-failed",
            Self::Violation => "violation",
            Self::HypervisorFailed => "hypervisor-failed",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit status of `axvm run`.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::BadInput => 2,
            Self::GuestFailed => 3,
            Self::Violation => 4,
            Self::HypervisorFailed => 5,
            Self::Timeout => 6,
            Self::Interrupted => 130,
        }
    }

    /// Of several verdicts the one that counts: 2, 5, 4, 3, 6, 130, 0 by exit status. That a run was ended from outside
    /// hides no failure that came before.
    #[must_use]
    pub const fn worst(self, other: Self) -> Self {
        if self.rank() <= other.rank() { self } else { other }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::BadInput => 0,
            Self::HypervisorFailed => 1,
            Self::Violation => 2,
            Self::GuestFailed => 3,
            Self::Timeout => 4,
            Self::Interrupted => 5,
            Self::Ok => 6,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state of a VM that hasn't been built: it is when it is started, from what others then have given back.
pub const PLANNED: &str = "planned";

/// The hypervisor's own figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypervisorReport {
    /// Its version.
    pub version: String,
    /// The bytes of its image.
    pub image_bytes: u64,
    /// The bytes of RAM that it holds: image, heap, stacks, tables, bundle.
    pub ram_bytes: u64,
    /// Ticks of its counter from its first instruction to the first guest instruction.
    pub boot_ticks: u64,
    /// Of these, the ticks that clearing, filling and cleaning guests' RAM took.
    #[serde(default)]
    pub boot_filling_ticks: u64,
    /// And those that CPUs were waited for that had been started.
    #[serde(default)]
    pub boot_waiting_ticks: u64,
    /// Ticks a second.
    pub tick_hz: u64,
    /// CPUs that didn't leave a VM that was stopped, by their position among the device tree's.
    #[serde(default)]
    pub lost_cpus: Vec<u16>,
    /// What was taken of the machine, counted.
    #[serde(default)]
    pub taken: TakenReport,
    /// What it said while a VM had its console, where there was nowhere else to say it.
    #[serde(default)]
    pub meanwhile: Option<MeanwhileReport>,
    /// What a host that is a process has given up before any guest ran; `None`: it is no process.
    #[serde(default)]
    pub confinement: Option<Confinement>,
}

/// How far a process that runs VMs is kept from what it doesn't need for that, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// What holds.
    pub holds: Vec<String>,
    /// What doesn't, each with why.
    pub lacks: Vec<String>,
}

/// What was said while nobody could hear it: the hypervisor's lines and those of VMs' consoles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeanwhileReport {
    /// The last of it.
    pub text: String,
    /// How many bytes before that found no room.
    pub dropped_bytes: u64,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmReport {
    /// Its name.
    pub name: String,
    /// [`PLANNED`], or `created`, `running` or `stopped`: [`crate::vm::State`].
    pub state: String,
    /// Why it stopped: [`crate::vm::StopReason`]. Empty while it hasn't.
    pub reason: String,
    /// `emulated`, `passthrough` or `none`.
    pub interrupts: String,
    /// Exits of all its vCPUs.
    pub exits: ExitReport,
    /// Interrupts that the hypervisor injected.
    pub interrupts_injected: u64,
    /// Accesses that were answered as the manual says for what isn't there.
    pub refused: RefusedReport,
    /// What came of its interrupt controller's commands, but for those that were carried out.
    #[serde(default)]
    pub irqchip: IrqchipReport,
    /// The devices that it had in any of its starts.
    pub devices: Vec<DeviceReport>,
    /// Each time that it was started.
    #[serde(default)]
    pub starts: Vec<StartReport>,
}

/// One start of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReport {
    /// When its first vCPU was started, in nanoseconds from the hypervisor's start.
    pub started_ns: u64,
    /// How long that took, from when it was begun to be built.
    pub start_took_ns: u64,
    /// Why it stopped: [`crate::vm::StopReason`]. Empty while it hasn't.
    pub reason: String,
    /// When every CPU had left it.
    pub stopped_ns: u64,
    /// How long that took, from when it was told to stop.
    pub stop_took_ns: u64,
}

impl VmReport {
    /// What it is of both of a VM's starts, of which `later` came right after this: counters are sums, and where it is is where it is now.
    #[must_use]
    pub fn followed_by(self, later: Self) -> Self {
        // It need not have had the same ones.
        let mut devices = self.devices;
        for now in later.devices {
            match devices.iter_mut().find(|before| before.device == now.device) {
                Some(before) => {
                    let exits = before.exits;
                    *before = DeviceReport {
                        exits: DeviceExitReport {
                            config: exits.config.saturating_add(now.exits.config),
                            registers: exits.registers.saturating_add(now.exits.registers),
                            interrupts: exits.interrupts.saturating_add(now.exits.interrupts),
                        },
                        ..now
                    };
                }
                None => devices.push(now),
            }
        }
        let mut starts = self.starts;
        starts.extend(later.starts);
        // A guest that resets itself for ever isn't to fill the hypervisor's memory: the first and the last ones are told.
        if starts.len() > MOST_STARTS {
            starts.remove(MOST_STARTS / 2);
        }
        Self {
            exits: (self.exits.by_reason + later.exits.by_reason).into(),
            interrupts_injected: self.interrupts_injected.saturating_add(later.interrupts_injected),
            refused: RefusedReport {
                config: self.refused.config.saturating_add(later.refused.config),
                port: self.refused.port.saturating_add(later.refused.port),
                hypercall: self.refused.hypercall.saturating_add(later.refused.hypercall),
                sysreg: self.refused.sysreg.saturating_add(later.refused.sysreg),
            },
            irqchip: IrqchipReport {
                refused: self.irqchip.refused.saturating_add(later.irqchip.refused),
                failed: self.irqchip.failed.saturating_add(later.irqchip.failed),
                messages: self.irqchip.messages.saturating_add(later.irqchip.messages),
            },
            devices,
            starts,
            ..later
        }
    }

    /// What it is of a VM that was never built: one that starts by itself couldn't be, another one wasn't started.
    pub fn not_built(plan: &VmPlan) -> Self {
        let (state, reason) = match plan.autostart {
            true => ("stopped", StopReason::HostError.name()),
            false => (PLANNED, ""),
        };
        Self {
            name: plan.name.clone(),
            state: state.into(),
            reason: reason.into(),
            interrupts: plan.mode.name().into(),
            exits: ExitReport::default(),
            interrupts_injected: 0,
            refused: RefusedReport::default(),
            irqchip: IrqchipReport::default(),
            devices: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Whether it ended otherwise than by powering itself off or by somebody's will.
    pub fn failed(&self) -> bool {
        self.state == "stopped" && self.reason != "system-off" && !self.was_ended()
    }

    /// Whether it would have gone on if nobody had ended it or the run. A VM that nobody started wouldn't.
    pub fn cut_short(&self) -> bool {
        self.state == "running" || (self.state == "stopped" && self.was_ended())
    }

    fn was_ended(&self) -> bool {
        matches!(&*self.reason, "run-ended" | "stopped" | "restarted")
    }
}

/// Exits by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// All.
    pub total: u64,
    /// By reason.
    pub by_reason: ExitCounts,
}

impl From<ExitCounts> for ExitReport {
    fn from(by_reason: ExitCounts) -> Self {
        Self { total: by_reason.total(), by_reason }
    }
}

/// Refused accesses, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReport {
    /// PCI config space: a function or a field that isn't the VM's.
    pub config: u64,
    /// Ports.
    pub port: u64,
    /// Hypercalls and firmware calls.
    pub hypercall: u64,
    /// System registers.
    pub sysreg: u64,
}

/// What a VM's interrupt controller ignored or couldn't do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqchipReport {
    /// Commands that the guest got wrong: ignored, as the architecture allows.
    pub refused: u64,
    /// Commands that the hypervisor couldn't carry out: it lacked something, or the hardware didn't answer.
    pub failed: u64,
    /// Messages that a processor of the VM's wrote to the controller, where only devices may: ignored.
    pub messages: u64,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// PCI address, path or name.
    pub device: String,
    /// The isolation group, for a PCI function.
    pub group: Option<u32>,
    /// `flr`, `d3hot`, `secondary-bus` or `none`: how it is reset.
    pub reset: String,
    /// Exits on its behalf.
    pub exits: DeviceExitReport,
}

/// Exits on a device's behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceExitReport {
    /// Of its config space.
    pub config: u64,
    /// Of its registers: trapped and forwarded ones.
    pub registers: u64,
    /// For its interrupts.
    pub interrupts: u64,
}

/// One security event, or several of the same kind in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReport {
    /// The time of the first, from the hypervisor's start.
    pub time_ns: u64,
    /// The VM; empty: none has the device.
    pub vm: String,
    /// The device; empty: none, the VM's CPU did it.
    pub device: String,
    /// The kind: [`crate::events::Kind`].
    pub kind: String,
    /// The address of the first, as `0x80000000`; empty: there is none.
    pub address: String,
    /// What was done: [`crate::events::Action`].
    pub action: String,
    /// How many.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    /// A report with a value in every field that the contract names.
    fn example() -> Report {
        Report {
            schema: SCHEMA,
            verdict: Verdict::Violation,
            hypervisor: HypervisorReport { version: "0.1.0".into(), image_bytes: 1, ..Default::default() },
            vms: vec![VmReport {
                name: "linux".into(),
                state: "stopped".into(),
                reason: "system-off".into(),
                interrupts: "emulated".into(),
                exits: ExitCounts { wfi: 2, sgi: 3, ..Default::default() }.into(),
                interrupts_injected: 5,
                refused: RefusedReport::default(),
                irqchip: IrqchipReport { refused: 1, failed: 2, messages: 3 },
                devices: vec![DeviceReport {
                    device: "0000:00:02.0".into(),
                    group: Some(0),
                    reset: "flr".into(),
                    exits: DeviceExitReport::default(),
                }],
                starts: vec![StartReport {
                    started_ns: 10,
                    start_took_ns: 4,
                    reason: "system-off".into(),
                    stopped_ns: 90,
                    stop_took_ns: 1,
                }],
            }],
            events: vec![EventReport {
                time_ns: 1,
                vm: "linux".into(),
                device: "0000:00:02.0".into(),
                kind: "dma-write".into(),
                address: "0x80000000".into(),
                action: "quarantined".into(),
                count: 1,
            }],
            problems: vec![],
        }
    }

    #[test]
    fn a_run_that_lost_a_cpu_has_failed() {
        let hypervisor = HypervisorReport { lost_cpus: vec![2], ..Default::default() };
        let report = Report { hypervisor, events: vec![], ..example() };
        assert_eq!(report.judge(), Verdict::HypervisorFailed);
        assert_eq!(Report { hypervisor: HypervisorReport::default(), ..report }.judge(), Verdict::Ok);
    }

    #[test]
    fn the_json_form_has_the_shape_of_the_contract() {
        let json = serde_json::to_value(example()).unwrap();
        let mut contract: serde_json::Value = serde_json::from_str(
            r#"{"schema": 1, "verdict": "violation",
                "hypervisor": {"version": "0.1.0", "image_bytes": 1, "ram_bytes": 0, "boot_ticks": 0,
                  "boot_filling_ticks": 0, "boot_waiting_ticks": 0, "tick_hz": 0, "lost_cpus": []},
                "vms": [{"name": "linux", "state": "stopped", "reason": "system-off", "interrupts": "emulated",
                  "exits": {"total": 5, "by_reason": {"mmio_emulated": 0, "mmio_forwarded": 0, "port": 0, "sysreg": 0,
                    "sgi": 3, "hypercall": 0, "interrupt": 0, "wfi": 2, "stage2_fault": 0, "other": 0}},
                  "interrupts_injected": 5,
                  "refused": {"config": 0, "port": 0, "hypercall": 0, "sysreg": 0},
                  "irqchip": {"refused": 1, "failed": 2, "messages": 3},
                  "devices": [{"device": "0000:00:02.0", "group": 0, "reset": "flr",
                    "exits": {"config": 0, "registers": 0, "interrupts": 0}}],
                  "starts": [{"started_ns": 10, "start_took_ns": 4, "reason": "system-off", "stopped_ns": 90,
                    "stop_took_ns": 1}]}],
                "events": [{"time_ns": 1, "vm": "linux", "device": "0000:00:02.0", "kind": "dma-write",
                  "address": "0x80000000", "action": "quarantined", "count": 1}],
                "problems": []}"#,
        )
        .unwrap();
        contract["hypervisor"]["meanwhile"] = serde_json::Value::Null;
        contract["hypervisor"]["confinement"] = serde_json::Value::Null;
        contract["hypervisor"]["taken"] = serde_json::to_value(TakenReport::default()).unwrap();
        assert_eq!(json, contract);
    }

    #[test]
    fn of_a_vm_that_started_again_counters_are_sums_and_each_start_is_told() {
        let (before, now) = (example().vms.remove(0), example().vms.remove(0));
        let before = VmReport { reason: "system-reset".into(), ..before };
        let mut both = before.clone().followed_by(now.clone());
        assert_eq!(
            (both.reason.as_str(), both.exits.total, both.interrupts_injected),
            ("system-off", 10, 10)
        );
        assert_eq!((both.irqchip.failed, both.starts.len()), (4, 2));
        for _ in 0..200 {
            both = both.followed_by(now.clone());
        }
        assert_eq!((both.starts.len(), both.exits.total), (MOST_STARTS, 5 * 202));
    }

    #[test]
    fn of_a_vm_that_started_with_other_devices_each_that_it_had_is_told() {
        let start = |names: &[&str]| {
            let mut vm = example().vms.remove(0);
            let exits = DeviceExitReport { config: 1, registers: 2, interrupts: 3 };
            let device =
                |name: &&str| DeviceReport { device: name.to_string(), exits, ..vm.devices[0].clone() };
            vm.devices = names.iter().map(device).collect();
            vm
        };
        let both = start(&["disk", "card"]).followed_by(start(&["card", "clock"]));
        let told: Vec<_> = both.devices.iter().map(|it| (it.device.as_str(), it.exits.interrupts)).collect();
        assert_eq!(told, [("disk", 3), ("card", 6), ("clock", 3)]);
    }

    #[test]
    fn a_report_comes_back_from_both_forms_as_it_was() {
        let mut report = example();
        report.problems.push(Problem::new(
            axvm_system::model::Item::Device(0, 1, "node".into()),
            axvm_plan::problem::Rule::Provider,
            "text",
        ));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let packed = postcard::to_allocvec(&report).unwrap();
        assert_eq!(postcard::from_bytes::<Report>(&packed).unwrap(), report);
    }

    #[test]
    fn of_several_verdicts_the_contracts_order_decides() {
        let order = [2, 5, 4, 3, 6, 130, 0];
        let find = |status| *Verdict::ALL.iter().find(|v| v.exit_status() == status).unwrap();
        for (position, &status) in order.iter().enumerate() {
            for &other in &order[position..] {
                assert_eq!(find(status).worst(find(other)).exit_status(), status);
                assert_eq!(find(other).worst(find(status)).exit_status(), status);
            }
        }
    }

    #[test]
    fn a_verdict_is_called_the_same_in_text_and_in_json() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.to_string());
        }
    }

    #[test]
    fn a_run_is_ok_only_if_every_vm_that_was_started_powered_itself_off_and_nothing_happened() {
        let mut report = example();
        assert_eq!(report.judge(), Verdict::Violation);
        report.events.clear();
        assert_eq!(report.judge(), Verdict::Ok);
        report.vms[0].state = "created".into();
        assert_eq!(report.judge(), Verdict::Ok, "never started");
        report.vms[0].state = "running".into();
        assert_eq!(report.judge(), Verdict::Interrupted);
        report.vms[0].state = "stopped".into();
        for by_somebody in ["run-ended", "stopped", "restarted"] {
            report.vms[0].reason = by_somebody.into();
            assert_eq!(report.judge(), Verdict::Interrupted);
        }
        report.vms[0].reason = "violation".into();
        assert_eq!(report.judge(), Verdict::GuestFailed);
    }
}
