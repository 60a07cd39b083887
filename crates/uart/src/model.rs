//! What most UARTs have in common, as data: one register or bit for each thing that is asked or done.

/// A question to a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub at: u16,
    pub mask: u32,
    /// The answer is yes while the bits have this value, or any other.
    pub is: Is,
}

/// See [`Test::is`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Is {
    Equal(u32),
    Other(u32),
}

impl Test {
    /// True while the bits are set.
    pub const fn set(at: u16, mask: u32) -> Self {
        Self { at, mask, is: Is::Equal(mask) }
    }

    /// True while they are clear.
    pub const fn clear(at: u16, mask: u32) -> Self {
        Self { at, mask, is: Is::Equal(0) }
    }

    /// True while one of them is set.
    pub const fn any(at: u16, mask: u32) -> Self {
        Self { at, mask, is: Is::Other(0) }
    }

    /// Of a UART that doesn't tell: never true.
    pub const NEVER: Self = Self { at: 0, mask: 0, is: Is::Other(0) };

    /// Whether the register's value answers yes.
    pub const fn holds(&self, value: u32) -> bool {
        match self.is {
            Is::Equal(wanted) => value & self.mask == wanted,
            Is::Other(than) => value & self.mask != than,
        }
    }
}

/// A change of a register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Write { at: u16, value: u32 },
    Change { at: u16, clear: u32, set: u32 },
}

/// How the mark of an overrun is taken away.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Acknowledge {
    /// By the reading.
    Reading,
    /// By writing the bit alone.
    Bit,
    /// By writing the register back: its other bits are settings.
    Whole,
    /// By writing the bit to another register.
    At(u16),
}

/// A kind of UART. Offsets are in registers, which [`Description`](crate::Description) makes bytes.
pub(crate) struct Model {
    pub transmit: u16,
    pub receive: u16,
    /// There is room for a byte.
    pub room: Test,
    /// All has left.
    pub idle: Test,
    /// A byte is there.
    pub received: Test,
    /// Bytes were lost.
    pub overrun: Test,
    pub clear: Acknowledge,
    pub enable: &'static [Step],
    /// Lets its receive interrupt through; empty: it isn't served.
    pub listen: &'static [Step],
    pub ignore: &'static [Step],
    /// Done before each look at what came in.
    pub acknowledge: &'static [Step],
}
