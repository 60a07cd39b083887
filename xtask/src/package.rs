//! The crates as packages that others can use: what a registry wants to know of each, and that each is whole by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::toolchain;
use crate::{build, paths, process};

/// What lies beside every manifest, or packages lack it: licences are named by it, and must come with the code.
const FILES: &[&str] = &["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// What a registry takes at most (the manifest format's `keywords`).
const KEYWORDS_MOST: usize = 5;
const KEYWORD_MOST_BYTES: usize = 20;

/// A package that may be published.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    folder: PathBuf,
    metadata: &'a Value,
}

/// The workspace's packages, and the names of those that stay here (`publish = false`).
fn packages(metadata: &Value) -> (Vec<Package<'_>>, Vec<&str>) {
    let (mut published, mut kept) = (Vec::new(), Vec::new());
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            kept.push(text("name"));
            continue;
        }
        let folder = Path::new(text("manifest_path")).parent().unwrap_or(Path::new("")).to_path_buf();
        published.push(Package { name: text("name"), version: text("version"), folder, metadata: package });
    }
    (published, kept)
}

/// Everything that the packages' manifests lack.
pub fn lacking() -> Result<Vec<String>> {
    let metadata = build::metadata()?;
    let (published, _) = packages(&metadata);
    let mut found = Vec::new();
    for package in &published {
        found.extend(
            FILES
                .iter()
                .filter(|file| !package.folder.join(file).is_file())
                .map(|file| format!("{}: no {file} in {}", package.name, paths::shown(&package.folder))),
        );
        found.extend(said(package.metadata).into_iter().map(|lack| format!("{}: {lack}", package.name)));
    }
    Ok(found)
}

/// What a manifest doesn't say, or not so that a registry takes it.
fn said(package: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["description", "license", "repository", "documentation", "readme", "rust_version"] {
        if package[key].as_str().is_none_or(str::is_empty) {
            found.push(format!("the manifest has no {key}"));
        }
    }
    for key in ["keywords", "categories"] {
        if package[key].as_array().is_none_or(Vec::is_empty) {
            found.push(format!("the manifest has no {key}"));
        }
    }
    let keywords: Vec<&str> =
        package["keywords"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if keywords.len() > KEYWORDS_MOST {
        found.push(format!("more than {KEYWORDS_MOST} keywords"));
    }
    for keyword in keywords {
        let starts = keyword.starts_with(|first: char| first.is_ascii_alphanumeric());
        let rest = keyword.chars().all(|c| c.is_ascii_alphanumeric() || "_-+".contains(c));
        if !starts || !rest || keyword.len() > KEYWORD_MOST_BYTES {
            found.push(format!("no keyword: `{keyword}`"));
        }
    }
    found
}

/// `cargo package` of all that may be published, without building them.
pub fn command() -> Result<std::process::Command> {
    let metadata = build::metadata()?;
    let (_, kept) = packages(&metadata);
    let mut cargo = toolchain::host("package");
    // What isn't committed yet is tested too.
    cargo.args(["--workspace", "--no-verify", "--allow-dirty"]);
    for name in kept {
        cargo.args(["--exclude", name]);
    }
    Ok(cargo)
}

/// Unpacks the packages into a workspace of their own, far from all that isn't in them: whether they compile there with their tests
/// says whether they are whole. The command for that.
pub fn apart() -> Result<std::process::Command> {
    let metadata = build::metadata()?;
    let (published, _) = packages(&metadata);
    let place = paths::target().join("package").join("apart");
    if place.exists() {
        std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    std::fs::create_dir_all(&place)?;
    let mut patched = BTreeMap::new();
    for package in &published {
        let unpacked = format!("{}-{}", package.name, package.version);
        let archive = paths::target().join("package").join(format!("{unpacked}.crate"));
        process::run(process::command("tar").arg("-xzf").arg(&archive).arg("-C").arg(&place))?;
        patched.insert(package.name, unpacked);
    }
    let manifest = place.join("Cargo.toml");
    std::fs::write(&manifest, workspace(&patched))?;
    std::fs::copy(paths::root().join("Cargo.lock"), place.join("Cargo.lock"))?;
    let mut cargo = toolchain::host("check");
    cargo.arg("--manifest-path").arg(&manifest).args(["--workspace", "--all-features", "--all-targets"]);
    cargo.arg("--target-dir").arg(paths::target().join("package").join("build"));
    Ok(cargo)
}

/// A workspace of unpacked packages, which find each other there and not in the registry.
fn workspace(folders: &BTreeMap<&str, String>) -> String {
    let quoted: Vec<String> = folders.values().map(|folder| format!("\"{folder}\"")).collect();
    let patches: String =
        folders.iter().map(|(name, folder)| format!("{name} = {{ path = \"{folder}\" }}\n")).collect();
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[patch.crates-io]\n{patches}\n[profile.dev]\nopt-level = 1\n",
        quoted.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole() -> Value {
        json!({
            "name": "axvm-x", "version": "0.1.0", "manifest_path": "/r/crates/x/Cargo.toml", "publish": null,
            "description": "x", "license": "MIT", "repository": "https://r", "documentation": "https://d",
            "readme": "README.md", "rust_version": "1.95", "keywords": ["pci"], "categories": ["no-std"],
        })
    }

    #[test]
    fn what_a_manifest_lacks_is_found() {
        assert_eq!(said(&whole()), Vec::<String>::new());
        for key in
            ["description", "license", "repository", "documentation", "readme", "keywords", "categories"]
        {
            let mut package = whole();
            package[key] = Value::Null;
            assert_eq!(said(&package), [format!("the manifest has no {key}")]);
        }
        let mut package = whole();
        package["keywords"] = json!(["-x", "a keyword", "much-too-long-for-a-keyword"]);
        assert_eq!(said(&package).len(), 3);
        package["keywords"] = json!(["a", "b", "c", "d", "e", "f"]);
        assert_eq!(said(&package).len(), 1);
    }

    #[test]
    fn packages_that_stay_here_are_told_from_the_others() {
        let mut own = whole();
        (own["name"], own["publish"]) = (json!("xtask"), json!([]));
        let metadata = json!({"packages": [whole(), own]});
        let (published, kept) = packages(&metadata);
        assert_eq!(published.iter().map(|package| package.name).collect::<Vec<_>>(), ["axvm-x"]);
        assert_eq!(published[0].folder, Path::new("/r/crates/x"));
        assert_eq!(kept, ["xtask"]);
    }

    #[test]
    fn unpacked_packages_find_each_other() {
        let folders = BTreeMap::from([("a", "a-0.1.0".to_owned()), ("b", "b-0.2.0".to_owned())]);
        let manifest: toml::Table = workspace(&folders).parse().unwrap();
        assert_eq!(manifest["workspace"]["members"].as_array().unwrap().len(), 2);
        assert_eq!(manifest["patch"]["crates-io"]["b"]["path"].as_str(), Some("b-0.2.0"));
    }
}
