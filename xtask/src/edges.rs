//! The house's arrows: which crate may know which. One list (`xtask/edges.txt`), held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build, paths};

/// Package -> packages of the workspace that it names or may name.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Everything in which the workspace differs from the list.
pub fn check() -> Result<Vec<String>> {
    let path = paths::root().join("xtask/edges.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(differences(&parse(&text)?, &actual(&build::metadata()?)?))
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
}
