//! QEMU's teaching device (QEMU, docs/specs/edu.rst): a DMA engine with 4 KiB of its own.

#[cfg(target_arch = "aarch64")]
use axvm_addr::{Address, PciSpace};
#[cfg(target_arch = "aarch64")]
use axvm_platform::model::Platform;

use crate::board::Board;
use crate::machine::{self, Fault, load16, load32, store16, store32, store64};

const ID: u32 = 0x11e8_1234;
const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const BAR0: u64 = 0x10;
const BAR_SIZE: u64 = 1 << 20;

const LIVENESS: u64 = 0x04;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
const DMA_START: u64 = 1;
const DMA_TO_RAM: u64 = 2;
const DMA_TELL: u64 = 4;
/// Where the engine sees the device's own 4 KiB.
const BUFFER: u64 = 0x4_0000;
const CAPABILITIES: u64 = 0x34;
const CAPABILITY_MSI: u32 = 0x05;
const MSI_ENABLE: u32 = 1 << 16;
const MSI_WIDE: u32 = 1 << 23;

/// Raises its interrupt, for the reasons whose bits are written.
pub const RAISE: u64 = 0x60;
/// Ends reasons for its interrupt.
pub const ACKNOWLEDGE: u64 = 0x64;

/// The reason for its interrupt that is a transfer's end.
pub const DMA_DONE: u32 = 0x100;

/// What is moved at once: small, since a blocked access makes an event for each four bytes.
pub const CHUNK: u64 = 16;

/// An `edu` that decodes and masters the bus.
pub struct Edu {
    /// Its registers.
    pub registers: u64,
    /// Its config space.
    pub config: u64,
}

/// Where the functions on the root bus are, and may be.
#[derive(Clone, Copy, Debug)]
pub struct Pci {
    /// Their config spaces.
    pub ecam: u64,
    /// Where the CPU finds the window of 32-bit BARs.
    pub window: u64,
    /// The address that a BAR has at the window's beginning.
    pub bars: u64,
    /// Bytes of the window.
    pub size: u64,
}

impl Pci {
    /// As the device tree says.
    #[cfg(target_arch = "aarch64")]
    pub fn of(platform: &Platform) -> Option<Self> {
        let host = platform.pci_hosts.first()?;
        let window = host.windows.iter().find(|window| window.space == PciSpace::Memory32)?;
        Some(Self {
            ecam: host.ecam.start().get(),
            window: window.cpu.start().get(),
            bars: window.pci,
            size: window.cpu.size(),
        })
    }
}

/// Config spaces of all functions on a root bus: (device, function), address.
fn functions_at(ecam: u64) -> impl Iterator<Item = ((u8, u8), u64)> + use<> {
    let all = (0..32u8).flat_map(|device| (0..8u8).map(move |function| (device, function)));
    all.map(move |(device, function)| {
        ((device, function), ecam + (u64::from(device) << 15) + (u64::from(function) << 12))
    })
}

/// Config spaces of all functions on the board's root bus: (device, function), address.
pub fn functions_of(board: &Board) -> impl Iterator<Item = ((u8, u8), u64)> + use<> {
    board.ecam().into_iter().flat_map(functions_at)
}

/// Config spaces of all functions on the root bus: (device, function), address.
#[cfg(target_arch = "aarch64")]
pub fn functions(platform: &Platform) -> impl Iterator<Item = ((u8, u8), u64)> + use<> {
    let ecam = platform.pci_hosts.first().map(|host| host.ecam.start().get());
    ecam.into_iter().flat_map(functions_at)
}

/// The requester id of the VM's `edu`: what the ITS knows it by, on a board without a map of ids.
#[cfg(target_arch = "aarch64")]
pub fn requester_id(platform: &Platform) -> Option<u64> {
    let found = functions(platform).find(|&(_, config)| load32(config) == Ok(ID));
    found.map(|((device, function), _)| u64::from(device) << 3 | u64::from(function))
}

impl Edu {
    /// The board's first, which is given an address in the host bridge's window if it has none, and is switched on.
    pub fn of(board: &Board) -> Option<Self> {
        Self::all_of(board).next()
    }

    /// All that the board has.
    pub fn all_of(board: &Board) -> impl Iterator<Item = Self> + use<> {
        board.pci().into_iter().flat_map(Self::all_at)
    }

    /// Finds it, gives it an address in the host bridge's window if it has none, switches it on.
    #[cfg(target_arch = "aarch64")]
    pub fn find(platform: &Platform) -> Option<Self> {
        Pci::of(platform).into_iter().flat_map(Self::all_at).next()
    }

    /// The board's first, whether or not it may master the bus: its registers answer.
    pub fn answering(board: &Board) -> Option<Self> {
        let (pci, config) = Self::found(board.pci()?).next()?;
        Self::placed(pci, config, 0)
    }

    fn found(pci: Pci) -> impl Iterator<Item = (Pci, u64)> + use<> {
        let found = functions_at(pci.ecam).filter(|&(_, config)| load32(config) == Ok(ID));
        found.map(move |(_, config)| (pci, config))
    }

