//! What a terminal sends for a key (ECMA-48; xterm's control sequences): bytes become [`Key`]s.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character: printable ASCII.
    Character(u8),
    /// The line is to be carried out.
    Enter,
    /// It is to be completed.
    Tab,
    /// The character before the cursor goes.
    Backspace,
    /// The one at the cursor goes.
    Delete,
    /// As [`Key::Delete`]; in an empty line: the shell is to be left.
    EndOfInput,
    /// The line is given up.
    Interrupt,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    /// All before the cursor goes.
    KillBefore,
    /// All from the cursor on goes.
    KillAfter,
    /// The word before the cursor goes.
    KillWord,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// After a carriage return: a line feed that follows belongs to it.
    Returned,
    Escape,
    /// In a control sequence. Its first number.
    Sequence(u8),
}

/// Reads bytes. What no terminal sends for a key that is known here is left out; so are bytes that aren't ASCII.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    state: State,
}

impl Keys {
    /// What a byte means after those before it.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Key> {
        let before = core::mem::take(&mut self.state);
        match (before, byte) {
            (State::Escape, b'[' | b'O') => {
                self.state = State::Sequence(0);
                None
            }
            (State::Escape, _) => None,
            (State::Sequence(number), b'0'..=b'9') => {
                self.state = State::Sequence(number.saturating_mul(10).saturating_add(byte - b'0'));
                None
            }
            (State::Sequence(number), b' '..=b'?') => {
                self.state = State::Sequence(number);
                None
            }
            (State::Sequence(number), b'@'..=b'~') => Self::of_sequence(number, byte),
            (State::Returned, b'\n') => None,
            _ => self.plain(byte),
        }
    }

    fn of_sequence(number: u8, last: u8) -> Option<Key> {
        Some(match (last, number) {
            (b'A', _) => Key::Up,
            (b'B', _) => Key::Down,
            (b'C', _) => Key::Right,
            (b'D', _) => Key::Left,
            (b'H', _) | (b'~', 1 | 7) => Key::Home,
            (b'F', _) | (b'~', 4 | 8) => Key::End,
            (b'~', 3) => Key::Delete,
            _ => return None,
        })
    }

    fn plain(&mut self, byte: u8) -> Option<Key> {
        const fn control(letter: u8) -> u8 {
            letter & 0x1f
        }
        const A: u8 = control(b'A');
        const B: u8 = control(b'B');
        const C: u8 = control(b'C');
        const D: u8 = control(b'D');
        const E: u8 = control(b'E');
        const F: u8 = control(b'F');
        const K: u8 = control(b'K');
        const N: u8 = control(b'N');
        const P: u8 = control(b'P');
        const U: u8 = control(b'U');
        const W: u8 = control(b'W');
        Some(match byte {
            b' '..=b'~' => Key::Character(byte),
            b'\r' => {
                self.state = State::Returned;
                Key::Enter
            }
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x08 | 0x7f => Key::Backspace,
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            A => Key::Home,
            B => Key::Left,
            C => Key::Interrupt,
            D => Key::EndOfInput,
            E => Key::End,
            F => Key::Right,
            K => Key::KillAfter,
            N => Key::Down,
            P => Key::Up,
            U => Key::KillBefore,
            W => Key::KillWord,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|&byte| keys.push(byte)).collect()
    }

    #[test]
    fn keys_are_read_as_terminals_send_them() {
        use Key::*;
        assert_eq!(
            read(b"a\x1b[A\x1b[B\x1b[C\x1b[D\x1bOH\x1b[F"),
            [Character(b'a'), Up, Down, Right, Left, Home, End]
        );
        assert_eq!(read(b"\x1b[1~\x1b[3~\x1b[4~\x1b[1;5C"), [Home, Delete, End, Right]);
        assert_eq!(
            read(b"\x08\x7f\t\x01\x05\x0b\x15\x17"),
            [Backspace, Backspace, Tab, Home, End, KillAfter, KillBefore, KillWord]
        );
        assert_eq!(read(b"\r\n\n\r\r\nx"), [Enter, Enter, Enter, Enter, Character(b'x')]);
    }

    #[test]
    fn what_is_no_key_is_left_out() {
        assert_eq!(read(b"\x1b[200~\x1b[?25h\x1bx\xc3\xa4\xff\x00\x1d"), []);
        assert_eq!(read(b"\x1b[99999999999~"), []);
    }
}
