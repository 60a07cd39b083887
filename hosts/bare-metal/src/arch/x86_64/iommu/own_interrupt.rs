//! The IOMMUs' own interrupts: messages to the hypervisor's CPU, which no IOMMU remaps. How many come takes nothing from anybody: the CPU
//! looks for what was recorded when it has done what it was at, and takes so much at once.

use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_axdevice::Width;
use axvm_pci::ConfigSpace;
use axvm_platform::model::{Interrupt, Platform};

use super::{Iommus, MESSAGE_ADDRESS};
use crate::arch::x86_64::irqchip::vectors::{self, Target};
use crate::cpus;
use crate::pci::Config;

/// What an IOMMU is to send.
#[derive(Clone, Copy, Debug)]
pub struct OwnMessage {
    /// To the CPU whose local APIC has this id.
    hardware_id: u32,
    vector: u8,
}

impl OwnMessage {
    /// Its address and data. `wide`: the upper half of the address has bits 31:8 of the id. `None`: there is no such address.
    pub fn of(self, wide: bool) -> Option<(u64, u32)> {
        /// The last id that one of 8 bits can be; 0xff is all of them.
        const LAST: u32 = 0xfe;
        let Self { hardware_id, vector } = self;
        let upper = if wide { u64::from(hardware_id & !0xff) } else { 0 };
        let low = MESSAGE_ADDRESS | (hardware_id & 0xff) << 12;
        (wide || hardware_id <= LAST).then_some((upper << 32 | u64::from(low), vector.into()))
    }
}

/// Has all of them call the hypervisor's CPU when they have recorded something. The names of those that can't.
pub fn listen(platform: &Platform, _: impl Fn(Interrupt) -> bool) -> Vec<&str> {
    let host = crate::host::get();
    let message = cpus::get(host.hypervisor_cpu()).and_then(|cpu| {
        let vector = vectors::take(cpu.id, Target::Iommus)?;
        Some(OwnMessage { hardware_id: cpu.hardware_id as u32, vector })
    });
    let units = platform.iommus.iter().zip(Iommus::closed().units);
    units
        .filter(|(_, unit)| {
            !message.is_some_and(|message| unit.lock().interrupt_by(platform, &host.config, message))
        })
        .map(|(described, _)| described.path.as_str())
        .collect()
}

/// MSI's registers, by their offsets from the capability (PCI 3.0, 6.8.1): control, with bit 0 on and bit 7 for addresses of 64 bits; the
/// vectors that it is given are in bits 6:4.
const MSI: u8 = 0x05;
const CONTROL: u16 = 2;
const ENABLE: u32 = 1;
const GIVEN: u32 = 7 << 4;
const WIDE: u32 = 1 << 7;
const ADDRESS: u16 = 4;

/// Has an IOMMU that is a PCI function send a message by its MSI capability. Whether it keeps what it was told. There may be capabilities
/// that aren't one in truth, which QEMU's has.
pub fn send_by_msi(platform: &Platform, config: &Config, function: PciAddress, message: OwnMessage) -> bool {
    let Some((address, data)) = message.of(false) else { return false };
    let found = platform.functions.iter().flatten().find(|it| it.function.address == function);
    let capabilities = found.into_iter().flat_map(|it| &it.function.capabilities);
    let is_sent = capabilities.filter(|(id, _)| *id == MSI).any(|&(_, at)| {
        let control = config.read(function, at + CONTROL, Width::B2);
        let own = control & !GIVEN | ENABLE;
        let mut registers = alloc::vec![(at + ADDRESS, Width::B4, address as u32)];
        if control & WIDE != 0 {
            registers.push((at + ADDRESS + 4, Width::B4, (address >> 32) as u32));
            registers.push((at + ADDRESS + 8, Width::B2, data));
        } else {
            registers.push((at + ADDRESS + 4, Width::B2, data));
        }
        registers.push((at + CONTROL, Width::B2, own));
        registers.iter().for_each(|&(at, width, value)| config.write(function, at, width, value));
        registers.iter().all(|&(at, width, value)| config.read(function, at, width) == value)
    });
    if is_sent {
        /// The command register's bit by which a function may write to memory, messages among it (PCI 3.0, 6.2.2).
        const COMMAND: u16 = 4;
        const BUS_MASTER: u32 = 1 << 2;
        let command = config.read(function, COMMAND, Width::B2);
        config.write(function, COMMAND, Width::B2, command | BUS_MASTER);
    }
    is_sent
}
