#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod answer;
mod command;
mod complete;
mod editor;
mod keys;
mod nearest;
mod table;
mod words;

pub use answer::{
    Answer, Count, DeviceRow, EventRow, ExitsRow, HelpRow, Part, PlanRow, Reason, Refusal, VmRow,
};
pub use command::{Command, FORMS, Form, Mistake, Operand};
pub use complete::Names;
pub use editor::{Editor, Event, LINE, PROMPT};
pub use nearest::nearest;
