//! What can be asked: words of a line become a [`Command`], or a [`Mistake`] that says what is wrong with them.

use alloc::string::String;
use core::fmt;

use crate::nearest::nearest;
use crate::words::{OpenQuote, Words, write_word};

/// What kind of thing a command's operand names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A VM.
    Vm,
    /// A device: a PCI address, a device-tree path, or a raw region's name.
    Device,
}

impl Operand {
    /// How it stands in a command's form.
    pub const fn form(self) -> &'static str {
        match self {
            Self::Vm => "NAME",
            Self::Device => "DEVICE",
        }
    }
}

/// A command's word, and what comes after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Form {
    /// The word.
    pub word: &'static str,
    /// What must follow it.
    pub operands: &'static [Operand],
    /// What may follow that.
    pub optional: Option<Operand>,
    /// What it does.
    pub what: &'static str,
}

impl Form {
    /// The kind of its operand at a place, from 0 on.
    pub fn operand(&self, place: usize) -> Option<Operand> {
        self.operands.iter().copied().chain(self.optional).nth(place)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)?;
        for operand in self.operands {
            f.write_str(" ")?;
            f.write_str(operand.form())?;
        }
        if let Some(operand) = self.optional {
            f.write_str(" [")?;
            f.write_str(operand.form())?;
            f.write_str("]")?;
        }
        Ok(())
    }
}

const fn form(
    word: &'static str,
    operands: &'static [Operand],
    optional: Option<Operand>,
    what: &'static str,
) -> Form {
    Form { word, operands, optional, what }
}

/// All commands, in the order in which `help` shows them.
pub const FORMS: &[Form] = &[
    form("help", &[], None, "what can be typed here"),
    form("vms", &[], None, "the VMs and their states"),
    form("devices", &[], None, "devices that VMs are given, and who has them"),
    form("start", &[Operand::Vm], None, "start a VM"),
    form("shutdown", &[Operand::Vm], None, "press a VM's power button: its guest ends itself"),
    form("stop", &[Operand::Vm], None, "stop a VM and take back what it has"),
    form("suspend", &[Operand::Vm], None, "halt a VM's CPUs"),
    form("resume", &[Operand::Vm], None, "let a suspended VM go on"),
    form("restart", &[Operand::Vm], None, "stop a VM and start it anew"),
    form("assign", &[Operand::Device, Operand::Vm], None, "give a device to a VM"),
    form("release", &[Operand::Device], None, "take a device from the VM that has it"),
    form("events", &[], None, "security events so far"),
    form("exits", &[], Some(Operand::Vm), "why guests were left, and how often"),
    form("plan", &[], None, "what each VM was given"),
    form("focus", &[Operand::Vm], None, "go to a VM's console"),
    form("off", &[], None, "stop all VMs and end the run"),
];

