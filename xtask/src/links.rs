//! What the documents name is there: the files and folders that the repository's `*.md` name in backticks, and the targets of their
//! links, headings too. So a file that is moved takes its mentions along.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// Endings by which a word in backticks is taken for a file of the repository.
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".txt", ".c", ".ld", ".dts", ".dtb", ".sh"];

/// Folders that aren't the repository's.
const OUTSIDE: &[&str] = &["target", ".git"];

/// Names that stand for a user's files: those of examples, and what `axvm pack` writes.
const OTHERS: &[&str] = &["my/system.toml", "boot-uboot.txt", "boot-grub.txt", "boot-pvh.txt"];

/// Every mention of something that isn't there: `FILE:LINE: ...`.
pub fn broken() -> Result<Vec<String>> {
    let root = paths::root();
    let tree = Tree::read(root)?;
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "md")) {
        let text = std::fs::read_to_string(root.join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        found.extend(tree.broken_in(file, &text, &|other| std::fs::read_to_string(root.join(other)).ok()));
    }
    Ok(found)
}

/// The repository's files and folders, relative to its root.
struct Tree {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Tree {
    fn read(root: &Path) -> Result<Tree> {
        let mut files = BTreeSet::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(folder) = open.pop() {
            for entry in
                std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
            {
                let path = entry?.path();
                let relative = path.strip_prefix(root)?.to_path_buf();
                if OUTSIDE.iter().any(|name| relative == Path::new(name)) {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.insert(relative);
                }
            }
        }
        Ok(Tree::of(files))
    }

    fn of(files: BTreeSet<PathBuf>) -> Tree {
        let folders = files.iter().flat_map(|file| file.ancestors().skip(1)).map(Path::to_path_buf).collect();
        Tree { files, folders }
    }

    fn has(&self, path: &Path) -> bool {
        self.files.contains(path) || self.folders.contains(path)
    }

    /// What a document names that isn't there. `read` gives another file's text, to look for a heading in it.
    fn broken_in(&self, file: &Path, text: &str, read: &dyn Fn(&Path) -> Option<String>) -> Vec<String> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut found = Vec::new();
        let mut in_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
                continue;
            }
            if in_code {
                continue;
            }
            let mut say = |what: String| found.push(format!("{}:{number}: {what}", file.display()));
            for span in spans(line) {
                for path in expanded(span) {
                    if self.is_meant(&path, span) && !self.names(&path, folder) {
                        say(format!("there is no `{path}`"));
                    }
                }
            }
            for target in targets(line) {
                let (path, heading) = target.split_once('#').unwrap_or((target, ""));
                let place = if path.is_empty() { file.to_path_buf() } else { plain(&folder.join(path)) };
                if !self.has(&place) {
                    say(format!("the link leads nowhere: {target}"));
                } else if !heading.is_empty()
                    && !read(&place).is_some_and(|text| slugs(&text).any(|slug| slug == heading))
                {
                    say(format!("{} has no heading for #{heading}", place.display()));
                }
            }
        }
        found
    }

    /// Whether a word in backticks means something of the repository: it begins with one of its folders, or ends as its files do.
    fn is_meant(&self, path: &str, span: &str) -> bool {
        let is_word = path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        if !is_word || path.starts_with('/') || path.starts_with('.') || OTHERS.contains(&span) {
            return false;
        }
        let first = Path::new(path).components().next();
        let Some(Component::Normal(first)) = first else { return false };
        if OUTSIDE.iter().any(|name| first == *name) {
            return false;
        }
        let in_folder = path.contains('/') && self.folders.contains(Path::new(first));
        in_folder || ENDINGS.iter().any(|ending| path.len() > ending.len() && path.ends_with(ending))
    }

    /// Whether there is such a file or folder: seen from the root, or from the document; or one whose path ends so.
    fn names(&self, path: &str, folder: &Path) -> bool {
        let path = Path::new(path.trim_end_matches('/'));
        self.has(path)
            || self.has(&plain(&folder.join(path)))
            || self.files.iter().chain(&self.folders).any(|there| there.ends_with(path))
    }
}

/// The words in backticks of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `a/{b,c}.rs` is two paths.
fn expanded(span: &str) -> Vec<String> {
    let parts = span.split_once('{').and_then(|(before, rest)| {
        let (among, after) = rest.split_once('}')?;
        Some((before, among, after))
    });
    match parts {
        Some((before, among, after)) => {
            among.split(',').map(|one| format!("{before}{}{after}", one.trim())).collect()
        }
        None => vec![span.to_owned()],
    }
}

/// Where the links of a line lead, but for those out of the repository.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.contains(' '))
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

/// What headings are called in links: small letters, digits, and hyphens for spaces.
fn slugs(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let files = ["README.md", "docs/manual.md", "crates/pci/src/lib.rs", "crates/pci/src/group.rs", "x"];
        Tree::of(files.into_iter().map(PathBuf::from).collect())
    }

    fn broken(file: &str, text: &str) -> Vec<String> {
        let read = |_: &Path| Some("# Top\n## The system file, `x`\n".to_owned());
        tree().broken_in(Path::new(file), text, &read)
    }

    #[test]
    fn what_is_there_may_be_named() {
        let text = "`crates/pci/src/{lib,group}.rs`, `group.rs`, `src/lib.rs`, `crates/pci/`, `docs/`, [m](docs/manual.md),\n\
                    [s](docs/manual.md#the-system-file-x), [t](#top), `a::b`, `/pl031@9010000`, `target/x.rs`, `Cargo.toml.orig`\n\
                    [w](https://example.org/x.md)\n```sh\n`crates/gone.rs` [g](gone.md)\n```\n";
        assert_eq!(broken("README.md", text), Vec::<String>::new());
        assert_eq!(broken("docs/manual.md", "[r](../README.md) `manual.md`"), Vec::<String>::new());
    }

    #[test]
    fn what_was_moved_is_found() {
        let text = "x\n`crates/pci/src/{lib,gone}.rs` `gone.rs` `crates/old/` [g](docs/gone.md) [h](docs/manual.md#gone)";
        assert_eq!(
            broken("README.md", text),
            [
                "README.md:2: there is no `crates/pci/src/gone.rs`",
                "README.md:2: there is no `gone.rs`",
                "README.md:2: there is no `crates/old/`",
                "README.md:2: the link leads nowhere: docs/gone.md",
                "README.md:2: docs/manual.md has no heading for #gone",
            ]
        );
        assert_eq!(broken("docs/manual.md", "[r](README.md)").len(), 1);
    }
}
