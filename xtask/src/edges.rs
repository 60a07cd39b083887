//! The house's arrows: which crate may know which. One list (`xtask/edges.txt`), held against `cargo metadata`. And what no room but one
//! may name (`neutral.rs`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build, neutral, paths};

/// Package -> packages of the workspace that it names or may name.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Everything in which the workspace differs from the list.
pub fn check() -> Result<Vec<String>> {
    let path = paths::root().join("xtask/edges.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let allowed = parse(&text)?;
    let mut found = differences(&allowed, &actual(&build::metadata()?)?);
    let document = std::fs::read_to_string(paths::root().join(DRAWN_IN))
        .with_context(|| format!("cannot read {DRAWN_IN}"))?;
    found.extend(misdrawn(&allowed, &document));
    found.extend(neutral::named()?);
    Ok(found)
}

/// The document with the drawing of the layers, and how the drawing begins.
const DRAWN_IN: &str = "ARCHITECTURE.md";
const DRAWING: &str = "```text layers";

/// Where the drawing isn't as the list says: each package that knows another, or is known, is in one row, below whoever knows it.
fn misdrawn(edges: &Edges, document: &str) -> Vec<String> {
    let drawing = document.split_once(DRAWING).and_then(|(_, rest)| rest.split_once("```"));
    let Some((drawing, _)) = drawing else { return vec![format!("{DRAWN_IN} has no drawing of the layers")] };
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (row, line) in drawing.lines().enumerate() {
        for word in line.split_whitespace() {
            let package = format!("axvm-{word}");
            if edges.contains_key(&package) && rows.insert(package.clone(), row).is_some() {
                found.push(format!("{DRAWN_IN} draws {package} twice"));
            }
        }
    }
    for (from, to) in edges.iter().filter(|(_, to)| !to.is_empty()) {
        for package in to.iter().chain([from]).filter(|package| !rows.contains_key(*package)) {
            found.push(format!("{DRAWN_IN} doesn't draw {package}"));
        }
        let above = to.iter().filter(|package| rows.get(*package) <= rows.get(from));
        found.extend(
            above.map(|package| format!("{DRAWN_IN} draws {from} not above {package}, which it knows")),
        );
    }
    found.sort();
    found.dedup();
    found
}

/// Lines `package: package package`; `#` begins a comment.
fn parse(text: &str) -> Result<Edges> {
    let mut edges = Edges::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (from, to) = line.split_once(':').with_context(|| format!("edges.txt: no colon in `{line}`"))?;
        let to = to.split_whitespace().map(str::to_owned).collect();
        if edges.insert(from.trim().to_owned(), to).is_some() {
            bail!("edges.txt: {} is there twice", from.trim());
        }
    }
    Ok(edges)
}

/// Dependencies between the workspace's own packages, of every kind: a test that reaches upward is an arrow too.
fn actual(metadata: &Value) -> Result<Edges> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut edges = Edges::new();
    for package in packages {
        let Some(from) = package["name"].as_str() else { continue };
        let to = package["dependencies"].as_array().into_iter().flatten();
        let to = to.filter_map(|dependency| dependency["name"].as_str()).filter(|name| names.contains(name));
        // A package may name itself, to test itself with its features on.
        let to = to.filter(|name| *name != from);
        edges.insert(from.to_owned(), to.map(str::to_owned).collect());
    }
    Ok(edges)
}

fn differences(allowed: &Edges, actual: &Edges) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in actual {
        let Some(may) = allowed.get(from) else {
            found.push(format!("{from} isn't in xtask/edges.txt: say there what it may know"));
            continue;
        };
        for name in to.difference(may) {
            found.push(format!("{from} knows {name}, which xtask/edges.txt doesn't allow"));
        }
    }
    // The list itself must not allow a circle, or the arrows have no direction.
    for start in allowed.keys() {
        if reaches(allowed, start, start, &mut BTreeSet::new()) {
            found.push(format!("xtask/edges.txt lets {start} know itself in a circle"));
        }
    }
    found
}

fn reaches<'a>(edges: &'a Edges, from: &str, goal: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let next = edges.get(from).into_iter().flatten();
    next.into_iter().any(|to| to == goal || (seen.insert(to) && reaches(edges, to, goal, seen)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_isnt_listed_is_found() {
        let allowed = parse("a:  # the bottom\nb: a\n").unwrap();
        assert!(differences(&allowed, &parse("a:\nb: a\n").unwrap()).is_empty());
        assert_eq!(differences(&allowed, &parse("a: b\nb: a\n").unwrap()).len(), 1);
        assert_eq!(differences(&allowed, &parse("c:\n").unwrap()).len(), 1);
    }

    /// The files below a folder.
    fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }

    /// An invalidation that goes to all CPUs is one of those that some cores' errata ask twice: only one file of the hypervisor's makes
    /// any.
    #[test]
    fn invalidations_on_all_cpus_are_made_in_one_place() {
        let host = paths::root().join("hosts/bare-metal/src");
        let mut sources = Vec::new();
        files(&host, &mut sources);
        let is_broadcast = |line: &str| {
            let code = line.split("//").next().unwrap_or_default();
            let after = |marker| code.split_once(marker).map(|(_, rest)| rest);
            let operation = after("tlbi ").or_else(|| after("everywhere!(\""));
            operation.is_some_and(|rest| {
                let name: String =
                    rest.trim_start().chars().take_while(char::is_ascii_alphanumeric).collect();
                name.ends_with("is") || name.ends_with("os")
            })
        };
        assert!(is_broadcast("asm!(\"tlbi vae2is, {page}\")") && !is_broadcast("\"tlbi alle2\""));
        let with: Vec<_> = sources
            .into_iter()
            .filter(|path| std::fs::read_to_string(path).unwrap().lines().any(is_broadcast))
            .map(|path| path.strip_prefix(&host).unwrap().to_owned())
            .collect();
        assert_eq!(with, [std::path::PathBuf::from("arch/aarch64/tlb.rs")]);
    }

    #[test]
    fn a_list_with_a_circle_is_found() {
        let allowed = parse("a: b\nb: c\nc: a\nd: a\n").unwrap();
        assert_eq!(differences(&allowed, &Edges::new()).len(), 3);
    }

    #[test]
    fn a_line_without_a_colon_or_given_twice_is_an_error() {
        assert!(parse("a b\n").is_err());
        assert!(parse("a:\na: b\n").is_err());
    }

    #[test]
    fn a_drawing_that_isnt_as_the_list_says_is_found() {
        let edges = parse("axvm-a: axvm-b axvm-c\naxvm-b: axvm-c\naxvm-c:\naxvm-alone:\n").unwrap();
        let drawn = |rows: &str| misdrawn(&edges, &format!("x\n```text layers\n{rows}\n```\n"));
        assert_eq!(drawn("| a | top\n| b |\n| c |"), Vec::<String>::new());
        assert_eq!(drawn("a\nb c").len(), 1, "beside what it knows");
        assert_eq!(drawn("b\na\nc").len(), 1, "below what knows it");
        assert_eq!(drawn("a\nb\nc\nc").len(), 1, "twice");
        assert!(drawn("a\nb").contains(&"ARCHITECTURE.md doesn't draw axvm-c".to_owned()));
        assert_eq!(misdrawn(&edges, "no drawing").len(), 1);
    }
}
