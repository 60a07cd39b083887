//! A function that this process has by VFIO: its config space, its BARs, its interrupts.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axvm::msi::MsiMessage;
use axvm_addr::{PciAddress, VmId};
use axvm_axdevice::Width;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::VfioDevice;
use vm_memory::{FileOffset, MmapRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VfioError;
use super::routes::{Irqfds, Routes};
use super::signals::{Function, Kind, Signals};
use crate::memory::Place;

// PCI Local Bus 3.0, 6.1 and 6.2; PCI Express 5.0, 7.5 and 7.7.
const COMMAND: u16 = 4;
const BUS_MASTER: u16 = 1 << 2;
const STATUS: u16 = 6;
const HAS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;
const MSI: u8 = 5;
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;
/// In MSI's and MSI-X's capability.
const CONTROL: u16 = 2;
const MSI_ENABLE: u16 = 1;
const MSIX_ENABLE: u16 = 1 << 15;
/// In MSI-X's.
const TABLE: u16 = 4;
/// In Express's.
const DEVICE_STATUS: u16 = 10;
const TRANSACTIONS_PENDING: u16 = 1 << 5;
/// Bytes of an entry of an MSI-X table, and where in it its mask is.
const ENTRY: u64 = 16;
const ENTRY_CONTROL: u64 = 12;

/// How long a function may have requests on the way after it was told to make none.
const MOST_PENDING: Duration = Duration::from_millis(200);

/// Linux, include/uapi/linux/vfio.h: `_IO(';', 100 + 11)`.
const VFIO_DEVICE_RESET: std::ffi::c_ulong = 0x3b6f;

// Linux, include/uapi/asm-generic/mman.h.
const PROT_READ_WRITE: i32 = 1 | 2;
const MAP_SHARED: i32 = 1;

/// Where a function's MSI-X table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    capability: u16,
    bar: u8,
    offset: u64,
    vectors: u16,
}

/// A function's MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MsiCapability {
    capability: u16,
    vectors: u16,
}

/// What a write to config space has made of a function's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Nothing that others need to know.
    AsBefore,
    /// It has some from now on, which come to any processor.
    TurnedOn,
}

/// A function that is open.
pub struct Opened {
    /// The VM that has it.
    pub vm: VmId,
    /// Its address in the plan.
    pub function: PciAddress,
    vfio: Arc<VfioDevice>,
    /// The same file.
    file: File,
    msi: Option<MsiCapability>,
    msix: Option<Table>,
    express: Option<u16>,
    signals: Mutex<Signals<Irqs, Irqfds>>,
    /// It may not master the bus, whatever its guest writes.
    kept_off: Mutex<bool>,
}

