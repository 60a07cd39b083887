use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::complete::tests::Some3;

/// What a terminal shows on its last line, as far as an editor uses it (ECMA-48).
#[derive(Default)]
struct Terminal {
    line: Vec<u8>,
    cursor: usize,
}

impl Terminal {
    fn show(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.iter().copied();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\r' => self.cursor = 0,
                b'\n' => *self = Self::default(),
                BELL => {}
                0x1b => {
                    assert_eq!(bytes.next(), Some(b'['));
                    let mut number = 0;
                    let last = loop {
                        match bytes.next().unwrap() {
                            digit @ b'0'..=b'9' => number = number * 10 + usize::from(digit - b'0'),
                            last => break last,
                        }
                    };
                    match (last, number) {
                        (b'K', 2) => self.line.clear(),
                        (b'C', 0) => self.cursor += 1,
                        (b'D', 0) => self.cursor -= 1,
                        (b'@', 0) => self.line.insert(self.cursor, b' '),
                        (b'P', 0) => {
                            if self.cursor < self.line.len() {
                                self.line.remove(self.cursor);
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
                _ => {
                    if self.line.len() <= self.cursor {
                        self.line.resize(self.cursor + 1, b' ');
                    }
                    self.line[self.cursor] = byte;
                    self.cursor += 1;
                }
            }
        }
    }
}

/// The line as it should be: what each key does, in the plainest words.
#[derive(Default)]
struct Model {
    line: Vec<u8>,
    cursor: usize,
    earlier: Vec<String>,
    /// How far back the line shown is, of those earlier.
    back: usize,
}

#[derive(Clone, Debug)]
enum Press {
    Characters(String),
    Key(&'static str),
}

impl Press {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Characters(text) => text.as_bytes(),
            Self::Key(key) => key.as_bytes(),
        }
    }
}

impl Model {
    fn show(&mut self, line: &str) {
        self.line = line.into();
        self.cursor = self.line.len();
    }

