//! The host bridge: an ECAM region in which the VM's functions answer.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{Gpa, Hpa, PAGE_SIZE, PciAddress, PciBuses, PciSpace, PciWindow, Span, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_pci::{Function, ResetError};
use spin::Mutex;

use crate::backend::{Backend, Messages};
use crate::bars::{Decode, Trapped};
use crate::function::{Shared, VirtualFunction};

/// What a host bridge is built from.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Its segment: that of its functions.
    pub segment: u16,
    /// The bus at the start of the ECAM region, and the last one.
    pub buses: PciBuses,
    /// Where BARs may be. Of those of ports the addresses are the guest's ports.
    pub windows: Vec<PciWindow<Gpa>>,
    /// The VM's functions.
    pub functions: Vec<AssignedFunction>,
}

/// A function of the VM: quarantined, reset, its stream attached.
#[derive(Clone, Debug)]
pub struct AssignedFunction {
    /// What enumeration said of it.
    pub function: Function,
    /// Where the guest sees it: on the bridge's first bus.
    pub shown: PciAddress,
    /// The host-physical address of each of its memory BARs.
    pub bars: Vec<(u8, Hpa)>,
    /// The machine's first port of each of its I/O BARs.
    pub ports: Vec<(u8, u16)>,
    /// Whether it may raise the line of its pin. If not, the pin isn't shown, and the line stays turned off in
    /// hardware whatever the guest writes.
    pub intx: bool,
    /// What its interrupt line register says at first, which firmware leaves there for drivers that don't look elsewhere.
    pub line: u8,
}

/// A host bridge that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// Twice the same function.
    #[error("{0} is there twice")]
    Twice(PciAddress),
    /// A bridge: only endpoints are shown.
    #[error("{0} is a bridge, which a guest can't have")]
    IsBridge(PciAddress),
    /// Outside the region.
    #[error(
        "{function} isn't on the buses {first:02x} to {last:02x} of segment {segment:04x} that the VM sees"
    )]
    OutOfRange {
        /// The function.
        function: PciAddress,
        /// The bridge's segment.
        segment: u16,
        /// The first bus.
        first: u8,
        /// The last bus.
        last: u8,
    },
    /// Two windows share an address, or one isn't made of whole pages.
    #[error("the PCI window {0} overlaps another one, isn't made of whole pages or has ports above 0xffff")]
    Window(Span<Gpa>),
    /// The VM has no such function.
    #[error("{0} isn't a function of the VM")]
    Unknown(PciAddress),
    /// It couldn't be reset.
    #[error(transparent)]
    Reset(#[from] ResetError),
}

/// A virtual host bridge. Its [`MmioDevice`] is the ECAM region.
pub struct HostBridge<B> {
    segment: u16,
    buses: PciBuses,
    shared: Shared<B>,
    /// Sorted by where the guest sees them.
    functions: Vec<VirtualFunction>,
}

impl<B: Backend> HostBridge<B> {
    /// Takes over the VM's functions. They have no decoding and no bus mastering, and BARs hold the addresses
    /// that they have in hardware.
    ///
    /// # Errors
    ///
    /// See [`BridgeError`].
    pub fn new(config: BridgeConfig, backend: B) -> Result<Self, BridgeError> {
        let BridgeConfig { segment, buses, windows, mut functions } = config;
        for (position, window) in windows.iter().enumerate() {
            let is_io = |window: &PciWindow<Gpa>| window.space == PciSpace::Io;
            let clash =
                windows.iter().take(position).filter(|other| is_io(other) == is_io(window)).any(|other| {
                    let distance = window.pci.abs_diff(other.pci);
                    let reach = if window.pci < other.pci { window.cpu.size() } else { other.cpu.size() };
                    window.cpu.overlaps(&other.cpu) || distance < reach
                });
            let misplaced = if is_io(window) {
                let end = window.cpu.start().0.checked_add(window.cpu.size());
                end.is_none_or(|end| end > 0x1_0000)
            } else {
                !window.cpu.is_aligned(PAGE_SIZE) || !window.pci.is_multiple_of(PAGE_SIZE)
            };
            if clash || misplaced {
                return Err(BridgeError::Window(window.cpu));
            }
        }
        functions.sort_unstable_by_key(|assigned| assigned.shown);
        let slot = |address: PciAddress| address.requester_id() >> 3;
        let slots: Vec<u16> = functions.iter().map(|assigned| slot(assigned.shown)).collect();
        let shared =
            Shared { backend, windows, decode: Mutex::new(Decode::default()), refused: AtomicU64::new(0) };
        let mut new = Self { segment, buses, shared, functions: Vec::new() };
        for assigned in functions {
            let (address, shown) = (assigned.function.address, assigned.shown);
            if assigned.function.bridge {
                return Err(BridgeError::IsBridge(address));
            }
            if shown.segment != segment || !buses.contains(shown.bus) {
                return Err(BridgeError::OutOfRange {
                    function: shown,
                    segment,
                    first: buses.first,
                    last: buses.last,
                });
            }
            if new.functions.iter().any(|other| other.address() == address || other.shown() == shown) {
                return Err(BridgeError::Twice(address));
            }
            let has_siblings = slots.iter().filter(|&&other| other == slot(shown)).count() > 1;
            new.functions.push(VirtualFunction::new(&new.shared, assigned, has_siblings));
        }
        Ok(new)
    }

