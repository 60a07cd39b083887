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
mod words;

pub use answer::{Answer, Cells, Column, Json, Kind, Reason, Refusal, Table};
pub use command::{Command, FORMS, Form, Mistake, Operand};
pub use complete::Names;
pub use editor::{Editor, Event, LINE, PROMPT};
pub use nearest::nearest;
