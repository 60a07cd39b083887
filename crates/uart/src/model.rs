//! What most UARTs have in common, as data: one register or bit for each thing that is asked or done.

use crate::Width;

/// A question to a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub at: u16,
    /// Whether the answer is yes while the bits have another value than this, and not while they have it.
    pub other: bool,
    pub mask: u32,
    pub value: u32,
}

impl Test {
    /// True while the bits have this value.
    pub const fn equal(at: u16, mask: u32, value: u32) -> Self {
        Self { at, other: false, mask, value }
    }

    /// True while the bits are set.
    pub const fn set(at: u16, mask: u32) -> Self {
        Self::equal(at, mask, mask)
    }

    /// True while they are clear.
    pub const fn clear(at: u16, mask: u32) -> Self {
        Self::equal(at, mask, 0)
    }

    /// True while one of them is set.
    pub const fn any(at: u16, mask: u32) -> Self {
        Self { other: true, ..Self::clear(at, mask) }
    }

    /// Of a UART that doesn't tell: never true.
    pub const NEVER: Self = Self::any(0, 0);

    /// Whether the register's value answers yes.
    pub const fn holds(&self, value: u32) -> bool {
        (value & self.mask == self.value) != self.other
    }
}

/// An access to a register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A read, for what it does.
    Read {
        at: u16,
    },
    Write {
        at: u16,
        value: u32,
    },
    /// Writes what is read: marks go, settings beside them stay.
    WriteBack {
        at: u16,
    },
    /// Writes only if that changes something.
    Change {
        at: u16,
        clear: u32,
        set: u32,
    },
}

/// Something that decides how a UART sends and receives, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    /// A register.
    Register(u16),
    /// A register that is there while a bit of another one is set.
    Behind { at: u16, switch: u16, bit: u32 },
}

/// A kind of UART. Offsets are in registers, which [`Description`](crate::Description) makes bytes.
pub(crate) struct Model {
    /// The last register in use here.
    pub last: u16,
    pub transmit: u16,
    pub receive: u16,
    /// How wide these two are, if they aren't as wide as the others.
    pub data: Option<Width>,
    /// There is room for a byte.
    pub room: Test,
    /// All has left.
    pub idle: Test,
    /// A byte is there.
    pub received: Test,
    /// Bytes were lost.
    pub overrun: Test,
    /// Takes the mark of that away; nothing: its reading does.
    pub clear: &'static [Step],
    pub enable: &'static [Step],
    /// Done after each byte that was written.
    pub sent: &'static [Step],
    /// Lets its receive interrupt through; empty: it isn't served.
    pub listen: &'static [Step],
    pub ignore: &'static [Step],
    /// Done before each look at what came in.
    pub acknowledge: &'static [Step],
    /// Done before its settings are written back: it is off, and what is in its FIFOs is gone.
    pub stop: &'static [Step],
    /// All settings that decide how it sends and receives, in the order in which they are written; empty: they aren't known.
    pub settings: &'static [Setting],
}

impl Model {
    /// One with a single data register that tells of nothing and needs nothing: to be completed.
    pub const BARE: Self = Self {
        last: 0,
        transmit: 0,
        receive: 0,
        data: None,
        room: Test::NEVER,
        idle: Test::NEVER,
        received: Test::NEVER,
        overrun: Test::NEVER,
        clear: &[],
        enable: &[],
        sent: &[],
        listen: &[],
        ignore: &[],
        acknowledge: &[],
        stop: &[],
        settings: &[],
    };
}
