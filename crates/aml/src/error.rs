//! What can go wrong.

/// Why AML can't be evaluated, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The code ends in the middle of something, or a length reaches past what it is in.
    #[error("the code is cut off")]
    Cut,
    /// An opcode that isn't known here, or that can't stand where it does.
    #[error("the opcode {0:#x} can't be evaluated")]
    Opcode(u16),
    /// A name that isn't one.
    #[error("there is a name that is none")]
    Name,
    /// A name that stands for nothing.
    #[error("a name stands for nothing")]
    NoObject,
    /// An object of another type than what is done with it needs.
    #[error("an object isn't of the type that is needed")]
    Type,
    /// An index past the end of what it is for.
    #[error("an index is past the end")]
    Index,
    /// It divides by zero.
    #[error("it divides by zero")]
    Division,
    /// It takes more steps than it is given.
    #[error("it takes too long")]
    Steps,
    /// It takes more memory than it is given.
    #[error("it takes too much memory")]
    Memory,
    /// Its expressions or calls are nested deeper than is followed.
    #[error("it is nested too deep")]
    Depth,
    /// It says itself that something is wrong (`Fatal`).
    #[error("it gives up by itself")]
    Fatal,
}
