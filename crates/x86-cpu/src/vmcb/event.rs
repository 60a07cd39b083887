//! Events that are injected, and those that an exit has interrupted (AMD64 APM 2, 15.20 and 15.7.2).

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// An external or virtual interrupt.
    Interrupt = 0,
    /// A non-maskable interrupt. Its vector is 2, whatever the field says.
    Nmi = 2,
    /// An exception: a fault or a trap.
    Exception = 3,
    /// INT n.
    Software = 4,
}

/// An event: what EVENTINJ and EXITINTINFO hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its vector.
    pub vector: u8,
    /// What it is.
    pub kind: EventKind,
    /// The error code that it pushes, if it pushes one.
    pub error: Option<u32>,
}

const VALID: u64 = 1 << 31;
const HAS_ERROR: u64 = 1 << 11;

impl Event {
    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self { vector, kind: EventKind::Interrupt, error: None }
    }

    /// A non-maskable interrupt.
    pub const fn nmi() -> Self {
        Self { vector: 2, kind: EventKind::Nmi, error: None }
    }

    /// The field's value.
    pub const fn encode(self) -> u64 {
        let error = match self.error {
            Some(code) => HAS_ERROR | (code as u64) << 32,
            None => 0,
        };
        self.vector as u64 | (self.kind as u64) << 8 | error | VALID
    }

    /// Whether the field holds something that is delivered.
    pub const fn is_valid(field: u64) -> bool {
        field & VALID != 0
    }

    /// The field's event, if it holds one. One of a type that is reserved is none: nobody has put it there.
    pub const fn decode(field: u64) -> Option<Self> {
        if !Self::is_valid(field) {
            return None;
        }
        let kind = match field >> 8 & 7 {
            0 => EventKind::Interrupt,
            2 => EventKind::Nmi,
            3 => EventKind::Exception,
            4 => EventKind::Software,
            _ => return None,
        };
        let error = if field & HAS_ERROR == 0 { None } else { Some((field >> 32) as u32) };
        Some(Self { vector: field as u8, kind, error })
    }
}
