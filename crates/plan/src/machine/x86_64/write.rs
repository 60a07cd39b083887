//! What lies in a guest's RAM beside its images.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::Span;
use axvm_guest::x86_64::{acpi, boot_params, e820, long_mode, start_info};

use super::layout::{RESERVED, span};
use super::{EntryPlan, X86_64Plan};
use crate::model::{Blob, VmPlan};

/// It in bytes, or what can't be said.
pub(crate) fn write(vm: &VmPlan, plan: &X86_64Plan) -> Result<Vec<Blob>, String> {
    let (load, description) = (&vm.load, &vm.description);
    let tables = acpi::write(description, load.description.start(), load.description.size());
    let tables = tables.map_err(|error| error.to_string())?;
    let mut command_line: Vec<u8> = description.cmdline.as_bytes().to_vec();
    command_line.push(0);
    let others: Vec<Span<axvm_addr::Gpa>> = description.pci.iter().map(|host| host.ecam).collect();
    let memory = e820::map(&description.memory, span(RESERVED), &others);
    let (rsdp, initrd) = (load.description.start(), load.initrd);
    let handed = match &plan.entry {
        EntryPlan::Linux64(setup) => boot_params::write(&boot_params::Boot {
            setup,
            kernel: load.kernel,
            command_line: plan.command_line,
            initrd,
            rsdp,
            memory: &memory,
        }),
        EntryPlan::Pvh | EntryPlan::Long => {
            let boot = start_info::Boot { command_line: plan.command_line, initrd, rsdp, memory: &memory };
            start_info::write(&boot, load.argument)
        }
    };
    let blob = |at, bytes| Blob { at, bytes };
    let mut blobs = alloc::vec![
        blob(load.description.start(), tables),
        blob(load.argument, handed),
        blob(plan.command_line, command_line),
    ];
    if !matches!(plan.entry, EntryPlan::Pvh) {
        blobs.push(blob(plan.gdt.start(), long_mode::gdt()));
        blobs.push(blob(plan.page_tables, long_mode::page_tables(plan.page_tables)));
    }
    Ok(blobs)
}
