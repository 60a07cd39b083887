#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

use axvm_addr::Ports;
use axvm_axdevice::Width;

#[cfg(test)]
mod tests;

/// PM1 status and enable bits (ACPI 6.5, 4.8.3.1): what a guest may enable. Of the events only the power button ever occurs.
mod pm1 {
    pub const GLOBAL: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const ENABLES: u16 = GLOBAL | POWER_BUTTON;
}

/// PM1 control (ACPI 6.5, 4.8.3.2.1).
mod control {
    /// The machine is in ACPI's mode, as it always is.
    pub const SCI_EN: u16 = 1 << 0;
    /// What a guest writes and reads again: BM_RLD, SLP_TYP.
    pub const KEPT: u16 = 1 << 1 | SLP_TYP;
    pub const SLP_TYP: u16 = 0b111 << 10;
    pub const SLP_TYP_SHIFT: u32 = 10;
    /// Written only.
    pub const SLP_EN: u16 = 1 << 13;
}

/// The reset register: RST_CPU, whose rise resets, and SYS_RST, which says how much (Intel 82801, "RST_CNT").
mod reset {
    pub const RST_CPU: u8 = 1 << 2;
    pub const KEPT: u8 = 1 << 1 | 1 << 3;
}

/// Where the registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// PM1a_STS, then PM1a_EN: 16 bits each.
    pub event: Ports,
    /// PM1a_CNT: 16 bits.
    pub control: Ports,
    /// What SLP_TYP is for S5.
    pub s5: u8,
    /// The reset register: 8 bits.
    pub reset: u16,
}

/// What a guest asks for by a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing that concerns others.
    Nothing,
    /// That its power is switched off.
    Off,
    /// That it is reset.
    Reset,
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    places: Places,
    status: u16,
    enable: u16,
    control: u16,
    reset: u8,
}

/// A register, and the byte of it that is at a port.
#[derive(Clone, Copy)]
enum At {
    Status(u32),
    Enable(u32),
    Control(u32),
    Reset,
}

impl Power {
    /// As they are after a reset: nothing has happened, and nothing is enabled.
    pub const fn new(places: Places) -> Self {
        Self { places, status: 0, enable: 0, control: 0, reset: 0 }
    }

    /// The machine has been reset.
    pub const fn reset(&mut self) {
        *self = Self::new(self.places);
    }

    /// The power button is pressed.
    pub const fn press(&mut self) {
        self.status |= pm1::POWER_BUTTON;
    }

    /// Whether its line (SCI) is asserted.
    pub const fn line(&self) -> bool {
        self.status & self.enable != 0
    }

    fn at(&self, port: u16) -> Option<At> {
        let Places { event, control, reset, .. } = self.places;
        let offset = |ports: Ports| ports.contains(port).then(|| u32::from(port - ports.first()));
        match (offset(event), offset(control)) {
            (Some(byte @ 0..=1), _) => Some(At::Status(byte)),
            (Some(byte @ 2..=3), _) => Some(At::Enable(byte - 2)),
            (_, Some(byte @ 0..=1)) => Some(At::Control(byte)),
            _ => (port == reset).then_some(At::Reset),
        }
    }

    /// A read; `None` if none of the registers begins at the port. What of it isn't theirs reads as ones.
    pub fn read(&self, port: u16, width: Width) -> Option<u32> {
        self.at(port)?;
        let mut value = 0;
        for byte in 0..width.bytes().min(4) as u16 {
            let at = port.checked_add(byte).and_then(|port| self.at(port));
            let part = |register: u16, byte: u32| (register >> (8 * byte)) as u8;
            let read = match at {
                Some(At::Status(byte)) => part(self.status, byte),
                Some(At::Enable(byte)) => part(self.enable, byte),
                Some(At::Control(byte)) => part(self.control | control::SCI_EN, byte),
                Some(At::Reset) => self.reset,
                None => 0xff,
            };
            value |= u32::from(read) << (8 * byte);
        }
        Some(value)
    }

    /// A write, and what it asks for; `None` if none of the registers begins at the port. What of it isn't theirs goes nowhere.
    pub fn write(&mut self, port: u16, width: Width, value: u32) -> Option<Asked> {
        self.at(port)?;
        let mut asked = Asked::Nothing;
        for byte in 0..width.bytes().min(4) as u16 {
            let Some(at) = port.checked_add(byte).and_then(|port| self.at(port)) else { continue };
            let written = (value >> (8 * byte)) as u8;
            match self.write_byte(at, written) {
                Asked::Nothing => {}
                other => asked = other,
            }
        }
        Some(asked)
    }

    fn write_byte(&mut self, at: At, written: u8) -> Asked {
        // The register with this byte of it, and that byte's bits.
        let with = |register: u16, byte: u32| {
            let mask = 0xffu16 << (8 * byte);
            (register & !mask) | u16::from(written) << (8 * byte)
        };
        match at {
            // What is written as one is taken note of.
            At::Status(byte) => self.status &= !with(0, byte),
            At::Enable(byte) => self.enable = with(self.enable, byte) & pm1::ENABLES,
            At::Control(byte) => {
                let written = with(self.control, byte);
                self.control = written & control::KEPT;
                let kind = (written & control::SLP_TYP) >> control::SLP_TYP_SHIFT;
                if written & control::SLP_EN != 0 && kind == u16::from(self.places.s5) {
                    return Asked::Off;
                }
            }
            At::Reset => {
                self.reset = written & reset::KEPT;
                if written & reset::RST_CPU != 0 {
                    return Asked::Reset;
                }
            }
        }
        Asked::Nothing
    }
}
