//! WDAT (Microsoft, "Hardware Watchdog Timers Design Specification", 1.01): what is to be written where so that the watchdog does something.
//!
//! The watchdog is Arm's generic one (DEN0094), whose registers are simple enough for such instructions: a refresh register, one that
//! switches it on, and its time in ticks. It expires once that time is over twice.

use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;

use super::{aml, table};
use crate::description::WatchdogDescription;

/// Ticks of its counter in a second.
pub const HZ: u64 = 1000;

/// A count of the table's is this long, in milliseconds: the time in ticks is over twice.
const PERIOD_MS: u32 = (2 * 1000 / HZ) as u32;
/// The least and the most that is counted: longer than half an hour.
const COUNTS: (u32, u32) = (1, 0xf_ffff);

/// It is there, and nothing stops it while the machine sleeps.
const ENABLED: u32 = 1 << 0;
/// The bytes up to the instructions, behind what every table begins with.
const HEADER: u32 = 0x20;
/// It is no PCI function.
const NO_FUNCTION: [u8; 8] = [0xff, 0, 0xff, 0xff, 0xff, 0, 0, 0];

/// Registers, in their frames.
const REFRESH: u64 = 0x000;
const CONTROL: u64 = 0x000;
const TIME: u64 = 0x008;
/// Of the control register: it is on.
const ON: u32 = 1 << 0;

/// Instructions.
mod how {
    pub const READ_VALUE: u8 = 0;
    pub const READ_COUNT: u8 = 1;
    pub const WRITE_VALUE: u8 = 2;
    pub const WRITE_COUNT: u8 = 3;
}

/// An instruction: the action, how it is done, on which register, with which value and mask.
struct Instruction {
    action: u8,
    how: u8,
    register: u64,
    value: u32,
    mask: u32,
}

pub(super) fn write(watchdog: &WatchdogDescription) -> Sdt {
    let (control, refresh) = (watchdog.control.start().0, watchdog.refresh.start().0);
    let instruction = |action, how, register, value, mask| Instruction { action, how, register, value, mask };
    let instructions = [
        // Reset, which is what others call a refresh.
        instruction(0x01, how::WRITE_VALUE, refresh + REFRESH, 1, u32::MAX),
        // The count that is set, and setting it.
        instruction(0x05, how::READ_COUNT, control + TIME, 0, COUNTS.1),
        instruction(0x06, how::WRITE_COUNT, control + TIME, 0, COUNTS.1),
        // Whether it runs, having it run; whether it stands still, having it stand still.
        instruction(0x08, how::READ_VALUE, control + CONTROL, ON, ON),
        instruction(0x09, how::WRITE_VALUE, control + CONTROL, ON, ON),
        instruction(0x0a, how::READ_VALUE, control + CONTROL, 0, ON),
        instruction(0x0b, how::WRITE_VALUE, control + CONTROL, 0, ON),
    ];
    let mut wdat = table(*b"WDAT", 1);
    wdat.append_slice(&HEADER.to_le_bytes());
    wdat.append_slice(&NO_FUNCTION);
    for word in [PERIOD_MS, COUNTS.1, COUNTS.0, ENABLED, instructions.len() as u32] {
        wdat.append_slice(&word.to_le_bytes());
    }
    for Instruction { action, how, register, value, mask } in instructions {
        wdat.append_slice(&[action, how, 0, 0]);
        wdat.append_slice(&aml(&GAS::new(
            AddressSpace::SystemMemory,
            32,
            0,
            AccessSize::DwordAccess,
            register,
        )));
        wdat.append_slice(&value.to_le_bytes());
        wdat.append_slice(&mask.to_le_bytes());
    }
    wdat
}
