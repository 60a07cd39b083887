//! What the user sees: the VM in focus, or the shell, raw, everything else as whole lines with a prefix.

use std::io::Write;

use axvm_addr::VmId;

/// A line that gets longer than this is shown in parts: a guest that never ends its lines must not fill the memory.
const LONGEST: usize = 4096;

/// Shows consoles and messages.
pub struct Console<W> {
    out: W,
    names: Vec<String>,
    /// Who is raw; `None`: all are prefixed (not a terminal).
    raw: Option<Speaker>,
    /// Unfinished lines: one for each VM, then the hypervisor's, QEMU's, the board's and the shell's.
    partial: Vec<Vec<u8>>,
    /// What has drawn the shell's line that is being typed: it is drawn so again below others' lines.
    typed: Vec<u8>,
    /// Whether the cursor is at the start of a line.
    fresh: bool,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A VM's console.
    Vm(VmId),
    /// The hypervisor.
    Hypervisor,
    /// QEMU's standard error.
    Qemu,
    /// Anything else on the line: a boot loader, or a hypervisor past speaking in frames.
    Board,
    /// The hypervisor's shell.
    Shell,
}

impl<W: Write> Console<W> {
    /// A console for VMs of these names. `raw` is the one that is raw at first.
    pub fn new(out: W, names: Vec<String>, raw: Option<VmId>) -> Self {
        let partial = vec![Vec::new(); names.len() + 4];
        Self { out, names, raw: raw.map(Speaker::Vm), partial, typed: Vec::new(), fresh: true }
    }

    /// Another VM has the focus, or one again that the shell had it from.
    pub fn focus(&mut self, vm: VmId) {
        let Some(before) = self.raw else { return };
        if before != Speaker::Vm(vm) && usize::from(vm.0) < self.names.len() {
            self.raw = Some(Speaker::Vm(vm));
            let name = self.names[usize::from(vm.0)].clone();
            self.line("axvm: ", format!("this is the console of {name}").as_bytes());
        }
    }

    /// The shell has the focus.
    pub fn focus_on_shell(&mut self) {
        if self.raw.is_some() {
            self.raw = Some(Speaker::Shell);
            if !self.fresh {
                self.write(b"\n");
                self.fresh = true;
            }
            self.typed.clear();
        }
    }

    /// Shows what someone says.
    pub fn say(&mut self, who: Speaker, bytes: &[u8]) {
        if who == Speaker::Board && self.raw.is_some() || self.raw == Some(who) {
            self.write(bytes);
            if let Some(last) = bytes.last() {
                self.fresh = *last == b'\n';
            }
            if who == Speaker::Shell {
                self.note_typed(bytes);
            }
        } else {
            let Some(slot) = self.slot(who) else { return };
            let mut shown = false;
            for byte in bytes {
                let line = &mut self.partial[slot];
                if *byte != b'\n' {
                    line.push(*byte);
                }
                if *byte == b'\n' || line.len() >= LONGEST {
                    let line = std::mem::take(line);
                    let prefix = self.prefix(who);
                    self.line(&prefix, if who == Speaker::Shell { last_drawn(&line) } else { &line });
                    shown = true;
                }
            }
            if shown && self.raw == Some(Speaker::Shell) {
                let typed = std::mem::take(&mut self.typed);
                self.write(&typed);
                self.fresh = typed.is_empty();
                self.typed = typed;
            }
        }
        // A reader who has gone away doesn't end the run.
        let _ = self.out.flush();
    }

    /// Keeps what the shell's line was drawn by since it was drawn anew.
    fn note_typed(&mut self, bytes: &[u8]) {
        self.typed.extend_from_slice(bytes);
        let ends = self.typed.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.typed.drain(..ends);
        self.typed = last_drawn(&self.typed).to_vec();
        if self.typed.len() > LONGEST {
            self.typed.clear();
        }
    }

    /// Shows lines that were begun and never ended.
    pub fn finish(&mut self) {
        let vms = (0..self.names.len() as u16).map(|vm| Speaker::Vm(VmId(vm)));
        for who in vms.chain([Speaker::Hypervisor, Speaker::Qemu, Speaker::Board, Speaker::Shell]) {
            let rest = self.slot(who).map(|slot| std::mem::take(&mut self.partial[slot])).unwrap_or_default();
            if !rest.is_empty() {
                let prefix = self.prefix(who);
                self.line(&prefix, &rest);
            }
        }
        if !self.fresh {
            self.write(b"\n");
        }
        let _ = self.out.flush();
    }

    fn slot(&self, who: Speaker) -> Option<usize> {
        let vms = self.names.len();
        match who {
            Speaker::Vm(vm) => (usize::from(vm.0) < vms).then_some(usize::from(vm.0)),
            Speaker::Hypervisor => Some(vms),
            Speaker::Qemu => Some(vms + 1),
            Speaker::Board => Some(vms + 2),
            Speaker::Shell => Some(vms + 3),
        }
    }

