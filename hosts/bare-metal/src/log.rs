//! What the hypervisor says to people, a line at a time: `log::error!`, `log::warn!` and `log::info!`.
//!
//! Called as those of the crate `log` are. Each place that says something has its words alone: with that crate it also has its
//! module, file and line in the image, which nothing shows.

use core::fmt;

/// How bad what is said is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is not as it must be.
    Error,
    /// Something is not as it should be.
    Warning,
    /// It is good to know.
    Info,
}

impl Level {
    /// What stands before it.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Error => "error: ",
            Self::Warning => "warning: ",
            Self::Info => "",
        }
    }
}

/// Says it. Out of line: what says something is hardly ever in a hurry.
#[inline(never)]
pub fn say(level: Level, what: fmt::Arguments<'_>) {
    crate::console::message(level.prefix(), what);
}

/// The console, for who says something on every host.
pub struct Console;

impl axvm_monitor::Voice for Console {
    fn info(&self, what: fmt::Arguments<'_>) {
        say(Level::Info, what);
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        say(Level::Warning, what);
    }

    fn error(&self, what: fmt::Arguments<'_>) {
        say(Level::Error, what);
    }
}

macro_rules! error_ {
    ($($what:tt)*) => { $crate::log::say($crate::log::Level::Error, format_args!($($what)*)) };
}

macro_rules! warn_ {
    ($($what:tt)*) => { $crate::log::say($crate::log::Level::Warning, format_args!($($what)*)) };
}

macro_rules! info_ {
    ($($what:tt)*) => { $crate::log::say($crate::log::Level::Info, format_args!($($what)*)) };
}

// `warn` alone would be ambiguous with the attribute of that name.
pub(crate) use {error_ as error, info_ as info, warn_ as warn};
