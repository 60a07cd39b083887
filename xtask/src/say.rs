//! What the user sees: one line a step, and the one error that isn't a failure of the project, a missing piece.

use std::fmt;

/// Says what is being done. Plain lines, so that a log file reads as well as a terminal.
pub fn step(text: impl fmt::Display) {
    println!("==> {text}");
}

/// Says a detail of the step.
pub fn note(text: impl fmt::Display) {
    println!("    {text}");
}

/// Something that the machine lacks and xtask may not or cannot put there: ends with status 2.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// An error of kind [`Missing`].
pub fn missing<T>(text: impl Into<String>) -> anyhow::Result<T> {
    Err(Missing(text.into()).into())
}
