//! `axvm pack`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use axvm_plan::problem::{Problem, Rule};
use axvm_system::bundle::RunOptions;
use axvm_system::model::{Arch, Item};
use serde_json::json;

use crate::args::Pack;
use crate::hypervisor;
use crate::input::Input;
use crate::linux;
use crate::output::{print, print_json};

const IMAGE: &str = "axvm-hypervisor.bin";
const BUNDLE: &str = "bundle.axvm";
/// The file with the lines for U-Boot.
pub const UBOOT: &str = "boot-uboot.txt";
/// The file with the entry for GRUB.
const GRUB: &str = "boot-grub.txt";

/// Writes what a boot loader needs.
pub fn pack(arguments: &Pack) -> ExitCode {
    let mut input = Input::read(&arguments.system);
    let files = match files(&mut input, arguments) {
        Some(files) => files,
        None => return refuse(&input, arguments),
    };
    for (name, content) in &files {
        let written = fs::create_dir_all(&arguments.output)
            .and_then(|()| fs::write(arguments.output.join(name), content));
        if let Err(error) = written {
            let message = format!("\"{}\" can't be written: {error}", arguments.output.join(name).display());
            input.add(Problem::new(Item::File, Rule::File, message));
            return refuse(&input, arguments);
        }
    }
    if arguments.json {
        let list: Vec<_> =
            files.iter().map(|(name, content)| json!({"file": name, "bytes": content.len()})).collect();
        print_json(&json!({"problems": [], "folder": arguments.output, "files": list}));
    } else {
        for (name, content) in &files {
            print(&format!("{} ({} bytes)\n", arguments.output.join(name).display(), content.len()));
        }
    }
    ExitCode::SUCCESS
}

fn refuse(input: &Input, arguments: &Pack) -> ExitCode {
    let problems = input.problems();
    if arguments.json {
        print_json(&json!({"problems": problems}));
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("axvm: {}: nothing was packed", input.name);
    ExitCode::from(2)
}

/// The files by name; `None` if there are problems.
fn files(input: &mut Input, arguments: &Pack) -> Option<Vec<(&'static str, Vec<u8>)>> {
    if linux::is_host(input) {
        let message = "the file is for a Linux host, which starts no boot loader: `axvm run` it there";
        input.add(Problem::new(Item::Board("host".into()), Rule::File, message));
        return None;
    }
    let arch = input.system.as_ref()?.board.arch;
    let image =
        hypervisor::find(arguments.image.hypervisor.as_deref(), arch).and_then(|path: std::path::PathBuf| {
            fs::read(&path).map_err(|error| format!("\"{}\" can't be read: {error}", Path::display(&path)))
        });
    let image =
        image.map_err(|message| input.add(Problem::new(Item::File, Rule::Hypervisor, message))).ok()?;
    if !input.is_good() {
        return None;
    }
    // Boot loaders read media and networks: what they bring is checked. No tool listens, so there is no nonce.
    let run = RunOptions { verify: true, ..RunOptions::default() };
    let bundle = input.bundle(&run);
    let bundle = bundle.map_err(|message| input.add(Problem::new(Item::File, Rule::File, message))).ok()?;
    Some(boot_files(arch, image, bundle))
}

/// What a boot loader needs, by name.
pub fn boot_files(arch: Arch, image: Vec<u8>, bundle: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = vec![(IMAGE, image), (BUNDLE, bundle)];
    if arch == Arch::X86_64 {
        files.push((GRUB, grub("multiboot2", "module2").into_bytes()));
        files.push(("boot-pvh.txt", pvh().into_bytes()));
    } else {
        files.push((UBOOT, uboot().into_bytes()));
        files.push((GRUB, grub("linux", "initrd").into_bytes()));
    }
    files
}

/// On x86 the image has a PVH entry beside the one that GRUB uses.
fn pvh() -> String {
    format!(
        "# {IMAGE} is an ELF file with a PVH entry (Xen, docs/misc/pvh.pandoc): for a loader that enters by that, {IMAGE} is the\n\
         # kernel and {BUNDLE} its only module, what is called its initial RAM disk too. QEMU does so:\n\
         qemu-system-x86_64 ... -kernel {IMAGE} -initrd {BUNDLE}\n"
    )
}

/// U-Boot boots it as it boots Linux: an image, an initrd with its size, a device tree.
fn uboot() -> String {
    format!(
        "# For U-Boot's prompt, or a script made of it by `mkimage -T script`. Put the two files on a medium and\n\
         # say which: here the first partition of the first virtio disk. U-Boot must run at the hypervisor's level\n\
         # (EL2 on aarch64, HS-mode on riscv64).\n\
         setenv axvm_dev virtio 0:1\n\
         load ${{axvm_dev}} ${{kernel_addr_r}} {IMAGE}\n\
         load ${{axvm_dev}} ${{ramdisk_addr_r}} {BUNDLE}\n\
         booti ${{kernel_addr_r}} ${{ramdisk_addr_r}}:${{filesize}} ${{fdtcontroladdr}}\n"
    )
}

/// GRUB boots it, after a BIOS or UEFI, by these two of its commands.
fn grub(image: &str, bundle: &str) -> String {
    format!(
        "# An entry for grub.cfg; the paths are those on GRUB's root.\nmenuentry \"AxVM\" {{\n    {image} /{IMAGE}\n    {bundle} /{BUNDLE}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_loader_is_given_lines_only_for_an_entry_that_the_image_has() {
        let names =
            |arch| boot_files(arch, vec![], vec![]).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Arch::Aarch64), [IMAGE, BUNDLE, UBOOT, GRUB]);
        assert_eq!(names(Arch::X86_64), [IMAGE, BUNDLE, GRUB, "boot-pvh.txt"]);
        let grub = |arch| {
            let files = boot_files(arch, vec![], vec![]);
            files
                .into_iter()
                .find(|(name, _)| *name == GRUB)
                .map(|(_, text)| String::from_utf8(text).unwrap())
        };
        assert!(
            grub(Arch::X86_64)
                .unwrap()
                .contains("    multiboot2 /axvm-hypervisor.bin\n    module2 /bundle.axvm\n")
        );
        assert!(
            grub(Arch::Aarch64)
                .unwrap()
                .contains("    linux /axvm-hypervisor.bin\n    initrd /bundle.axvm\n")
        );
    }
}