    fn press(&mut self, press: &Press) -> Option<String> {
        match press {
            Press::Characters(text) => {
                for byte in text.bytes() {
                    if self.line.len() < LINE {
                        self.line.insert(self.cursor, byte);
                        self.cursor += 1;
                    }
                }
            }
            Press::Key("\x1b[D") => self.cursor = self.cursor.saturating_sub(1),
            Press::Key("\x1b[C") => self.cursor = (self.cursor + 1).min(self.line.len()),
            Press::Key("\x01") => self.cursor = 0,
            Press::Key("\x05") => self.cursor = self.line.len(),
            Press::Key("\x7f") => {
                if self.cursor > 0 {
                    self.cursor -= 1;
                    self.line.remove(self.cursor);
                }
            }
            Press::Key("\x1b[3~") => {
                if self.cursor < self.line.len() {
                    self.line.remove(self.cursor);
                }
            }
            Press::Key("\x15") => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            Press::Key("\x0b") => self.line.truncate(self.cursor),
            Press::Key("\x17") => {
                while self.cursor > 0 && self.line[self.cursor - 1] == b' ' {
                    self.cursor -= 1;
                    self.line.remove(self.cursor);
                }
                while self.cursor > 0 && self.line[self.cursor - 1] != b' ' {
                    self.cursor -= 1;
                    self.line.remove(self.cursor);
                }
            }
            Press::Key("\x03") => self.show(""),
            Press::Key("\x1b[A") => {
                if self.back < self.earlier.len() {
                    self.back += 1;
                    self.show(&self.earlier[self.earlier.len() - self.back].clone());
                }
            }
            Press::Key("\x1b[B") => {
                self.back = self.back.saturating_sub(1);
                let line = match self.back {
                    0 => String::new(),
                    back => self.earlier[self.earlier.len() - back].clone(),
                };
                self.show(&line);
            }
            Press::Key("\r") => {
                let line = String::from_utf8(core::mem::take(&mut self.line)).unwrap();
                self.cursor = 0;
                if !line.is_empty() {
                    self.back = 0;
                    self.earlier.retain(|earlier| *earlier != line);
                    self.earlier.push(line.clone());
                }
                return Some(line);
            }
            Press::Key(other) => panic!("{other:?}"),
        }
        None
    }
}

fn press() -> impl Strategy<Value = Press> {
    const KEYS: &[&str] = &[
        "\x1b[D", "\x1b[C", "\x01", "\x05", "\x7f", "\x1b[3~", "\x15", "\x0b", "\x17", "\x03", "\x1b[A",
        "\x1b[B", "\r",
    ];
    prop_oneof![
        "[a-c ]{1,5}".prop_map(Press::Characters),
        proptest::sample::select(KEYS).prop_map(Press::Key)
    ]
}

fn type_at(editor: &mut Editor, bytes: &[u8]) -> Vec<Event> {
    bytes.iter().map(|&byte| editor.push(byte, &Some3)).filter(|event| *event != Event::Typing).collect()
}

#[test]
fn a_line_is_typed_completed_and_had_again() {
    let mut editor = Editor::default();
    let line = |text: &str| vec![Event::Line(text.to_string())];
    assert_eq!(type_at(&mut editor, b"st\x1b[D\x1b[Dr\x05a\x01\x1b[3~\r"), line("sta"));
    assert_eq!(type_at(&mut editor, b"assi\t0\tsm\t\r\n"), line("assign 0000:00:02.0 small "));
    assert_eq!(type_at(&mut editor, b"\x1b[A\x1b[A\r"), line("sta"));
    assert_eq!(type_at(&mut editor, b"help\x03\r"), line(""));
    assert_eq!(type_at(&mut editor, b"x\x04\x01\x04\x04"), [Event::Leave]);
}

#[test]
fn what_is_said_stands_above_the_line() {
    let mut editor = Editor::default();
    editor.draw();
    type_at(&mut editor, b"stop linux\x1b[D\x1b[D");
    editor.shown();
    editor.say("one\ntwo\n");
    let shown = editor.shown();
    assert_eq!(shown, b"\r\x1b[2Kone\r\ntwo\r\naxvm> stop linux\x1b[D\x1b[D");
    type_at(&mut editor, b"\t");
    assert_eq!(editor.shown(), b"\x1b[C\x1b[C\r\x1b[2Klinux  linux-2\r\naxvm> stop linux");
    type_at(&mut editor, b"y\t");
    assert_eq!(editor.shown(), b"y\x07");
}

#[test]
fn no_line_is_longer_than_there_is_room_for() {
    let mut editor = Editor::default();
    type_at(&mut editor, &[b'x'; LINE + 10]);
    assert_eq!(editor.shown(), [[b'x'; LINE].as_slice(), &[BELL; 10]].concat());
    assert_eq!(type_at(&mut editor, b"\t\r"), [Event::Line("x".repeat(LINE))]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_do_what_they_are_for_and_the_terminal_shows_it(presses in proptest::collection::vec(press(), 0..60)) {
        let (mut editor, mut model, mut terminal) = (Editor::default(), Model::default(), Terminal::default());
        editor.draw();
        terminal.show(&editor.shown());
        for press in &presses {
            let events = type_at(&mut editor, press.bytes());
            let line = model.press(press);
            prop_assert_eq!(events, Vec::from_iter(line.map(Event::Line)));
            terminal.show(&editor.shown());
            let shown = [PROMPT.as_bytes(), &model.line].concat();
            prop_assert_eq!(&terminal.line, &shown, "{:?}", press);
            prop_assert_eq!(terminal.cursor, PROMPT.len() + model.cursor, "{:?}", press);
        }
    }

    #[test]
    fn any_bytes_are_taken_in_bounded_memory(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut editor = Editor::default();
        for &byte in &bytes {
            match editor.push(byte, &Some3) {
                Event::Line(line) => {
                    prop_assert!(line.len() <= LINE && line.is_ascii());
                    editor.say(&line);
                }
                Event::Typing | Event::Leave => {}
            }
            prop_assert!(editor.shown().len() < 32 * LINE);
        }
    }
}
