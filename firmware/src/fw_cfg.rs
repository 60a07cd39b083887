//! QEMU's configuration device (QEMU, docs/specs/fw_cfg.rst), by its DMA interface.

use crate::board::{FW_CFG, write32};
use crate::cpu;

/// The register that takes the address of a request; big-endian, the low half starts it.
const DMA: usize = 0x10;

/// What a request asks for, and how it can end.
const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SELECT: u32 = 1 << 3;

/// Items (QEMU, include/standard-headers/linux/qemu_fw_cfg.h).
#[derive(Clone, Copy)]
#[repr(u16)]
pub enum Item {
    /// Bytes of the kernel.
    KernelSize = 0x08,
    /// Bytes of the initial RAM disk.
    InitrdSize = 0x0b,
    /// The kernel.
    Kernel = 0x11,
    /// The initial RAM disk.
    Initrd = 0x12,
}

/// A request; all fields big-endian.
#[repr(C, align(16))]
struct Request {
    control: u32,
    length: u32,
    address: u64,
}

/// Reads `length` bytes of an item to `address`, with the request at `request`: the device reaches non-secure RAM only.
///
/// # Errors
///
/// If it refuses.
///
/// # Safety
///
/// Both places must be RAM that nothing else uses.
pub unsafe fn read(item: Item, address: usize, length: u32, request: usize) -> Result<(), &'static str> {
    let place = request as *mut Request;
    let asked = Request {
        control: ((item as u32) << 16 | SELECT | READ).to_be(),
        length: length.to_be(),
        address: (address as u64).to_be(),
    };
    // SAFETY: the caller's promise.
    unsafe { place.write_volatile(asked) };
    cpu::dsb();
    write32(FW_CFG + DMA, ((request as u64 >> 32) as u32).to_be());
    write32(FW_CFG + DMA + 4, (request as u32).to_be());
    loop {
        // SAFETY: as above.
        match u32::from_be(unsafe { (&raw const (*place).control).read_volatile() }) {
            0 => return Ok(()),
            state if state & ERROR != 0 => return Err("fw_cfg refused a read"),
            _ => {}
        }
    }
}

/// Reads a number.
///
/// # Errors
///
/// If the device refuses.
///
/// # Safety
///
/// As for [`read`]; `place` has room for four bytes.
pub unsafe fn number(item: Item, place: usize, request: usize) -> Result<u32, &'static str> {
    // SAFETY: the caller's promise.
    unsafe {
        read(item, place, 4, request)?;
        Ok(u32::from_le((place as *const u32).read_volatile()))
    }
}
