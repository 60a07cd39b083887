//! What is answered: values, and how they are said to people. For programs they are `serde`'s: one key, which says what kind of
//! answer it is, and names that only grow.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::command::FORMS;
use crate::table::Table;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The commands.
    Help(Vec<HelpRow>),
    /// The VMs.
    Vms(Vec<VmRow>),
    /// The devices.
    Devices(Vec<DeviceRow>),
    /// Security events, oldest first.
    Events(Vec<EventRow>),
    /// Exits.
    Exits(Vec<ExitsRow>),
    /// What the VMs were given.
    Plan(Vec<PlanRow>),
    /// It is done, or under way: what.
    Done(String),
    /// It wasn't done: why.
    Error(Refusal),
}

/// Why something wasn't done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: Reason,
    /// It, for people: one line.
    pub message: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The line is no command.
    BadCommand,
    /// There is no such VM or device.
    Unknown,
    /// It can't be done with the VM or the device as it is now.
    WrongState,
    /// This hypervisor doesn't do that.
    NotServed,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelpRow {
    /// How it is typed.
    pub form: String,
    /// What it does.
    pub what: String,
}

/// A VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRow {
    /// Its name.
    pub name: String,
    /// Its state, as in the report.
    pub state: String,
    /// Why it stopped, as in the report; empty while it hasn't.
    pub reason: String,
    /// Whether what is typed goes to it.
    pub focus: bool,
    /// Its CPUs, by their positions among the board's.
    pub cpus: Vec<u16>,
    /// Bytes of its RAM.
    pub memory: u64,
    /// `emulated`, `passthrough` or `none`.
    pub interrupts: String,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// PCI address, path or name.
    pub device: String,
    /// The VM that is given it.
    pub vm: String,
    /// `host`, `assigned`, `quarantined` or `failed`.
    pub state: String,
    /// The isolation group, for a PCI function.
    pub group: Option<u32>,
    /// How it is reset, as in the report.
    pub reset: String,
}

/// A security event, as in the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// The time of the first, from the hypervisor's start.
    pub time_ns: u64,
    /// The VM; empty: none has the device.
    pub vm: String,
    /// The device; empty: the VM's CPU did it.
    pub device: String,
    /// The kind.
    pub kind: String,
    /// The address of the first; empty: there is none.
    pub address: String,
    /// What was done.
    pub action: String,
    /// How many.
    pub count: u64,
}

/// Exits of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitsRow {
    /// The VM.
    pub vm: String,
    /// All of them.
    pub total: u64,
    /// By reason, with the report's names.
    #[serde(with = "counts")]
    pub by_reason: Vec<Count>,
}

/// How often something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// What.
    pub what: Cow<'static, str>,
    /// How often.
    pub count: u64,
}

/// What a VM was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRow {
    /// The VM.
    pub vm: String,
    /// How interrupts reach it.
    pub interrupts: String,
    /// What it has, in the plan's order.
    pub parts: Vec<Part>,
}

/// Something that a VM was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `cpu`, `ram`, `registers`, `trapped` or `line`.
    pub kind: String,
    /// As the guest knows it: a number or an address.
    pub guest: String,
    /// As the machine knows it.
    pub machine: String,
    /// Bytes; 0: it has no size.
    pub size: u64,
    /// Of which device; empty: of none.
    pub device: String,
}

impl Answer {
    /// The answer to `help`.
    pub fn help() -> Self {
        Self::Help(
            FORMS
                .iter()
                .map(|form| HelpRow { form: form.to_string(), what: form.what.to_string() })
                .collect(),
        )
    }

    /// Why something wasn't done.
    pub fn error(kind: Reason, message: impl fmt::Display) -> Self {
        Self::Error(Refusal { kind, message: message.to_string() })
    }

