//! The line that is being typed.
//!
//! `embedded-cli` keeps it, draws it and remembers those before it. It is asked for no more than that: its completion knows commands,
//! but nothing that is there at run time, and what it takes for UTF-8 needn't be. So it is given ASCII alone, and its line is read
//! as everybody sees it, by having it drawn.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;

use embedded_cli::cli::{Cli, CliBuilder, CliHandle};
use embedded_cli::command::RawCommand;
use embedded_cli::service::{Autocomplete, CommandProcessor, Help, ProcessError};

use crate::complete::{Completion, Names, complete};
use crate::keys::{Key, Keys};

/// What stands before a line.
pub const PROMPT: &str = "axvm> ";

/// The most characters that a line has.
pub const LINE: usize = 256;

/// Bytes of earlier lines that are kept.
const HISTORY: usize = 1024;

/// What the library erases a line by, before it draws it again.
const ERASED: &str = "\r\x1b[2K";

const BELL: u8 = 0x07;
const BACK: &[u8] = b"\x1b[D";
const FORTH: &[u8] = b"\x1b[C";
const OLDER: &[u8] = b"\x1b[A";
const NEWER: &[u8] = b"\x1b[B";
const ERASE: &[u8] = b"\x08";

/// Where what is to be shown waits until it is taken.
#[derive(Clone, Default)]
struct Screen(Rc<RefCell<Vec<u8>>>);

impl Screen {
    fn take(&self) -> Vec<u8> {
        self.0.take()
    }

    fn push(&self, bytes: &[u8]) {
        self.0.borrow_mut().extend_from_slice(bytes);
    }

    fn length(&self) -> usize {
        self.0.borrow().len()
    }

    fn shorten(&self, length: usize) {
        self.0.borrow_mut().truncate(length);
    }
}

impl embedded_io::ErrorType for Screen {
    type Error = Infallible;
}

impl embedded_io::Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The library's completion and help, which aren't there, and what it does with a line, which isn't its to do.
struct Nothing;

impl Autocomplete for Nothing {}

impl Help for Nothing {}

impl CommandProcessor<Screen, Infallible> for Nothing {
    fn process<'a>(
        &mut self,
        _: &mut CliHandle<'_, Screen, Infallible>,
        _: RawCommand<'a>,
    ) -> Result<(), ProcessError<'a, Infallible>> {
        Ok(())
    }
}

/// What has come of a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The line is being typed.
    Typing,
    /// A line is complete. Its answer goes to [`Editor::say`].
    Line(String),
    /// Whoever types wants to leave.
    Leave,
}

/// A line editor, which is fed byte by byte and never waits.
pub struct Editor {
    library: Cli<Screen, Infallible, [u8; LINE], [u8; HISTORY]>,
    screen: Screen,
    keys: Keys,
}

impl Default for Editor {
    fn default() -> Self {
        let screen = Screen::default();
        let builder = CliBuilder::default().writer(screen.clone()).prompt(PROMPT);
        let built = builder.command_buffer([0; LINE]).history_buffer([0; HISTORY]).build();
        let library = match built {
            Ok(library) => library,
            Err(never) => match never {},
        };
        screen.take();
        Self { library, screen, keys: Keys::default() }
    }
}

impl Editor {
    /// Takes a byte that was typed. What there is to be shown then is [`Editor::shown`]'s.
    pub fn push(&mut self, byte: u8, names: &dyn Names) -> Event {
        let Some(key) = self.keys.push(byte) else { return Event::Typing };
        match key {
            Key::Character(character) => {
                if !self.does(&[character]) {
                    self.screen.push(&[BELL]);
                }
            }
            Key::Enter => {
                let line = self.line();
                self.feed(b"\r");
                return Event::Line(line);
            }
            Key::Tab => self.complete(names),
            Key::Backspace => self.feed(ERASE),
            Key::EndOfInput if self.line().is_empty() => return Event::Leave,
            Key::Delete | Key::EndOfInput => {
                self.delete();
            }
            Key::Interrupt => {
                self.while_it_does(FORTH);
                self.screen.push(b"^C\r\n");
                let length = self.screen.length();
                self.while_it_does(ERASE);
                self.screen.shorten(length);
                self.screen.push(PROMPT.as_bytes());
            }
            Key::Up => self.feed(OLDER),
            Key::Down => self.feed(NEWER),
            Key::Left => self.feed(BACK),
            Key::Right => self.feed(FORTH),
            Key::Home => self.while_it_does(BACK),
            Key::End => self.while_it_does(FORTH),
            Key::KillBefore => self.while_it_does(ERASE),
            Key::KillAfter => while self.delete() {},
            Key::KillWord => self.kill_word(),
        }
        Event::Typing
    }

    /// What is to be shown since it was asked last.
    pub fn shown(&mut self) -> Vec<u8> {
        self.screen.take()
    }

    /// Begins, or begins again, at an unfinished line.
    pub fn draw(&mut self) {
        let cursor = self.cursor();
        // Nothing can be wrong with memory.
        let Ok(()) = self.library.write(|_| Ok(()));
        for _ in cursor..self.line().len() {
            self.screen.push(BACK);
        }
    }

    /// Shows lines above the line that is being typed.
    pub fn say(&mut self, text: &str) {
        let cursor = self.cursor();
        let Ok(()) = self.library.write(|writer| writer.write_str(text));
        for _ in cursor..self.line().len() {
            self.screen.push(BACK);
        }
    }

    /// The line as it is.
    fn line(&mut self) -> String {
        let length = self.screen.length();
        let Ok(()) = self.library.write(|_| Ok(()));
        let line = self.screen.0.borrow().get(length + ERASED.len() + PROMPT.len()..).map(<[u8]>::to_vec);
        self.screen.shorten(length);
        String::from_utf8(line.unwrap_or_default()).unwrap_or_default()
    }

    /// How many characters are before the cursor.
    fn cursor(&mut self) -> usize {
        let length = self.screen.length();
        let mut cursor = 0;
        while self.does(BACK) {
            cursor += 1;
        }
        for _ in 0..cursor {
            self.feed(FORTH);
        }
        self.screen.shorten(length);
        cursor
    }

    /// Has the library take bytes: whole control sequences, and ASCII.
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let Ok(()) = self.library.process_byte::<Nothing, _>(byte, &mut Nothing);
        }
    }

    /// The same; whether that did something.
    fn does(&mut self, bytes: &[u8]) -> bool {
        let length = self.screen.length();
        self.feed(bytes);
        self.screen.length() > length
    }

    /// The same, as long as it does something: once for each character of a line at the most.
    fn while_it_does(&mut self, bytes: &[u8]) {
        while self.does(bytes) {}
    }

    /// Deletes the character at the cursor. Whether there was one.
    fn delete(&mut self) -> bool {
        let there = self.does(FORTH);
        if there {
            self.feed(ERASE);
        }
        there
    }

    fn kill_word(&mut self) {
        let (line, cursor) = (self.line(), self.cursor());
        let before = line.get(..cursor).unwrap_or_default().trim_end_matches(' ');
        let kept = before.rfind(' ').map_or(0, |blank| blank + 1);
        for _ in kept..cursor {
            self.feed(ERASE);
        }
    }

    fn complete(&mut self, names: &dyn Names) {
        self.while_it_does(FORTH);
        match complete(&self.line(), names) {
            Completion::None => self.screen.push(&[BELL]),
            Completion::More(rest) => self.feed(rest.as_bytes()),
            Completion::Several(list) => self.say(&list),
        }
    }
}

#[cfg(test)]
mod tests;
