//! Which platform devices are UARTs that can be driven.

use axvm_uart::{Description, Properties};

use crate::model::PlatformDevice;

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
        let uart = Description::find(self.compatible.iter().map(|name| name.as_str()), &properties)?;
        let room = self.registers.first().is_some_and(|span| span.size() >= u64::from(uart.size()));
        (self.enabled && room).then_some(uart)
    }
}