    /// It, for people: lines, each ended by `\n`.
    pub fn text(&self) -> String {
        let mut table = Table::default();
        match self {
            Self::Help(rows) => rows.iter().for_each(|row| table.row(&[&row.form, &row.what])),
            Self::Vms(rows) => {
                table.row(&["NAME", "STATE", "CPUS", "MEMORY", "INTERRUPTS", ""]);
                for row in rows {
                    let state = match row.reason.as_str() {
                        "" => row.state.clone(),
                        reason => row.state.clone() + ": " + reason,
                    };
                    let focus = if row.focus { "(focus)" } else { "" };
                    table.row(&[
                        &row.name,
                        &state,
                        &list(&row.cpus),
                        &size(row.memory),
                        &row.interrupts,
                        focus,
                    ]);
                }
            }
            Self::Devices(rows) => {
                table.row(&["DEVICE", "VM", "STATE", "GROUP", "RESET"]);
                for row in rows {
                    let group = row.group.map_or_else(String::new, |group| group.to_string());
                    table.row(&[&row.device, &row.vm, &row.state, &group, &row.reset]);
                }
            }
            Self::Events(rows) if rows.is_empty() => return "no security events\n".to_string(),
            Self::Events(rows) => {
                table.row(&["SECONDS", "VM", "DEVICE", "KIND", "ADDRESS", "ACTION", "COUNT"]);
                for row in rows {
                    let millis = row.time_ns / 1_000_000;
                    let seconds = (millis / 1000).to_string() + "." + padded(millis % 1000).as_str();
                    let count = row.count.to_string();
                    table.row(&[
                        &seconds,
                        &row.vm,
                        &row.device,
                        &row.kind,
                        &row.address,
                        &row.action,
                        &count,
                    ]);
                }
            }
            Self::Exits(rows) => {
                for row in rows {
                    table.row(&[row.vm.as_str(), "total", &row.total.to_string()]);
                    for it in row.by_reason.iter().filter(|it| it.count > 0) {
                        table.row(&["", &it.what, &it.count.to_string()]);
                    }
                }
            }
            Self::Plan(rows) => {
                for row in rows {
                    table.row(&[row.vm.as_str(), "interrupts", &row.interrupts, "", "", ""]);
                    for part in &row.parts {
                        let size = if part.size == 0 { String::new() } else { size(part.size) };
                        table.row(&["", &part.kind, &part.guest, &part.machine, &size, &part.device]);
                    }
                }
            }
            Self::Done(what) => return what.clone() + "\n",
            Self::Error(refusal) => return String::from("error: ") + &refusal.message + "\n",
        }
        table.text()
    }
}

