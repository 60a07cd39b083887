//! What ACPI says of the machine's power.

use alloc::vec::Vec;
use axvm_addr::{Hpa, Span};
use axvm_platform::model::{AcpiFirmware, AcpiReset, Place, Platform, PowerOff, Register, SleepRegister};
use spin::Once;
use x86_64::instructions::port::Port;

use super::cpu::{calibrate_by, delay_us, halt};
use super::trampoline;

static FIRMWARE: Once<AcpiFirmware> = Once::new();

/// Once the platform has been read: remembers what switches the machine off, sees to it that the clock's rate is known, and takes what other
/// CPUs start with out of memory.
pub fn correct(platform: &mut Platform) {
    if let Some(firmware) = platform.acpi() {
        FIRMWARE.call_once(|| firmware);
    }
    calibrate_by(platform);
    // SAFETY: boot calls this on the first CPU, by the early map.
    unsafe { trampoline::install(platform) };
}

/// The registers in memory that the two below write.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    let Some(AcpiFirmware { power_off, reset, .. }) = platform.acpi() else { return Vec::new() };
    let mut all: Vec<Register> = reset.map(|reset| reset.register).into_iter().collect();
    match power_off {
        Some(PowerOff::Pm1 { a, b }) => all.extend([Some(a), b].into_iter().flatten().map(|it| it.register)),
        Some(PowerOff::SleepControl(it)) => all.push(it.register),
        None => {}
    }
    let in_memory = |register: &Register| match register.place {
        Place::Memory(at) => Span::new(at, u64::from(register.bits.div_ceil(8)).max(2)).ok(),
        Place::Port(_) | Place::PciConfig { .. } => None,
    };
    all.iter().filter_map(in_memory).collect()
}

fn read16(register: Register) -> u16 {
    match register.place {
        // SAFETY: a register of ACPI's, which firmware says is there and boot has mapped.
        Place::Memory(at) => unsafe { (at.0 as *const u16).read_volatile() },
        // SAFETY: the same, at a port.
        Place::Port(port) => unsafe { Port::new(port).read() },
        Place::PciConfig { .. } => 0,
    }
}

fn write16(register: Register, value: u16) {
    match register.place {
        // SAFETY: as for reads; the machine goes off, which is what is wanted.
        Place::Memory(at) => unsafe { (at.0 as *mut u16).write_volatile(value) },
        // SAFETY: the same, at a port.
        Place::Port(port) => unsafe { Port::new(port).write(value) },
        Place::PciConfig { .. } => {}
    }
}

fn write8(register: Register, value: u8) {
    match register.place {
        // SAFETY: as above.
        Place::Memory(at) => unsafe { (at.0 as *mut u8).write_volatile(value) },
        // SAFETY: as above.
        Place::Port(port) => unsafe { Port::new(port).write(value) },
        Place::PciConfig { .. } => {}
    }
}

/// After so long a machine that was told to go off, or to begin anew, hasn't.
const PATIENCE_US: u64 = 1_000_000;

/// Switches the machine off.
pub fn system_off() -> ! {
    /// PM1_CNT: SLP_TYP in bits 12:10, SLP_EN (ACPI 6.5, 4.8.3.2).
    const TYPE_SHIFT: u32 = 10;
    const TYPE_MASK: u16 = 7 << TYPE_SHIFT;
    const ENABLE: u16 = 1 << 13;
    let told = |it: SleepRegister| {
        read16(it.register) & !(TYPE_MASK | ENABLE) | u16::from(it.sleep_type) << TYPE_SHIFT
    };
    match FIRMWARE.get().and_then(|firmware| firmware.power_off) {
        Some(PowerOff::Pm1 { a, b }) => {
            let (first, second) = (told(a), b.map(|b| (b.register, told(b))));
            // The type first, then both together (ACPI 6.5, 7.4.2.4 and 16.1.7).
            write16(a.register, first);
            if let Some((register, value)) = second {
                write16(register, value);
            }
            write16(a.register, first | ENABLE);
            if let Some((register, value)) = second {
                write16(register, value | ENABLE);
            }
        }
        // SLEEP_CONTROL_REG: HW-reduced SLP_TYPx in bits 4:2, SLP_EN in bit 5 (4.8.3.7).
        Some(PowerOff::SleepControl(it)) => write8(it.register, it.sleep_type << 2 | 1 << 5),
        None => {}
    }
    delay_us(PATIENCE_US);
    halt()
}

/// Starts the machine again. Memory is kept where the firmware keeps it.
pub fn system_reset() -> ! {
    if let Some(AcpiReset { register, value }) = FIRMWARE.get().and_then(|firmware| firmware.reset) {
        write8(register, value);
        delay_us(PATIENCE_US);
    }
    // The keyboard controller's reset line, which PCs have had ever since.
    // SAFETY: the machine begins anew, which is what is wanted.
    unsafe { Port::<u8>::new(0x64).write(0xfe) };
    delay_us(PATIENCE_US);
    halt()
}
