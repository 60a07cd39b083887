//! What is answered: a table whose kind says what its columns are, a line, or why not. How it is said, to people or to programs, is
//! decided here and nowhere else.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};

use crate::command::FORMS;

/// An answer. `serde`'s form of it goes from hypervisor to tool; what programs get is [`Answer::json`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A table.
    Table(Table),
    /// It is done, or under way: what.
    Done(String),
    /// It wasn't done.
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

impl Reason {
    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadCommand => "bad-command",
            Self::Unknown => "unknown",
            Self::WrongState => "wrong-state",
            Self::NotServed => "not-served",
        }
    }
}

/// What a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The commands.
    Help,
    /// The VMs.
    Vms,
    /// The devices that VMs are given.
    Devices,
    /// Security events, oldest first.
    Events,
    /// Exits of VMs, by reason; those that never were are left out.
    Exits,
    /// What VMs were given: CPUs, RAM, functions, registers, lines, as guest and machine know them.
    Plan,
}

/// What the cells of a column are. In all of them an empty cell is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cells {
    /// Text.
    Text,
    /// A number.
    Number,
    /// Numbers, separated by commas.
    Numbers,
    /// A number of bytes.
    Bytes,
    /// A number of nanoseconds.
    Nanoseconds,
    /// `yes`, or empty.
    Flag,
}

/// A column: its name, and what its cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its cells.
    pub cells: Cells,
}

const fn text(name: &'static str) -> Column {
    Column { name, cells: Cells::Text }
}

const fn column(name: &'static str, cells: Cells) -> Column {
    Column { name, cells }
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Help, Self::Vms, Self::Devices, Self::Events, Self::Exits, Self::Plan];

    /// Its name, which is that of the command it answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Vms => "vms",
            Self::Devices => "devices",
            Self::Events => "events",
            Self::Exits => "exits",
            Self::Plan => "plan",
        }
    }

    /// Its columns. Names of VMs, states, reasons, kinds and actions are those of the report.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Help => const { &[text("command"), text("what")] },
            Self::Vms => {
                const {
                    &[
                        text("name"),
                        text("state"),
                        text("reason"),
                        column("cpus", Cells::Numbers),
                        column("memory", Cells::Bytes),
                        text("interrupts"),
                        column("focus", Cells::Flag),
                    ]
                }
            }
            Self::Devices => {
                const {
                    &[
                        text("device"),
                        text("vm"),
                        text("state"),
                        column("group", Cells::Number),
                        text("reset"),
                    ]
                }
            }
            Self::Events => {
                const {
                    &[
                        column("time_ns", Cells::Nanoseconds),
                        text("vm"),
                        text("device"),
                        text("kind"),
                        text("address"),
                        text("action"),
                        column("count", Cells::Number),
                    ]
                }
            }
            Self::Exits => const { &[text("vm"), text("reason"), column("count", Cells::Number)] },
            Self::Plan => {
                const {
                    &[
                        text("vm"),
                        text("kind"),
                        text("guest"),
                        text("machine"),
                        column("size", Cells::Bytes),
                        text("device"),
                    ]
                }
            }
        }
    }
}

/// Rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What it is of.
    pub kind: Kind,
    /// Its rows: a cell for each column of the kind's, numbers in decimal.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|&cell| cell.into()).collect());
    }

    /// It, for people: lines whose columns stand below each other. Columns that are empty in all rows are left out.
    fn text(&self) -> String {
        /// What stands between two columns.
        const GAP: usize = 2;
        if self.rows.is_empty() {
            return String::from("none\n");
        }
        let columns = self.kind.columns();
        let mut lines = Vec::new();
        lines.push(columns.iter().map(|column| column.name.to_ascii_uppercase()).collect::<Vec<_>>());
        for row in &self.rows {
            lines.push(row.iter().zip(columns).map(|(cell, column)| shown(cell, column.cells)).collect());
        }
        // A name isn't shown for nothing.
        let is_used =
            |place: usize| self.rows.iter().any(|row| row.get(place).is_some_and(|it| !it.is_empty()));
        let width = |place: usize| {
            lines.iter().filter_map(|line| line.get(place)).map(String::len).max().unwrap_or(0)
        };
        let widths: Vec<usize> =
            (0..columns.len()).map(|place| if is_used(place) { width(place) + GAP } else { 0 }).collect();
        let mut text = String::new();
        for line in &lines {
            let mut blanks = 0;
            for (cell, &width) in line.iter().zip(&widths).filter(|&(_, &width)| width > 0) {
                blanks += width;
                if !cell.is_empty() {
                    text.extend(core::iter::repeat_n(' ', blanks - width));
                    text.push_str(cell);
                    blanks = width.saturating_sub(cell.len());
                }
            }
            text.push('\n');
        }
        text
    }
}

