//! From the first Rust instruction to running VMs: once, on the first CPU.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::{Display, Write as _};

use axvm::report::Report;
use axvm_addr::{Hpa, Span};
use axvm_plan::problem::Problem;
use axvm_platform::model::{Platform, Reserved};
use axvm_system::bundle::Bundle;

use crate::arch::{self, Builder, Rights, SecondaryBoot};
use crate::boot_info::BootInfo;
use crate::cpus::{self, STACK_BYTES};
use crate::described::{PLACES, PlatformSource};
use crate::log;
use crate::{console, memory, report, start};

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

/// What the hypervisor keeps for its heap, beside its image, its stacks, and what reading the platform takes.
const POOL_BYTES: u64 = 8 << 20;

/// The smallest piece of memory that a VM gets: the pool starts and ends on a multiple of it, so that no VM's memory is cut into
/// smaller pages because of it.
const BLOCK: u64 = 2 << 20;

/// Boots, runs the VMs, reports, and switches the machine off.
///
/// First comes what needs no memory: the console, that can say what goes wrong with all the rest, and a place for the heap, as large as
/// reading the platform takes.
pub fn main(info: BootInfo<'_>) -> ! {
    let registers = info.console.and_then(|console| console.place.memory());
    if let Some(console) = &info.console {
        // SAFETY: boot's description says that these are the registers of such a UART. No VM gets it (the plan keeps it).
        unsafe {
            if let Some(registers) = registers {
                early_map(registers.to_pages(), Rights::Device);
            }
            console::init(console.uart, console.place, console.clock_hz);
        }
    }
    let pool = find_pool(&info);
    let stacks_end = pool.start().0 + info.platform.cpus() as u64 * 2 * STACK_BYTES;
    // SAFETY: the pool is free RAM; the stacks are at its start.
    unsafe {
        early_map(pool, Rights::Data);
        if let Ok(heap) = Span::new(Hpa(stacks_end), pool.end().0 - stacks_end) {
            memory::init(heap);
        }
    }
    console::take_messages();

    let mut platform = info.platform.read().unwrap_or_else(|error| last_words(&error));
    arch::correct_platform(&mut platform);
    let BootInfo { initrd, start, .. } = info;
    reserve(&mut platform, info.platform.span(), initrd);
    let agree = platform.free_memory().iter().any(|free| free.encloses(&pool));
    if !agree || platform.cpus.len() > info.platform.cpus() {
        last_words(&format_args!(
            "{}: its outline and its reading don't agree on memory and CPUs",
            PlatformSource::NAME
        ))
    }
    platform.reserved.push(Reserved { span: pool, owner: "the hypervisor".to_string(), no_map: false });
    let stacks = stacks(&platform, pool);
    let memory = Memory { pool, bundle: initrd, console: registers };
    let Some(boot) = map(&platform, &memory, &stacks) else {
        last_words(&"the hypervisor's own address space can't be mapped")
    };
    // Before anything else: what no one has opened is closed.
    // SAFETY: they have been mapped just now, and nothing else drives them.
    if let Err(error) = unsafe { arch::close_iommus(&platform) } {
        last_words(&error)
    }
    cpus::init(
        platform.cpus.iter().zip(&stacks).map(|(cpu, &stack)| (cpu.hardware_id, Hpa(stack.0 + STACK_BYTES))),
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
    console::say_last_start();
    log::info!("AxVM {} on {}", env!("CARGO_PKG_VERSION"), name(&platform));
    if bundle.run().verify
        && let Err(error) = bundle.verify()
    {
        fail(&format!("the bundle can't be used: {error}"))
    }
    start::run(start::Start { platform, bundle, start, pool: pool.size() })
}

/// # Safety
///
/// As [`crate::arch::early_map`].
pub unsafe fn early_map(span: Span<Hpa>, rights: Rights) {
    // SAFETY: by the caller's promise.
    if unsafe { arch::early_map(span.start().0, span.end().0, rights) }.is_err() {
        last_words(&"there are too few tables for the first map")
    }
}

/// Ends the run with one line that says why. Nothing has to be there for it: no heap, no lock; without a console it is in the record.
pub fn last_words(why: &dyn Display) -> ! {
    let mut out = console::emergency();
    let prefix = if console::has_frames() { "" } else { "axvm: " };
    let _ = writeln!(out, "{prefix}error: {why}");
    out.end()
}

/// Ends a boot that can't go on, with one line that says why.
fn fail(why: &str) -> ! {
    last_words(&why)
}

/// Ends a run before any VM was started: these are the problems.
pub fn refuse(problems: Vec<Problem>) -> ! {
    for problem in &problems {
        log::error!("{problem}");
    }
    report::send(&Report::bad_input(problems));
    arch::system_off()
}

fn name(platform: &Platform) -> &str {
    if platform.model.is_empty() { "a board without a name" } else { &platform.model }
}

/// Marks what the boot loader and the hypervisor's image take of RAM. `tree`: where the board's description is.
fn reserve(platform: &mut Platform, tree: Option<Span<Hpa>>, initrd: Option<Span<Hpa>>) {
    for (span, owner) in [(image(), "the hypervisor"), (tree, PlatformSource::OWNER), (initrd, "the bundle")]
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

/// Where the hypervisor's image is.
fn image() -> Option<Span<Hpa>> {
    Span::new(Hpa(arch::image_start()), arch::image_layout().end.0 - arch::image_start()).ok()
}

/// The place for heap and stacks: at the top of memory, out of the way of VMs.
fn find_pool(info: &BootInfo<'_>) -> Span<Hpa> {
    let heap = POOL_BYTES + info.platform.heap();
    let size = (heap + info.platform.cpus() as u64 * 2 * STACK_BYTES).next_multiple_of(BLOCK);
    // Tables are to lie in it that hardware walks.
    let limit = info.platform.memory_limit();
    let high = limit.and_then(|limit| Span::new(limit, (1 << 48) - limit.0).ok());
    let mut taken = [Span::default(); 3 + PLACES];
    let (own, source) = taken.split_at_mut(3);
    own.copy_from_slice(&[image(), info.initrd, high].map(Option::unwrap_or_default));
    source.copy_from_slice(&info.platform.places());
    match info.memory.free(size, BLOCK, &taken) {
        Ok(Some(pool)) => pool,
        Ok(None) => last_words(&format_args!(
            "{} has no {} MiB of free memory for the hypervisor",
            PlatformSource::NAME,
            size >> 20
        )),
        Err(error) => last_words(&error),
    }
}

/// The bottom of each CPU's stack, at the start of the pool.
fn stacks(platform: &Platform, pool: Span<Hpa>) -> Vec<Hpa> {
    (0..platform.cpus.len() as u64).map(|cpu| Hpa(pool.start().0 + (2 * cpu + 1) * STACK_BYTES)).collect()
}

/// What of memory the hypervisor has for itself, beside its image.
struct Memory {
    pool: Span<Hpa>,
    bundle: Option<Span<Hpa>>,
    /// The registers of the console, if there is one already.
    console: Option<Span<Hpa>>,
}

/// Maps what the hypervisor needs for itself, and nothing else, and switches over. Of other memory it has never a mapping but a
/// window on a guest's while it copies: what isn't mapped no speculation reaches either.
fn map(platform: &Platform, memory: &Memory, stacks: &[Hpa]) -> Option<SecondaryBoot> {
    let layout = arch::image_layout();
    let mut map = Builder::new();
    if let Some(bundle) = memory.bundle.map(|bundle| bundle.to_pages()) {
        map.map(bundle.start().0, bundle.end().0, Rights::Constants).ok()?;
    }
    map.map(memory.pool.start().0, memory.pool.end().0, Rights::Data).ok()?;
    map.map(arch::image_start(), layout.text_end.0, Rights::Code).ok()?;
    map.map(layout.text_end.0, layout.constants_end.0, Rights::Constants).ok()?;
    map.map(layout.constants_end.0, layout.end.0, Rights::Data).ok()?;
    map.map(layout.guard.0.0, layout.guard.1.0, Rights::None).ok()?;
    for stack in stacks {
        map.map(stack.0 - STACK_BYTES, stack.0, Rights::None).ok()?;
    }
    for span in driven(platform).chain(memory.console) {
        let pages = span.to_pages();
        map.map(pages.start().0, pages.end().0, Rights::Device).ok()?;
    }
    for host in &platform.pci_hosts {
        let pages = host.ecam.to_pages();
        if !pages.is_empty() && !platform.memory.iter().any(|memory| memory.overlaps(&pages)) {
            map.map(pages.start().0, pages.end().0, Rights::Config).ok()?;
        }
    }
    // SAFETY: the image, the heap, the stack in use, the bundle and every device that the hypervisor drives are mapped. The device
    // tree isn't, and nothing refers to it any more.
    unsafe { map.activate(platform.cpus.len()) }
}

/// The registers that the hypervisor drives, but for its console's. Those that it forwards guests' accesses to are added when a plan
/// says so.
fn driven(platform: &Platform) -> impl Iterator<Item = Span<Hpa>> {
    let is_memory = |span: &Span<Hpa>| platform.memory.iter().any(|memory| memory.overlaps(span));
    arch::driven_registers(platform).into_iter().filter(move |span| !span.is_empty() && !is_memory(span))
}

/// Takes over the console at a device-tree path, which the plan has found to be one that can be driven. `false` if it can't after
/// all.
pub fn start_console(platform: &Platform, path: &str) -> bool {
    let device = platform.devices.iter().find(|device| device.path == path);
    let Some((device, uart)) = device.and_then(|device| Some((device, device.uart()?))) else { return false };
    let Some(place) = device.uart_place() else { return false };
    if place.memory().is_some_and(|registers| arch::add_device(registers).is_err()) {
        return false;
    }
    let clock = device.providers.iter().find_map(|it| it.fixed_clock.as_ref()).map(|clock| clock.frequency);
    // SAFETY: the device tree says that it is such a UART; it is mapped, and no VM gets it (the plan keeps it).
    unsafe { console::init(uart, place, clock) };
    console::catch_up();
    true
}
