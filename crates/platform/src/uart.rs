//! Which platform devices are UARTs that can be driven.

use axvm_addr::{Hpa, Ports, Span};
use axvm_uart::{Description, Properties};

use crate::model::PlatformDevice;

/// Where a UART's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartPlace {
    /// In memory.
    Memory(Span<Hpa>),
    /// At ports.
    Ports(Ports),
}

impl UartPlace {
    /// Where in memory they are, if they are there.
    pub fn memory(self) -> Option<Span<Hpa>> {
        match self {
            Self::Memory(span) => Some(span),
            Self::Ports(_) => None,
        }
    }

    /// How many bytes they are.
    fn size(self) -> u64 {
        match self {
            Self::Memory(span) => span.size(),
            Self::Ports(ports) => ports.count().into(),
        }
    }
}

/// A console that can be driven, found before there is memory to read the platform into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyConsole {
    /// What it is.
    pub uart: Description,
    /// Where its registers are.
    pub place: UartPlace,
    /// What it is fed with, if that is a fixed clock.
    pub clock_hz: Option<u32>,
}

/// The hardware ids of the 16550 and its kin in ACPI (those of PNP's serial ports), and what their kind is called.
const PNP: [&str; 2] = ["PNP0501", "PNP0500"];

/// What a UART that ACPI describes is.
pub(crate) fn of_pc() -> Option<Description> {
    Description::find(["ns16550a"], &Properties::default())
}

impl PlatformDevice {
    /// The UART that it is, if it is one that AxVM can drive.
    pub fn uart(&self) -> Option<Description> {
        let value = |name: &str| self.properties.iter().find(|(it, _)| it == name).map(|(_, value)| value);
        let number =
            |name| value(name).and_then(|value| value.as_slice().try_into().ok()).map(u32::from_be_bytes);
        let properties = Properties {
            shift: number("reg-shift"),
            width: number("reg-io-width"),
            offset: number("reg-offset"),
            big_endian: value("big-endian").is_some(),
        };
        let found = Description::find(self.compatible.iter().map(|name| name.as_str()), &properties);
        let is_pc = || self.compatible.iter().any(|name| PNP.contains(&name.as_str()));
        let uart = found.or_else(|| if is_pc() { of_pc() } else { None })?;
        let room = self.uart_place().is_some_and(|place| place.size() >= u64::from(uart.size()));
        (self.enabled && room).then_some(uart)
    }

    /// Where its registers are, if it is a UART: the first that are in memory, else its first ports.
    pub fn uart_place(&self) -> Option<UartPlace> {
        let memory = self.registers.first().map(|&span| UartPlace::Memory(span));
        memory.or_else(|| self.ports.first().map(|&ports| UartPlace::Ports(ports)))
    }
}
