//! A UART's registers: in memory, mapped one to one, or at ports.

use axvm_platform::uart::UartPlace;
use axvm_uart::{Registers, Width};
use x86_64::instructions::port::Port;

/// A UART's registers.
#[derive(Clone, Copy)]
pub enum UartRegisters {
    /// From this address on.
    Memory(u64),
    /// From this port on.
    Ports(u16),
}

impl UartRegisters {
    /// Those at a place.
    pub fn at(place: UartPlace) -> Option<Self> {
        Some(match place {
            UartPlace::Memory(span) => Self::Memory(span.start().0),
            UartPlace::Ports(ports) => Self::Ports(ports.first()),
        })
    }
}

impl Registers for UartRegisters {
    fn read(&self, offset: u32, width: Width) -> u32 {
        match *self {
            Self::Memory(base) => {
                let at = base + u64::from(offset);
                // SAFETY: registers of the UART, which is mapped (`console::init`).
                unsafe {
                    match width {
                        Width::Byte => u32::from((at as *const u8).read_volatile()),
                        Width::Half => u32::from((at as *const u16).read_volatile()),
                        Width::Word => (at as *const u32).read_volatile(),
                    }
                }
            }
            Self::Ports(base) => {
                let at = base.wrapping_add(offset as u16);
                // SAFETY: ports of the UART.
                unsafe {
                    match width {
                        Width::Byte => u32::from(Port::<u8>::new(at).read()),
                        Width::Half => u32::from(Port::<u16>::new(at).read()),
                        Width::Word => Port::<u32>::new(at).read(),
                    }
                }
            }
        }
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        match *self {
            Self::Memory(base) => {
                let at = base + u64::from(offset);
                // SAFETY: as for reads.
                unsafe {
                    match width {
                        Width::Byte => (at as *mut u8).write_volatile(value as u8),
                        Width::Half => (at as *mut u16).write_volatile(value as u16),
                        Width::Word => (at as *mut u32).write_volatile(value),
                    }
                }
            }
            Self::Ports(base) => {
                let at = base.wrapping_add(offset as u16);
                // SAFETY: as for reads.
                unsafe {
                    match width {
                        Width::Byte => Port::<u8>::new(at).write(value as u8),
                        Width::Half => Port::<u16>::new(at).write(value as u16),
                        Width::Word => Port::<u32>::new(at).write(value),
                    }
                }
            }
        }
    }
}
