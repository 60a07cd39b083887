//! From the first Rust instruction to running VMs: once, on the first CPU.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use axvm::problem::Problem;
use axvm::report::Report;
use axvm_addr::{Address, Hpa, Span};
use axvm_platform::fdt;
use axvm_platform::model::{Platform, Reserved};
use axvm_system::bundle::Bundle;

use crate::arch::stage1::{Builder, Rights};
use crate::arch::{self, SecondaryBoot};
use crate::cpus::{self, STACK_BYTES};
use crate::{console, host, memory, report};

/// The version, where the tool can find it in the image.
// SAFETY: the section holds constants, as this is one; the linker script keeps it though nothing refers to it.
#[unsafe(link_section = ".rodata.image_mark")]
#[used]
static IMAGE_MARK: [u8; axvm_system::IMAGE_MARK.len()] = {
    let mut mark = [0; axvm_system::IMAGE_MARK.len()];
    let mut index = 0;
    while index < mark.len() {
        mark[index] = axvm_system::IMAGE_MARK.as_bytes()[index];
        index += 1;
    }
    mark
};

/// What the hypervisor keeps for its heap, beside its image and its stacks.
const POOL_BYTES: u64 = 8 << 20;

/// The smallest piece of memory that a VM gets: the pool starts and ends on a multiple of it, so that no VM's memory is cut into
/// smaller pages because of it.
const BLOCK: u64 = 2 << 20;

/// Boots, runs the VMs, reports, and switches the machine off. `start`: the counter at the first instruction.
pub fn main(device_tree: Hpa, start: u64) -> ! {
    // SAFETY: the boot protocol: x0 is the device tree's address; what of it is mapped was mapped for this. Its header says how
    // long it is (`totalsize`, big-endian, at offset 4), and it is memory that nobody writes.
    let blob = unsafe {
        let size = u32::from_be(*((device_tree.0 + 4) as *const u32));
        core::slice::from_raw_parts(
            device_tree.0 as *const u8,
            (u64::from(size)).min(arch::DEVICE_TREE_MAX) as usize,
        )
    };
    // Until the console is there nobody can be told: a run that ends without a report has failed, which is what is to be said.
    let Ok(tree) = fdt::blob::Tree::parse(blob) else { arch::psci::system_off() };
    let Ok(mut platform) = fdt::read_in(&tree) else { arch::psci::system_off() };
    if let Some(conduit) = platform.psci {
        arch::psci::set_conduit(conduit);
    }
    let initrd = fdt::initrd_in(&tree).ok().flatten();
    drop(tree);
    reserve(&mut platform, device_tree, blob.len() as u64, initrd);
    let Some(pool) = find_pool(&platform) else { arch::psci::system_off() };
    platform.reserved.push(Reserved { span: pool, owner: "the hypervisor".to_string(), no_map: false });
    let stacks = stacks(&platform, pool);
    let Some(boot) = map(&platform, &stacks) else { arch::psci::system_off() };
    // SAFETY: the pool is free RAM, mapped just now; the stacks are at its start.
    unsafe {
        let used = (stacks.len() as u64 * 2 * STACK_BYTES).next_multiple_of(axvm_addr::PAGE_SIZE);
        if let Ok(rest) = Span::new(Hpa(pool.start().0 + used), pool.size() - used) {
            memory::add(rest);
        }
    }
    // Before anything else: what no one has opened is closed.
    let closed = host::close_iommus(&platform);
    let _ = start_console(&platform, platform.console.as_deref());
    if let Err(error) = closed {
        log::error!("{error}");
        arch::psci::system_off()
    }
    if arch::needs_host_extensions() {
        fail("this CPU has HCR_EL2.E2H fixed to one, which AxVM doesn't serve yet")
    }
    cpus::init(
        platform.cpus.iter().zip(&stacks).map(|(cpu, &stack)| (cpu.mpidr, Hpa(stack.0 + STACK_BYTES))),
        &boot,
    );

    // SAFETY: the boot loader left the bundle there; it is memory of the hypervisor's from here on, which nobody writes.
    let bytes = initrd.map(|span| unsafe {
        core::slice::from_raw_parts(span.start().0 as *const u8, span.size() as usize)
    });
    let bundle = match bytes.map(Bundle::parse) {
        Some(Ok(bundle)) => bundle,
        Some(Err(error)) => fail(&format!("the bundle can't be used: {error}")),
        None => fail(
            "there is no bundle: boot with `axvm run`, or load what `axvm pack` wrote as the initial RAM disk",
        ),
    };
    if let Some(nonce) = bundle.run().nonce {
        console::use_frames(nonce);
    }
    log::info!("AxVM {} on {}", env!("CARGO_PKG_VERSION"), name(&platform));
    if bundle.run().verify
        && let Err(error) = bundle.verify()
    {
        fail(&format!("the bundle can't be used: {error}"))
    }
    host::run(host::Start { platform, bundle, start, pool: pool.size() })
}