/// What is asked for. Names are as they were typed: whoever carries it out knows what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// What can be typed.
    Help,
    /// The VMs.
    Vms,
    /// The devices.
    Devices,
    /// Start a VM.
    Start(&'a str),
    /// Have a VM's guest asked to end itself.
    Shutdown(&'a str),
    /// Stop a VM.
    Stop(&'a str),
    /// Halt a VM.
    Suspend(&'a str),
    /// Let a VM go on.
    Resume(&'a str),
    /// Stop a VM and start it anew.
    Restart(&'a str),
    /// Give a device to a VM.
    Assign {
        /// The device.
        device: &'a str,
        /// The VM.
        vm: &'a str,
    },
    /// Take a device from the VM that has it.
    Release(&'a str),
    /// Security events.
    Events,
    /// Exits, of one VM or of all.
    Exits(Option<&'a str>),
    /// The plan.
    Plan,
    /// Go to a VM's console.
    Focus(&'a str),
    /// End the run.
    Off,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake<'a> {
    /// There is no such command.
    Unknown {
        /// What was typed.
        word: &'a str,
        /// The command that is most like it.
        nearest: &'static str,
    },
    /// An operand isn't there.
    Missing {
        /// The command.
        form: &'static Form,
        /// The operand.
        operand: Operand,
    },
    /// There is more than the command takes.
    Extra {
        /// The command.
        form: &'static Form,
        /// The first word that is too many.
        word: &'a str,
    },
    /// A quotation mark has no other.
    OpenQuote,
}

impl fmt::Display for Mistake<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word, nearest } => {
                write!(f, "there is no command \"{word}\"; the nearest one is \"{nearest}\"")
            }
            Self::Missing { form, operand } => {
                write!(f, "\"{}\" needs {}: {form}", form.word, operand.form())
            }
            Self::Extra { form, word } => {
                write!(f, "\"{word}\" is more than \"{}\" takes: {form}", form.word)
            }
            Self::OpenQuote => f.write_str("a quotation mark has no other"),
        }
    }
}

impl From<OpenQuote> for Mistake<'_> {
    fn from(_: OpenQuote) -> Self {
        Self::OpenQuote
    }
}

/// The form of a command by its word.
pub(crate) fn form_of(word: &str) -> Option<&'static Form> {
    FORMS.iter().find(|form| form.word == word)
}

impl<'a> Command<'a> {
    /// Reads a line. `None`: it has no word.
    ///
    /// # Errors
    ///
    /// [`Mistake`].
    pub fn parse(line: &'a str) -> Result<Option<Self>, Mistake<'a>> {
        let mut words = Words::of(line);
        let Some(word) = words.next().transpose()? else { return Ok(None) };
        let Some(form) = form_of(word.text) else {
            let nearest = nearest(word.text, FORMS.iter().map(|form| form.word)).unwrap_or_default();
            return Err(Mistake::Unknown { word: word.text, nearest });
        };
        let mut operands = [""; 2];
        let mut count = 0;
        for word in words {
            let text = word?.text;
            let place = operands.get_mut(count).filter(|_| form.operand(count).is_some());
            *place.ok_or(Mistake::Extra { form, word: text })? = text;
            count += 1;
        }
        if let Some(&operand) = form.operands.get(count) {
            return Err(Mistake::Missing { form, operand });
        }
        let [first, second] = operands;
        Ok(Some(match form.word {
            "vms" => Self::Vms,
            "devices" => Self::Devices,
            "start" => Self::Start(first),
            "shutdown" => Self::Shutdown(first),
            "stop" => Self::Stop(first),
            "suspend" => Self::Suspend(first),
            "resume" => Self::Resume(first),
            "restart" => Self::Restart(first),
            "assign" => Self::Assign { device: first, vm: second },
            "release" => Self::Release(first),
            "events" => Self::Events,
            "exits" => Self::Exits((count > 0).then_some(first)),
            "plan" => Self::Plan,
            "focus" => Self::Focus(first),
            "off" => Self::Off,
            _ => Self::Help,
        }))
    }

    /// Its word, and its operands.
    pub fn parts(&self) -> (&'static str, [Option<&'a str>; 2]) {
        match *self {
            Self::Help => ("help", [None, None]),
            Self::Vms => ("vms", [None, None]),
            Self::Devices => ("devices", [None, None]),
            Self::Start(vm) => ("start", [Some(vm), None]),
            Self::Shutdown(vm) => ("shutdown", [Some(vm), None]),
            Self::Stop(vm) => ("stop", [Some(vm), None]),
            Self::Suspend(vm) => ("suspend", [Some(vm), None]),
            Self::Resume(vm) => ("resume", [Some(vm), None]),
            Self::Restart(vm) => ("restart", [Some(vm), None]),
            Self::Assign { device, vm } => ("assign", [Some(device), Some(vm)]),
            Self::Release(device) => ("release", [Some(device), None]),
            Self::Events => ("events", [None, None]),
            Self::Exits(vm) => ("exits", [vm, None]),
            Self::Plan => ("plan", [None, None]),
            Self::Focus(vm) => ("focus", [Some(vm), None]),
            Self::Off => ("off", [None, None]),
        }
    }

    /// As it would be typed.
    pub fn line(&self) -> String {
        let (word, operands) = self.parts();
        let mut line = String::from(word);
        for operand in operands.into_iter().flatten() {
            line.push(' ');
            write_word(operand, &mut line);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_command_is_read() {
        use Command::*;
        let lines: &[(&str, Command<'_>)] = &[
            ("help", Help),
            ("vms", Vms),
            ("devices", Devices),
            ("start a", Start("a")),
            ("shutdown a", Shutdown("a")),
            ("stop a", Stop("a")),
            ("suspend a", Suspend("a")),
            ("resume a", Resume("a")),
            ("restart a", Restart("a")),
            ("assign 0000:00:02.0 a", Assign { device: "0000:00:02.0", vm: "a" }),
            ("release \"trapped hole\"", Release("trapped hole")),
            ("events", Events),
            ("exits", Exits(None)),
            ("exits a", Exits(Some("a"))),
            ("plan", Plan),
            ("focus a", Focus("a")),
            ("off", Off),
        ];
        for (line, command) in lines {
            assert_eq!(Command::parse(line), Ok(Some(*command)));
            assert_eq!(command.line(), *line);
        }
        for form in FORMS {
            assert!(lines.iter().any(|(_, command)| command.parts().0 == form.word), "{form}");
        }
        assert_eq!(Command::parse(" \t "), Ok(None));
        assert_eq!(Command::parse("  stop\t a "), Ok(Some(Stop("a"))));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let said = |line| Command::parse(line).unwrap_err().to_string();
        assert_eq!(said("strat a"), "there is no command \"strat\"; the nearest one is \"start\"");
        assert_eq!(said("vm"), "there is no command \"vm\"; the nearest one is \"vms\"");
        assert_eq!(said("stop"), "\"stop\" needs NAME: stop NAME");
        assert_eq!(said("assign 0000:00:02.0"), "\"assign\" needs NAME: assign DEVICE NAME");
        assert_eq!(said("assign"), "\"assign\" needs DEVICE: assign DEVICE NAME");
        assert_eq!(said("vms all"), "\"all\" is more than \"vms\" takes: vms");
        assert_eq!(said("exits a b"), "\"b\" is more than \"exits\" takes: exits [NAME]");
        assert_eq!(said("stop \"a"), "a quotation mark has no other");
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9/@:. ,-]{0,20}"
    }

    proptest! {
        #[test]
        fn any_line_is_a_command_or_a_mistake(line in any::<String>()) {
            match Command::parse(&line) {
                Ok(Some(command)) => {
                    let written = command.line();
                    prop_assert_eq!(Command::parse(&written), Ok(Some(command)));
                }
                Ok(None) => prop_assert!(line.trim_ascii().is_empty()),
                Err(mistake) => prop_assert!(!mistake.to_string().is_empty()),
            }
        }

        #[test]
        fn what_is_written_is_read_as_it_was(place in 0..FORMS.len(), first in name(), second in name()) {
            let form = &FORMS[place];
            let mut line = String::from(form.word);
            for (_, operand) in (0..).map_while(|place| form.operand(place)).zip([&first, &second]) {
                line.push(' ');
                write_word(operand, &mut line);
            }
            let command = Command::parse(&line).unwrap().unwrap();
            prop_assert_eq!(command.line(), line);
        }
    }
}