impl Opened {
    /// A function that was opened in a VM's container, by whose tables its requests pass, and which Linux has reset. `device`: its id, as the
    /// guest's interrupt controller has it.
    ///
    /// # Errors
    ///
    /// [`VfioError`].
    pub fn new(
        vm: VmId,
        function: PciAddress,
        vfio: VfioDevice,
        routes: Arc<Routes>,
        device: u32,
    ) -> Result<Self, VfioError> {
        let vfio = Arc::new(vfio);
        // SAFETY: the file is open as long as `vfio` is.
        let borrowed = unsafe { BorrowedFd::borrow_raw(vfio.as_raw_fd()) };
        let file = File::from(borrowed.try_clone_to_owned().map_err(VfioError::Io)?);
        let config = Config { file: &file, start: vfio.get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX) };
        let (msi, msix) = (config.msi(), config.msix());
        let express = config.capability(EXPRESS);
        let vectors = msi.map_or(0, |it| it.vectors).max(msix.map_or(0, |it| it.vectors));
        let events: io::Result<Vec<EventFd>> = (0..vectors).map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        let signals =
            Signals::new(Irqs(vfio.clone()), Irqfds::new(routes, device), events.map_err(VfioError::Io)?);
        let signals = Mutex::new(signals.map_err(VfioError::Io)?);
        let opened =
            Self { vm, function, vfio, file, msi, msix, express, signals, kept_off: Mutex::new(false) };
        // It was reset when it was opened; nobody lets it before its guest asks.
        opened.stop_mastering()?;
        Ok(opened)
    }

    fn config(&self) -> Config<'_> {
        Config { file: &self.file, start: self.vfio.get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX) }
    }

    /// Reads config space.
    pub fn config_read(&self, offset: u16, width: Width) -> u32 {
        self.config().read(offset, width)
    }

    /// Writes config space. What turns messages on has VFIO count them, which is said.
    ///
    /// # Errors
    ///
    /// Messages can't be turned on or off: the function has none then.
    pub fn config_write(&self, offset: u16, width: Width, value: u32) -> io::Result<Messages> {
        let config = self.config();
        if offset <= COMMAND
            && u64::from(offset) + width.bytes() > u64::from(COMMAND)
            && *crate::lock(&self.kept_off)
        {
            let shift = 8 * u32::from(COMMAND - offset);
            config.write(offset, width, value & !(u32::from(BUS_MASTER) << shift));
            return Ok(Messages::AsBefore);
        }
        let Some((kind, at, enable, count)) = self.control_at(offset, width) else {
            config.write(offset, width, value);
            return Ok(Messages::AsBefore);
        };
        let before = config.read(at, Width::B2) as u16;
        let control = merged(at, before, offset, width, value);
        let mut signals = crate::lock(&self.signals);
        let count = if kind == Kind::Msi { 1 << ((control >> 4) & 7).min(5) } else { count };
        if control & enable != 0 {
            // On failure it reads as off.
            signals.turn_on(kind, usize::from(count))?;
            config.write(offset, width, value);
            Ok(if before & enable == 0 { Messages::TurnedOn } else { Messages::AsBefore })
        } else {
            config.write(offset, width, value);
            signals.turn_back(kind).map(|()| Messages::AsBefore)
        }
    }

    /// The control register of messages that an access touches: whose, where, its bit that turns them on, and how many there are.
    fn control_at(&self, offset: u16, width: Width) -> Option<(Kind, u16, u16, u16)> {
        let msi = self.msi.map(|it| (Kind::Msi, it.capability + CONTROL, MSI_ENABLE, it.vectors));
        let msix = self.msix.map(|it| (Kind::Msix, it.capability + CONTROL, MSIX_ENABLE, it.vectors));
        let end = u64::from(offset) + width.bytes();
        let touches = |at: u16| u64::from(offset) < u64::from(at) + 2 && u64::from(at) < end;
        [msi, msix].into_iter().flatten().find(|(_, at, ..)| touches(*at))
    }

    /// Reads a BAR.
    pub fn bar_read(&self, bar: u8, offset: u64, width: Width) -> u64 {
        let mut bytes = [0xff; 8];
        let size = width.bytes() as usize;
        let region = self.region(bar, offset, size);
        let read = region.and_then(|at| self.file.read_exact_at(bytes.get_mut(..size)?, at).ok());
        if read.is_none() { width.mask() } else { u64::from_le_bytes(bytes) & width.mask() }
    }

    /// Writes a BAR. In the MSI-X table, which VFIO keeps for itself, the mask of a vector is what counts.
    ///
    /// # Errors
    ///
    /// A vector can't be masked, or let through.
    pub fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> io::Result<()> {
        if let Some(table) = self.msix.filter(|table| table.bar == bar)
            && let Some(at) = offset.checked_sub(table.offset)
            && at < u64::from(table.vectors) * ENTRY
        {
            if at % ENTRY == ENTRY_CONTROL {
                return crate::lock(&self.signals).mask((at / ENTRY) as u16, value & 1 != 0);
            }
            return Ok(());
        }
        let size = width.bytes() as usize;
        if let Some(at) = self.region(bar, offset, size)
            && let Some(bytes) = value.to_le_bytes().get(..size)
        {
            // A function that doesn't answer takes nothing.
            let _ = self.file.write_all_at(bytes, at);
        }
        Ok(())
    }

    /// Where in the file bytes of a BAR are.
    fn region(&self, bar: u8, offset: u64, size: usize) -> Option<u64> {
        let index = u32::from(bar);
        let fits = offset.checked_add(size as u64)? <= self.vfio.get_region_size(index);
        (bar < 6 && fits).then(|| self.vfio.get_region_offset(index) + offset)
    }

    /// Whether this process may map a BAR.
    pub fn is_mappable(&self, bar: u8) -> bool {
        bar < 6 && self.vfio.get_region_flags(bar.into()) & VFIO_REGION_INFO_FLAG_MMAP != 0
    }

    /// A part of a BAR, as this process may map it: whole pages.
    ///
    /// # Errors
    ///
    /// [`VfioError`]: Linux doesn't let it be mapped.
    pub fn map(&self, bar: u8, offset: u64, length: u64) -> Result<Place, VfioError> {
        let index = u32::from(bar);
        let refused = || VfioError::Unmappable { function: self.function, bar };
        if !self.is_mappable(bar) {
            return Err(refused());
        }
        let start = self.vfio.get_region_offset(index).checked_add(offset).ok_or_else(refused)?;
        let file = FileOffset::new(self.file.try_clone().map_err(VfioError::Io)?, start);
        let length = usize::try_from(length).map_err(|_| VfioError::TooLarge)?;
        let region =
            MmapRegion::build(Some(file), length, PROT_READ_WRITE, MAP_SHARED).map_err(|_| refused())?;
        Place::of(Arc::new(region), 0).ok_or_else(refused)
    }

    /// Has a vector send a message, or none.
    ///
    /// # Errors
    ///
    /// KVM's.
    pub fn route(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), VfioError> {
        crate::lock(&self.signals).route(vector, message).map_err(VfioError::Io)
    }

    /// Has the line raised by its pin.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's.
    pub fn give_line(&self, number: u32) -> Result<(), VfioError> {
        let event = || EventFd::new(EFD_NONBLOCK).map_err(VfioError::Io);
        crate::lock(&self.signals).give_line(event()?, event()?, number).map_err(VfioError::Io)
    }

    /// Has it raised by nobody.
    ///
    /// # Errors
    ///
    /// VFIO's or KVM's.
    pub fn take_line(&self) -> Result<(), VfioError> {
        crate::lock(&self.signals).take_line().map_err(VfioError::Io)
    }

    /// Has it interrupt nobody, and make no request, confirmed.
    ///
    /// # Errors
    ///
    /// [`VfioError`]; what could be done is done.
    pub fn close(&self) -> Result<(), VfioError> {
        let silent = crate::lock(&self.signals).silence().map_err(VfioError::Io);
        self.stop_mastering()?;
        silent
    }

    /// Has it make no request any more, whatever its guest writes.
    ///
    /// # Errors
    ///
    /// [`VfioError`].
    pub fn keep_off_bus(&self) -> Result<(), VfioError> {
        *crate::lock(&self.kept_off) = true;
        self.stop_mastering()
    }

    /// Whether it may master the bus.
    pub fn may_master(&self) -> bool {
        !*crate::lock(&self.kept_off)
    }

    /// Turns bus mastering off, and waits until nothing is on the way.
    fn stop_mastering(&self) -> Result<(), VfioError> {
        let config = self.config();
        let command = config.read(COMMAND, Width::B2) as u16;
        config.write(COMMAND, Width::B2, u32::from(command & !BUS_MASTER));
        if config.read(COMMAND, Width::B2) as u16 & BUS_MASTER != 0 {
            return Err(VfioError::Masters(self.function));
        }
        let Some(express) = self.express else { return Ok(()) };
        let deadline = Instant::now() + MOST_PENDING;
        while config.read(express + DEVICE_STATUS, Width::B2) as u16 & TRANSACTIONS_PENDING != 0 {
            if Instant::now() >= deadline {
                return Err(VfioError::Masters(self.function));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Resets it, as Linux can best.
    ///
    /// # Errors
    ///
    /// Linux's.
    pub fn reset(&self) -> Result<(), VfioError> {
        // SAFETY: the request has no argument, and concerns the function alone.
        let result = unsafe { vmm_sys_util::ioctl::ioctl(&*self.vfio, VFIO_DEVICE_RESET) };
        if result == 0 {
            return Ok(());
        }
        Err(VfioError::Reset { function: self.function, error: io::Error::last_os_error() })
    }
}

/// What a control register, which was `before`, is after a write that touches it.
fn merged(at: u16, before: u16, offset: u16, width: Width, value: u32) -> u16 {
    let bytes = before.to_le_bytes();
    let written = value.to_le_bytes();
    let byte = |position: u16| {
        let from = (at + position).checked_sub(offset).map(usize::from);
        let inside = from.filter(|from| (*from as u64) < width.bytes());
        inside.and_then(|from| written.get(from).copied()).unwrap_or(bytes[usize::from(position)])
    };
    u16::from_le_bytes([byte(0), byte(1)])
}

/// Config space, by the file of a function.
struct Config<'a> {
    file: &'a File,
    start: u64,
}

impl Config<'_> {
    /// All ones if nobody answers.
    fn read(&self, offset: u16, width: Width) -> u32 {
        let mut bytes = [0xff; 4];
        let size = width.bytes() as usize;
        let part = bytes.get_mut(..size);
        match part.map(|part| self.file.read_exact_at(part, self.start + u64::from(offset))) {
            Some(Ok(())) => u32::from_le_bytes(bytes) & width.mask() as u32,
            _ => width.mask() as u32,
        }
    }

    fn write(&self, offset: u16, width: Width, value: u32) {
        if let Some(bytes) = value.to_le_bytes().get(..width.bytes() as usize) {
            // A function that doesn't answer takes nothing; who needs to know reads it.
            let _ = self.file.write_all_at(bytes, self.start + u64::from(offset));
        }
    }

    /// Where a capability is.
    fn capability(&self, id: u8) -> Option<u16> {
        if self.read(STATUS, Width::B2) as u16 & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.read(CAPABILITIES, Width::B1) as u16 & !3;
        // A list that loops is as long as there is room.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            let word = self.read(at, Width::B2) as u16;
            if word.to_le_bytes()[0] == id {
                return Some(at);
            }
            at = (word >> 8) & !3;
        }
        None
    }

    fn msi(&self) -> Option<MsiCapability> {
        let capability = self.capability(MSI)?;
        let control = self.read(capability + CONTROL, Width::B2) as u16;
        Some(MsiCapability { capability, vectors: 1 << ((control >> 1) & 7).min(5) })
    }

    fn msix(&self) -> Option<Table> {
        let capability = self.capability(MSIX)?;
        let control = self.read(capability + CONTROL, Width::B2) as u16;
        let table = self.read(capability + TABLE, Width::B4);
        let vectors = (control & 0x7ff) + 1;
        Some(Table { capability, bar: (table & 7) as u8, offset: u64::from(table & !7), vectors })
    }
}