    fn all_at(pci: Pci) -> impl Iterator<Item = Self> + use<> {
        (0..).zip(Self::found(pci)).filter_map(|(nth, (pci, config))| {
            let edu = Self::placed(pci, config, nth)?;
            store16(config + COMMAND, COMMAND_MEMORY | COMMAND_MASTER).ok()?;
            (load16(config + COMMAND).ok()? & COMMAND_MASTER != 0).then_some(edu)
        })
    }

    fn placed(pci: Pci, config: u64, nth: u64) -> Option<Self> {
        let start = pci.bars.next_multiple_of(BAR_SIZE) + nth * BAR_SIZE;
        let inside = |bar: u64| bar >= start && bar + BAR_SIZE <= pci.bars + pci.size;
        let mut bar = u64::from(load32(config + BAR0).ok()? & !0xf);
        if !inside(bar) {
            bar = start;
            store32(config + BAR0, bar as u32).ok()?;
        }
        let command = load16(config + COMMAND).ok()?;
        store16(config + COMMAND, command | COMMAND_MEMORY).ok()?;
        Some(Self { registers: pci.window + (bar - pci.bars), config })
    }

    /// Waits, bounded, for the end of a transfer that somebody else has begun: without a reset the device goes on with it.
    pub fn wait_until_idle(&self) -> Result<(), Fault> {
        let is_done = || machine::load64(self.registers + DMA_COMMAND).map(|it| it & DMA_START == 0);
        if machine::within(machine::SURELY_S, || is_done() != Ok(false)) && is_done()? {
            Ok(())
        } else {
            Err(Fault)
        }
    }

    fn start(&self, source: u64, destination: u64, length: u64, command: u64) -> Result<(), Fault> {
        store64(self.registers + DMA_SOURCE, source)?;
        store64(self.registers + DMA_DESTINATION, destination)?;
        store64(self.registers + DMA_COUNT, length)?;
        store64(self.registers + DMA_COMMAND, DMA_START | command)
    }

    /// Moves bytes, at most as many as the buffer has, from RAM to the device's own buffer, or back; bounded.
    fn transfer(&self, source: u64, destination: u64, length: u64, command: u64) -> Result<(), Fault> {
        self.start(source, destination, length, command)?;
        self.wait_until_idle()
    }

    /// The device reads a chunk of memory.
    pub fn read(&self, address: u64) -> Result<(), Fault> {
        self.transfer(address, BUFFER, CHUNK, 0)
    }

    /// The device reads this much of memory.
    pub fn read_bytes(&self, address: u64, length: u64) -> Result<(), Fault> {
        self.transfer(address, BUFFER, length, 0)
    }

    /// The device begins to read a chunk of memory. When it has, it raises its interrupt.
    pub fn read_and_tell(&self, address: u64) -> Result<(), Fault> {
        self.start(address, BUFFER, CHUNK, DMA_TELL)
    }

    /// The device writes what it read last.
    pub fn write(&self, address: u64) -> Result<(), Fault> {
        self.write_bytes(address, CHUNK)
    }

    /// The device writes this much of its buffer.
    pub fn write_bytes(&self, address: u64, length: u64) -> Result<(), Fault> {
        self.transfer(BUFFER, address, length, DMA_TO_RAM)
    }

    /// The device begins to write this much of its buffer.
    pub fn begin_to_write(&self, address: u64, length: u64) -> Result<(), Fault> {
        self.start(BUFFER, address, length, DMA_TO_RAM)
    }

    /// A word of its that nothing else uses, and that no reset of a VM touches: what was kept there last, 0 since power came (the "liveness
    /// check" register, which reads as the inverse of what was written).
    pub fn kept(&self) -> Result<u32, Fault> {
        load32(self.registers + LIVENESS)
    }

    /// Keeps a word there.
    pub fn keep(&self, word: u32) -> Result<(), Fault> {
        store32(self.registers + LIVENESS, !word)
    }

    /// Lets it raise its interrupt by writing a word to a doorbell (PCI Local Bus 3.0, 6.8.1).
    pub fn enable_msi(&self, doorbell: u64, word: u16) -> Result<(), Fault> {
        let mut at = u64::from(load32(self.config + CAPABILITIES)? & 0xfc);
        // So many fit into the config space.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let header = load32(self.config + at)?;
            if header & 0xff == CAPABILITY_MSI {
                let data = if header & MSI_WIDE == 0 { 8 } else { 12 };
                store32(self.config + at + 4, doorbell as u32)?;
                if header & MSI_WIDE != 0 {
                    store32(self.config + at + 8, (doorbell >> 32) as u32)?;
                }
                store16(self.config + at + data, word)?;
                return store16(self.config + at + 2, ((header | MSI_ENABLE) >> 16) as u16);
            }
            at = u64::from(header >> 8 & 0xfc);
        }
        Err(Fault)
    }
}
