//! Building what runs on bare metal (the hypervisor, the small guests) and the user's tool.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::linux::{Profile, Static};
use crate::host::qemu::make_executable;
use crate::host::toolchain::{self, BareMetal};
use crate::{image, paths, process, say};

/// The hypervisor's package.
pub const HYPERVISOR: &str = "axvm-hypervisor";

/// The package of the firmware from which tests start on a board with a secure world.
const FIRMWARE: &str = "axvm-test-firmware";

/// The workspace as cargo knows it.
pub fn metadata() -> Result<Value> {
    let mut cargo = toolchain::host("metadata");
    let text = process::output(cargo.args(["--format-version", "1", "--no-deps"]))?;
    serde_json::from_str(&text).context("cannot read `cargo metadata`")
}

/// Of an architecture's bare-metal packages those that are programs: what they share is a library.
fn bare_metal_programs(metadata: &Value, arch: &str) -> Result<Vec<String>> {
    let is_program = |name: &String| {
        let package = metadata["packages"].as_array().into_iter().flatten().find(|it| it["name"] == **name);
        package.is_some_and(|package| {
            package["targets"].as_array().into_iter().flatten().any(|target| target["kind"][0] == "bin")
        })
    };
    Ok(bare_metal_packages(metadata, arch)?.into_iter().filter(is_program).collect())
}

/// What has to be asked for when a bare-metal package is built, so that nobody builds it for a host by the way.
pub fn features(metadata: &Value, package: &str) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.filter(|it| it["name"] == package).filter_map(|it| it["targets"].as_array());
    let asked = targets.flatten().filter_map(|target| target["required-features"].as_array());
    asked.flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Packages that run on an architecture's bare metal: the workspace's members that aren't built by default, but for those whose
