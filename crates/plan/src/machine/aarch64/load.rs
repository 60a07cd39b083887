//! Where kernel, initial RAM disk and device tree go (Linux, Documentation/arch/arm64/booting.rst).

use axvm_addr::{Address, Gpa, Span};
use axvm_guest::image::{ImageKind, VmImages};
use axvm_system::model::Vm;

use crate::findings::{Bytes, Findings, VmRef};
use crate::load::{DEVICE_TREE_MAX, entry, takes};
use crate::model::LoadPlan;
use crate::problem::Rule;

/// booting.rst, 2, as the devicetree specification, 5.1: a device tree begins at a multiple of 8.
const TREE_ALIGNMENT: u64 = 8;

/// What a generated device tree is given where RAM is short: many times what one takes.
const DEVICE_TREE_SMALL: u64 = 64 << 10;

/// booting.rst, 4: the initial RAM disk must lie with the kernel in a window of this size aligned to 1 GiB.
const WINDOW: u64 = 32 << 30;

/// Places the images in `ram`, or says what is wrong with them.
pub(crate) fn place(
    vm: VmRef<'_>,
    config: &Vm,
    images: &VmImages,
    ram: Span<Gpa>,
    findings: &mut Findings,
) -> Option<LoadPlan> {
    let kernel = images.kernel.as_ref().ok()?;
    let key = if config.load.is_some() { "load" } else { "memory" };
    let span = takes(vm, kernel, ram, key, findings)?;
    let mut free = Free { ram, kernel: span, taken: None, after: kernel.kind == ImageKind::LinuxImage };
    let device_tree = match config.device_tree {
        Some(at) => free.take_at(at, images.dtb_len).map_err(|wrong| {
            findings.vm(
                vm,
                "device_tree",
                wrong.rule(),
                format_args!("its device tree can't lie at {at}: {wrong}"),
            );
        }),
        None => device_tree(&mut free, images.dtb_len).ok_or_else(|| {
            findings.vm(
                vm,
                "memory",
                Rule::ImageFit,
                "RAM has no room for a device tree beside the kernel: give it more memory",
            );
        }),
    };
    let device_tree = device_tree.ok()?;
    let initrd = match images.initrd_len {
        Some(length @ 1..) => match free.take(length, 4096).filter(|at| in_one_window(at, &span)) {
            Some(at) => Span::new(at.start(), length).ok(),
            None => {
                findings.vm(
                    vm,
                    "initrd",
                    Rule::ImageFit,
                    format_args!(
                        "RAM of {} has no room for the initial RAM disk ({length} bytes) beside the kernel ({}): give it more memory",
                        Bytes(ram.size()),
                        Bytes(span.size())
                    ),
                );
                return None;
            }
        },
        _ => None,
    };
    let entry = entry(vm, kernel, &span, findings)?;
    let argument = device_tree.start();
    Some(LoadPlan { kernel: span.start(), entry, argument, initrd, description: device_tree })
}

/// Room for the device tree: 2 MiB where there is that much, else what there is.
fn device_tree(free: &mut Free, own: Option<u64>) -> Option<Span<Gpa>> {
    free.take(DEVICE_TREE_MAX, DEVICE_TREE_MAX).or_else(|| {
        let size = own.unwrap_or(DEVICE_TREE_SMALL).max(DEVICE_TREE_SMALL).checked_next_multiple_of(4096)?;
        free.take(size, size.checked_next_power_of_two()?)
    })
}

fn in_one_window(a: &Span<Gpa>, b: &Span<Gpa>) -> bool {
    let start = a.start().min(b.start()).align_down(1 << 30);
    a.end().max(b.end()).0 - start.0 <= WINDOW
}

/// RAM beside the kernel, of which one piece may be taken already.
struct Free {
    ram: Span<Gpa>,
    kernel: Span<Gpa>,
    taken: Option<Span<Gpa>>,
    /// From the kernel's end upward: Linux needs its device tree near (booting.rst, 2, for old ones within 512 MiB). For
    /// others from the top of RAM downward: what follows an image is often its heap, whatever its header says.
    after: bool,
}

impl Free {
    fn take(&mut self, size: u64, alignment: u64) -> Option<Span<Gpa>> {
        let taken = self.taken.unwrap_or(Span::new(self.kernel.start(), 0).ok()?);
        let mut edges = [self.kernel, taken];
        edges.sort_unstable();
        let [low, high] = edges;
        let below = (self.ram.start().0, low.start().0);
        let between = (low.end().0.max(self.ram.start().0), high.start().0);
        let above = (low.end().0.max(high.end().0), self.ram.end().0);
        let found = if self.after {
            // Above the kernel first, then below it.
            [between, above, below].into_iter().find_map(|gap| lowest(gap, size, alignment))
        } else {
            [above, between, below].into_iter().find_map(|gap| highest(gap, size, alignment))
        };
        let span = Span::new(Gpa(found?), size).ok()?;
        self.taken = Some(span);
        Some(span)
    }

    /// Room for a device tree at a place that the file says: up to what comes next, and no more than one may have.
    fn take_at(&mut self, at: Gpa, own: Option<u64>) -> Result<Span<Gpa>, WrongPlace> {
        if !at.is_aligned(TREE_ALIGNMENT) {
            return Err(WrongPlace::Askew);
        }
        if !self.ram.contains(at) {
            return Err(WrongPlace::OutsideRam(self.ram));
        }
        let end = if self.kernel.start() > at { self.kernel.start() } else { self.ram.end() };
        let room = end.0.saturating_sub(at.0).min(DEVICE_TREE_MAX);
        let span = Span::new(at, room).map_err(|_| WrongPlace::OutsideRam(self.ram))?;
        if span.overlaps(&self.kernel) {
            return Err(WrongPlace::InKernel(self.kernel));
        }
        // A generated one is measured once it is written.
        match own.filter(|&length| length > room) {
            Some(length) => Err(WrongPlace::Short { room, length, end }),
            None => {
                self.taken = Some(span);
                Ok(span)
            }
        }
    }
}

/// Why a device tree can't lie where the file says.
#[derive(Debug, thiserror::Error)]
enum WrongPlace {
    #[error("that isn't a multiple of {TREE_ALIGNMENT}")]
    Askew,
    #[error("RAM is {0}")]
    OutsideRam(Span<Gpa>),
    #[error("the kernel takes {0}: choose another place for one of the two (`load`)")]
    InKernel(Span<Gpa>),
    #[error("it has {length} bytes, but there are {room} up to {end}")]
    Short { room: u64, length: u64, end: Gpa },
}

impl WrongPlace {
    fn rule(&self) -> Rule {
        match self {
            Self::Askew => Rule::Alignment,
            Self::OutsideRam(_) | Self::InKernel(_) | Self::Short { .. } => Rule::ImageFit,
        }
    }
}

fn lowest((start, end): (u64, u64), size: u64, alignment: u64) -> Option<u64> {
    let at = start.checked_next_multiple_of(alignment)?;
    (at.checked_add(size)? <= end).then_some(at)
}

fn highest((start, end): (u64, u64), size: u64, alignment: u64) -> Option<u64> {
    let at = end.checked_sub(size)? & !(alignment - 1);
    (at >= start).then_some(at)
}
