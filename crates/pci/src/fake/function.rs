//! One function made up for tests.

use std::boxed::Box;
use std::vec::Vec;

use crate::config::Width;
use crate::spec::express::{self, DeviceControl};
use crate::spec::{EXTENDED_SIZE, capability, extended, header, msi, power, virtio};

const SIZE: usize = EXTENDED_SIZE as usize;

/// A function: the value of each config byte, which bits of it can be written and which a written one clears.
#[derive(Clone)]
pub struct FakeFunction {
    value: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
    clears: Box<[u8; SIZE]>,
    /// What a reset brings back.
    initial: Option<Box<[u8; SIZE]>>,
    last: Option<u16>,
    last_extended: Option<u16>,
    free: u16,
    free_extended: u16,
    express: Option<u16>,
    power: Option<u16>,
    /// How often it was reset.
    pub resets: u32,
    /// What else a reset does to it.
    pub on_reset: Option<fn(&mut FakeFunction)>,
    /// Its resizable BAR, and the capability's offset.
    resizable: Option<(u8, u16)>,
    /// Whether it says meanwhile that it is there and wants to be tried again.
    pub asks_again: bool,
    /// How long it is silent after a reset.
    pub silence_us: u64,
    silent_until: u64,
    /// Its reads aren't answered, as in a reset of its own making.
    pub away: Option<Away>,
    virtio: Option<FakeVirtio>,
}

/// A function that doesn't answer reads, but takes writes: while it is in a reset that its driver has begun.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    /// What the root port makes up of it, as 32 bits.
    pub answer: u32,
    /// How many reads there are until it is back.
    pub reads: u32,
}

/// The registers of a virtio device, behind its window in config space.
#[derive(Clone)]
struct FakeVirtio {
    window: u16,
    features: u64,
    select: u32,
    status: u32,
}

