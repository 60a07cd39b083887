//! Where kernel and initial RAM disk go, beside what the first vCPU is handed below 1 MiB (Linux, Documentation/arch/x86/boot.rst).

use axvm_addr::{Address, Gpa, PAGE_SIZE, Span};
use axvm_guest::image::{ImageInfo, VmImages};
use axvm_system::model::Vm;

use super::layout::{ARGUMENT, HANDED, RESERVED, TABLES, span};
use crate::findings::{Bytes, Findings, VmRef};
use crate::load::{entry, takes};
use crate::model::LoadPlan;
use crate::problem::Rule;

/// Places the images in RAM, of which `low` is what begins at 0, or says what is wrong with them.
pub(crate) fn place(
    vm: VmRef<'_>,
    config: &Vm,
    images: &VmImages,
    low: Span<Gpa>,
    findings: &mut Findings,
) -> Option<LoadPlan> {
    let kernel = images.kernel.as_ref().ok()?;
    let key = if config.load.is_some() { "load" } else { "memory" };
    let at = takes(vm, kernel, low, key, findings)?;
    for (taken, what) in [(HANDED, "what its first vCPU is handed"), (RESERVED, "its ACPI tables")] {
        if span(taken).overlaps(&at) {
            findings.vm(
                vm,
                if config.load.is_some() { "load" } else { "kernel" },
                Rule::ImageFit,
                format_args!(
                    "the kernel takes {at}, but {what} lies at {}: load it at 1M or above",
                    span(taken)
                ),
            );
            return None;
        }
    }
    let initrd = match images.initrd_len {
        Some(length @ 1..) => {
            let place = initrd(kernel, length, at, low);
            if place.is_none() {
                findings.vm(
                    vm,
                    "initrd",
                    Rule::ImageFit,
                    format_args!(
                        "RAM of {} below 4G has no room for the initial RAM disk ({length} bytes) beside the kernel ({}): give it \
                         more memory",
                        Bytes(low.size()),
                        Bytes(at.size())
                    ),
                );
                return None;
            }
            place
        }
        _ => None,
    };
    let entry = entry(vm, kernel, &at, findings)?;
    Some(LoadPlan { kernel: at.start(), entry, argument: Gpa(ARGUMENT), initrd, description: span(TABLES) })
}

/// As high as the kernel takes it: above it, and what is there is free in every kernel's view.
fn initrd(kernel: &ImageInfo, length: u64, at: Span<Gpa>, low: Span<Gpa>) -> Option<Span<Gpa>> {
    let last = kernel.setup.as_ref().map_or(u64::MAX, |setup| setup.initrd_last);
    let end = low.end().0.min(last.saturating_add(1));
    let start = Gpa(end.checked_sub(length)?).align_down(PAGE_SIZE);
    Span::new(start, length).ok().filter(|place| place.start() >= at.end() && low.encloses(place))
}