/// manifest names other architectures only (`package.metadata.axvm.architectures`).
pub fn bare_metal_packages(metadata: &Value, arch: &str) -> Result<Vec<String>> {
    let ids = |key: &str| -> Vec<&str> {
        metadata[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let hosted = ids("workspace_default_members");
    let mut names = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let (Some(id), Some(name)) = (package["id"].as_str(), package["name"].as_str()) else { continue };
        let architectures = package["metadata"]["axvm"]["architectures"].as_array();
        let runs_there = architectures.is_none_or(|names| names.iter().any(|name| name == arch));
        if !hosted.contains(&id) && ids("workspace_members").contains(&id) && runs_there {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether a bare-metal package is one of the architecture's.
pub fn runs_on(arch: &str, package: &str) -> Result<bool> {
    Ok(bare_metal_packages(&metadata()?, arch)?.iter().any(|name| name == package))
}

/// Builds the hypervisor, every small guest, and the user's tool.
pub fn everything(arch: &str) -> Result<()> {
    if runs_on(arch, HYPERVISOR)? {
        hypervisor(arch, &[])?;
    } else {
        say::note(format_args!("the hypervisor doesn't run on {arch} yet: only its guests are built"));
    }
    guests(arch)?;
    tool().map(drop)
}

/// Builds the hypervisor; the path of the image that a boot loader takes. With more features it is a test image, which a release refuses to be.
pub fn hypervisor(arch: &str, features: &[String]) -> Result<PathBuf> {
    if !runs_on(arch, HYPERVISOR)? {
        bail!("the hypervisor doesn't run on {arch} yet");
    }
    let elf = elf(arch, HYPERVISOR, features)?;
    let bytes = std::fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let bootable = image::bootable(arch, &bytes)
        .with_context(|| format!("no boot loader would take {}", elf.display()))?;
    let mut place = paths::hypervisor_image(arch);
    if !features.is_empty() {
        place = paths::test_image(arch);
    }
    paths::write_atomically(&place, &bootable)?;
    Ok(place)
}

/// Builds the small guests, whose ELF files lie beside the other guest's files, and the tests' firmware.
pub fn guests(arch: &str) -> Result<()> {
    for name in bare_metal_programs(&metadata()?, arch)? {
        if name == HYPERVISOR {
            continue;
        }
        guest(arch, &name)?;
    }
    Ok(())
}

/// Builds one of them.
pub fn guest(arch: &str, name: &str) -> Result<()> {
    let bytes = std::fs::read(elf(arch, name, &[])?)?;
    if name == FIRMWARE {
        // QEMU puts firmware into its flash as it is.
        return paths::write_atomically(&paths::test_firmware(arch), &image::flatten(&bytes)?);
    }
    paths::write_atomically(&paths::guest(arch).join(format!("{name}.elf")), &bytes)
}

/// The hypervisor's ELF file.
pub fn hypervisor_elf(arch: &str) -> Result<PathBuf> {
    elf(arch, HYPERVISOR, &[])
}

/// Builds a bare-metal package, with more features than it must have; the ELF file's path.
fn elf(arch: &str, package: &str, features: &[String]) -> Result<PathBuf> {
    let bare_metal = BareMetal::find(arch)?;
    say::step(format_args!("building {package} ({})", bare_metal.describe()));
    let variant = features.join("-");
    let mut cargo = bare_metal.cargo("rustc", &variant);
    cargo.args(["--release", "--package", package]);
    let all = [self::features(&metadata()?, package), features.to_vec()].concat();
    cargo.args(["--features", &all.join(",")]);
    if !features.is_empty() {
        // A protection can be left out only where debug assertions are on.
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    }
    cargo.arg("--").args(compiler_arguments(arch, package));
    process::run(&mut cargo)?;
    Ok(bare_metal.target_dir(&variant).join(bare_metal.triple()).join("release").join(package))
}

/// What the compiler is told beside what all of bare metal is. The hypervisor is less than a MiB with its memory, so that on
/// aarch64 one instruction reaches whatever it refers to: the tiny code model. It counts where the whole program is compiled, at
/// the last step. The linker refuses an image that has grown beyond. On x86_64 what is deep in the stack takes three bytes more to name, so
/// that there a function with many variables of its own isn't made part of another.
fn compiler_arguments(arch: &str, package: &str) -> &'static [&'static str] {
    match (arch, package) {
        ("aarch64", HYPERVISOR) => &["-Ccode-model=tiny"],
        ("x86_64", HYPERVISOR) => &["-Cllvm-args=-inline-max-stacksize=96"],
        _ => &[],
    }
}

/// Builds the user's tool for a Linux on the architecture, which needs nothing there; its path.
pub fn tool_for_linux(arch: &str, profile: Profile) -> Result<PathBuf> {
    let compiler = Static::find(arch)?;
    say::step(format_args!("building the tool (axvm) for a Linux host on {arch}"));
    process::run(compiler.build(profile)?.args(["--quiet", "--package", "axvm-cli", "--bin", "axvm"]))?;
    let (built, place) = (compiler.built("axvm", profile), paths::linux_tool(arch));
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    paths::write_atomically(&place, &bytes)?;
    make_executable(&place)?;
    Ok(place)
}

/// Builds the least that runs a guest there (`hosts/linux/examples/least.rs`), for figures.
pub fn least_for_linux(arch: &str) -> Result<()> {
    let compiler = Static::find(arch)?;
    say::step(format_args!("building the least that runs a guest (least) for a Linux host on {arch}"));
    process::run(compiler.build(Profile::Tool)?.args([
        "--quiet",
        "--package",
        "axvm-linux",
        "--example",
        "least",
    ]))?;
    let built = compiler.built("examples/least", Profile::Tool);
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    paths::write_atomically(&paths::linux_host(arch).join("least"), &bytes)?;
    make_executable(&paths::linux_host(arch).join("least"))
}

/// Builds the user's tool for this machine; its path.
pub fn tool() -> Result<PathBuf> {
    say::step("building the tool (axvm)");
    process::run(toolchain::host("build").args(["--quiet", "--package", "axvm-cli", "--bin", "axvm"]))?;
    Ok(paths::target().join("debug").join("axvm"))
}
