//! What hypervisor and tool say to each other over one serial line.
//!
//! # From the hypervisor
//!
//! Where the bundle has a nonce ([`crate::bundle::RunOptions::nonce`]), everything that the hypervisor writes is frames:
//!
//! ```text
//!  0  0x01
//!  1  'A' 'X'
//!  3  the first 8 bytes of the nonce, as 16 lower-case hexadecimal digits
//! 19  the channel, one byte
//! 20  the VM, as 2 hexadecimal digits ("00" where the channel has none)
//! 22  the payload's length, as 4 hexadecimal digits
//! 26  the payload
//! ```
//!
//! | channel | payload |
//! |---|---|
//! | `h` | lines of the hypervisor's log, each ended by `\n` |
//! | `v` | bytes that the VM wrote to its console |
//! | `f` | none: the VM has the focus from now on. The hypervisor hears, at this line |
//! | `g` | none: this line is the VM's from now on. The hypervisor neither hears nor says anything at it until the next `f` |
//! | `r` | a piece of the report, packed by postcard |
//! | `R` | none: the pieces since the last `R` are the report |
//! | `p` | a piece of the platform (a run that only plans), packed by postcard |
//! | `P` | none: the pieces since the last `P` are the platform |
//! | `e` | a security event, as one line ended by `\n` |
//! | `S` | none: the shell has the focus from now on |
//! | `s` | bytes that the shell shows |
//! | `a` | a piece of the answer to a program's command, packed by postcard |
//! | `A` | none: the pieces since the last `A` are the answer |
//!
//! Payloads are never looked at for frames, so that a guest can't forge one by writing it to its console; and a guest doesn't know
//! the nonce, so that nothing which reaches the line outside a frame can be one either. A reader finds the next frame by its
//! start; text between frames (a boot loader's, or a panic's) is shown as it is.
//!
//! Report and platform may be longer than a frame: pieces are joined in their order. Of several, the last complete one counts.
//!
//! Without a nonce (a boot loader started it, no tool listens) the hypervisor writes plain lines with prefixes.
//!
//! # To the hypervisor
//!
//! Bytes go to the VM in focus as they are, or to the shell. Ctrl-] (0x1d) begins a command: [`Keys`] reads them, on both sides. Ctrl-]
//! `:` and a line, up to its `\n`, is a command of the shell's that a program asks for ([`command`]); the answers come by the channel `a`,
//! in the order of the commands.

use alloc::vec::Vec;

use axvm_addr::VmId;

mod decoder;

pub use decoder::{Decoder, Piece, Pieces};

/// How many bytes of the nonce a frame carries.
pub const NONCE_BYTES: usize = 8;

/// The bytes before a payload.
pub const HEADER: usize = 26;

/// The most bytes that a payload may have.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// The byte that begins a frame.
pub const START: u8 = 0x01;

/// The byte that begins a command to the hypervisor: Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// What follows [`ESCAPE`] before a program's command.
const COMMAND: u8 = b':';

/// The most bytes of a program's command.
pub const MAX_COMMAND: usize = 512;

/// The part of the nonce that frames carry.
pub type Nonce = [u8; NONCE_BYTES];

/// The part of a bundle's nonce that frames carry.
pub fn frame_nonce(nonce: &[u8; 16]) -> Nonce {
    nonce.first_chunk().copied().unwrap_or_default()
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The hypervisor's log.
    Log,
    /// A VM's console. Of VM ids only the first 256 can be said; the reader of system files allows no more.
    Console(VmId),
    /// The VM has the focus. The hypervisor hears.
    Focus(VmId),
    /// The line is the VM's, until there is a [`Channel::Focus`] again.
    Away(VmId),
    /// A piece of the report.
    Report,
    /// The report is complete.
    ReportEnd,
    /// A piece of the platform.
    Platform,
    /// The platform is complete.
    PlatformEnd,
    /// A security event.
    Event,
    /// The shell has the focus.
    ShellFocus,
    /// What the shell shows.
    Shell,
    /// A piece of the answer to a program's command.
    Answer,
    /// The answer is complete.
    AnswerEnd,
}

impl Channel {
    /// Its byte and the VM's.
    const fn code(self) -> (u8, u8) {
        match self {
            Self::Log => (b'h', 0),
            Self::Console(vm) => (b'v', vm.0 as u8),
            Self::Focus(vm) => (b'f', vm.0 as u8),
            Self::Away(vm) => (b'g', vm.0 as u8),
            Self::Report => (b'r', 0),
            Self::ReportEnd => (b'R', 0),
            Self::Platform => (b'p', 0),
            Self::PlatformEnd => (b'P', 0),
            Self::Event => (b'e', 0),
            Self::ShellFocus => (b'S', 0),
            Self::Shell => (b's', 0),
            Self::Answer => (b'a', 0),
            Self::AnswerEnd => (b'A', 0),
        }
    }

    /// The channel with this byte and VM.
    const fn from_code(code: u8, vm: u8) -> Option<Self> {
        Some(match (code, vm) {
            (b'v', vm) => Self::Console(VmId(vm as u16)),
            (b'f', vm) => Self::Focus(VmId(vm as u16)),
            (b'g', vm) => Self::Away(VmId(vm as u16)),
            (b'h', 0) => Self::Log,
            (b'r', 0) => Self::Report,
            (b'R', 0) => Self::ReportEnd,
            (b'p', 0) => Self::Platform,
            (b'P', 0) => Self::PlatformEnd,
            (b'e', 0) => Self::Event,
            (b'S', 0) => Self::ShellFocus,
            (b's', 0) => Self::Shell,
            (b'a', 0) => Self::Answer,
            (b'A', 0) => Self::AnswerEnd,
            _ => return None,
        })
    }
}

