//! Rooms whose code names no hardware of one architecture's: no register, no range of interrupt numbers, no controller.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// A room.
struct Room {
    /// Its folder.
    folder: &'static str,
    /// The folder in it that is for one architecture, or empty.
    except: &'static str,
    /// What else isn't looked at: tests, which need a board.
    tests: &'static [&'static str],
    /// Whether what it says to people is looked at, too.
    messages: bool,
    /// Names that are known elsewhere by such a word: what they are, and so why they may be there.
    allowed: &'static [(&'static str, &'static str)],
}

const ROOMS: &[Room] = &[
    Room {
        folder: "hosts/bare-metal/src",
        except: "arch",
        tests: &[],
        messages: false,
        allowed: &[("Smmu", "the name of a protection that a test image leaves out")],
    },
    Room {
        folder: "crates/plan/src",
        except: "machine",
        tests: &["tests", "fixtures", "fixtures.rs"],
        messages: true,
        allowed: &[("GicPlan", "exported"), ("IoApicPlan", "exported"), ("ItsPlan", "exported")],
    },
    Room {
        folder: "crates/axvm/src",
        except: "",
        tests: &["dry_run/ports.rs", "dry_run/properties.rs", "dry_run/tests.rs", "vm/tests.rs", "vm/tests"],
        messages: true,
        allowed: &[("sgi", "a name in the report")],
    },
];

/// What such hardware is called in what is said to people.
const ACRONYMS: &[&str] = &[
    "APIC", "APICs", "GIC", "GICv2", "GICv3", "GICv4", "IMSIC", "INTID", "ITS", "LPI", "LPIs", "MPIDR",
    "PL011", "PPI", "PPIs", "PSCI", "SGI", "SGIs", "SMMU", "SMMUs", "SMMUv3", "SPI", "SPIs", "VMCB", "VMID",
    "VMIDs",
];

/// Words of which a name may not consist, even in part: registers, states and controllers of one architecture.
const WORDS: &[&str] = &[
    "apic",
    "apics",
    "aplic",
    "cntvct",
    "daif",
    "distributor",
    "dmar",
    "efer",
    "el0",
    "el1",
    "el2",
    "el3",
    "elr",
    "esr",
    "far",
    "gic",
    "gicd",
    "gicr",
    "gicv3",
    "gicv4",
    "hcr",
    "hpfar",
    "icc",
    "ich",
    "imsic",
    "intid",
    "intids",
    "ioapic",
    "its",
    "ivrs",
    "lapic",
    "lpi",
    "lpis",
    "mpidr",
    "par",
    "ppi",
    "ppis",
    "psci",
    "redistributor",
    "redistributors",
    "sctlr",
    "sgi",
    "sgi1r",
    "sgis",
    "smmu",
    "smmus",
    "smmuv3",
    "spi",
    "spis",
    "spsr",
    "svm",
    "tcr",
    "ttbr",
    "vbar",
    "vgic",
    "vmcb",
    "vmid",
    "vmrun",
    "vpe",
    "vtcr",
    "vttbr",
];

/// A name of more words is a sentence.
const SENTENCE: usize = 5;

/// Every name in a room that has such a word in it, with its place.
pub fn named() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for room in ROOMS {
        let folder = paths::root().join(room.folder);
        let except: Vec<PathBuf> = room
            .tests
            .iter()
            .chain([&room.except])
            .filter(|it| !it.is_empty())
            .map(|it| folder.join(it))
            .collect();
        for file in sources(&folder, &except)? {
            let text = std::fs::read_to_string(&file)?;
            let allowed: Vec<&str> = room.allowed.iter().map(|(name, _)| *name).collect();
            let mut found_here = foreign(&text, &allowed);
            if room.messages {
                found_here.extend(said(&text));
            }
            for (line, name) in found_here {
                found.push(format!(
                    "{}:{line} names {name}: that is for {}",
                    paths::shown(&file),
                    if room.except.is_empty() { "others".to_owned() } else { format!("{}/", room.except) }
                ));
            }
        }
    }
    Ok(found)
}

