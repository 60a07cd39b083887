//! Where this machine gets its packages from: its release, and the Debian mirror that it already uses.

use std::path::Path;

/// Used where the machine's own sources name no Debian mirror.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Where Debian's security updates come from.
pub const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// The release's code name, such as `bookworm`; empty where it has none.
pub fn codename() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    value(&text, "VERSION_CODENAME=")
}

/// Whether this is Debian itself.
pub fn is_debian() -> bool {
    value(&std::fs::read_to_string("/etc/os-release").unwrap_or_default(), "ID=") == "debian"
}

fn value(text: &str, key: &str) -> String {
    let found = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    found.trim_matches('"').to_owned()
}

/// Debian suites to look for the guest's kernel in, the likeliest first.
pub fn guest_suites() -> [&'static str; 2] {
    if codename() == "bookworm" { ["bookworm", "trixie"] } else { ["trixie", "bookworm"] }
}

/// The file with Debian's archive keys, if it is installed.
pub fn keyring() -> Option<&'static str> {
    let places =
        ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
    places.into_iter().find(|place| Path::new(place).is_file())
}

/// The Debian mirror that this machine uses for its own release.
pub fn mirror() -> String {
    let mut files = vec![std::path::PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    }
    files.sort();
    let suite = codename();
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let found = if is_debian() { texts.into_iter().find_map(|text| mirror_in(&text, &suite)) } else { None };
    found.unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// The first address in a list of sources, of either form, that serves the suite.
fn mirror_in(text: &str, suite: &str) -> Option<String> {
    // One-line form: deb [options] ADDRESS SUITE COMPONENT...
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(address), Some(name)) = (words.next(), words.next())
            && name == suite
        {
            return Some(address.to_owned());
        }
    }
    // Paragraph form (deb822).
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            continue;
        }
        let serves =
            field("Suites").is_some_and(|suites| suites.split_whitespace().any(|name| name == suite));
        if serves && let Some(address) = field("URIs").and_then(|list| list.split_whitespace().next()) {
            return Some(address.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_forms_of_source_lists() {
        let one_line = "# comment\ndeb-src http://s/debian bookworm main\n\
                        deb [arch=amd64 signed-by=/k] http://m/debian bookworm main contrib\n";
        assert_eq!(mirror_in(one_line, "bookworm").as_deref(), Some("http://m/debian"));
        let paragraphs = "Types: deb\nURIs: http://sec/debian-security\nSuites: bookworm-security\n\n\
                          Types: deb\nURIs: http://p/debian\nSuites: bookworm bookworm-updates\n";
        assert_eq!(mirror_in(paragraphs, "bookworm").as_deref(), Some("http://p/debian"));
        assert_eq!(mirror_in(paragraphs, "trixie"), None);
    }
}
