//! Kernel modules: which ones a list needs, in the order in which they can be loaded. Read from the modules'
//! own `.modinfo`, since the package has no `modules.dep` (`depmod` writes that after installation).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

/// A module, unpacked: busybox's `insmod` hands files to the kernel as they are.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its ELF file.
    pub bytes: Vec<u8>,
}

/// The wanted modules and all that they need, each after what it needs. What this kernel has built in is left out:
/// one series has as a module what the next has inside.
pub fn resolve(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut index = BTreeMap::new();
    list(&folder.join("kernel"), &mut index)?;
    let builtin = folder.join("modules.builtin");
    let builtin =
        std::fs::read_to_string(&builtin).with_context(|| format!("cannot read {}", builtin.display()))?;
    let builtin: Vec<String> = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
    let mut loaded = Vec::new();
    let mut open = Vec::new();
    for name in wanted {
        if !index.contains_key(*name) && builtin.iter().any(|inside| inside == name) {
            continue;
        }
        load(name, &index, &mut open, &mut loaded)?;
    }
    Ok(loaded)
}

fn load(
    name: &str,
    index: &BTreeMap<String, PathBuf>,
    open: &mut Vec<String>,
    loaded: &mut Vec<Module>,
) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    if open.iter().any(|outer| outer == name) {
        bail!("kernel modules need each other in a circle: {} -> {name}", open.join(" -> "));
    }
    let path = index.get(name).with_context(|| format!("the kernel's package has no module {name}"))?;
    let bytes = unpack(path)?;
    open.push(name.to_owned());
    for needed in needs(&bytes).with_context(|| format!("cannot read {}", path.display()))? {
        load(&needed, index, open, loaded)?;
    }
    open.pop();
    loaded.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// Module names (underscores, as the kernel has it) and their files.
fn list(folder: &Path, index: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, index)?;
        } else if let Some(name) = module_name(&path) {
            index.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name by its file: `kernel/lib/crc-t10dif.ko.xz` is `crc_t10dif`.
fn module_name(file: &Path) -> Option<String> {
    let (stem, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "xz") {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut lzma_rust2::XzReader::new(&bytes[..], false), &mut plain)
            .with_context(|| format!("cannot unpack {}", path.display()))?;
        return Ok(plain);
    }
    if path.extension().is_some_and(|extension| extension == "zst") {
        let mut plain = Vec::new();
        let unpacked = ruzstd::decoding::StreamingDecoder::new(&bytes[..]).map_err(std::io::Error::other);
        unpacked
            .and_then(|mut unpacked| std::io::Read::read_to_end(&mut unpacked, &mut plain))
            .with_context(|| format!("cannot unpack {}", path.display()))?;
        return Ok(plain);
    }
    Ok(bytes)
}

/// The modules named by `depends=` in `.modinfo`, which is a list of NUL-terminated `key=value` strings.
fn needs(bytes: &[u8]) -> Result<Vec<String>> {
    let file: ElfFile64 = ElfFile64::parse(bytes)?;
    let section = file.section_by_name(".modinfo").context("it has no .modinfo")?;
    Ok(dependencies(section.data()?))
}

fn dependencies(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_their_key_alone() {
        let modinfo = b"license=GPL\0depends=mbcache,jbd2,x-y\0softdep=pre: crc32c\0name=ext4\0";
        assert_eq!(dependencies(modinfo), ["mbcache", "jbd2", "x_y"]);
        assert!(dependencies(b"depends=\0").is_empty());
    }
}