    fn prefix(&self, who: Speaker) -> String {
        match who {
            Speaker::Vm(vm) => {
                format!("[{}] ", self.names.get(usize::from(vm.0)).map_or("", String::as_str))
            }
            Speaker::Hypervisor => "axvm: ".to_string(),
            Speaker::Qemu => "qemu: ".to_string(),
            Speaker::Board => "board: ".to_string(),
            Speaker::Shell => "shell: ".to_string(),
        }
    }

    fn line(&mut self, prefix: &str, line: &[u8]) {
        if !self.fresh {
            self.write(b"\n");
        }
        let text = format!("{prefix}{}\n", plain(line));
        self.write(text.as_bytes());
        self.fresh = true;
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.out.write_all(bytes);
    }
}

/// What is left on a line after it was erased the last time (ECMA-48, EL 2).
fn last_drawn(line: &[u8]) -> &[u8] {
    const ERASE: &[u8] = b"\x1b[2K";
    let erased = line.windows(ERASE.len()).rposition(|part| part == ERASE);
    erased.map_or(line, |at| &line[at + ERASE.len()..])
}

/// The text of a line without what would move the cursor: a guest must not write over the prefix that names it.
pub fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\x1b' && characters.next_if_eq(&'[').is_some() {
            // A control sequence (ECMA-48, 5.4) goes up to its final byte.
            for part in characters.by_ref() {
                if ('\x40'..='\x7e').contains(&part) {
                    break;
                }
            }
        } else if character == '\t' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(raw: Option<VmId>, said: &[(Speaker, &str)]) -> String {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out, vec!["one".into(), "two".into()], raw);
        for (who, text) in said {
            console.say(*who, text.as_bytes());
        }
        console.finish();
        String::from_utf8(out).unwrap()
    }

    const ONE: Speaker = Speaker::Vm(VmId(0));
    const TWO: Speaker = Speaker::Vm(VmId(1));

    #[test]
    fn without_a_terminal_every_line_has_a_prefix_and_lines_are_not_mixed() {
        let said = [(ONE, "a"), (TWO, "x\n"), (ONE, "b\r\n"), (Speaker::Hypervisor, "up\n"), (TWO, "end")];
        assert_eq!(shown(None, &said), "[two] x\n[one] ab\naxvm: up\n[two] end\n");
    }

    #[test]
    fn the_vm_in_focus_is_raw_and_others_wait_for_whole_lines() {
        let said = [(ONE, "login: "), (TWO, "x"), (TWO, "y\nz"), (ONE, "\x1b[1mok")];
        assert_eq!(shown(Some(VmId(0)), &said), "login: \n[two] xy\n\x1b[1mok\n[two] z\n");
    }

    #[test]
    fn the_shells_line_is_drawn_again_below_what_others_say() {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out, vec!["one".into(), "two".into()], Some(VmId(0)));
        console.say(ONE, b"login: ");
        console.focus_on_shell();
        console.say(Speaker::Shell, b"\r\x1b[2Kwelcome\r\naxvm> st\x1b[D");
        console.say(TWO, b"up\nhalf");
        console.say(ONE, b"root\n");
        console.say(Speaker::Shell, b"x");
        console.focus(VmId(0));
        console.say(ONE, b"# ");
        console.finish();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "login: \n\r\x1b[2Kwelcome\r\naxvm> st\x1b[D\n[two] up\naxvm> st\x1b[D\n[one] root\naxvm> st\x1b[Dx\n\
             axvm: this is the console of one\n# \n[two] half\n"
        );
    }

    #[test]
    fn without_a_terminal_the_shells_lines_are_as_they_were_drawn_last() {
        let said = [(Speaker::Shell, "axvm> vms\r\naxvm> \r\x1b[2KNAME\r\nlinux\r\naxvm> ")];
        assert_eq!(shown(None, &said), "shell: axvm> vms\nshell: NAME\nshell: linux\nshell: axvm> \n");
    }

    #[test]
    fn a_guest_cannot_write_over_its_prefix() {
        assert_eq!(shown(None, &[(ONE, "a\raxvm: forged\n")]), "[one] aaxvm: forged\n");
        assert_eq!(plain(b"\x1b[2K\x1b[31mred\x1b[0m\x08\xc2\x9bK\tend\x1b[1"), "redK\tend");
    }

    #[test]
    fn a_line_without_end_is_shown_in_parts_and_an_unknown_vm_not_at_all() {
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(shown(None, &[(TWO, &long), (Speaker::Vm(VmId(9)), "y\n")]).lines().count(), 2);
    }
}