/// Ends a boot that can't go on, with one line that says why.
fn fail(why: &str) -> ! {
    log::error!("{why}");
    arch::psci::system_off()
}

/// Ends a run before any VM was started: these are the problems.
pub fn refuse(problems: Vec<Problem>) -> ! {
    for problem in &problems {
        log::error!("{problem}");
    }
    report::send(&Report::bad_input(problems));
    arch::psci::system_off()
}

fn name(platform: &Platform) -> &str {
    if platform.model.is_empty() { "a board without a name" } else { &platform.model }
}

/// Marks what the boot loader and the hypervisor's image take of RAM.
fn reserve(platform: &mut Platform, device_tree: Hpa, bytes: u64, initrd: Option<Span<Hpa>>) {
    let layout = arch::image_layout();
    let image = Span::new(Hpa(arch::image_start()), layout.end.0 - arch::image_start());
    let tree = Span::new(device_tree, bytes);
    for (span, owner) in
        [(image.ok(), "the hypervisor"), (tree.ok(), "the board's device tree"), (initrd, "the bundle")]
    {
        if let Some(span) = span {
            platform.reserved.push(Reserved {
                span: span.to_pages(),
                owner: owner.to_string(),
                no_map: false,
            });
        }
    }
}

/// The place for heap and stacks: at the top of memory, out of the way of VMs.
fn find_pool(platform: &Platform) -> Option<Span<Hpa>> {
    let size = (POOL_BYTES + platform.cpus.len() as u64 * 2 * STACK_BYTES).next_multiple_of(BLOCK);
    platform.free_memory().iter().rev().find_map(|free| {
        let start = Hpa(free.end().0.checked_sub(size)?).align_down(BLOCK);
        let span = Span::new(start, size).ok()?;
        free.encloses(&span).then_some(span)
    })
}

/// The bottom of each CPU's stack, at the start of the pool.
fn stacks(platform: &Platform, pool: Span<Hpa>) -> Vec<Hpa> {
    (0..platform.cpus.len() as u64).map(|cpu| Hpa(pool.start().0 + (2 * cpu + 1) * STACK_BYTES)).collect()
}

/// Maps all there is to map, and switches over.
fn map(platform: &Platform, stacks: &[Hpa]) -> Option<SecondaryBoot> {
    let layout = arch::image_layout();
    let mut map = Builder::new();
    for memory in &platform.memory {
        map.map(memory.start().0, memory.end().0, Rights::Data).ok()?;
    }
    map.map(arch::image_start(), layout.text_end.0, Rights::Code).ok()?;
    map.map(layout.text_end.0, layout.constants_end.0, Rights::Constants).ok()?;
    map.map(layout.guard.0.0, layout.guard.1.0, Rights::None).ok()?;
    for stack in stacks {
        map.map(stack.0 - STACK_BYTES, stack.0, Rights::None).ok()?;
    }
    for span in registers(platform) {
        let pages = span.to_pages();
        map.map(pages.start().0, pages.end().0, Rights::Device).ok()?;
    }
    // SAFETY: RAM with the image, the stack and the device tree is mapped, and every device that the hypervisor drives.
    Some(unsafe { map.activate() })
}

/// The registers that the hypervisor itself drives, and those that it may forward a guest's access to.
fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    let mut spans = Vec::new();
    if let Some(gic) = &platform.gic {
        spans.push(gic.distributor);
        spans.extend(&gic.redistributors);
        spans.extend(gic.its.iter().map(|its| its.registers));
    }
    spans.extend(platform.smmus.iter().map(|smmu| smmu.registers));
    spans.extend(platform.pci_hosts.iter().map(|host| host.ecam));
    spans.extend(platform.devices.iter().flat_map(|device| device.registers.iter().copied()));
    spans.retain(|span| !span.is_empty() && !platform.memory.iter().any(|memory| memory.overlaps(span)));
    spans
}

/// Takes over a console: what the platform calls its own at first, then the one that the system file names. `false` if it
/// can't be driven.
pub fn start_console(platform: &Platform, path: Option<&str>) -> bool {
    let device = platform.devices.iter().find(|device| Some(device.path.as_str()) == path);
    let Some(device) = device.filter(|it| it.compatible.iter().any(|kind| kind == "arm,pl011")) else {
        return false;
    };
    let Some(registers) = device.registers.first() else { return false };
    let clock = device.providers.iter().find_map(|it| it.fixed_clock.as_ref()).map(|clock| clock.frequency);
    // SAFETY: the device tree says that it is a PL011; it is mapped, and no VM gets it (the plan keeps it).
    unsafe { console::init(registers.start(), clock) };
    true
}