/// A cell as people see it.
fn shown(cell: &str, cells: Cells) -> String {
    let number = cell.parse::<u64>().unwrap_or(0);
    match cells {
        _ if cell.is_empty() => String::new(),
        Cells::Bytes => size(number),
        Cells::Nanoseconds => {
            let millis = number / 1_000_000;
            let rest = (1000 + millis % 1000).to_string();
            (millis / 1000).to_string() + "." + rest.get(1..).unwrap_or_default() + " s"
        }
        Cells::Text | Cells::Number | Cells::Numbers | Cells::Flag => cell.into(),
    }
}

/// A size as the system file has it.
fn size(bytes: u64) -> String {
    let units = [("G", 30), ("M", 20), ("K", 10)];
    let fits = units.into_iter().find(|&(_, shift)| bytes != 0 && bytes.trailing_zeros() >= shift);
    let (unit, shift) = fits.unwrap_or(("", 0));
    (bytes >> shift).to_string() + unit
}

impl Answer {
    /// The answer to `help`.
    pub fn help() -> Self {
        let mut table = Table::new(Kind::Help);
        FORMS.iter().for_each(|form| table.row(&[&form.to_string(), form.what]));
        Self::Table(table)
    }

    /// Why something wasn't done.
    pub fn error(kind: Reason, message: impl fmt::Display) -> Self {
        Self::Error(Refusal { kind, message: message.to_string() })
    }

    /// It, for people: lines, each ended by `\n`.
    pub fn text(&self) -> String {
        match self {
            Self::Table(table) => table.text(),
            Self::Done(what) => what.clone() + "\n",
            Self::Error(refusal) => String::from("error: ") + &refusal.message + "\n",
        }
    }

    /// It, for programs: an object with one key, which says what kind of answer it is. A table is a list of objects, with the columns'
    /// names as keys.
    pub const fn json(&self) -> Json<'_> {
        Json(self)
    }
}

/// An answer as programs get it.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a Answer);

struct Rows<'a>(&'a Table);

struct Row<'a>(&'a [Column], &'a [String]);

struct Error<'a>(&'a Refusal);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0 {
            Answer::Table(table) => map.serialize_entry(table.kind.name(), &Rows(table))?,
            Answer::Done(what) => map.serialize_entry("done", what)?,
            Answer::Error(refusal) => map.serialize_entry("error", &Error(refusal))?,
        }
        map.end()
    }
}

