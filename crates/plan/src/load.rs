//! What images must be to be placed at all, and where kernels lie. The rest is each architecture's.

use alloc::format;

use axvm_addr::{Address, Gpa, Span};
use axvm_guest::image::{ImageError, ImageInfo, VmImages};
use axvm_system::model::Vm;

use super::board::Board;
use super::findings::{Bytes, Findings, VmRef};
use crate::problem::Rule;

/// The most that a device tree may have: kernels map it by blocks of that size (Linux, Documentation/arch/arm64/booting.rst, 2).
pub(super) const DEVICE_TREE_MAX: u64 = 2 << 20;

/// Linux keeps so many bytes of a command line (asm/setup.h, COMMAND_LINE_SIZE, without its end), and cuts the rest off without a word.
const COMMAND_LINE: usize = 2047;

/// What a kernel takes of RAM.
pub(super) fn takes(
    vm: VmRef<'_>,
    kernel: &ImageInfo,
    ram: Span<Gpa>,
    key: &str,
    findings: &mut Findings,
) -> Option<Span<Gpa>> {
    let span = kernel.place(ram.start()).and_then(|start| Span::new(start, kernel.memory_size).ok());
    let Some(span) = span else {
        findings.vm(vm, "kernel", Rule::ImageFit, "the kernel would pass the end of the address space");
        return None;
    };
    if !ram.encloses(&span) {
        findings.vm(
            vm,
            key,
            Rule::ImageFit,
            format_args!(
                "the kernel takes {span}, but RAM is {ram} ({}): give it more memory",
                Bytes(ram.size())
            ),
        );
        return None;
    }
    Some(span)
}

/// Whether kernels take a command line as a whole.
pub(super) fn is_command_line(text: &str) -> bool {
    !text.contains('\0') && text.len() <= COMMAND_LINE
}

fn check_command_line(vm: VmRef<'_>, text: &str, most: usize, findings: &mut Findings) {
    if text.contains('\0') {
        findings.vm(
            vm,
            "cmdline",
            Rule::CommandLine,
            "its command line has a NUL byte, at which kernels take it to end",
        );
    }
    if text.len() > most {
        findings.vm(
            vm,
            "cmdline",
            Rule::CommandLine,
            format_args!(
                "its command line has {} bytes: kernels take {most}, and Linux cuts off what is more without a word",
                text.len()
            ),
        );
    }
}

pub(super) fn check<'a>(
    vm: VmRef<'_>,
    config: &Vm,
    images: Option<&'a VmImages>,
    board: &Board<'_>,
    findings: &mut Findings,
) -> Option<&'a VmImages> {
    if config.load.is_some() != config.entry.is_some() {
        findings.vm(
            vm,
            "load",
            Rule::Kernel,
            "`load` and `entry` go together: a raw binary needs both, other kernels neither",
        );
    }
    let has_device_tree = board.machine.has_device_tree();
    for (said, key) in [(config.dtb.is_some(), "dtb"), (config.device_tree.is_some(), "device_tree")] {
        if said && !has_device_tree {
            let by = board.machine.words().guest_by;
            findings.vm(
                vm,
                key,
                Rule::Description,
                format_args!("kernels of this board are told of their machine by {by}: leave `{key}` out"),
            );
        }
    }
    let said = images.and_then(|images| images.kernel.as_ref().ok()?.setup.as_ref());
    let most = said.and_then(|setup| usize::try_from(setup.command_line).ok());
    check_command_line(
        vm,
        &config.cmdline,
        most.map_or(COMMAND_LINE, |most| most.min(COMMAND_LINE)),
        findings,
    );
    let Some(images) = images else {
        findings.vm(vm, "kernel", Rule::Kernel, format!("the kernel {} is missing", config.kernel));
        return None;
    };
    match &images.kernel {
        Err(error) => findings.vm(vm, "kernel", Rule::Kernel, format!("{}: {error}", config.kernel)),
        Ok(kernel) if !board.machine.runs(kernel.kind) => {
            let error = ImageError::WrongArchitecture(kernel.kind.name().into());
            findings.vm(vm, "kernel", Rule::Kernel, format!("{}: {error}", config.kernel));
            return None;
        }
        Ok(_) => {}
    }
    if let Some(length) = images.dtb_len.filter(|&length| length > DEVICE_TREE_MAX) {
        findings.vm(
            vm,
            "dtb",
            Rule::ImageFit,
            format!("its device tree has {length} bytes, but kernels take at most {DEVICE_TREE_MAX}"),
        );
        return None;
    }
    Some(images)
}

pub(super) fn entry(
    vm: VmRef<'_>,
    kernel: &ImageInfo,
    span: &Span<Gpa>,
    findings: &mut Findings,
) -> Option<Gpa> {
    let entry = span.start().checked_add(kernel.entry_offset).filter(|&entry| span.contains(entry));
    if entry.is_none() {
        findings.vm(vm, "kernel", Rule::Kernel, "the kernel's entry lies outside it");
    }
    entry
}