/// VFIO's part of a function's interrupts.
pub struct Irqs(Arc<VfioDevice>);

impl Irqs {
    const fn index(kind: Kind) -> u32 {
        match kind {
            Kind::Line => VFIO_PCI_INTX_IRQ_INDEX,
            Kind::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Kind::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }
}

impl Function for Irqs {
    type Event = EventFd;

    fn enable(&self, kind: Kind, events: &[&EventFd]) -> io::Result<()> {
        self.0.enable_irq(Self::index(kind), events.to_vec()).map_err(io::Error::other)
    }

    fn disable(&self, kind: Kind) -> io::Result<()> {
        self.0.disable_irq(Self::index(kind)).map_err(io::Error::other)
    }

    fn unmask_by(&self, event: &EventFd) -> io::Result<()> {
        self.0.set_irq_resample_fd(Self::index(Kind::Line), vec![event]).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_touches_a_control_register_is_merged_with_what_it_was() {
        // A capability at 0x50: its control at 0x52.
        assert_eq!(merged(0x52, 0x0080, 0x52, Width::B2, 0x8001), 0x8001);
        assert_eq!(merged(0x52, 0x0080, 0x50, Width::B4, 0x8001_1234), 0x8001);
        assert_eq!(merged(0x52, 0x0080, 0x53, Width::B1, 0x80), 0x8080);
        assert_eq!(merged(0x52, 0x1180, 0x52, Width::B1, 0x01), 0x1101);
    }

    /// A file as a function's config space: MSI at 0x40, MSI-X at 0x50, and then in a circle.
    fn config(name: &str) -> File {
        let mut bytes = vec![0; 256];
        bytes[6] = 0x10;
        bytes[0x34] = 0x40;
        bytes[0x40..0x44].copy_from_slice(&[MSI, 0x50, 0x06, 0]);
        bytes[0x50..0x58].copy_from_slice(&[MSIX, 0x40, 64, 0, 0x00, 0x20, 0, 0]);
        let path = std::env::temp_dir().join(format!("axvm-config-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn capabilities_are_found_and_a_list_that_loops_ends() {
        let file = config("list");
        let config = Config { file: &file, start: 0 };
        assert_eq!(config.msi(), Some(MsiCapability { capability: 0x40, vectors: 8 }));
        let table = Table { capability: 0x50, bar: 0, offset: 0x2000, vectors: 65 };
        assert_eq!(config.msix(), Some(table));
        assert_eq!(config.capability(EXPRESS), None);
        // Nobody answers beyond the end.
        assert_eq!(config.read(0x200, Width::B2), 0xffff);
    }
}