impl Serialize for Error<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("kind", self.0.kind.name())?;
        map.serialize_entry("message", &self.0.message)?;
        map.end()
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.0.rows.len()))?;
        for row in &self.0.rows {
            rows.serialize_element(&Row(self.0.kind.columns(), row))?;
        }
        rows.end()
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (column, cell) in self.0.iter().zip(self.1) {
            let number = |text: &str| text.parse::<u64>().ok();
            match column.cells {
                Cells::Text => map.serialize_entry(column.name, cell)?,
                Cells::Flag => map.serialize_entry(column.name, &!cell.is_empty())?,
                Cells::Number | Cells::Bytes | Cells::Nanoseconds => {
                    map.serialize_entry(column.name, &number(cell))?;
                }
                Cells::Numbers => {
                    let numbers: Vec<u64> = cell.split(',').filter_map(number).collect();
                    map.serialize_entry(column.name, &numbers)?;
                }
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn table(kind: Kind, rows: &[&[&str]]) -> Answer {
        let mut table = Table::new(kind);
        rows.iter().for_each(|row| table.row(row));
        Answer::Table(table)
    }

    /// One answer of each kind.
    fn answers() -> Vec<Answer> {
        vec![
            Answer::help(),
            table(
                Kind::Vms,
                &[
                    &["linux", "running", "", "1,2", "536870912", "passthrough", "yes"],
                    &["a", "stopped", "system-off", "3", "0", "emulated", ""],
                ],
            ),
            table(
                Kind::Devices,
                &[
                    &["0000:00:02.0", "linux", "assigned", "1", "flr"],
                    &["/pl031@9010000", "linux", "assigned", "", "none"],
                ],
            ),
            table(
                Kind::Events,
                &[
                    &["1002999999", "linux", "", "cpu-read", "0x80000000", "reported", "2"],
                    &["7000000", "linux", "", "cpu-read", "0x80000000", "reported", "1"],
                ],
            ),
            table(Kind::Exits, &[&["linux", "total", "3"], &["linux", "wfi", "3"]]),
            table(
                Kind::Plan,
                &[
                    &["linux", "cpu", "0", "1", "", ""],
                    &["linux", "registers", "0x9010000", "0x9010000", "4096", "/pl031@9010000"],
                ],
            ),
            table(Kind::Events, &[]),
            Answer::Done("vm \"linux\": stopping".into()),
            Answer::error(Reason::Unknown, "there is no VM \"linus\"; the nearest one is \"linux\""),
        ]
    }

    #[test]
    fn people_get_lines() {
        let text = |place: usize| answers()[place].text();
        assert!(
            text(0).starts_with("COMMAND             WHAT\nhelp                what can be typed here\n"),
            "{}",
            text(0)
        );
        for (place, expected) in [
            (
                1,
                "NAME   STATE    REASON      CPUS  MEMORY  INTERRUPTS   FOCUS\n\
                 linux  running              1,2   512M    passthrough  yes\n\
                 a      stopped  system-off  3     0       emulated\n",
            ),
            (
                2,
                "DEVICE          VM     STATE     GROUP  RESET\n\
                 0000:00:02.0    linux  assigned  1      flr\n\
                 /pl031@9010000  linux  assigned         none\n",
            ),
            (
                3,
                "TIME_NS  VM     KIND      ADDRESS     ACTION    COUNT\n\
                 1.002 s  linux  cpu-read  0x80000000  reported  2\n\
                 0.007 s  linux  cpu-read  0x80000000  reported  1\n",
            ),
            (4, "VM     REASON  COUNT\nlinux  total   3\nlinux  wfi     3\n"),
            (
                5,
                "VM     KIND       GUEST      MACHINE    SIZE  DEVICE\n\
                 linux  cpu        0          1\n\
                 linux  registers  0x9010000  0x9010000  4K    /pl031@9010000\n",
            ),
            (6, "none\n"),
            (7, "vm \"linux\": stopping\n"),
            (8, "error: there is no VM \"linus\"; the nearest one is \"linux\"\n"),
        ] {
            assert_eq!(text(place), expected);
        }
    }

    #[test]
    fn programs_get_one_key_that_says_what_it_is() {
        let contract: &[(usize, &str)] = &[
            (
                1,
                r#"{"vms": [{"name": "linux", "state": "running", "reason": "", "cpus": [1, 2], "memory": 536870912,
                    "interrupts": "passthrough", "focus": true},
                    {"name": "a", "state": "stopped", "reason": "system-off", "cpus": [3], "memory": 0,
                    "interrupts": "emulated", "focus": false}]}"#,
            ),
            (
                2,
                r#"{"devices": [{"device": "0000:00:02.0", "vm": "linux", "state": "assigned", "group": 1, "reset": "flr"},
                    {"device": "/pl031@9010000", "vm": "linux", "state": "assigned", "group": null, "reset": "none"}]}"#,
            ),
            (
                4,
                r#"{"exits": [{"vm": "linux", "reason": "total", "count": 3}, {"vm": "linux", "reason": "wfi", "count": 3}]}"#,
            ),
            (6, r#"{"events": []}"#),
            (7, r#"{"done": "vm \"linux\": stopping"}"#),
            (
                8,
                r#"{"error": {"kind": "unknown", "message": "there is no VM \"linus\"; the nearest one is \"linux\""}}"#,
            ),
        ];
        let json = |place: usize| serde_json::to_value(answers()[place].json()).unwrap();
        for (place, text) in contract {
            assert_eq!(json(*place), serde_json::from_str::<serde_json::Value>(text).unwrap());
        }
        assert_eq!(json(0)["help"][3]["command"], "start NAME");
        assert_eq!(json(3)["events"][0]["time_ns"], 1_002_999_999);
        assert_eq!(json(5)["plan"][1]["size"], 4096);
    }

    #[test]
    fn an_answer_crosses_the_line_as_it_is() {
        for answer in answers() {
            let packed = postcard::to_allocvec(&answer).unwrap();
            assert_eq!(postcard::from_bytes::<Answer>(&packed).unwrap(), answer);
        }
    }

    #[test]
    fn every_kind_answers_a_command_and_has_a_cell_for_each_column() {
        for kind in Kind::ALL {
            assert!(FORMS.iter().any(|form| form.word == kind.name()));
        }
        for answer in answers() {
            if let Answer::Table(table) = answer {
                assert!(table.rows.iter().all(|row| row.len() == table.kind.columns().len()));
            }
        }
    }

    #[test]
    fn sizes_are_as_in_the_system_file() {
        let texts = [0, 1, 1023, 1024, 1536, 512 << 20, 3 << 30].map(size);
        assert_eq!(texts, ["0", "1", "1023", "1K", "1536", "512M", "3G"]);
    }
}