/// Numbers, separated by commas.
fn list(numbers: &[u16]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// A size as the system file has it.
fn size(bytes: u64) -> String {
    let units = [("G", 30), ("M", 20), ("K", 10)];
    let fits = units.into_iter().find(|&(_, shift)| bytes != 0 && bytes.trailing_zeros() >= shift);
    let (unit, shift) = fits.unwrap_or(("", 0));
    (bytes >> shift).to_string() + unit
}

/// Three digits.
fn padded(number: u64) -> String {
    let digits = number.to_string();
    let zeros = "000".get(digits.len().min(3)..).unwrap_or_default();
    String::from(zeros) + &digits
}

/// Counts as a map from what is counted to how often it was.
mod counts {
    use alloc::borrow::Cow;
    use alloc::string::String;
    use alloc::vec::Vec;
    use core::fmt;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserializer, Serializer};

    use super::Count;

    pub(super) fn serialize<S: Serializer>(counts: &[Count], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(counts.iter().map(|it| (&it.what, it.count)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Count>, D::Error> {
        struct Counts;

        impl<'de> Visitor<'de> for Counts {
            type Value = Vec<Count>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("counts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut counts = Vec::new();
                while let Some((what, count)) = map.next_entry::<String, u64>()? {
                    counts.push(Count { what: Cow::Owned(what), count });
                }
                Ok(counts)
            }
        }

        deserializer.deserialize_map(Counts)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn vm() -> VmRow {
        VmRow {
            name: "linux".into(),
            state: "running".into(),
            reason: String::new(),
            focus: true,
            cpus: vec![1, 2],
            memory: 512 << 20,
            interrupts: "passthrough".into(),
        }
    }

    /// One answer of each kind.
    fn answers() -> Vec<Answer> {
        vec![
            Answer::help(),
            Answer::Vms(vec![
                vm(),
                VmRow {
                    name: "a".into(),
                    state: "stopped".into(),
                    reason: "system-off".into(),
                    ..Default::default()
                },
            ]),
            Answer::Devices(vec![DeviceRow {
                device: "0000:00:02.0".into(),
                vm: "linux".into(),
                state: "assigned".into(),
                group: Some(1),
                reset: "flr".into(),
            }]),
            Answer::Events(vec![EventRow {
                time_ns: 1_002_999_999,
                vm: "linux".into(),
                kind: "cpu-read".into(),
                address: "0x80000000".into(),
                action: "reported".into(),
                count: 2,
                ..Default::default()
            }]),
            Answer::Exits(vec![ExitsRow {
                vm: "linux".into(),
                total: 3,
                by_reason: vec![
                    Count { what: "sgi".into(), count: 0 },
                    Count { what: "wfi".into(), count: 3 },
                ],
            }]),
            Answer::Plan(vec![PlanRow {
                vm: "linux".into(),
                interrupts: "emulated".into(),
                parts: vec![
                    Part { kind: "cpu".into(), guest: "0".into(), machine: "1".into(), ..Default::default() },
                    Part {
                        kind: "registers".into(),
                        guest: "0x9010000".into(),
                        machine: "0x9010000".into(),
                        size: 4096,
                        device: "/pl031@9010000".into(),
                    },
                ],
            }]),
            Answer::Done("vm \"linux\": stopping".into()),
            Answer::error(Reason::Unknown, "there is no VM \"linus\"; the nearest one is \"linux\""),
        ]
    }

    #[test]
    fn people_get_tables() {
        let text = |place: usize| answers()[place].text();
        assert!(text(0).starts_with("help                what can be typed here\n"), "{}", text(0));
        assert_eq!(
            text(1),
            "NAME   STATE                CPUS  MEMORY  INTERRUPTS\n\
             linux  running              1,2   512M    passthrough  (focus)\n\
             a      stopped: system-off        0\n"
        );
        assert_eq!(
            text(2),
            "DEVICE        VM     STATE     GROUP  RESET\n0000:00:02.0  linux  assigned  1      flr\n"
        );
        assert_eq!(
            text(3),
            "SECONDS  VM     DEVICE  KIND      ADDRESS     ACTION    COUNT\n\
             1.002    linux          cpu-read  0x80000000  reported  2\n"
        );
        assert_eq!(text(4), "linux  total  3\n       wfi    3\n");
        assert_eq!(
            text(5),
            "linux  interrupts  emulated\n\
            \u{20}      cpu         0          1\n\
            \u{20}      registers   0x9010000  0x9010000  4K  /pl031@9010000\n"
        );
        assert_eq!(text(6), "vm \"linux\": stopping\n");
        assert_eq!(text(7), "error: there is no VM \"linus\"; the nearest one is \"linux\"\n");
        assert_eq!(Answer::Events(vec![]).text(), "no security events\n");
    }

    #[test]
    fn programs_get_one_key_that_says_what_it_is() {
        let json = |place: usize| serde_json::to_value(&answers()[place]).unwrap();
        let contract: &[(usize, &str)] = &[
            (
                2,
                r#"{"devices": [{"device": "0000:00:02.0", "vm": "linux", "state": "assigned", "group": 1, "reset": "flr"}]}"#,
            ),
            (
                3,
                r#"{"events": [{"time_ns": 1002999999, "vm": "linux", "device": "", "kind": "cpu-read",
                    "address": "0x80000000", "action": "reported", "count": 2}]}"#,
            ),
            (4, r#"{"exits": [{"vm": "linux", "total": 3, "by_reason": {"sgi": 0, "wfi": 3}}]}"#),
            (6, r#"{"done": "vm \"linux\": stopping"}"#),
            (
                7,
                r#"{"error": {"kind": "unknown", "message": "there is no VM \"linus\"; the nearest one is \"linux\""}}"#,
            ),
        ];
        for (place, text) in contract {
            assert_eq!(json(*place), serde_json::from_str::<serde_json::Value>(text).unwrap());
        }
        assert_eq!(
            json(1)["vms"][0],
            serde_json::from_str::<serde_json::Value>(
                r#"{"name": "linux", "state": "running", "reason": "", "focus": true, "cpus": [1, 2], "memory": 536870912,
                    "interrupts": "passthrough"}"#
            )
            .unwrap()
        );
        assert_eq!(json(0)["help"][3]["form"], "start NAME");
        assert_eq!(json(5)["plan"][0]["parts"][0]["kind"], "cpu");
    }

    #[test]
    fn an_answer_comes_back_from_both_forms_as_it_was() {
        for answer in answers() {
            let packed = postcard::to_allocvec(&answer).unwrap();
            assert_eq!(postcard::from_bytes::<Answer>(&packed).unwrap(), answer);
            let json = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
        }
    }

    #[test]
    fn sizes_are_as_in_the_system_file() {
        let texts = [0, 1, 1023, 1024, 1536, 512 << 20, 3 << 30].map(size);
        assert_eq!(texts, ["0", "1", "1023", "1K", "1536", "512M", "3G"]);
    }
}
