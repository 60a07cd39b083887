//! Memory: where it is, and what of it is somebody's already (Devicetree Specification 0.4, 3.4 to 3.6, and what boot loaders
//! and kernels of before add to `/chosen`).
//!
//! A reservation without a place (`size` and no `reg`, 3.5.2) is one that the operating system may choose: nothing is there yet,
//! so that nothing is kept for it. A device that refers to one needs it (`memory-region`) and so is its business.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Address, Hpa, PAGE_SIZE, Span};

use super::FdtError;
use super::address::Cells;
use super::blob::{NodeId, Tree};
use crate::memory::{merge, without};
use crate::model::{Kept, PlatformDevice, Reserved};

/// Properties of `/chosen` that are an address and a size of something that the kernel before this one, or the boot loader, left
/// in memory (Linux, drivers/of/fdt.c and kexec.c).
pub(super) const LEFT_BEHIND: &[&str] = &[
    "linux,elfcorehdr",
    "linux,ima-kexec-buffer",
    "linux,tpm-kexec-buffer",
    "linux,kho-fdt",
    "linux,kho-scratch",
];

/// With it memory is what EFI says, and its nodes are not to be believed (Linux, Documentation/arch/arm/uefi.rst).
pub(super) const EFI_MAP: &str = "linux,uefi-mmap-start";

/// The only memory that is to be used (Linux, drivers/of/fdt.c).
pub(super) const USABLE: &str = "linux,usable-memory-range";

/// In place of a memory node's `reg`: what of it is to be used.
pub(super) const USABLE_OF_NODE: &str = "linux,usable-memory";

/// Where a CPU that isn't started by PSCI waits (3.8.1).
pub(super) const RELEASE: &str = "cpu-release-addr";

pub(super) fn is_memory(tree: &Tree<'_>, id: NodeId) -> bool {
    tree.text(id, "device_type") == Some("memory")
}

fn memory_nodes<'t>(tree: &'t Tree<'_>) -> impl Iterator<Item = NodeId> + 't {
    tree.ids().filter(|&id| is_memory(tree, id))
}

/// The banks, whether or not all of them may be used.
pub(super) fn banks(tree: &Tree<'_>) -> Result<Vec<Span<Hpa>>, FdtError> {
    if tree.find("/chosen").is_some_and(|chosen| tree.has(chosen, EFI_MAP)) {
        return Ok(Vec::new());
    }
    let mut banks = Vec::new();
    for id in memory_nodes(tree).filter(|&id| tree.is_enabled(id)) {
        banks.extend(tree.places(id)?.found);
    }
    Ok(merge(banks))
}

/// What of memory is not to be had: of these banks, and in the registers of these.
pub(super) fn reserved(
    tree: &Tree<'_>,
    banks: &[Span<Hpa>],
    devices: &[PlatformDevice],
    kept: &[Kept],
) -> Result<Vec<Reserved>, FdtError> {
    let mut reserved = Vec::new();
    let mut add =
        |span: Span<Hpa>, owner: String, no_map: bool| reserved.push(Reserved { span, owner, no_map });
    for &(start, size) in &tree.reservations {
        if let Ok(span) = Span::new(Hpa(start), size) {
            add(span, "/memreserve/".into(), false);
        }
    }
    for id in memory_nodes(tree) {
        if !tree.is_enabled(id) || banks.is_empty() {
            // Memory that is somebody else's, as the secure world's is, or of which EFI knows whose it is.
            tree.kept(id)?.into_iter().for_each(|span| add(span, tree.path(id), true));
        } else if tree.has(id, USABLE_OF_NODE) {
            let usable = tree.places_in(id, USABLE_OF_NODE)?.found;
            let rest = without(tree.places(id)?.found, &merge(usable));
            rest.into_iter().for_each(|span| add(span, tree.path(id), true));
        }
    }
    if let Some(parent) = tree.find("/reserved-memory") {
        // Disabled ones too: keeping too much from guests is the safe mistake.
        for id in tree.children(parent) {
            if tree.is_enabled(id) && !tree.has(id, "reg") && !tree.has(id, "size") {
                // It is somewhere, but nobody knows where.
                return Err(FdtError::property(tree, id, "reg"));
            }
            for span in tree.kept(id)? {
                add(span, tree.path(id), tree.has(id, "no-map"));
            }
        }
    }
    if let Some(chosen) = tree.find("/chosen") {
        if let Some(usable) = spans(tree, chosen, USABLE)? {
            let rest = without(banks.to_vec(), &merge(usable));
            rest.into_iter().for_each(|span| add(span, owner("/chosen", USABLE), true));
        }
        for name in LEFT_BEHIND {
            let left = spans(tree, chosen, name)?.unwrap_or_default();
            left.into_iter().for_each(|span| add(span, owner("/chosen", name), false));
        }
        // Frame buffers that firmware has set up, modules.
        for id in tree.children(chosen) {
            tree.kept(id)?.into_iter().for_each(|span| add(span, tree.path(id), true));
        }
    }
    for id in tree.ids() {
        // What firmware wrote to a TPM.
        if let Some(start) = number(tree, id, "linux,sml-base") {
            let size = number(tree, id, "linux,sml-size");
            let log = size.and_then(|size| Span::new(Hpa(start), size).ok());
            let log = log.ok_or_else(|| FdtError::property(tree, id, "linux,sml-size"))?;
            add(log, owner(&tree.path(id), "linux,sml-base"), false);
        }
        if tree.has(id, RELEASE) {
            let at = number(tree, id, RELEASE).ok_or_else(|| FdtError::property(tree, id, RELEASE))?;
            let page = Span::new(Hpa(at).align_down(PAGE_SIZE), PAGE_SIZE);
            page.into_iter().for_each(|page| add(page, owner(&tree.path(id), RELEASE), false));
        }
    }
    // Registers that memory is said to be at: one of the two is wrong.
    let registers = devices.iter().flat_map(|it| it.registers.iter().map(|span| (*span, &it.path)));
    let registers = registers.chain(kept.iter().map(|it| (it.span, &it.owner)));
    for (span, path) in registers.filter(|(span, _)| banks.iter().any(|bank| bank.overlaps(span))) {
        add(span, path.clone(), true);
    }
    Ok(reserved)
}

fn owner(path: &str, property: &str) -> String {
    alloc::format!("{path} ({property})")
}

/// A property that is one number, of one cell or of two.
fn number(tree: &Tree<'_>, id: NodeId, name: &str) -> Option<u64> {
    let mut cells = tree.cells(id, name)?;
    let count = u32::try_from(cells.0.len() / 4).ok().filter(|&count| count > 0)?;
    cells.number(count)
}

/// Addresses and sizes in the root's cells. What can't be read is an error: something is there.
fn spans(tree: &Tree<'_>, id: NodeId, name: &str) -> Result<Option<Vec<Span<Hpa>>>, FdtError> {
    let Some(cells) = tree.cells(id, name) else { return Ok(None) };
    let (address, size) = (tree.address_cells(tree.root()), tree.size_cells(tree.root()));
    let found = read_spans(cells, address, size);
    found.map(Some).ok_or_else(|| FdtError::property(tree, id, name))
}

fn read_spans(mut cells: Cells<'_>, address: u32, size: u32) -> Option<Vec<Span<Hpa>>> {
    let mut found = Vec::new();
    while found.is_empty() || !cells.is_empty() {
        let (start, size) = cells.number(address).zip(cells.number(size))?;
        found.push(Span::new(Hpa(start), size).ok()?);
    }
    Some(found)
}
