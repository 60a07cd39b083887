//! What a line may go on with.

use alloc::string::String;

use crate::command::{FORMS, Operand, form_of};
use crate::words::{Words, write_word};

/// The names of what there is. Those that aren't printable ASCII can't be typed, and are left out.
pub trait Names {
    /// Calls `each` with every name of that kind.
    fn each(&self, kind: Operand, each: &mut dyn FnMut(&str));
}

/// What a line may go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// Nothing.
    None,
    /// This.
    More(String),
    /// One of these, separated by blanks, which have nothing more in common.
    Several(String),
}

/// Completes the last word of a line.
pub(crate) fn complete(line: &str, names: &dyn Names) -> Completion {
    let ends_with_word = !line.is_empty() && !line.ends_with(' ');
    let (mut first, mut place, mut last) = ("", 0, "");
    for (count, word) in Words::of(line).enumerate() {
        let begun = match word {
            Ok(word) => {
                first = if count == 0 { word.text } else { first };
                line.get(word.start..).unwrap_or_default()
            }
            // The quotation mark isn't closed yet, so this is the last one.
            Err(_) => line.rfind('"').and_then(|at| line.get(at..)).unwrap_or_default(),
        };
        (place, last) = (count, begun);
    }
    let open = last.starts_with('"') && last.matches('"').count() == 1;
    if (!ends_with_word && !open) && !line.trim_ascii().is_empty() {
        (place, last) = (place + 1, "");
    }
    if line.trim_ascii().is_empty() {
        last = "";
    }

    let mut found = Found::default();
    let mut offer = |name: &str| {
        let mut written = String::new();
        write_word(name, &mut written);
        // Whoever has begun with a quotation mark goes on so.
        if last.starts_with('"') && !written.starts_with('"') {
            written.insert(0, '"');
            written.push('"');
        }
        if written.starts_with(last) && written.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            found.add(written);
        }
    };
    match place.checked_sub(1) {
        None => FORMS.iter().for_each(|form| offer(form.word)),
        Some(place) => match form_of(first).and_then(|form| form.operand(place)) {
            Some(kind) => names.each(kind, &mut offer),
            None => return Completion::None,
        },
    }
    found.completion(last)
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    count: usize,
    common: String,
    list: String,
}

impl Found {
    fn add(&mut self, written: String) {
        if self.count > 0 {
            self.list.push_str("  ");
        }
        self.list.push_str(&written);
        if self.count == 0 {
            self.common = written;
        } else {
            let same = self.common.bytes().zip(written.bytes()).take_while(|(one, other)| one == other);
            self.common.truncate(same.count());
        }
        self.count += 1;
    }

    fn completion(self, last: &str) -> Completion {
        let rest = self.common.get(last.len()..).unwrap_or_default();
        match (self.count, rest) {
            (0, _) => Completion::None,
            (1, rest) => Completion::More(String::from(rest) + " "),
            (_, "") => Completion::Several(self.list),
            (_, rest) => Completion::More(rest.into()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Some names.
    pub(crate) struct Some3;

    impl Names for Some3 {
        fn each(&self, kind: Operand, each: &mut dyn FnMut(&str)) {
            match kind {
                Operand::Vm => ["linux", "linux-2", "small"].into_iter().for_each(each),
                Operand::Device => {
                    ["0000:00:02.0", "/pl031@9010000", "trapped hole", "tr\u{fc}b"]
                        .into_iter()
                        .for_each(each);
                }
            }
        }
    }

    #[test]
    fn commands_vms_and_devices_are_completed() {
        use Completion::{More, None, Several};
        let done = |text: &str| More(text.into());
        for (line, completion) in [
            ("ev", done("ents ")),
            ("ass", done("ign ")),
            ("s", Several("start  shutdown  stop  suspend".into())),
            ("re", Several("resume  restart  release".into())),
            ("st", Several("start  stop".into())),
            ("x", None),
            ("stop l", done("inux")),
            ("stop linux", Several("linux  linux-2".into())),
            ("stop s", done("mall ")),
            ("stop ", Several("linux  linux-2  small".into())),
            ("stop x", None),
            ("stop small ", None),
            ("vms ", None),
            ("exits sm", done("all ")),
            ("assign 0", done("000:00:02.0 ")),
            ("assign 0000:00:02.0 sm", done("all ")),
            ("assign \"tra", done("pped hole\" ")),
            ("assign \"trapped h", done("ole\" ")),
            ("assign \"trapped hole\" ", Several("linux  linux-2  small".into())),
            ("release /", done("pl031@9010000 ")),
            ("release \"/", done("pl031@9010000\" ")),
            ("nonsense l", None),
        ] {
            assert_eq!(complete(line, &Some3), completion, "{line:?}");
        }
        assert!(
            matches!(complete("", &Some3), Several(list) if list.split_whitespace().count() == FORMS.len())
        );
    }
}
