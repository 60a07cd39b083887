//! ACPI's timer, as a guest has it: by what it measures how fast its local APIC's timer is (ACPI 6.5, 4.8.3.3).

use axvm_addr::VcpuId;
use axvm_axdevice::{PortDevice, Width};

use super::cpu::{ticks, ticks_as};

/// The register: 24 bits at a fixed rate.
pub struct PowerTimer;

/// Its rate.
const HZ: u64 = 3_579_545;
const MASK: u64 = 0xff_ffff;

impl PortDevice for PowerTimer {
    fn name(&self) -> &str {
        "acpi-timer"
    }

    fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
        ((ticks_as(ticks(), HZ) & MASK) >> (8 * (offset & 3)) & width.mask()) as u32
    }

    fn write(&self, _: VcpuId, _: u16, _: Width, _: u32) {}
}