    /// The bytes of its ECAM region.
    pub fn ecam_size(&self) -> u64 {
        (u64::from(self.buses.last.saturating_sub(self.buses.first)) + 1) << 20
    }

    /// Whether an address belongs to the bus behind this bridge. What isn't in the second stage there is
    /// answered by nobody: it reads as all ones and ignores writes.
    pub fn claims(&self, address: Gpa) -> bool {
        let mut memory = self.shared.windows.iter().filter(|window| window.space != PciSpace::Io);
        memory.any(|window| window.cpu.contains(address))
    }

    /// Turns a function's bus mastering off, and keeps it off until [`HostBridge::reset_function`]. Doesn't
    /// wait, and may be called from any CPU: while the guest has the function reset, it is carried out right
    /// after that; the function is silent in the meantime.
    ///
    /// # Errors
    ///
    /// [`BridgeError::Unknown`].
    pub fn quarantine(&self, function: PciAddress) -> Result<(), BridgeError> {
        self.find(function).ok_or(BridgeError::Unknown(function))?.quarantine(&self.shared);
        Ok(())
    }

    /// Resets a function by its best method, if it has one, and everything that the guest sees of it: for a
    /// new start of the VM.
    ///
    /// # Errors
    ///
    /// [`BridgeError::Unknown`]; [`BridgeError::Reset`]: it is quarantined and shown as gone.
    pub fn reset_function(&self, function: PciAddress) -> Result<(), BridgeError> {
        Ok(self.find(function).ok_or(BridgeError::Unknown(function))?.restart(&self.shared)?)
    }

    /// How many accesses were refused, as a whole or in part: to functions that aren't the VM's, and writes
    /// of bits that the guest may not change.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// How many accesses there were to the config space of a function.
    pub fn accesses(&self, function: PciAddress) -> Option<u64> {
        Some(self.find(function)?.accesses())
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.shared.backend
    }

    /// Whether all of its buses are on this one's.
    pub(crate) fn has_bus(&self, bus: u8) -> bool {
        self.buses.contains(bus)
    }

    /// An access by the guest to a register of the function that it sees at a requester id of this segment.
    pub(crate) fn config_read(&self, id: u16, register: u16, width: Width) -> u64 {
        match self.at(PciAddress::from_requester_id(self.segment, id)) {
            Some(function) => function.read(&self.shared, register, width),
            // A guest looks for functions everywhere: that is no offence.
            None => width.mask(),
        }
    }

    pub(crate) fn config_write(&self, id: u16, register: u16, width: Width, value: u32) {
        match self.at(PciAddress::from_requester_id(self.segment, id)) {
            Some(function) => function.write(&self.shared, register, width, value),
            None => self.refuse(),
        }
    }

    fn refuse(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The machine's port that the guest has at a port of its, if all of an access goes to one function.
    pub(crate) fn port(&self, port: u16, width: Width) -> Option<u16> {
        let (_, host) = self.shared.decode.lock().port(port, width)?;
        (!self.shared.backend.is_stopping()).then_some(host)
    }

    /// What of a function's is there and isn't mapped.
    fn trapped(&self, gpa: Gpa) -> Option<(&VirtualFunction, Trapped)> {
        // Only what the bridge answers for in a function's stead is left out of what is mapped.
        if self.shared.backend.messages() == Messages::Functions {
            return None;
        }
        let trapped = self.shared.decode.lock().trapped(gpa)?;
        Some((self.find(trapped.function)?, trapped))
    }

    fn find(&self, function: PciAddress) -> Option<&VirtualFunction> {
        self.functions.iter().find(|known| known.address() == function)
    }

    /// The function that the guest sees at an address.
    fn at(&self, shown: PciAddress) -> Option<&VirtualFunction> {
        let position = self.functions.binary_search_by_key(&shown, VirtualFunction::shown).ok()?;
        self.functions.get(position)
    }

    /// The requester id and the register at an offset in the region (PCIe 7.2.2: bus in bits 27:20, device in
    /// 19:15, function in 14:12).
    fn decode(&self, offset: u64) -> Option<(u16, u16)> {
        let bus = u8::try_from(offset >> 20).ok()?.checked_add(self.buses.first)?;
        Some((u16::from(bus) << 8 | (offset >> 12) as u16 & 0xff, offset as u16 & 0xfff))
    }
}

impl<B: Backend> MmioDevice for HostBridge<B> {
    fn name(&self) -> &str {
        "pci-host"
    }

    fn claims(&self, gpa: Gpa) -> bool {
        Self::claims(self, gpa)
    }

    fn claimed_read(&self, _vcpu: VcpuId, gpa: Gpa, width: Width) -> Option<u64> {
        let (function, at) = self.trapped(gpa)?;
        Some(function.bar_read(&self.shared, at, width))
    }

    fn claimed_write(&self, _vcpu: VcpuId, gpa: Gpa, width: Width, value: u64) -> bool {
        let found = self.trapped(gpa);
        if let Some((function, at)) = found {
            function.bar_write(&self.shared, at, width, value);
        }
        found.is_some()
    }

    fn read(&self, _vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        match self.decode(offset) {
            Some((id, register)) => self.config_read(id, register, width),
            None => width.mask(),
        }
    }

    fn write(&self, _vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        match self.decode(offset) {
            Some((id, register)) => self.config_write(id, register, width, value as u32),
            None => self.refuse(),
        }
    }
}