/// The header of a frame with a payload of `length` bytes, to be written right before it.
pub fn encode_header(nonce: &Nonce, channel: Channel, length: u16) -> [u8; HEADER] {
    let (code, vm) = channel.code();
    let [high, low] = length.to_be_bytes();
    let mut header = [0; HEADER];
    let (start, rest) = header.split_at_mut(3);
    start.copy_from_slice(&[START, b'A', b'X']);
    let (number, rest) = rest.split_at_mut(2 * NONCE_BYTES);
    for (digits, byte) in number.chunks_exact_mut(2).zip(nonce) {
        digits.copy_from_slice(&hex(*byte));
    }
    let ([v0, v1], [h0, h1], [l0, l1]) = (hex(vm), hex(high), hex(low));
    rest.copy_from_slice(&[code, v0, v1, h0, h1, l0, l1]);
    header
}

/// Splits `payload` into what fits into a frame each, and gives `emit` each frame's header and payload. An empty payload is
/// one frame.
pub fn for_each_frame(
    nonce: &Nonce,
    channel: Channel,
    payload: &[u8],
    mut emit: impl FnMut(&[u8; HEADER], &[u8]),
) {
    if payload.is_empty() {
        emit(&encode_header(nonce, channel, 0), &[]);
    }
    for piece in payload.chunks(MAX_PAYLOAD) {
        // A piece is at most `MAX_PAYLOAD`, so that the length always fits.
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        emit(&encode_header(nonce, channel, length), piece);
    }
}

const fn hex(byte: u8) -> [u8; 2] {
    const fn digit(nibble: u8) -> u8 {
        if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) }
    }
    [digit(byte >> 4), digit(byte & 15)]
}

/// What is to be written to the hypervisor for a program's command. `None`: it has more than a line can have, or is more than one line.
pub fn command(line: &str) -> Option<Vec<u8>> {
    let is_line = line.len() <= MAX_COMMAND && !line.bytes().any(|byte| byte.is_ascii_control());
    is_line.then(|| [&[ESCAPE, COMMAND], line.as_bytes(), b"\n"].concat())
}

/// What a byte that came in means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A byte for the VM in focus.
    Byte(u8),
    /// The next VM gets the focus.
    NextVm,
    /// The hypervisor's shell.
    Shell,
    /// The run is to end.
    Quit,
    /// A byte of a program's command.
    Command(u8),
    /// That command is complete.
    CommandEnd,
}

/// Reads what comes in: Ctrl-] then `n`, `s` or `q` is a command, Ctrl-] twice is Ctrl-] itself, Ctrl-] `:` begins a program's command, and
/// Ctrl-] and anything else is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    Escaped,
    Command,
}

impl Keys {
    /// What `byte` means after those before it; `None`: nothing, or not yet.
    pub fn push(&mut self, byte: u8) -> Option<Key> {
        match (self.state, byte) {
            (State::Plain, ESCAPE) => {
                self.state = State::Escaped;
                return None;
            }
            (State::Plain, byte) => return Some(Key::Byte(byte)),
            (State::Command, byte) if byte != b'\n' => return Some(Key::Command(byte)),
            (State::Command, _) => {
                self.state = State::Plain;
                return Some(Key::CommandEnd);
            }
            (State::Escaped, COMMAND) => {
                self.state = State::Command;
                return None;
            }
            (State::Escaped, _) => self.state = State::Plain,
        }
        match byte {
            b'n' => Some(Key::NextVm),
            b's' => Some(Key::Shell),
            b'q' => Some(Key::Quit),
            ESCAPE => Some(Key::Byte(ESCAPE)),
            _ => None,
        }
    }

    /// Whether what comes next is for the VM in focus, unless it begins a command: nothing has been begun.
    pub fn is_plain(&self) -> bool {
        self.state == State::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_documented() {
        let header =
            encode_header(&[0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff], Channel::Console(VmId(0x2a)), 0x1b3);
        assert_eq!(&header, b"\x01AX00010203fcfdfeffv2a01b3");
    }

    #[test]
    fn a_long_payload_becomes_several_full_frames() {
        let payload = alloc::vec![5u8; MAX_PAYLOAD + 3];
        let mut lengths = Vec::new();
        for_each_frame(&[0; 8], Channel::Report, &payload, |_, piece| lengths.push(piece.len()));
        assert_eq!(lengths, [MAX_PAYLOAD, 3]);
    }

    #[test]
    fn the_escape_key_is_a_prefix_and_twice_is_itself() {
        let mut keys = Keys::default();
        let read: Vec<_> =
            b"a\x1dnb\x1d\x1dn\x1dx\x1ds\x1dqc".iter().filter_map(|byte| keys.push(*byte)).collect();
        use Key::*;
        assert_eq!(read, [Byte(b'a'), NextVm, Byte(b'b'), Byte(ESCAPE), Byte(b'n'), Shell, Quit, Byte(b'c')]);
    }

    #[test]
    fn a_programs_command_is_read_as_it_was_written_between_keys() {
        let written = command("vms").unwrap();
        let bytes = [b"a", written.as_slice(), b"b"].concat();
        let mut keys = Keys::default();
        let read: Vec<_> = bytes.iter().filter_map(|byte| keys.push(*byte)).collect();
        use Key::*;
        let expected = [Byte(b'a'), Command(b'v'), Command(b'm'), Command(b's'), CommandEnd, Byte(b'b')];
        assert_eq!(read, expected);
        assert!(keys.is_plain());
        for bad in ["vms\nvms", "\x1dq", &"x".repeat(MAX_COMMAND + 1)] {
            assert_eq!(command(bad), None);
        }
    }
}