/// The Rust files below a folder, but for some, and those of some folders.
fn sources(folder: &Path, except: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if except.contains(&path) {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path, except)?);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Names of such hardware in code, with the line of each; `allowed` are none.
fn foreign(text: &str, allowed: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code(text, Strings::Skipped).lines().enumerate() {
        for name in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let words = words(name);
            // The names of tests are sentences, where "its" is a pronoun.
            let is_sentence = words.len() > SENTENCE;
            let has_word = !is_sentence && words.iter().any(|word| WORDS.contains(&word.as_str()));
            if has_word && !allowed.contains(&name) {
                found.push((number + 1, name.to_owned()));
            }
        }
    }
    found
}

/// Such hardware in what is said to people, with the line of each.
fn said(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code(text, Strings::Kept).lines().enumerate() {
        let names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        found.extend(names.filter(|name| ACRONYMS.contains(name)).map(|name| (number + 1, name.to_owned())));
    }
    found
}

/// Whether strings are left where they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strings {
    Kept,
    Skipped,
}

/// The words of a name, in small letters: `GicBackend` and `GIC_BACKEND` have two.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && was_small) {
            words.push(String::new());
        }
        if c != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        // A digit goes with what it stands behind.
        was_small = c.is_lowercase() || (was_small && c.is_ascii_digit());
    }
    words
}

/// The text without what is in comments and characters, and in strings unless they are kept; its lines are where they were.
fn code(text: &str, strings: Strings) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !code.ends_with(is_of_name)) {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        let is_string = first == '"' || first == 'r' || first == 'b';
        if skipped > 0 && is_string && strings == Strings::Kept {
            code.push_str(&rest[..skipped]);
            rest = &rest[skipped..];
        } else if skipped > 0 {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            rest = &rest[skipped..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a block comment, those in it included.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of a string that begins with a quotation mark.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string, if there is one.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let content = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - content.len();
    Some(content.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// The length of a character in quotation marks; 0 of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => chars.skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_names_what_isnt_its_own() {
        assert_eq!(named().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_name_with_such_a_word_is_found() {
        let found = |text| foreign(text, &["Intid"]).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(
            found("host.gic.kick(id); let x = PhysicalIts::new(SMMU_POLL_US);"),
            ["gic", "PhysicalIts", "SMMU_POLL_US"]
        );
        assert_eq!(found("fn lpi_of(id: Intid) -> u32 { vttbr }"), ["lpi_of", "vttbr"]);
        assert!(found("let digits = splits + magic;").is_empty(), "a part of a word is none");
        assert_eq!(foreign("\n\ngic", &[]), [(3, "gic".to_owned())]);
    }

    #[test]
    fn what_is_said_to_people_is_looked_at_where_that_is_asked() {
        let text = "// the GIC\nsay(\"the GIC has\nits SPIs\", 'G')";
        let found: Vec<_> = said(text);
        assert_eq!(found, [(2, "GIC".to_owned()), (3, "SPIs".to_owned())]);
        assert!(foreign(text, &[]).is_empty());
    }

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let text = "a // gic\n/* gic /* its */ gic\n*/ b \"gic \\\" gic\" c r#\"gic \" gic\"# d 'g' '\\'' e<'its> b\"gic\"";
        let left: Vec<String> = code(text, Strings::Skipped).split_whitespace().map(str::to_owned).collect();
        assert_eq!(left, ["a", "b", "c", "d", "e<'its>", "b"]);
        assert_eq!(code(text, Strings::Skipped).lines().count(), text.lines().count());
        assert_eq!(foreign("/*\n*/ gic", &[]), [(2, "gic".to_owned())]);
    }

    #[test]
    fn a_name_is_taken_apart_where_its_words_begin() {
        assert_eq!(words("GicBackend"), ["gic", "backend"]);
        assert_eq!(words("SGI1R_EL1"), ["sgi1r", "el1"]);
        assert_eq!(words("its_target"), ["its", "target"]);
        assert_eq!(words("Gicv3Config"), ["gicv3", "config"]);
    }
}
