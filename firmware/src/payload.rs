//! What is to run: QEMU's `-kernel` and `-initrd`, in RAM, and a device tree that says so.

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::board::RAM;
use crate::fw_cfg::{self, Item};

/// Where the device tree goes: behind QEMU's, which has at most 1 MiB.
const DEVICE_TREE: usize = RAM + 0x10_0000;
const DEVICE_TREE_MAX: usize = 0xf_0000;
/// Where requests to fw_cfg lie.
const REQUEST: usize = RAM + 0x1f_0000;
/// Where the kernel goes: a multiple of 2 MiB.
const KERNEL: usize = RAM + 0x20_0000;
/// Where the initial RAM disk goes.
const INITRD: usize = RAM + 0x800_0000;

/// Offset of `text_offset` in an arm64 Image (Linux, Documentation/arch/arm64/booting.rst).
const TEXT_OFFSET: usize = 8;

/// Loads all; the addresses of the kernel's first instruction and of the device tree.
///
/// # Errors
///
/// In words.
pub fn load() -> Result<(u64, u64), &'static str> {
    // SAFETY: QEMU's device tree is the only thing in RAM so far; the places are behind it, apart from each other.
    let (offset, initrd) = unsafe {
        let kernel = fw_cfg::number(Item::KernelSize, REQUEST + 0x100, REQUEST)?;
        let initrd = fw_cfg::number(Item::InitrdSize, REQUEST + 0x100, REQUEST)?;
        if kernel < 64 {
            return Err("there is no kernel: start QEMU with -kernel");
        }
        if kernel as usize > INITRD - KERNEL {
            return Err("the kernel is too big");
        }
        // Once to see where it wants to be, then there.
        fw_cfg::read(Item::Kernel, KERNEL, 64, REQUEST)?;
        let offset = ((KERNEL + TEXT_OFFSET) as *const u64).read_volatile();
        if offset >= 0x20_0000 {
            return Err("the kernel's text_offset isn't one");
        }
        fw_cfg::read(Item::Kernel, KERNEL + offset as usize, kernel, REQUEST)?;
        fw_cfg::read(Item::Initrd, INITRD, initrd, REQUEST)?;
        (offset, initrd)
    };
    describe(u64::from(initrd))?;
    Ok((KERNEL as u64 + offset, DEVICE_TREE as u64))
}

/// Writes QEMU's device tree with what it lacks: PSCI, which is the firmware's, and the initial RAM disk. What belongs to the
/// secure world is marked so by QEMU.
fn describe(initrd: u64) -> Result<(), &'static str> {
    // SAFETY: QEMU left it there, and nobody writes it.
    let given = unsafe { Fdt::from_raw(RAM as *const u8) }.map_err(|_| "there is no device tree")?;
    let mut tree = DeviceTree::from_fdt(&given);
    let property =
        |name: &str, value: &[u8]| DeviceTreeProperty::new(name, value).map_err(|_| "a property's name");
    let mut psci = DeviceTreeNode::new("psci").map_err(|_| "a node's name")?;
    psci.add_property(property("compatible", b"arm,psci-1.0\0arm,psci-0.2\0")?);
    psci.add_property(property("method", b"smc\0")?);
    tree.root.add_child(psci);
    let cpus = tree.root.child_mut("cpus").ok_or("the device tree has no /cpus")?;
    for cpu in cpus.children_mut().filter(|child| child.name().starts_with("cpu@")) {
        cpu.add_property(property("enable-method", b"psci\0")?);
    }
    let chosen = tree.root.child_mut("chosen").ok_or("the device tree has no /chosen")?;
    let start = INITRD as u64;
    chosen.add_property(property("linux,initrd-start", &start.to_be_bytes())?);
    chosen.add_property(property("linux,initrd-end", &(start + initrd).to_be_bytes())?);
    let blob = tree.to_dtb();
    if blob.len() > DEVICE_TREE_MAX {
        return Err("the device tree is too big");
    }
    // SAFETY: the place has room, and nothing else is there.
    unsafe { core::ptr::copy_nonoverlapping(blob.as_ptr(), DEVICE_TREE as *mut u8, blob.len()) };
    Ok(())
}
