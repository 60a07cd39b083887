//! A UART's registers: in memory, mapped one to one.

use axvm_platform::uart::UartPlace;
use axvm_uart::{Registers, Width};

/// A UART's registers.
#[derive(Clone, Copy)]
pub struct UartRegisters(u64);

impl UartRegisters {
    /// Those at a place. `None`: this machine has no such places.
    pub fn at(place: UartPlace) -> Option<Self> {
        Some(Self(place.memory()?.start().0))
    }
}

impl Registers for UartRegisters {
    fn read(&self, offset: u32, width: Width) -> u32 {
        let at = self.0 + u64::from(offset);
        // SAFETY: registers of the UART, which is mapped (`init`).
        unsafe {
            match width {
                Width::Byte => u32::from((at as *const u8).read_volatile()),
                Width::Half => u32::from((at as *const u16).read_volatile()),
                Width::Word => (at as *const u32).read_volatile(),
            }
        }
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        let at = self.0 + u64::from(offset);
        // SAFETY: as for reads.
        unsafe {
            match width {
                Width::Byte => (at as *mut u8).write_volatile(value as u8),
                Width::Half => (at as *mut u16).write_volatile(value as u16),
                Width::Word => (at as *mut u32).write_volatile(value),
            }
        }
    }
}
