#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod armada3700;
mod cadence;
mod exynos;
mod geni;
mod imx;
mod kind;
mod lpuart;
mod meson;
mod model;
mod ns16550;
mod owl;
mod pl011;
mod scif;
mod stm32;
mod uartdm;
mod unisoc;

pub use kind::{Description, Kind, Properties};

use model::{Model, Setting, Step};

/// How wide an access to a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

/// A UART's registers.
pub trait Registers {
    /// Reads the register at this offset in bytes.
    fn read(&self, offset: u32, width: Width) -> u32;
    /// Writes it.
    fn write(&self, offset: u32, width: Width, value: u32);
}

/// There is no room for a byte now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing.
    Nothing,
    /// A byte.
    Byte(u8),
    /// The receiver has overrun: bytes were lost since the last one.
    Lost,
}

/// How a UART sends and receives ([`Uart::settings`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings([u32; MOST_SETTINGS]);

/// The most registers that settings are.
const MOST_SETTINGS: usize = 6;

/// A UART.
#[derive(Clone, Debug)]
pub struct Uart<R> {
    description: Description,
    registers: R,
}

impl<R: Registers> Uart<R> {
    /// A UART of this description with these registers. Touches nothing.
    pub const fn new(description: Description, registers: R) -> Self {
        Self { description, registers }
    }

    fn model(&self) -> &'static Model {
        self.description.kind.model()
    }

    /// How wide an access to a register is.
    fn width(&self, register: u16) -> Width {
        let model = self.model();
        let is_data = register == model.transmit || register == model.receive;
        model.data.filter(|_| is_data).unwrap_or(self.description.width)
    }

    pub(crate) fn get(&self, register: u16) -> u32 {
        let width = self.width(register);
        self.description.order(width, self.registers.read(self.description.place(register), width))
    }

    pub(crate) fn set(&self, register: u16, value: u32) {
        let width = self.width(register);
        let value = self.description.order(width, value);
        self.registers.write(self.description.place(register), width, value);
    }

    fn perform(&self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Read { at } => drop(self.get(at)),
                Step::Write { at, value } => self.set(at, value),
                Step::WriteBack { at } => self.set(at, self.get(at)),
                Step::Change { at, clear, set } => {
                    let before = self.get(at);
                    let after = before & !clear | set;
                    if after != before {
                        self.set(at, after);
                    }
                }
            }
        }
    }

    /// Turns transmitter and receiver on, and its interrupts off. The rate stays as firmware left it; `clock_hz`, what the UART is
    /// fed with, is for one that has no rate yet.
    pub fn set_up(&self, clock_hz: Option<u32>) {
        if let (Kind::Pl011, Some(clock)) = (self.description.kind, clock_hz) {
            pl011::set_rate(self, clock);
        }
        self.perform(self.model().enable);
        self.listen(false);
        if self.description.kind == Kind::Geni {
            geni::start_receiver(self);
        }
    }

    /// Does something while a bit of a register is set.
    fn behind<T>(&self, switch: u16, bit: u32, what: impl FnOnce() -> T) -> T {
        let before = self.get(switch);
        self.set(switch, before | bit);
        let done = what();
        self.set(switch, before);
        done
    }

    /// How it sends and receives now, for [`Uart::restore`]; `None`: of its kind not all is known that could be changed.
    pub fn settings(&self) -> Option<Settings> {
        let registers = self.model().settings;
        let mut settings = Settings::default();
        for (value, &setting) in settings.0.iter_mut().zip(registers) {
            *value = match setting {
                Setting::Register(at) => self.get(at),
                Setting::Behind { at, switch, bit } => self.behind(switch, bit, || self.get(at)),
            };
        }
        (!registers.is_empty()).then_some(settings)
    }

    /// Has it send and receive as it did, whatever somebody else has made of it meanwhile; what is in its FIFOs is lost. Its interrupts
    /// are off.
    pub fn restore(&self, settings: &Settings) {
        self.perform(self.model().stop);
        for (&setting, &value) in self.model().settings.iter().zip(&settings.0) {
            match setting {
                Setting::Register(at) => self.set(at, value),
                Setting::Behind { at, switch, bit } => self.behind(switch, bit, || self.set(at, value)),
            }
        }
        self.perform(self.model().enable);
        self.listen(false);
    }

    /// Transmits a byte.
    ///
    /// # Errors
    ///
    /// [`Full`]: there is no room now; nothing was sent.
    pub fn write(&self, byte: u8) -> Result<(), Full> {
        let model = self.model();
        if !model.room.holds(self.get(model.room.at)) {
            return Err(Full);
        }
        match self.description.kind {
            Kind::Geni => geni::send(self, byte),
            _ => {
                self.set(model.transmit, u32::from(byte));
                self.perform(model.sent);
                Ok(())
            }
        }
    }

    /// Whether the last bit has left.
    pub fn is_idle(&self) -> bool {
        let idle = &self.model().idle;
        idle.holds(self.get(idle.at))
    }

    /// Takes a byte that came in. To be called until there is nothing, or the interrupt doesn't come again.
    pub fn read(&self) -> Received {
        let model = self.model();
        self.perform(model.acknowledge);
        let status = self.get(model.received.at);
        // Both may be bits of one register, whose reading clears the mark, or the mark comes with the first byte after the gap.
        let overrun = &model.overrun;
        let marked = match overrun.at {
            _ if overrun.mask == 0 || overrun.at == model.receive => false,
            at if at == model.received.at => overrun.holds(status),
            at => overrun.holds(self.get(at)),
        };
        if marked {
            self.perform(model.clear);
            return Received::Lost;
        }
        if !model.received.holds(status) {
            return Received::Nothing;
        }
        let data = self.get(model.receive);
        if overrun.mask != 0 && overrun.at == model.receive && overrun.holds(data) {
            return Received::Lost;
        }
        Received::Byte(data as u8)
    }

    /// Whether it interrupts when something has come in. `false`: it has no interrupt that is served here, and must be asked.
    pub fn listen(&self, on: bool) -> bool {
        let model = self.model();
        self.perform(if on { model.listen } else { model.ignore });
        on && !model.listen.is_empty()
    }
}

#[cfg(test)]
mod tests;