impl FakeFunction {
    /// A type 0 function with ids and no BAR, capability or pin.
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut new = Self {
            value: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
            clears: Box::new([0; SIZE]),
            initial: None,
            last: None,
            last_extended: None,
            free: capability::FIRST,
            free_extended: capability::EXTENDED_FIRST,
            express: None,
            power: None,
            resets: 0,
            on_reset: None,
            asks_again: false,
            resizable: None,
            silence_us: 0,
            silent_until: 0,
            away: None,
            virtio: None,
        };
        new.set(header::VENDOR, Width::B2, vendor.into());
        new.set(header::DEVICE, Width::B2, device.into());
        new.set(header::REVISION, Width::B4, class << 8 | 2);
        new.allow(header::COMMAND, Width::B2, 0x0547);
        new.allow(header::CACHE_LINE, Width::B2, 0xffff);
        new.allow(header::INTERRUPT_LINE, Width::B1, 0xff);
        new
    }

    /// Makes it a bridge.
    pub fn bridge(mut self) -> Self {
        self.set(header::HEADER_TYPE, Width::B1, header::LAYOUT_BRIDGE.into());
        self.allow(header::PRIMARY_BUS, Width::B4, 0x00ff_ffff);
        self.allow(header::IO_BASE, Width::B2, 0xf0f0);
        self.allow(header::MEMORY_BASE, Width::B4, 0xfff0_fff0);
        self.allow(header::PREFETCH_BASE, Width::B4, 0xfff0_fff0);
        self.set(header::PREFETCH_BASE, Width::B4, 0x0001_0001);
        self.allow(header::PREFETCH_BASE_UPPER, Width::B4, u32::MAX);
        self.allow(header::PREFETCH_LIMIT_UPPER, Width::B4, u32::MAX);
        self.allow(header::BRIDGE_CONTROL, Width::B2, 0x7f);
        self
    }

    /// Says that its slot has more functions.
    pub fn multifunction(mut self) -> Self {
        let layout = self.get(header::HEADER_TYPE, Width::B1);
        self.set(header::HEADER_TYPE, Width::B1, layout | u32::from(header::MULTIFUNCTION));
        self
    }

    /// Adds a BAR with these flag bits; 64-bit ones take the next register too.
    pub fn bar(mut self, index: u8, size: u64, flags: u32) -> Self {
        let mask = !(size - 1);
        self.set(header::bar(index), Width::B4, flags);
        self.allow(header::bar(index), Width::B4, mask as u32);
        if flags & (header::BAR_IO | header::BAR_TYPE) == header::BAR_TYPE_64 {
            self.allow(header::bar(index + 1), Width::B4, (mask >> 32) as u32);
        }
        self
    }

    /// Adds a 64-bit BAR whose size is 2^20 shifted by what its control register says, this at first (PCIe 7.8.6).
    pub fn resizable(mut self, index: u8, log: u16) -> Self {
        let offset = self.extended(extended::RESIZABLE_BAR, 12);
        let control = offset + extended::RESIZABLE_CONTROL;
        self.set(control, Width::B2, u32::from(log << 8 | 1 << 5 | u16::from(index)));
        self.allow(control, Width::B2, extended::RESIZABLE_SIZE.into());
        self.resizable = Some((index, control));
        self = self.bar(index, 1 << (20 + log), 0b1100);
        self
    }

    /// Makes the resizable BAR as big as its control register says.
    fn resize(&mut self) {
        let Some((index, control)) = self.resizable else { return };
        let log = (self.get(control, Width::B2) as u16 & extended::RESIZABLE_SIZE) >> 8;
        let mask = !((1u64 << (20 + log.min(40))) - 1);
        for (at, mask) in [(header::bar(index), mask as u32), (header::bar(index + 1), (mask >> 32) as u32)] {
            self.allow(at, Width::B4, mask);
            let flags = if at == header::bar(index) { header::BAR_MEMORY_FLAGS } else { 0 };
            let value = self.get(at, Width::B4) & (mask | flags);
            self.set(at, Width::B4, value);
        }
    }

    /// Adds an expansion ROM.
    pub fn rom(mut self, size: u32) -> Self {
        self.allow(header::ROM, Width::B4, !(size - 1) | 1);
        self
    }

    /// Gives it an interrupt pin.
    pub fn pin(mut self, pin: u8) -> Self {
        self.set(header::INTERRUPT_PIN, Width::B1, pin.into());
        self
    }

    /// Adds a capability of `size` bytes, read-only so far; says where it is.
    pub fn capability(&mut self, id: u8, size: u16) -> u16 {
        let offset = self.free;
        self.free += size.next_multiple_of(4);
        assert!(self.free <= 0x100, "no room for another capability");
        let status = self.get(header::STATUS, Width::B2);
        self.set(header::STATUS, Width::B2, status | u32::from(header::STATUS_CAPABILITIES));
        let link = self.last.map_or(header::CAPABILITIES, |last| last + 1);
        self.set(link, Width::B1, offset.into());
        self.set(offset, Width::B1, id.into());
        self.last = Some(offset);
        offset
    }

    /// Adds an extended capability of `size` bytes, read-only so far; says where it is.
    pub fn extended(&mut self, id: u16, size: u16) -> u16 {
        let offset = self.free_extended;
        self.free_extended += size.next_multiple_of(4);
        if let Some(last) = self.last_extended {
            let entry = self.get(last, Width::B4) & 0x000f_ffff;
            self.set(last, Width::B4, entry | u32::from(offset) << 20);
        }
        self.set(offset, Width::B4, u32::from(id) | 1 << 16);
        self.last_extended = Some(offset);
        offset
    }

    /// Adds a version 2 Express capability of this port type.
    pub fn express(mut self, port: u16, flr: bool) -> Self {
        let offset = self.capability(capability::EXPRESS, express::SIZE_V2);
        // Root ports and downstream ports have a slot.
        let slot = if matches!(port, 4 | 6) { express::SLOT } else { 0 };
        self.set(offset + express::CAPABILITIES, Width::B2, u32::from(2 | port << 4 | slot));
        if slot != 0 {
            self.allow(offset + express::SLOT_CONTROL, Width::B2, 0x1fff);
        }
        if port == 4 {
            self.set(offset + express::ROOT_CAPABILITIES, Width::B2, 1);
            self.allow(offset + express::ROOT_CONTROL, Width::B2, 0x1f);
        }
        let flr = if flr { express::FLR_CAPABLE } else { 0 };
        self.set(offset + express::DEVICE_CAPABILITIES, Width::B4, 0x8000 | flr);
        self.set(offset + express::DEVICE_CONTROL, Width::B2, 0x2810);
        self.allow(offset + express::DEVICE_CONTROL, Width::B2, 0x7fff);
        self.clear(offset + express::DEVICE_STATUS, Width::B2, 0xf);
        self.allow(offset + express::LINK_CONTROL, Width::B2, 0x01ff);
        self.allow(offset + express::DEVICE_CONTROL_2, Width::B2, 0xffff);
        self.allow(offset + express::LINK_CONTROL_2, Width::B2, 0xffff);
        self.express = Some(offset);
        self
    }

    /// Adds power management.
    pub fn power(mut self, no_soft_reset: bool) -> Self {
        let offset = self.capability(capability::POWER, power::SIZE);
        let bit = if no_soft_reset { power::NO_SOFT_RESET } else { 0 };
        self.set(offset + power::CONTROL, Width::B2, bit.into());
        self.allow(offset + power::CONTROL, Width::B2, 0x1f03);
        self.clear(offset + power::CONTROL, Width::B2, power::PME_STATUS.into());
        self.power = Some(offset);
        self
    }

    /// Adds MSI with 2^`log` vectors, 64-bit addresses, with or without masks.
    pub fn msi(mut self, log: u16, masks: bool) -> Self {
        let control = msi::MSI_WIDE | log << 1 | if masks { msi::MSI_MASKS } else { 0 };
        let layout = msi::MsiLayout::new(control);
        let offset = self.capability(capability::MSI, layout.size);
        self.set(offset + msi::CONTROL, Width::B2, control.into());
        self.allow(offset + msi::CONTROL, Width::B2, 0x0071);
        self.allow(offset + msi::MSI_ADDRESS, Width::B4, 0xffff_fffc);
        self.allow(offset + msi::MSI_ADDRESS + 4, Width::B4, u32::MAX);
        self.allow(offset + layout.data, Width::B2, 0xffff);
        if let Some(mask) = layout.mask {
            self.allow(offset + mask, Width::B4, u32::MAX);
        }
        self
    }

    /// Adds what a virtio device has: common configuration in this BAR, and the window on it.
    pub fn virtio(mut self, bar: u8, features: u64) -> Self {
        let common = self.capability(capability::VENDOR, virtio::SIZE);
        self.set(common + 2, Width::B2, u32::from(virtio::SIZE) | u32::from(virtio::COMMON) << 8);
        self.set(common + virtio::BAR, Width::B1, bar.into());
        self.set(common + virtio::LENGTH, Width::B4, virtio::COMMON_SIZE);
        let window = self.capability(capability::VENDOR, virtio::ACCESS_SIZE);
        self.set(window + 2, Width::B2, u32::from(virtio::ACCESS_SIZE) | u32::from(virtio::ACCESS) << 8);
        self.allow(window + virtio::BAR, Width::B1, 0xff);
        self.allow(window + virtio::OFFSET, Width::B4, u32::MAX);
        self.allow(window + virtio::LENGTH, Width::B4, u32::MAX);
        self.virtio = Some(FakeVirtio { window, features, select: 0, status: 0xf });
        self
    }

    /// The status of the virtio device.
    pub fn virtio_status(&self) -> Option<u32> {
        self.virtio.as_ref().map(|device| device.status)
    }

    /// The virtio register that the window shows now.
    fn aimed(&self) -> (u32, u32) {
        let window = self.virtio.as_ref().map_or(0, |device| device.window);
        (self.get(window + virtio::OFFSET, Width::B4), self.get(window + virtio::LENGTH, Width::B4))
    }

    /// Adds MSI-X.
    pub fn msix(mut self, vectors: u16, table: (u8, u32), pending: (u8, u32)) -> Self {
        let offset = self.capability(capability::MSIX, msi::MSIX_SIZE);
        self.set(offset + msi::CONTROL, Width::B2, (vectors - 1).into());
        self.allow(offset + msi::CONTROL, Width::B2, (msi::MSIX_ENABLE | msi::MSIX_MASK_ALL).into());
        self.set(offset + msi::MSIX_TABLE, Width::B4, table.1 | u32::from(table.0));
        self.set(offset + msi::MSIX_PENDING, Width::B4, pending.1 | u32::from(pending.0));
        self
    }

    /// Adds a capability of which every byte behind the header can be written.
    pub fn loose_capability(mut self, id: u8, size: u16) -> Self {
        let offset = self.capability(id, size);
        for byte in offset + 2..offset + size {
            self.allow(byte, Width::B1, 0xff);
        }
        if id == capability::VENDOR {
            self.set(offset + 2, Width::B1, size.into());
        }
        self
    }

    /// Adds an extended capability of which every byte behind the header can be written.
    pub fn loose_extended(mut self, id: u16, size: u16) -> Self {
        let offset = self.extended(id, size);
        for byte in offset + 4..offset + size {
            self.allow(byte, Width::B1, 0xff);
        }
        self
    }

    /// Adds ACS, with this capability register.
    pub fn acs(mut self, capable: u16) -> Self {
        let offset = self.extended(extended::ACS, 12);
        self.set(offset + extended::ACS_CAPABILITY, Width::B2, capable.into());
        let enhanced = if capable & extended::ACS_ENHANCED != 0 { 0x1f80 } else { 0 };
        self.allow(offset + extended::ACS_CONTROL, Width::B2, (capable & 0x7f | enhanced).into());
        let functions = (1u32 << (capable >> 8).min(31)) - 1;
        self.allow(offset + extended::ACS_EGRESS_VECTOR, Width::B4, functions);
        self
    }

    /// Adds function-level reset as conventional functions have it.
    pub fn advanced(mut self) -> Self {
        let offset = self.capability(capability::ADVANCED, capability::AF_SIZE);
        self.set(offset + capability::AF_CAPABILITIES, Width::B1, 3);
        self
    }

    /// Sets a register, writable or not.
    pub fn set(&mut self, offset: u16, width: Width, value: u32) {
        put(&mut self.value, offset, width, value);
    }

    /// Lets these bits of a register be written.
    pub fn allow(&mut self, offset: u16, width: Width, mask: u32) {
        put(&mut self.writable, offset, width, mask);
    }

    /// Keeps these bits of a register from being written.
    pub fn forbid(&mut self, offset: u16, width: Width, mask: u32) {
        let writable = (0..width.bytes() as usize).fold(0, |value, byte| {
            value | u32::from(*self.writable.get(usize::from(offset) + byte).unwrap_or(&0)) << (8 * byte)
        });
        put(&mut self.writable, offset, width, writable & !mask);
    }

    /// Lets a written one clear these bits of a register.
    pub fn clear(&mut self, offset: u16, width: Width, mask: u32) {
        put(&mut self.clears, offset, width, mask);
    }

    /// A register's value, without side effects.
    pub fn get(&self, offset: u16, width: Width) -> u32 {
        (0..width.bytes() as usize).fold(0, |value, byte| {
            value | u32::from(*self.value.get(usize::from(offset) + byte).unwrap_or(&0xff)) << (8 * byte)
        })
    }

    /// Where its capability with this id is.
    pub fn find(&self, id: u8) -> Option<u16> {
        let mut next = self.get(header::CAPABILITIES, Width::B1) as u16;
        // A test may have made the list loop.
        for _ in 0..64 {
            if next == 0 {
                break;
            }
            if self.get(next, Width::B1) == u32::from(id) {
                return Some(next);
            }
            next = self.get(next + 1, Width::B1) as u16;
        }
        None
    }

    /// Where its extended capability with this id is.
    pub fn find_extended(&self, id: u16) -> Option<u16> {
        let mut next = capability::EXTENDED_FIRST;
        for _ in 0..64 {
            let entry = capability::ExtendedHeader::from_bits(self.get(next, Width::B4))?;
            if entry.id == id {
                return Some(next);
            }
            next = entry.next;
        }
        None
    }

    /// What a BAR's register holds, and which of its bits are the address's.
    pub(super) fn bar_register(&self, index: u8) -> (u32, u32) {
        let at = usize::from(header::bar(index));
        let writable = self.writable.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        (self.get(header::bar(index), Width::B4), writable.map_or(0, u32::from_le_bytes))
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.get(header::HEADER_TYPE, Width::B1) as u8 & header::LAYOUT == header::LAYOUT_BRIDGE
    }

    /// Whether it doesn't answer after a reset.
    pub(super) fn is_silent(&self, now: u64) -> bool {
        now < self.silent_until
    }

    pub(super) fn read(&mut self, offset: u16, width: Width) -> u32 {
        if let Some(away) = &mut self.away {
            let value = away.answer >> (8 * (offset & 3)) & width.mask() as u32;
            away.reads -= 1;
            if away.reads == 0 {
                self.away = None;
            }
            return value;
        }
        if let Some(device) = self.virtio.as_ref().filter(|device| offset == device.window + virtio::DATA) {
            let decodes = self.get(header::COMMAND, Width::B2) & 2 != 0;
            return match self.aimed() {
                _ if !decodes => width.mask() as u32,
                (virtio::FEATURE_SELECT, 4) => device.select,
                (virtio::FEATURES, 4) => (device.features >> (32 * device.select)) as u32,
                (virtio::STATUS, 1) => device.status,
                _ => 0,
            };
        }
        self.get(offset, width)
    }

    pub(super) fn write(&mut self, offset: u16, width: Width, value: u32, now: u64) {
        self.initial.get_or_insert_with(|| self.value.clone());
        let aimed = self.aimed();
        if let Some(device) = self.virtio.as_mut().filter(|device| offset == device.window + virtio::DATA) {
            match aimed {
                (virtio::FEATURE_SELECT, 4) => device.select = value & 1,
                (virtio::STATUS, 1) => device.status = value,
                _ => {}
            }
            return;
        }
        let was_d3 = self.state() == Some(power::D3HOT);
        let mut bytes: Vec<u8> = Vec::from(value.to_le_bytes());
        bytes.truncate(width.bytes() as usize);
        for (byte, written) in bytes.into_iter().enumerate() {
            let at = usize::from(offset) + byte;
            let (Some(value), Some(&writable), Some(&clears)) =
                (self.value.get_mut(at), self.writable.get(at), self.clears.get(at))
            else {
                return;
            };
            *value = (*value & !writable | written & writable) & !(written & clears);
            let at = at as u16;
            let express = self.express.map(|offset| offset + express::DEVICE_CONTROL + 1);
            let go = (DeviceControl::INITIATE_FLR.bits() >> 8) as u8;
            let capable = self.express.is_some_and(|offset| {
                self.get(offset + express::DEVICE_CAPABILITIES, Width::B4) & express::FLR_CAPABLE != 0
            });
            if express == Some(at) && written & go != 0 && capable && !self.is_bridge() {
                return self.reset(now);
            }
            let advanced = self.find(capability::ADVANCED).map(|offset| offset + capability::AF_CONTROL);
            if advanced == Some(at) && written & 1 != 0 {
                return self.reset(now);
            }
        }
        self.resize();
        if let Some(offset) = self.power {
            let soft = self.get(offset + power::CONTROL, Width::B2) as u16 & power::NO_SOFT_RESET == 0;
            if was_d3 && self.state() == Some(0) && soft {
                self.reset(now);
            }
        }
    }

    /// The power state, if it has one.
    pub fn state(&self) -> Option<u16> {
        self.power.map(|offset| self.get(offset + power::CONTROL, Width::B2) as u16 & power::STATE)
    }

    pub(super) fn reset(&mut self, now: u64) {
        if let Some(initial) = &self.initial {
            self.value = initial.clone();
        }
        self.resets += 1;
        if let Some(change) = self.on_reset {
            change(self);
        }
        self.resize();
        self.silent_until = now + self.silence_us;
    }
}

fn put(bytes: &mut [u8; SIZE], offset: u16, width: Width, value: u32) {
    let value = value.to_le_bytes();
    for (byte, value) in value.iter().take(width.bytes() as usize).enumerate() {
        bytes[usize::from(offset) + byte] = *value;
    }
}
